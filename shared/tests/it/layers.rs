//! Doors between modules open one way (see the code map in the README). Every
//! path in every source that names another module of ours or another crate is
//! looked at: `use` trees, and paths written out in code.

mod drivers;
mod paths;

use std::fs;
use std::path::{Path, PathBuf};

use paths::{Named, named};

const SERVICES: [&str; 3] = ["eventstore_svc", "projection_svc", "projector_svc"];
/// Crates that the domain is made of, and `wire` with it.
const PURE: [&str; 16] = [
    "std",
    "core",
    "alloc",
    "serde",
    "serde_json",
    "thiserror",
    "time",
    "uuid",
    "bytes",
    "memchr",
    "base64",
    "form_urlencoded",
    "percent_encoding",
    "proptest",
    "sha2",
    "winnow",
];
/// What `wire` has beside: its shapes describe themselves.
const DESCRIBING: &str = "utoipa";
/// A module of `shared` and those modules of it that it may name besides itself.
const SHARED: [(&str, &[&str]); 5] = [
    ("shared::domain", &[]),
    ("shared::wire", &["shared::domain"]),
    ("shared::ports", &["shared::domain"]),
    (
        "shared::adapters",
        // Tests beside an adapter hold parts of it to what the whole promises.
        &[
            "shared::domain",
            "shared::ports",
            "shared::clock",
            "shared::conformance",
            "shared::login",
            "shared::metrics",
        ],
    ),
    ("shared::conformance", &["shared::domain", "shared::ports", "shared::clock"]),
];
/// A module that may name adapters of `shared`.
const ADAPTERS: &str = "shared::adapters";

/// Whether a path lies in a module.
fn within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Why a module must not name a path; none if it may. `path` begins with a crate.
fn wrong_door(module: &str, path: &str) -> Option<String> {
    let (home, target) = (first(module), first(path));
    let wrong = |why: &str| Some(format!("{module} names {path}: {why}"));
    let [domain, wire] = [SHARED[0].0, SHARED[1].0].map(|pure| within(module, pure));
    let may = PURE.contains(&target) || wire && target == DESCRIBING;
    if (domain || wire) && target != "shared" && !may {
        return wrong("the domain and wire are pure");
    }
    if let Some((own, others)) = SHARED.iter().find(|(own, _)| within(module, own))
        && target == "shared"
        && !within(path, own)
        && !others.iter().any(|other| within(path, other))
    {
        return wrong("that door is shut");
    }
    if SERVICES.contains(&target) && target != home && home != "monolith" {
        return wrong("only the monolith imports services");
    }
    if target == "monolith" && home != "monolith" {
        return wrong("nobody imports the monolith");
    }
    let opens_storage = within(module, ADAPTERS) || module == "monolith::storage" || is_main(module);
    if within(path, ADAPTERS) && !opens_storage {
        return wrong("only main and storage name adapters");
    }
    let commands = "eventstore_svc::commands";
    if within(module, "projection_svc") && (path.ends_with("::EventStore") || within(path, commands)) {
        return wrong("the read side never appends");
    }
    let views = ["::ViewReader", "::ViewWriter", "::LogReader"].iter().any(|port| path.ends_with(port));
    if within(module, "eventstore_svc") && views {
        return wrong("the write side never reads views");
    }
    None
}

fn is_main(module: &str) -> bool {
    module.split_once("::").is_some_and(|(_, rest)| rest == "main")
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// The doors that a module's text opens wrongly.
fn wrong_doors(module: &str, text: &str, crates: &[String]) -> Vec<String> {
    let named = named(module, text);
    let outside = |Named { path, is_use }: &Named| is_use_or_crate(*is_use, path, crates).then(|| path.clone());
    let mut wrong: Vec<_> = named.iter().filter_map(outside).filter_map(|path| wrong_door(module, &path)).collect();
    wrong.sort();
    wrong.dedup();
    wrong
}

/// A path may begin with a type of the module, and in code with a module that a
/// `use` brought in: what counts is a `use`, and what begins with a crate.
fn is_use_or_crate(is_use: bool, path: &str, crates: &[String]) -> bool {
    is_use && !path.starts_with(char::is_uppercase) || crates.iter().any(|name| name == first(path))
}

/// The crates that the workspace knows, by the names that code gives them.
fn crates(workspace: &Path) -> Vec<String> {
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = dependencies.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    names.chain(["monolith".into()]).collect()
}

/// The sources of a crate, with their modules.
fn sources(workspace: &Path, name: &str) -> Vec<(String, PathBuf)> {
    let (root, mut found) = (workspace.join(name).join("src"), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(&root).unwrap().with_extension("");
                let mut module = vec![name.replace('-', "_")];
                module.extend(inside.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| part != "lib"));
                found.push((module.join("::"), path));
            }
        }
    }
    found
}

