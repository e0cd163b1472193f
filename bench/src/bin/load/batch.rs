//! `POST /answers/batch`: sends while it reads, as the contract asks, and checks
//! every result. Lines are patched into a template and results are counted by
//! searching bytes, so that nearly all the processor time is the server's.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, Client};
use crate::{Arguments, Outcome, keys};

const LINES_A_CHUNK: usize = 512;
/// How often `paced` sends.
const PACE: Duration = Duration::from_millis(50);

pub(crate) fn batch(arguments: &Arguments) -> Outcome {
    let url = arguments.text("url")?;
    let streams: u32 = arguments.number_or("streams", 2)?;
    let op = arguments.text_or("op", "create");
    let first: u32 = arguments.number_or("first", 0)?;
    let seconds: f64 = arguments.number_or("seconds", 0.0)?;
    let (last, default_tag) = if seconds > 0.0 {
        (u32::MAX, keys::fresh_tag("batch"))
    } else {
        (first.saturating_add(arguments.number("keys")?), keys::PRELOAD.to_owned())
    };
    let tag = arguments.text_or("tag", &default_tag);

    let done = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let until = (seconds > 0.0).then(|| began + Duration::from_secs_f64(seconds));
    let mut readers = Vec::new();
    for stream in 0..streams.max(1) {
        let client = Client::connect(url)?;
        let host = client.host().to_owned();
        let (writer, reader) = client.split();
        let lines = Lines::new(op, tag, first.saturating_add(stream), streams, last);
        thread::spawn(move || send(writer, &host, lines, until));
        let done = Arc::clone(&done);
        readers.push(thread::spawn(move || receive(reader, began, &done)));
    }
    let sampler = {
        let (done, over) = (Arc::clone(&done), Arc::clone(&over));
        thread::spawn(move || lowest_second(&done, &over))
    };

    let mut total = Results::default();
    let mut failure = None;
    for reader in readers {
        match reader.join() {
            Ok(Ok(results)) => total.add(results),
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(http::invalid("a reader panicked".to_owned())),
        }
    }
    let took = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let lowest = sampler.join().unwrap_or_default();
    let rate = total.count as f64 / took;
    if let Some(error) = failure {
        return Err(error);
    }
    if let Some(line) = total.first_bad {
        return Err(http::invalid(format!("{} of {} results are not 2xx, the first: {line}", total.bad, total.count)));
    }
    if until.is_none() && total.count != u64::from(last - first) {
        return Err(http::invalid(format!("{} results for {} lines", total.count, last - first)));
    }
    Ok(format!(
        "BENCH rate={rate:.0} count={} seconds={took:.3} min_per_s={:.0} max_us={:.0}",
        total.count,
        lowest.map_or(rate, |lowest| lowest as f64),
        total.longest.as_secs_f64() * 1e6,
    ))
}

/// Creates fresh keys at a rate, in a batch of its own every 50 ms.
pub(crate) fn paced(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let rate: f64 = arguments.number("rate")?;
    let tag = keys::fresh_tag("paced");
    let mut lines = Lines::new("create", &tag, 0, 1, u32::MAX);
    let stride = lines.stride;
    let mut total = Results::default();
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(arguments.number("seconds")?);
    let mut body = Vec::new();
    while Instant::now() < until {
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        body.clear();
        while (total.count + (body.len() / stride) as u64) < due {
            let missing = due - total.count - (body.len() / stride) as u64;
            let chunk = lines.fill();
            let taken = chunk.len().min(usize::try_from(missing).unwrap_or(usize::MAX).saturating_mul(stride));
            body.extend_from_slice(&chunk[..taken]);
            let unsent = (chunk.len() - taken) / stride;
            lines.next -= u32::try_from(unsent).unwrap_or_default();
        }
        if !body.is_empty() {
            let response = client.post("/answers/batch", &body)?;
            if !response.is_success() {
                return Err(http::invalid(response.shown()));
            }
            total.count(&response.body);
        }
        thread::sleep(PACE);
    }
    if let Some(line) = total.first_bad {
        return Err(http::invalid(format!("{} of {} results are not 2xx, the first: {line}", total.bad, total.count)));
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!("BENCH rate={:.0} count={} seconds={seconds:.3}", total.count as f64 / seconds, total.count))
}

/// Chunks of lines; only the digits of keys and values differ between them.
struct Lines {
    chunk: Vec<u8>,
    stride: usize,
    key_at: usize,
    value_at: usize,
    next: u32,
    step: u32,
    last: u32,
}

