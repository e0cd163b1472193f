//! What an append costs beside the client itself. Run alone, in release:
//! `cargo test --release -p shared --test it -- --ignored --nocapture figures`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eventstore::{BatchAppendOptions, EventData, StreamState};
use shared::domain::stream::ExpectedRevision;
use shared::ports::{Append, Checkpoint, EventFeed, EventStore};

use super::{Place, event, exact, fresh, soon};

const TIME: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures_of_appends() {
    let place = match std::env::var("EVENTSTORE_HOST") {
        Ok(_) => Place::any(),
        Err(_) => {
            let options = testkit::Options { append_delay: Duration::from_millis(1), ..Default::default() };
            let server = testkit::EsdbServer::start(options).unwrap();
            Place { settings: server.address().to_string(), _server: Some(server) }
        }
    };
    for callers in [1, 64] {
        for _ in 0..2 {
            let bare = bare(&place, callers).await;
            let ours = adapter(&place, callers).await;
            println!("{callers} callers: bare {bare}, adapter {ours}");
        }
    }
    let log = place.log();
    for count in [500, 10_000] {
        let appends = (0..count).map(|_| Append {
            stream: fresh(),
            expected: ExpectedRevision::NoStream,
            events: vec![event("value")],
        });
        let appends = appends.collect();
        let begun = Instant::now();
        let outcomes = log.append_each(appends).await;
        assert!(outcomes.iter().all(Result::is_ok));
        println!("{count} appends in one call: {:.0}/s", f64::from(count) / begun.elapsed().as_secs_f64());
    }
    let mut subscription = log.subscribe(Checkpoint::START).await.unwrap();
    let (begun, head, mut count, mut batches) = (Instant::now(), log.head().await.unwrap(), 0, 0);
    loop {
        let batch = soon("a batch", subscription.next(8_192)).await.unwrap();
        count += batch.events.len();
        batches += 1;
        if batch.checkpoint.has_reached(head) {
            break;
        }
    }
    println!("catch-up: {count} events in {:?}, {batches} batches", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..100 {
        log.head().await.unwrap();
    }
    println!("head: {:?} each", begun.elapsed() / 100);
}

#[derive(Default)]
struct Figures {
    micros: parking_lot::Mutex<Vec<u64>>,
    count: AtomicU64,
}

impl Figures {
    fn took(&self, begun: Instant) {
        self.micros.lock().push(u64::try_from(begun.elapsed().as_micros()).unwrap());
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn told(&self) -> String {
        let mut micros = self.micros.lock().clone();
        micros.sort_unstable();
        let at = |part: usize| micros[micros.len() * part / 100];
        format!("{:.0}/s, p50 {} us, p99 {} us", micros.len() as f64 / TIME.as_secs_f64(), at(50), at(99))
    }
}

async fn adapter(place: &Place, callers: usize) -> String {
    let (log, figures) = (place.log(), Arc::<Figures>::default());
    log.log_id().await.unwrap();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (log, figures) = (log.clone(), figures.clone());
            tokio::spawn(async move {
                let (stream, mut expected, end) = (fresh(), ExpectedRevision::NoStream, Instant::now() + TIME);
                while Instant::now() < end {
                    let begun = Instant::now();
                    let appended = log.append(&stream, expected, vec![event("value")]).await.unwrap();
                    figures.took(begun);
                    expected = exact(appended.first.0);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    figures.told()
}

async fn bare(place: &Place, callers: usize) -> String {
    let client = place.client().batch_append(&BatchAppendOptions::default()).await.unwrap();
    let (client, figures) = (Arc::new(client), Arc::<Figures>::default());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (client, figures) = (client.clone(), figures.clone());
            tokio::spawn(async move {
                let (stream, mut state, end) = (fresh(), StreamState::NoStream, Instant::now() + TIME);
                while Instant::now() < end {
                    let begun = Instant::now();
                    let event = event("value");
                    let value: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
                    let data = EventData::json(&event.kind, &value).unwrap().id(event.id);
                    let data = data.metadata_as_json(&event.metadata).unwrap();
                    let result = client.append_to_stream(stream.as_str(), state, vec![data]).await.unwrap();
                    figures.took(begun);
                    state = StreamState::StreamRevision(result.current_revision().unwrap());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    figures.told()
}
