//! The paths that a source names, from the crate on: enough of a Rust lexer to
//! find `use` trees and `a::b::c` outside of comments and texts.

/// A path, and whether a `use` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) is_use: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    Sign(char),
}

/// All paths in the text of a module.
pub(crate) fn named(module: &str, text: &str) -> Vec<Named> {
    let tokens = tokens(text);
    let mut walk =
        Walk { tokens: &tokens, at: 0, scope: vec![module.to_owned()], braces: Vec::new(), found: Vec::new() };
    walk.run();
    walk.found
}

struct Walk<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The module and the inline modules in it that the walk is in.
    scope: Vec<String>,
    /// Of each open brace, whether it is an inline module's.
    braces: Vec<bool>,
    found: Vec<Named>,
}

impl Walk<'_> {
    fn word(&self, ahead: usize) -> Option<&str> {
        match self.tokens.get(self.at + ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn is(&self, ahead: usize, sign: char) -> bool {
        self.tokens.get(self.at + ahead) == Some(&Token::Sign(sign))
    }

    fn is_path(&self, ahead: usize) -> bool {
        self.tokens.get(self.at + ahead) == Some(&Token::Path)
    }

    fn run(&mut self) {
        while self.at < self.tokens.len() {
            if self.word(0) == Some("use") && (self.word(1).is_some() || self.is(1, '{') || self.is_path(1)) {
                self.at += 1;
                self.tree(&mut Vec::new());
            } else if let (Some("mod"), Some(name), true) = (self.word(0), self.word(1), self.is(2, '{')) {
                self.scope.push(name.to_owned());
                self.braces.push(true);
                self.at += 3;
            } else if self.word(0).is_some() && self.is_path(1) {
                self.path();
            } else {
                self.brace();
                self.at += 1;
            }
        }
    }

    fn brace(&mut self) {
        if self.is(0, '{') {
            self.braces.push(false);
        } else if self.is(0, '}') && self.braces.pop() == Some(true) {
            self.scope.pop();
        }
    }

    /// A path in code, such as `crate::clock::now`.
    fn path(&mut self) {
        let mut parts = Vec::new();
        while let Some(word) = self.word(0) {
            parts.push(word.to_owned());
            self.at += 1;
            if !(self.is_path(0) && self.word(1).is_some()) {
                break;
            }
            self.at += 1;
        }
        self.add(&parts, false);
    }

    /// What follows `use`, or a comma or brace in its tree.
    fn tree(&mut self, before: &mut Vec<String>) {
        let depth = before.len();
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Word(word)) if word == "as" => self.at += 2,
                Some(Token::Word(word)) => {
                    before.push(word.clone());
                    self.at += 1;
                }
                Some(Token::Path) => self.at += 1,
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    while self.at < self.tokens.len() && !self.is(0, '}') {
                        self.tree(before);
                        if self.is(0, ',') {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    before.truncate(depth);
                    return;
                }
                Some(Token::Sign('*')) => self.at += 1,
                _ => break,
            }
        }
        let named = before.clone();
        self.add(&named, true);
        before.truncate(depth);
    }

    /// Notes a path, with `crate`, `self` and `super` put into words.
    fn add(&mut self, parts: &[String], is_use: bool) {
        let module = self.scope.join("::");
        let mut base: Option<Vec<&str>> = None;
        let mut rest = Vec::new();
        for part in parts {
            match part.as_str() {
                "crate" => base = Some(module.split("::").take(1).collect()),
                "self" if rest.is_empty() => base = base.or_else(|| Some(module.split("::").collect())),
                "self" => {}
                "super" => {
                    let mut up = base.take().unwrap_or_else(|| module.split("::").collect());
                    up.pop();
                    base = Some(up);
                }
                other => rest.push(other),
            }
        }
        let mut path = base.unwrap_or_default();
        path.extend(rest);
        if !path.is_empty() {
            self.found.push(Named { path: path.join("::"), is_use });
        }
    }
}

/// The tokens of a text, without comments, texts, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let (mut rest, mut tokens) = (text, Vec::new());
    while let Some(next) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_text(rest) {
            length
        } else if next == '"' {
            quoted(rest, '"')
        } else if next == '\'' {
            character_or_lifetime(rest)
        } else if next == '_' || next.is_alphanumeric() {
            let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            // The prefix of a text, as in b"…", is no word.
            if !rest[length..].starts_with('"') {
                tokens.push(Token::Word(rest[..length].to_owned()));
            }
            length
        } else if rest.starts_with("::") {
            tokens.push(Token::Path);
            2
        } else {
            if !next.is_whitespace() {
                tokens.push(Token::Sign(next));
            }
            next.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_text(text: &str) -> Option<usize> {
    let begin = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = begin.len() - begin.trim_start_matches('#').len();
    let inside = begin[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end)? + end.len();
    Some(text.len() - inside.len() + length)
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut following = text.chars().skip(1);
    match (following.next(), following.next()) {
        (Some('\\'), _) => quoted(text, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 1 + text[1..].find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len() - 1),
    }
}
