//! The commands of `README.md`, run as they stand and in their order.
//!
//! A block ```` ```sh ```` is a script for bash. A block ```` ```text ```` or ```` ```json ````
//! right behind it is its output; a script without one prints nothing. Text is compared
//! line by line, JSON by its meaning, and what differs from run to run is masked. The
//! comment `<!-- not run: … -->` above a block says why it is left out,
//! `<!-- needs unicode-data -->` that Debian's package must be there, `<!-- needs dpkg.log -->`
//! that the package manager must have a log, and `; varies` behind it that the output depends
//! on the machine and is not compared.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;

use crate::app::{Storage, TestApp};

const README: &str = include_str!("../../../README.md");
const UNICODE_DATA: &str = "/usr/share/unicode/UnicodeData.txt";
const DPKG_LOG: &str = "/var/log/dpkg.log";
/// How long one block may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_shows() {
    let scripts = scripts(README);
    assert!(scripts.iter().filter(|script| script.shown.is_some()).count() > 10, "the README is not read as it should");
    // A debug build on a busy machine may take its time to project a large batch.
    let app = TestApp::settings(Storage::Embedded).var("AWAIT_TIMEOUT_MS", "120000").spawn().await;
    let folder = tempfile::tempdir().unwrap();
    for script in &scripts {
        match &script.note {
            Note::None => {}
            Note::NotRun => continue,
            Note::Needs { file, .. } if Path::new(file).exists() => {}
            Note::Needs { file, .. } => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{file} must be there on CI");
                eprintln!("SKIPPED line {} of README.md: {file} is missing", script.line);
                continue;
            }
        }
        let output = run(&script.commands, &app, folder.path()).await;
        if !matches!(script.note, Note::Needs { varies: true, .. }) {
            script.check(&output);
        }
    }
}

/// The blocks that are left out start the service, install things or run the tests;
/// nothing else may hide there.
#[test]
fn only_starts_and_tests_are_left_out() {
    let left_out: Vec<_> = scripts(README)
        .into_iter()
        .filter(|script| script.note == Note::NotRun)
        .map(|script| script.commands.trim().to_owned())
        .collect();
    for commands in &left_out {
        let is_known = ["cargo run", "./test.sh", "docker", "minikube"].iter().any(|word| commands.contains(word));
        assert!(is_known, "left out: {commands}");
    }
    assert!(left_out.iter().any(|commands| commands == "cargo run --release -p monolith"));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    None,
    NotRun,
    Needs { file: &'static str, varies: bool },
}

/// A block of commands and what it says that they print.
struct Script {
    line: usize,
    note: Note,
    commands: String,
    shown: Option<Shown>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
}

struct Shown {
    kind: Kind,
    text: String,
}

impl Script {
    fn check(&self, output: &str) {
        let commands = format!("line {} of README.md:\n{}", self.line, self.commands);
        let Some(shown) = &self.shown else {
            assert!(output.trim().is_empty(), "{commands}printed, though nothing is shown:\n{output}");
            return;
        };
        let (shown_masked, masked) = (masked(&shown.text), masked(output));
        let same = match shown.kind {
            Kind::Text => lines(&shown_masked) == lines(&masked),
            Kind::Json => json(&shown_masked) == json(&masked),
        };
        assert!(same, "{commands}is shown to print (masked):\n{shown_masked}\nbut printed:\n{masked}");
    }
}

/// Lines without what cannot be seen: spaces around them, empty lines at both ends.
fn lines(text: &str) -> Vec<&str> {
    text.trim().lines().map(str::trim).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
}

async fn run(commands: &str, app: &TestApp, folder: &Path) -> String {
    let mut commands = commands.to_owned();
    for (number, port) in ["localhost:8080", "localhost:8081"].iter().enumerate() {
        commands = commands.replace(port, &app.addresses()[number].to_string());
    }
    commands = commands.replace("localhost:8082", &app.admin().to_string());
    let mut bash = std::process::Command::new("bash");
    // No proxy and no curlrc of whoever runs the tests.
    bash.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("CURL_HOME", folder);
    bash.env("HOME", folder).env("LC_ALL", "C.UTF-8");
    bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(folder).stdin(Stdio::null());
    let finished = tokio::task::spawn_blocking(move || bash.output());
    let output = tokio::time::timeout(PATIENCE, finished).await;
    let output = output.unwrap_or_else(|_| panic!("still running after {PATIENCE:?}:\n{commands}")).unwrap().unwrap();
    let (printed, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{commands}\n{complaints}\n{printed}", output.status);
    printed
}

// ------------------------------------------------------------------ reading

fn scripts(markdown: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    let mut note = Note::None;
    // Whether nothing but blank lines came since the last script.
    let mut right_behind = false;
    let mut text = markdown.lines().enumerate();
    while let Some((number, line)) = text.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block: String =
                text.by_ref().take_while(|(_, line)| *line != "```").flat_map(|(_, line)| [line, "\n"]).collect();
            match (kind, scripts.last_mut()) {
                ("sh", _) => scripts.push(Script { line: number + 1, note, commands: block, shown: None }),
                ("text", Some(script)) if right_behind => script.shown = Some(Shown { kind: Kind::Text, text: block }),
                ("json", Some(script)) if right_behind => script.shown = Some(Shown { kind: Kind::Json, text: block }),
                _ => {}
            }
            right_behind = kind == "sh";
            note = Note::None;
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            note = match comment {
                "needs unicode-data -->" => Note::Needs { file: UNICODE_DATA, varies: false },
                "needs dpkg.log -->" => Note::Needs { file: DPKG_LOG, varies: false },
                "needs dpkg.log; varies -->" => Note::Needs { file: DPKG_LOG, varies: true },
                _ if comment.starts_with("not run: ") => Note::NotRun,
                _ => Note::None,
            };
        } else if !line.trim().is_empty() {
            (right_behind, note) = (false, Note::None);
        }
    }
    scripts
}

