//! What the databases' own clients reach, with nothing of ours in between. Each prints
//! one line that begins with `BENCH`, for `databases.sh` to read.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventstore::{BatchAppendOptions, Client, EventData, StreamState};
use mongodb::bson::doc;
use parking_lot::Mutex;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: drivers <what> ...
  append HOST:PORT CALLERS SECONDS   each caller appends to a stream of its own, one event after
                                     the other, all in one batch_append session
  bulk URL SECONDS                   documents such as an answer's row, 1,000 in an insert";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let done = runtime.block_on(async {
        match arguments[..] {
            ["append", host, callers, seconds] => append(host, callers.parse()?, seconds.parse()?).await,
            ["bulk", url, seconds] => bulk(url, seconds.parse()?).await,
            _ => Err(USAGE.into()),
        }
    });
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("drivers: {error}");
    ExitCode::FAILURE
}

async fn append(host: &str, callers: usize, seconds: u64) -> Result<String, Failure> {
    let client = Client::new(format!("esdb://{host}?tls=false").parse()?)?;
    let session = Arc::new(client.batch_append(&BatchAppendOptions::default()).await?);
    let times = Arc::<Mutex<Vec<u64>>>::default();
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (session, times) = (session.clone(), times.clone());
            tokio::spawn(async move {
                let (stream, mut state) = (format!("bare-{}", Uuid::new_v4()), StreamState::NoStream);
                while Instant::now() < until {
                    let sent = Instant::now();
                    let value =
                        serde_json::json!({ "key": stream, "value": "0123456789abcdef0123456789abcdef01234567" });
                    let event = EventData::json("AnswerUpdatedEvent", &value)?.id(Uuid::new_v4());
                    let appended = session.append_to_stream(stream.as_str(), state, vec![event]).await?;
                    times.lock().push(u64::try_from(sent.elapsed().as_nanos())?);
                    let revision = appended.current_revision().ok_or("no revision in the answer")?;
                    state = StreamState::StreamRevision(revision);
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut times = std::mem::take(&mut *times.lock());
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place).or(times.last()).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    };
    let rate = times.len() as f64 / seconds;
    Ok(format!("BENCH rate={rate:.0} count={} p50_us={:.1} p99_us={:.1}", times.len(), at(0.5), at(0.99)))
}

async fn bulk(url: &str, seconds: u64) -> Result<String, Failure> {
    let client = mongodb::Client::with_uri_str(url).await?;
    let rows = client.database("bench").collection("bulk");
    let began = Instant::now();
    let mut count = 0_i64;
    while began.elapsed() < Duration::from_secs(seconds) {
        let documents = (count..count + 1_000).map(|number| {
            let key = format!("{number:08x}-{}", Uuid::new_v4());
            let value = "0123456789abcdef0123456789abcdef01234567";
            doc! { "_id": &key, "key": key, "value": value, "revision": 0_i64, "position": number }
        });
        rows.insert_many(documents).ordered(false).await?;
        count += 1_000;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    Ok(format!("BENCH rate={rate:.0} count={count}"))
}