#[test]
fn doors_open_one_way() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let crates = crates(workspace);
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in ["shared", "eventstore-svc", "projection-svc", "projector-svc", "monolith"] {
        let sources = sources(workspace, name);
        assert!(!sources.is_empty(), "{name} has sources");
        for (module, path) in sources {
            wrong.extend(wrong_doors(&module, &fs::read_to_string(path).unwrap(), &crates));
            count += 1;
        }
    }
    assert!(count > 30, "only {count} sources were found");
    assert!(wrong.is_empty(), "wrong doors:\n{}", wrong.join("\n"));
}

#[test]
fn each_wrong_door_is_noticed() {
    let crates = crates(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    for (module, text) in [
        ("shared::domain::answer", "use crate::ports::EventStore;"),
        ("shared::domain::answer", "use super::super::ports::EventStore;"),
        ("shared::domain::answer", "use tokio::sync::watch;"),
        ("shared::domain::answer", "use unheard_of::Thing;"),
        ("shared::domain::answer", "use utoipa::ToSchema;"),
        ("shared::domain::answer", "fn f() { let x = tokio::spawn(async {}); }"),
        ("shared::domain", "fn f(x: crate::clock::Clock) {}"),
        ("shared::domain", "mod tests { use crate::{domain::answer::Key, adapters::{memory::MemoryEvents}}; }"),
        ("shared::domain::answer", "mod tests { use super::super::super::wire; }"),
        ("shared::wire::answers", "use crate::http::error::ApiError;"),
        ("shared::wire::answers", "use {axum::body::Body as B, serde::Serialize};"),
        ("shared::ports", "pub use crate::adapters::memory;"),
        ("shared::ports", "use self::super::http;"),
        ("shared::adapters::memory", "use crate::http::serve;"),
        ("shared::adapters::embedded::views", "fn f() { crate::wire::answers::parse() }"),
        ("shared::http::health", "use crate::adapters;"),
        ("shared::http::health", "use crate::adapters::*;"),
        ("shared::error", "type A = crate::adapters::memory::MemoryEvents;"),
        ("eventstore_svc", "use projection_svc::queries;"),
        ("eventstore_svc::http", "fn f() { projector_svc::run() }"),
        ("projector_svc", "use shared::adapters::memory::MemoryViews;"),
        ("projection_svc::queries", "use shared::ports::{self, EventStore};"),
        ("eventstore_svc::commands", "use shared::ports::{EventStore, ViewReader as R};"),
        ("eventstore_svc::log", "use shared::ports::LogReader;"),
        ("shared::config", "use monolith::storage;"),
        ("monolith::app", "use shared::{adapters as a};"),
        ("monolith::app", "// a 'quote\nuse shared::adapters::memory;"),
    ] {
        assert!(!wrong_doors(module, text, &crates).is_empty(), "{module}: {text}");
    }
}

#[test]
fn right_doors_are_left_in_peace() {
    let crates = crates(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    for (module, text) in [
        ("shared::domain::answer", "use super::stream::{Metadata, NewEvent}; use std::fmt; use time::OffsetDateTime;"),
        ("shared::domain::answer", "mod tests { use super::*; use super::super::stream; }"),
        ("shared::domain::answer", "// use crate::ports;\n/* use /* tokio */ tokio::sync; */"),
        ("shared::domain::answer", r##"const A: &str = "use tokio::sync;"; const B: &str = r#"" use tokio::x; "#;"##),
        ("shared::domain::answer", "fn f<'a>(x: &'a str) -> char { 'a' } const Q: char = '\"';"),
        ("shared::domain::answer", "use AnswerEvent::{Created, Deleted};"),
        ("shared::domain::answer", "fn f() { AnswerEvent::Created; Kind::from_name(); tests::go() }"),
        ("shared::wire::answers", "use crate::domain::answer::Key; use serde_json::json; use utoipa::ToSchema;"),
        ("shared::adapters::memory", "use super::progress::Progress; use crate::ports::done; use tokio::sync::watch;"),
        ("shared::http::health", "use crate::ports::Health; use axum::Router;"),
        ("eventstore_svc::commands", "use shared::ports::EventStore; use crate::history::History;"),
        ("monolith::app", "use eventstore_svc::router; use crate::storage::Storage;"),
        ("monolith::storage", "use shared::adapters::embedded::{self, Options};"),
        ("projector_svc::main", "use shared::adapters::memory::MemoryViews;"),
    ] {
        assert_eq!(wrong_doors(module, text, &crates), Vec::<String>::new(), "{module}: {text}");
    }
}