// ------------------------------------------------------------------ masking

/// The text without what differs from run to run: two headers, ids, times, and numbers of
/// five or more digits (counts and positions that depend on the version of Unicode).
fn masked(text: &str) -> String {
    let line = |line: &str| match line.split_once(": ") {
        Some((name @ ("date" | "x-request-id"), _)) => format!("{name}: …"),
        _ => masked_words(line),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn masked_words(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
        let end = match first.is_ascii_alphanumeric() {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (word, behind) = rest.split_at(end);
        masked.push_str(if is_volatile(word) { "…" } else { word });
        rest = behind;
    }
    // A number stays valid JSON.
    masked.replace(":…,", ":0,").replace(":…}", ":0}")
}

fn is_volatile(word: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = word.len() >= 5 && digits(word);
    let is_time = word.len() >= 20 && word.ends_with('Z') && word.get(..4).is_some_and(digits) && word.contains('T');
    let is_id = word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    is_number || is_time || is_id
}

#[test]
fn only_what_differs_is_masked() {
    assert_eq!(masked("date: Sat, 21 Nov 2026 11:32:25 GMT\r\nx-request-id: 2a1c-0"), "date: …\nx-request-id: …");
    assert_eq!(masked("etag: \"1\"\nevent-position: 2"), "etag: \"1\"\nevent-position: 2");
    assert_eq!(masked(r#"{"at":"2026-11-21T11:32:25.223113Z","n":12}"#), r#"{"at":"…","n":12}"#);
    assert_eq!(masked(r#""d5853cff-bb5e-41ce-9e47-7323c9f269bb""#), r#""…""#);
    assert_eq!(masked(r#"  34924 {"status":201"#), r#"  … {"status":201"#);
    assert_eq!(masked(r#"{"position":34938}"#), r#"{"position":0}"#);
    assert_eq!(masked(r#"{"key":"U+2200"}"#), r#"{"key":"U+2200"}"#);
}

#[test]
fn scripts_are_read_with_their_output() {
    let text = "<!-- not run: x -->\n```sh\na\n```\n\n```sh\nb\nc\n```\n\n```json\n1\n```\n\n```sh\nd\n```\nso\n```text\n2\n```\n";
    let read = scripts(text);
    assert_eq!(read.iter().map(|script| script.commands.as_str()).collect::<Vec<_>>(), ["a\n", "b\nc\n", "d\n"]);
    assert_eq!(read.iter().map(|script| script.note).collect::<Vec<_>>(), [Note::NotRun, Note::None, Note::None]);
    let shown = read[1].shown.as_ref().unwrap();
    assert_eq!((shown.kind, shown.text.as_str()), (Kind::Json, "1\n"));
    assert!(read[0].shown.is_none() && read[2].shown.is_none());
}
