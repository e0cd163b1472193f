//! `esdb-testd` as people run it: it keeps what it acknowledged, whatever ends it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventstore::{Client, EventData, ReadAllOptions, ReadStreamOptions, StreamPosition, StreamState};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let mut child = command(folder).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("esdb-testd serves ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, url }
    }

    fn client(&self) -> Client {
        Client::new(self.url.parse().unwrap()).unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-testd"));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder).stdin(Stdio::null());
    command
}

fn event(number: u64) -> EventData {
    EventData::binary("happened", number.to_be_bytes().to_vec().into()).id(uuid::Uuid::new_v4())
}

/// Position and data of each event of ours in the log.
async fn log(client: &Client) -> Vec<(u64, Vec<u8>)> {
    let options = ReadAllOptions::default().position(StreamPosition::Start);
    let mut events = client.read_all(&options).await.unwrap();
    let mut found = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        let event = event.get_original_event();
        if !event.stream_id().starts_with('$') {
            found.push((event.position.commit, event.data.to_vec()));
        }
    }
    found
}

#[tokio::test]
async fn the_log_is_as_it_was_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let mut before = Vec::new();
    for round in 0..3 {
        let program = Program::start(folder.path());
        let client = program.client();
        assert_eq!(log(&client).await, before, "round {round}");
        let batch = client.batch_append(&Default::default()).await.unwrap();
        for number in 0..10 {
            let events = vec![event(number), event(number)];
            batch.append_to_stream("a-1", StreamState::Any, events).await.unwrap();
        }
        before = log(&client).await;
        assert_eq!(before.len(), 20 * (round + 1));
        program.kill();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_kill_under_load() {
    let folder = TempDir::new().unwrap();
    let acknowledged: Vec<_> = (0..16).map(|_| Arc::new(AtomicU64::new(0))).collect();
    for _ in 0..3 {
        let program = Program::start(folder.path());
        let batch = Arc::new(program.client().batch_append(&Default::default()).await.unwrap());
        let writers: Vec<_> = acknowledged
            .iter()
            .enumerate()
            .map(|(writer, acknowledged)| {
                let (batch, acknowledged) = (batch.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    let stream = format!("load-{writer}");
                    // Two events a call: half a call must never be there.
                    let pair = || vec![event(0), event(1)];
                    while let Ok(done) = batch.append_to_stream(&stream, StreamState::Any, pair()).await {
                        acknowledged.store(done.current_revision().unwrap() + 1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        program.kill();
        for writer in writers {
            writer.abort();
        }
    }
    let program = Program::start(folder.path());
    let client = program.client();
    for (writer, acknowledged) in acknowledged.iter().enumerate() {
        let options = ReadStreamOptions::default().position(StreamPosition::Start);
        let mut events = client.read_stream(format!("load-{writer}"), &options).await.unwrap();
        let mut count = 0;
        while let Some(event) = events.next().await.unwrap() {
            assert_eq!(event.get_original_event().revision, count);
            count += 1;
        }
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        assert!(acknowledged > 0 && count >= acknowledged, "{count} of {acknowledged} events");
        assert_eq!(count % 2, 0, "half a call is there");
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path());
    let client = program.client();
    let batch = client.batch_append(&Default::default()).await.unwrap();
    batch.append_to_stream("a-1", StreamState::NoStream, vec![event(1)]).await.unwrap();
    let before = log(&client).await;
    batch.append_to_stream("a-1", StreamState::Any, vec![event(2), event(3)]).await.unwrap();
    program.kill();

    let path = folder.path().join("log");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let program = Program::start(folder.path());
    assert_eq!(log(&program.client()).await, before);
}

#[test]
fn one_process_uses_a_folder() {
    let folder = TempDir::new().unwrap();
    let _first = Program::start(folder.path());
    let second = command(folder.path()).stderr(Stdio::piped()).stdout(Stdio::null()).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process uses"), "{said}");
}

#[tokio::test]
async fn it_ends_when_it_is_asked_to() {
    let folder = TempDir::new().unwrap();
    let mut program = Program::start(folder.path());
    let client = program.client();
    let mut subscription = client.subscribe_to_stream("a-1", &Default::default()).await;
    subscription.next_subscription_event().await.unwrap();
    let begun = Instant::now();
    kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
    loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while subscription.next_subscription_event().await.is_ok() {}
    });
    ended.await.expect("the subscription ends with an error");
}

#[test]
fn a_wrong_argument_is_an_error() {
    let mut child = command(Path::new("unused")).arg("--unknown").stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(said.contains("--unknown"), "{said}");
}
