//! A rebuild of the views while commands and reads go on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::disk;
use crate::http::{self, Client};
use crate::latency::Latencies;
use crate::requests::{Writes, expect_success};
use crate::{Arguments, Outcome, keys};

/// How long the load runs before the rebuild is asked for.
const BEFORE: Duration = Duration::from_secs(3);
/// How often it is asked how the rebuild goes.
const LOOK: Duration = Duration::from_millis(20);

/// Asks for a rebuild under `--rate` single POSTs a second and readers that never pause;
/// latencies are those from the request for it until it is done, and beside them those
/// of bare durable writes in the folder `--dir`. Any status but a 2xx ends it with an error.
pub(crate) fn rebuild(arguments: &Arguments) -> Outcome {
    let connections: u32 = arguments.number_or("connections", 16)?;
    let pace = Duration::from_secs_f64(f64::from(connections) / arguments.number::<f64>("rate")?);
    let count: u32 = arguments.number("keys")?;
    let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut posts = Vec::new();
    for number in 0..connections {
        let (client, begun, ended) = (Client::connect(arguments.text("url")?)?, begun.clone(), ended.clone());
        let writes = Writes::new(&format!("rebuild-{number}"));
        posts.push(thread::spawn(move || post(client, writes, pace, &begun, &ended)));
    }
    let mut reads = Vec::new();
    for number in 0..arguments.number_or("readers", 2_u32)? {
        let (client, begun, ended) = (Client::connect(arguments.text("read")?)?, begun.clone(), ended.clone());
        reads.push(thread::spawn(move || read(client, number, count, &begun, &ended)));
    }
    let mut admin = Client::connect(arguments.text("admin")?)?;
    thread::sleep(BEFORE);
    let (file, is_over) = (disk::allocated(Path::new(arguments.text("dir")?))?, ended.clone());
    let beside = thread::spawn(move || disk::beside(&file, &is_over));
    begun.store(true, Ordering::Relaxed);
    let asked = Instant::now();
    expect_success(&admin.post("/rebuild", b"")?)?;
    loop {
        let state = admin.get("/rebuild", "")?;
        expect_success(&state)?;
        if String::from_utf8_lossy(&state.body).contains(r#""state":"idle""#) {
            break;
        }
        thread::sleep(LOOK);
    }
    let took = asked.elapsed();
    ended.store(true, Ordering::Relaxed);
    let (posts, reads, beside) = (together(posts)?, together(reads)?, together(vec![beside])?);
    let figures = [prefixed("post", posts), prefixed("read", reads), prefixed("disk", beside)];
    Ok(format!("BENCH seconds={:.3} {}", took.as_secs_f64(), figures.join(" ")))
}

fn together(threads: Vec<JoinHandle<io::Result<Latencies>>>) -> io::Result<Latencies> {
    let mut all = Latencies::default();
    for thread in threads {
        all.merge(thread.join().map_err(|_| http::invalid("a thread panicked".to_owned()))??);
    }
    Ok(all)
}

fn prefixed(what: &str, latencies: Latencies) -> String {
    let report = latencies.report();
    report.split(' ').map(|pair| format!("{what}_{pair}")).collect::<Vec<_>>().join(" ")
}

fn post(
    mut client: Client,
    mut writes: Writes,
    pace: Duration,
    begun: &AtomicBool,
    ended: &AtomicBool,
) -> io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut due = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let counts = begun.load(Ordering::Relaxed);
        expect_success(&client.post("/answers", writes.next_body()?)?)?;
        if counts {
            latencies.record(due.elapsed());
        }
        due += pace;
    }
    Ok(latencies)
}

fn read(mut client: Client, first: u32, count: u32, begun: &AtomicBool, ended: &AtomicBool) -> io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut number = first;
    while !ended.load(Ordering::Relaxed) {
        number = number.wrapping_add(0x9e37_79b9);
        let path = format!("/answers/{}", keys::key(number % count, keys::PRELOAD));
        let sent = Instant::now();
        expect_success(&client.get(&path, "")?)?;
        if begun.load(Ordering::Relaxed) {
            latencies.record(sent.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(latencies)
}
