//! Every documented route tried out by a program that reads the document and makes
//! requests up, good ones and bad ones: nothing may be answered with a 500, a status
//! or a media type that is not documented, or a body or header that breaks its schema.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use testkit::programs;

use crate::app::{Storage, TestApp};

on_each_storage!(locally: the_document_tells_the_truth);

/// Some minutes on a machine with a core to itself are a minute; a busy one gets more.
const TIME: Duration = Duration::from_secs(600);

/// The program: named by `SCHEMATHESIS`, in `PATH`, or installed by the test script.
fn program() -> Option<PathBuf> {
    programs::found("SCHEMATHESIS", "schemathesis", "schemathesis")
}

async fn the_document_tells_the_truth(storage: Storage) {
    let Some(program) = program() else {
        programs::skip("schemathesis is missing: name it by SCHEMATHESIS, or run ./test.sh");
        return;
    };
    // Positions are made up, and most lie beyond the log's end.
    let app = TestApp::settings(storage).var("AWAIT_TIMEOUT_MS", "20").spawn().await;
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schemathesis");
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .args(["run", "--no-color"])
        .arg(format!("http://{}/openapi.json", app.address()))
        .env("PYTHONPATH", &settings)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "*")
        .current_dir(app.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(TIME, command.output()).await.expect("it should end in time").unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}\n{}", String::from_utf8_lossy(&ended.stderr));
    let count = |what| told.split(what).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let (selected, tested) = (count("Selected: "), count("Tested: "));
    assert!(selected == format!("{tested}/{tested}") && !tested.is_empty(), "{told}");
}
