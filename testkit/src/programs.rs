//! Programs of others that tests start.

use std::env;
use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};

/// A program that others made: named by a variable, in `PATH`, or in the folder
/// `target/tools/<folder>/bin`, where the test script puts it.
pub fn found(variable: &str, name: &str, folder: &str) -> Option<PathBuf> {
    let file = format!("{name}{EXE_SUFFIX}");
    let named = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let in_path = || env::split_paths(&env::var_os("PATH")?).map(|path| path.join(&file)).find(|path| path.is_file());
    let in_tools = || Some(target_folder()?.join("tools").join(folder).join("bin").join(&file)).filter(|p| p.is_file());
    named.or_else(in_path).or_else(in_tools)
}

/// Says that a test is skipped for want of a program.
///
/// # Panics
/// Where nothing may be skipped: if `CI` is `true`.
pub fn skip(what: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{what}, and nothing may be skipped where CI=true");
    eprintln!("skipped: {what}");
}

fn target_folder() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
}