impl Lines {
    fn new(op: &str, tag: &str, next: u32, step: u32, last: u32) -> Self {
        let before = format!(r#"{{"op":"{op}","key":""#);
        let between = format!(r#"-{tag}","value":""#);
        let line = format!("{before}00000000{between}{}\"}}\n", "0".repeat(keys::VALUE_LEN));
        Self {
            chunk: line.repeat(LINES_A_CHUNK).into_bytes(),
            stride: line.len(),
            key_at: before.len(),
            value_at: before.len() + 8 + between.len(),
            next,
            step: step.max(1),
            last,
        }
    }

    /// The next lines; empty at the end.
    fn fill(&mut self) -> &[u8] {
        let mut lines = 0;
        for line in self.chunk.chunks_exact_mut(self.stride) {
            if self.next >= self.last {
                break;
            }
            keys::put_hex(&mut line[self.key_at..], keys::scatter(self.next));
            keys::put_value(&mut line[self.value_at..], self.next);
            self.next = self.next.saturating_add(self.step);
            lines += 1;
        }
        &self.chunk[..lines * self.stride]
    }
}

/// A failure to write is left to the reader, which sees the server's reason.
fn send(mut writer: TcpStream, host: &str, mut lines: Lines, until: Option<Instant>) -> io::Result<()> {
    write!(
        writer,
        "POST /answers/batch HTTP/1.1\r\nHost: {host}\r\n\
         Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut framed = Vec::new();
    while until.is_none_or(|until| Instant::now() < until) {
        let chunk = lines.fill();
        if chunk.is_empty() {
            break;
        }
        framed.clear();
        write!(framed, "{:x}\r\n", chunk.len())?;
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        writer.write_all(&framed)?;
    }
    writer.write_all(b"0\r\n\r\n")
}

#[derive(Default)]
struct Results {
    count: u64,
    bad: u64,
    first_bad: Option<String>,
    longest: Duration,
}

impl Results {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bad += other.bad;
        self.longest = self.longest.max(other.longest);
        self.first_bad = self.first_bad.take().or(other.first_bad);
    }

    /// Counts whole lines.
    fn count(&mut self, lines: &[u8]) -> u64 {
        const GOOD: &[u8] = b"\"status\":2";
        let count = memchr::memchr_iter(b'\n', lines).count();
        let good = memchr::memmem::find_iter(lines, GOOD).count();
        if good != count {
            let is_bad = |line: &&[u8]| memchr::memmem::find(line, GOOD).is_none();
            let mut bad = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).filter(is_bad);
            if let Some(line) = bad.next() {
                self.bad += 1 + bad.count() as u64;
                self.first_bad.get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
            }
        }
        self.count += count as u64;
        count as u64
    }
}

fn receive(mut reader: BufReader<TcpStream>, began: Instant, done: &AtomicU64) -> io::Result<Results> {
    let head = http::read_head(&mut reader)?;
    if head.status != 200 {
        let mut body = vec![0; head.length.unwrap_or_default().min(1000)];
        io::Read::read_exact(&mut reader, &mut body)?;
        return Err(http::invalid(format!(
            "/answers/batch answered {}: {}",
            head.status,
            String::from_utf8_lossy(&body)
        )));
    }
    if !head.chunked {
        return Err(http::invalid("/answers/batch did not stream".to_owned()));
    }
    let mut results = Results::default();
    let mut pending = Vec::new();
    let mut before = began;
    while let Some(mut left) = http::read_chunk_size(&mut reader)? {
        while left > 0 {
            let data = reader.fill_buf()?;
            let taken = data.len().min(left);
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            pending.extend_from_slice(&data[..taken]);
            reader.consume(taken);
            left -= taken;
        }
        http::skip_line_end(&mut reader)?;
        if let Some(end) = memchr::memrchr(b'\n', &pending) {
            let count = results.count(&pending[..=end]);
            pending.drain(..=end);
            done.fetch_add(count, Ordering::Relaxed);
            let now = Instant::now();
            results.longest = results.longest.max(now - before);
            before = now;
        }
    }
    if pending.is_empty() { Ok(results) } else { Err(http::invalid("the last result is cut off".to_owned())) }
}

/// The fewest results in any whole second; `None` if there was no whole one.
fn lowest_second(done: &AtomicU64, over: &AtomicBool) -> Option<u64> {
    let (mut lowest, mut before) = (None::<u64>, 0);
    let mut tick = Instant::now();
    loop {
        tick += Duration::from_secs(1);
        while Instant::now() < tick {
            if over.load(Ordering::Relaxed) {
                return lowest;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let now = done.load(Ordering::Relaxed);
        let count = now - before;
        lowest = Some(lowest.map_or(count, |lowest| lowest.min(count)));
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_each_line_once() {
        let mut lines = Lines::new("create", "tag", 1, 2, 6);
        let text = String::from_utf8(lines.fill().to_vec()).expect("UTF-8");
        let keys: Vec<_> = text.lines().map(|line| &line[22..34]).collect();
        assert_eq!(keys, [1, 3, 5].map(|n| keys::key(n, "tag")));
        assert!(text.lines().all(|line| line.ends_with("\"}")));
        assert!(lines.fill().is_empty());
    }

    #[test]
    fn counts_what_is_not_2xx() {
        let mut results = Results::default();
        results.count(b"{\"status\":201}\n{\"status\":409,\"error\":\"Key exists\"}\n");
        assert_eq!((results.count, results.bad), (2, 1));
        assert!(results.first_bad.is_some_and(|line| line.contains("409")));
    }
}
