//! A pattern for texts that hold another text, whatever the case.
//!
//! The meaning is that of `lower`: each character by its own lower case. Regular
//! expressions have another idea of case, so each character of the needle becomes the
//! set of those that have it for their lower case.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use crate::domain::filter::lower;

/// Where a pattern ends early, in characters. Servers bound what they take: MongoDB the
/// length and what it is compiled to, SecantusDB a thousand characters.
const LONGEST: usize = 950;
/// The one character with a lower case of two.
const WIDE: char = 'İ';
const WIDE_LOWER: [char; 2] = ['i', '\u{307}'];

/// Of each character, the others that have it for their lower case.
static OTHERS: LazyLock<HashMap<char, Vec<char>>> = LazyLock::new(|| {
    let mut others = HashMap::<_, Vec<_>>::new();
    for upper in '\0'..=char::MAX {
        let mut lower = upper.to_lowercase();
        if let (Some(lower), None) = (lower.next(), lower.next())
            && lower != upper
        {
            others.entry(lower).or_default().push(upper);
        }
    }
    others
});

/// A pattern, and whether each text that it finds holds the needle: a very long one is
/// looked for by its beginning.
pub(super) fn pattern(needle: &str) -> (String, bool) {
    let characters: Vec<_> = lower(needle).chars().collect();
    let mut pattern = String::new();
    let mut at = 0;
    while let Some(character) = characters.get(at).copied() {
        if pattern.chars().count() > LONGEST {
            return (pattern, false);
        }
        if characters[at..].starts_with(&WIDE_LOWER) {
            // The text may have one character for both.
            pattern.push_str("(?:");
            set(&mut pattern, WIDE_LOWER[0], None);
            set(&mut pattern, WIDE_LOWER[1], None);
            let _ = write!(pattern, "|{WIDE})");
            at += 2;
            continue;
        }
        // At its ends the needle may touch a half of the wide one.
        let half = at + 1 == characters.len() && character == WIDE_LOWER[0] || at == 0 && character == WIDE_LOWER[1];
        set(&mut pattern, character, half.then_some(WIDE));
        at += 1;
    }
    (pattern, true)
}

/// Adds a character in each of its cases.
fn set(pattern: &mut String, character: char, more: Option<char>) {
    let others = OTHERS.get(&character).into_iter().flatten().copied().chain(more);
    let before = pattern.len();
    literal(pattern, character);
    let mut count = 1;
    for other in others {
        literal(pattern, other);
        count += 1;
    }
    if count > 1 {
        pattern.insert(before, '[');
        pattern.push(']');
    }
}

/// Adds a character that means nothing but itself.
fn literal(pattern: &mut String, character: char) {
    if character.is_ascii() && !character.is_ascii_alphanumeric() {
        let _ = write!(pattern, "\\x{:02x}", u32::from(character));
    } else {
        pattern.push(character);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn nothing_in_a_needle_acts() {
        assert_eq!(pattern("").0, "");
        assert_eq!(pattern("a1").0, "[aA]1");
        assert_eq!(pattern(".*\0]^-").0, r"\x2e\x2a\x00\x5d\x5e\x2d");
        assert_eq!(pattern("K").0, "[kK\u{212a}]");
        assert_eq!(pattern("S").0, "[sS]");
    }

    #[test]
    fn a_long_needle_is_looked_for_by_its_beginning() {
        let (part, exact) = pattern(&"\u{212a}".repeat(5_000));
        assert!(!exact && (LONGEST..1_000).contains(&part.chars().count()));
        assert!(pattern(&"1".repeat(LONGEST)).1);
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    'i', 'I', 'İ', 'ı', '\u{307}', 'k', 'K', '\u{212a}', 's', 'S', 'ſ', 'ß', 'ẞ'
                ]),
                prop::sample::select(vec!['σ', 'Σ', 'ς', 'a', '.', '\\', ']', '^', '-', '\0', '\n', ' ', '😀']),
                any::<char>(),
            ],
            0..6,
        )
        .prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_pattern_finds_what_holds_the_needle(before in text(), needle in text(), behind in text(), other in text()) {
            let (pattern, exact) = pattern(&needle);
            prop_assert!(exact);
            let pattern = Regex::new(&pattern).expect("a pattern");
            for text in [format!("{before}{needle}{behind}"), format!("{before}{}{behind}", lower(&needle)), other] {
                prop_assert_eq!(pattern.is_match(&text), lower(&text).contains(&lower(&needle)), "{:?}", text);
            }
        }
    }
}
