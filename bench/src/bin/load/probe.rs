//! What `run.sh` asks of a server before, beside and after a load.

use std::io;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, Client};
use crate::requests::{Writes, expect_success, position_of};
use crate::{Arguments, Outcome};

/// Reads a counter of `/metrics` (summed over its labels) each second.
pub(crate) fn watch(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let metric = arguments.text("metric")?;
    let seconds: u64 = arguments.number("seconds")?;
    let (mut lowest, mut highest) = (f64::MAX, 0f64);
    let mut before = counter(&mut client, metric)?;
    let mut at = Instant::now();
    for _ in 0..seconds {
        thread::sleep((at + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
        let now = counter(&mut client, metric)?;
        let rate = (now - before) / at.elapsed().as_secs_f64();
        (before, at) = (now, Instant::now());
        lowest = lowest.min(rate);
        highest = highest.max(rate);
    }
    Ok(format!("BENCH min_per_s={lowest:.0} max_per_s={highest:.0}"))
}

fn counter(client: &mut Client, metric: &str) -> io::Result<f64> {
    let response = client.get("/metrics", "")?;
    expect_success(&response)?;
    let text = String::from_utf8_lossy(&response.body);
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(metric))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    if values.is_empty() {
        return Err(http::invalid(format!("/metrics has no {metric}")));
    }
    Ok(values.iter().sum())
}

/// Writes one fresh key: its position is the head of a log that is otherwise idle.
pub(crate) fn mark(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let mut writes = Writes::new("mark");
    let response = client.post("/answers", writes.next_body()?)?;
    expect_success(&response)?;
    Ok(format!("BENCH key={} position={}", writes.last_key(), position_of(&response)?))
}

/// Repeats a read that awaits `position` until it is answered. A refused
/// connection, 503 and 404 (views being rebuilt) are waited out.
pub(crate) fn await_position(arguments: &Arguments) -> Outcome {
    let path = match arguments.text("path") {
        Ok(path) => path.to_owned(),
        Err(_) => format!("/answers/{}", arguments.text("key")?),
    };
    let position: u64 = arguments.number("position")?;
    let header = format!("Await-Position: {position}\r\n");
    until_ok(arguments, 600.0, &path, &header)
}

pub(crate) fn ready(arguments: &Arguments) -> Outcome {
    until_ok(arguments, 60.0, "/readyz", "")
}

fn until_ok(arguments: &Arguments, default: f64, path: &str, header: &str) -> Outcome {
    let url = arguments.text("url")?;
    let began = Instant::now();
    let limit = Duration::from_secs_f64(arguments.number_or("timeout", default)?);
    loop {
        let problem = match Client::connect(url).and_then(|mut client| client.get(path, header)) {
            Ok(response) if response.is_success() => {
                return Ok(format!("BENCH seconds={:.4}", began.elapsed().as_secs_f64()));
            }
            Ok(response) => response.shown(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > limit {
            return Err(http::invalid(format!("{path} was not answered within {} s: {problem}", limit.as_secs())));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Free ports, found together so that they differ.
pub(crate) fn ports(arguments: &Arguments) -> Outcome {
    let count: usize = arguments.number("count")?;
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port().to_string()))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(ports.join(" "))
}
