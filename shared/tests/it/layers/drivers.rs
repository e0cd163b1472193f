//! A service links the drivers of its own databases and of no others.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const DRIVERS: [&str; 4] = ["kurrentdb", "mongodb", "rusqlite", "fjall"];
const LINKED: [(&str, &[&str]); 4] = [
    ("eventstore-svc", &["kurrentdb"]),
    ("projection-svc", &["mongodb"]),
    ("projector-svc", &["kurrentdb", "mongodb"]),
    ("monolith", &DRIVERS),
];

/// The crates that end up in a program.
fn linked(workspace: &Path, package: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = cargo.args(["--package", package]).current_dir(workspace).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn no_service_links_the_driver_of_another() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (package, expected) in LINKED {
        let crates = linked(workspace, package);
        let found: BTreeSet<_> = DRIVERS.into_iter().filter(|driver| crates.contains(*driver)).collect();
        assert_eq!(found, expected.iter().copied().collect(), "the drivers in {package}");
        assert!(!crates.contains("testkit"), "{package} ships no help for tests");
    }
}
