//! Loads of one request at a time: a lone writer's latency, and how long after
//! its acknowledgement a write is seen by readers.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, Client, Response};
use crate::latency::Latencies;
use crate::{Arguments, Outcome, keys};

/// How many keys `known` writes to.
const KNOWN: u32 = 100;
/// How often the lag is sampled.
const EVERY: Duration = Duration::from_millis(20);

/// POSTs fresh keys, one after the other.
pub(crate) fn single(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let mut writes = Writes::new("single");
    let mut latencies = Latencies::default();
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(arguments.number("seconds")?);
    while Instant::now() < until {
        let body = writes.next_body()?;
        let sent = Instant::now();
        let response = client.post("/answers", body)?;
        latencies.record(sent.elapsed());
        expect_success(&response)?;
    }
    let rate = f64::from(writes.made) / began.elapsed().as_secs_f64();
    Ok(format!("BENCH rate={rate:.0} {}", latencies.report()))
}

/// PUTs new values on a hundred keys in turn, one request after the other.
pub(crate) fn known(arguments: &Arguments) -> Outcome {
    let mut client = Client::connect(arguments.text("url")?)?;
    let tag = keys::fresh_tag("known");
    let mut latencies = Latencies::default();
    let mut made = 0_u32;
    let mut put = |key: u32| -> io::Result<Duration> {
        let mut value = [0; keys::VALUE_LEN];
        keys::put_value(&mut value, made);
        made += 1;
        let body = format!(r#"{{"value":"{}"}}"#, String::from_utf8_lossy(&value));
        let sent = Instant::now();
        let response = client.put(&format!("/answers/{}", keys::key(key, &tag)), body.as_bytes())?;
        let took = sent.elapsed();
        expect_success(&response).map(|()| took)
    };
    for key in 0..KNOWN {
        put(key)?;
    }
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(arguments.number("seconds")?);
    let mut count = 0;
    while Instant::now() < until {
        latencies.record(put(count % KNOWN)?);
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    Ok(format!("BENCH rate={rate:.0} {}", latencies.report()))
}

/// The lag of single keys.
pub(crate) fn lag(arguments: &Arguments) -> Outcome {
    let mut writes = Writes::new("lag");
    sample_lag(arguments, |writer| {
        let response = writer.post("/answers", writes.next_body()?)?;
        Ok((response, format!("/answers/{}", writes.last_key())))
    })
}

/// Every 20 ms: writes something, then GETs it from the read side with
/// `Await-Position`; the time between the two answers. A lag that outlasts the next
/// samples counts for them too, as what is left of it when they were due. `write`
/// answers with where to read.
pub(crate) fn sample_lag(
    arguments: &Arguments,
    mut write: impl FnMut(&mut Client) -> io::Result<(Response, String)>,
) -> Outcome {
    let mut writer = Client::connect(arguments.text("url")?)?;
    let mut reader = Client::connect(arguments.text("read")?)?;
    let mut latencies = Latencies::default();
    let until = Instant::now() + Duration::from_secs_f64(arguments.number("seconds")?);
    let mut tick = Instant::now();
    while Instant::now() < until {
        let (response, path) = write(&mut writer)?;
        let answered = Instant::now();
        expect_success(&response)?;
        let position = position_of(&response)?;
        let response = reader.get(&path, &format!("Await-Position: {position}\r\n"))?;
        let mut lag = answered.elapsed();
        expect_success(&response)?;
        latencies.record(lag);
        while lag > EVERY {
            lag -= EVERY;
            latencies.record(lag);
        }
        tick += EVERY;
        thread::sleep(tick.saturating_duration_since(Instant::now()));
        tick = tick.max(Instant::now());
    }
    Ok(format!("BENCH {}", latencies.report()))
}

/// Bodies of `POST /answers` with keys that no other process makes.
pub(crate) struct Writes {
    tag: String,
    made: u32,
    body: Vec<u8>,
}

impl Writes {
    pub(crate) fn new(what: &str) -> Self {
        Self { tag: keys::fresh_tag(what), made: 0, body: Vec::new() }
    }

    pub(crate) fn next_body(&mut self) -> io::Result<&[u8]> {
        let mut value = [0; keys::VALUE_LEN];
        keys::put_value(&mut value, self.made);
        self.body.clear();
        write!(
            self.body,
            r#"{{"key":"{}","value":"{}"}}"#,
            keys::key(self.made, &self.tag),
            String::from_utf8_lossy(&value)
        )?;
        self.made += 1;
        Ok(&self.body)
    }

    pub(crate) fn last_key(&self) -> String {
        keys::key(self.made.saturating_sub(1), &self.tag)
    }
}

pub(crate) fn expect_success(response: &Response) -> io::Result<()> {
    if response.is_success() { Ok(()) } else { Err(http::invalid(response.shown())) }
}

pub(crate) fn position_of(response: &Response) -> io::Result<u64> {
    response.head.event_position.ok_or_else(|| http::invalid("a success without an Event-Position".to_owned()))
}
