//! How fast the embedded views take log events, and how fast pages of them are, at
//! the size of `QASERVICE_LOG_EVENTS`. Not a promise but a measurement:
//! `cargo test --release -p shared --all-features -- --ignored --nocapture log_rate`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use shared::adapters::embedded::SqliteViews;
use shared::domain::filter::{Comparison, Field, Filter, Literal, Op, Test};
use shared::domain::log_event::{LogEvent, Members};
use shared::domain::projection::{Changes, EventChange, LogChange};
use shared::domain::stream::{Position, Revision};
use shared::domain::time::Timestamp;
use shared::ports::{Checkpoint, EventRef, EventsQuery, From, Generation, LogReader, Order, SortKey, Ties, ViewWriter};
use uuid::Uuid;

use super::support::{close, env_number, open, resume};

const BATCH: u64 = 8_192;
/// When the first event happened.
const START: i64 = 1_700_000_000_000_000;
/// Between events, about.
const STEP: i64 = 100_000;

/// Numbers that look random and are the same each time.
fn noise(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn uuid(kind: u64, number: u64) -> Uuid {
    Uuid::from_u64_pair(noise(number ^ (kind << 56)), noise(number.wrapping_add(kind << 48)))
}

fn session(number: u64) -> Uuid {
    uuid(2, number)
}

fn event(number: u64) -> LogEvent {
    let random = noise(number);
    let timestamp = Timestamp::from_micros(START + number as i64 * STEP - (random % 1_000_000) as i64);
    let data =
        json!({"host": format!("web-{}", random % 40), "ms": random % 10_000, "path": format!("/a/{}", random % 999)});
    let members = Members {
        timestamp,
        name: Some(format!("name-{}", random % 50)),
        category: Some(format!("category-{}", (random >> 8) % 10)),
        component: Some(format!("component-{}", (random >> 16) % 20)),
        environment: Some("production".into()),
        message: Some(format!("the request {random:x} of customer {} took a while", noise(random) % 1_000_000)),
        email: random.is_multiple_of(4).then(|| format!("user{}@example.org", (random >> 20) % 100_000)),
        customer_id: Some(((random >> 24) % 100_000) as i64),
        session_id: Some(session((random >> 13) % 250_000)),
        source: None,
        data: data.as_object().cloned(),
        ce: None,
    };
    let created_at = Timestamp::from_micros(START + number as i64 * STEP);
    LogEvent { id: uuid(1, number), number, created_at, members }
}

fn changes(numbers: std::ops::Range<u64>) -> Changes {
    let change = |number| {
        let event = Some(Arc::new(event(number)));
        let (id, position, revision) = (uuid(1, number), Position(number), Revision::FIRST);
        LogChange::Event(EventChange { id, number, event, revision, position })
    };
    numbers.map(change).collect::<Vec<_>>().into()
}

fn memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn fill(views: &SqliteViews, count: u64) {
    let mut at = resume(views).await;
    let (mut took, mut slowest, mut reported) = (Duration::ZERO, Duration::ZERO, at.position().0);
    while at.position().0 < count {
        let first = at.position().0 + 1;
        let end = (first + BATCH).min(count + 1);
        let (changes, to) = (changes(first..end), Checkpoint::at(Position(end - 1)));
        let begun = Instant::now();
        views.apply(Generation::Live, at, changes, to).await.unwrap();
        took += begun.elapsed();
        slowest = slowest.max(begun.elapsed());
        at = to;
        if end - reported > 250_000 || end > count {
            let rate = (end - 1 - reported) as f64 / took.as_secs_f64();
            let (mb, memory) = (views.size() / 1_000_000, memory_mb());
            println!(
                "{:>9} events: {rate:.0}/s, slowest batch {slowest:?}, {mb} MB on disk, {memory} MB in memory",
                end - 1
            );
            (took, slowest, reported) = (Duration::ZERO, Duration::ZERO, end - 1);
        }
    }
}

fn equals(field: Field, value: &str) -> Filter {
    Filter::Test(Test { field, op: Op::Compare(Comparison::Eq, Literal::String(value.into())) })
}

/// A name, and the filter of a turn.
type Kind = (&'static str, Box<dyn Fn(u64) -> Filter>);

async fn measure(views: &SqliteViews, count: u64) {
    let newest = Order { by: SortKey::Timestamp, descending: true, ties: Ties::Id };
    let random = |turn: u64| noise(turn + 77);
    let time = |comparison, at: i64| {
        let literal = Literal::Time(Timestamp::from_micros(at));
        Filter::Test(Test { field: Field::Timestamp, op: Op::Compare(comparison, literal) })
    };
    let kinds: Vec<Kind> = vec![
        ("all", Box::new(|_| Filter::Any)),
        ("session", Box::new(move |turn| equals(Field::SessionId, &session(random(turn) % 250_000).to_string()))),
        ("category", Box::new(move |turn| equals(Field::Category, &format!("category-{}", random(turn) % 10)))),
        ("name", Box::new(move |turn| equals(Field::Name, &format!("name-{}", random(turn) % 50)))),
        (
            "time range",
            Box::new(move |turn| {
                let from = START + (random(turn) % count) as i64 * STEP;
                Filter::And(vec![time(Comparison::Gte, from), time(Comparison::Lt, from + 3_600_000_000)])
            }),
        ),
        (
            "customer",
            Box::new(move |turn| {
                let customer = (random(turn) % 100_000) as i64;
                let number = shared::domain::filter::Number {
                    double: customer as f64,
                    place: shared::domain::filter::Place::At(customer),
                };
                let op = Op::Compare(Comparison::Eq, Literal::Number(number));
                Filter::Test(Test { field: Field::CustomerId, op })
            }),
        ),
    ];
    for (what, filter) in kinds {
        let mut times = Vec::new();
        for turn in 0..400 {
            let query = EventsQuery { filter: filter(turn), order: newest, from: From::Start, limit: 50 };
            let begun = Instant::now();
            views.events(query).await.unwrap();
            times.push(begun.elapsed());
        }
        report(what, times);
    }
    let mut times = Vec::new();
    for turn in 0..400 {
        let begun = Instant::now();
        let found = views.event(EventRef::Id(uuid(1, random(turn) % count + 1))).await.unwrap();
        times.push(begun.elapsed());
        assert!(found.found.is_some());
    }
    report("id", times);
    for by in [SortKey::Timestamp, SortKey::CreatedAt, SortKey::Name, SortKey::Category] {
        let order = Order { by, ..newest };
        let (mut from, mut first, mut last) = (From::Start, Vec::new(), Vec::new());
        for turn in 0..2_000 {
            let query = EventsQuery { filter: Filter::Any, order, from, limit: 50 };
            let begun = Instant::now();
            let page = views.events(query).await.unwrap().found;
            if turn < 100 {
                first.push(begun.elapsed())
            } else if turn >= 1_900 {
                last.push(begun.elapsed())
            }
            from = From::Behind(order.place_of(&page.events[49].event));
        }
        report(&format!("pages 1 to 100 by {by:?}"), first);
        report(&format!("pages 1900 to 2000 by {by:?}"), last);
    }
    let stats = |by| shared::ports::StatsQuery { filter: Filter::Any, interval: 86_400_000_000, by, limit: 10_000 };
    let begun = Instant::now();
    views.stats(stats(Field::Category)).await.unwrap();
    println!("stats by category: {:?}", begun.elapsed());
    let contains = |text: &str| Filter::Test(Test { field: Field::Message, op: Op::Contains(text.into()) });
    for text in ["request 7f3a", "no such text", "CUSTOMER 9999"] {
        let query = EventsQuery { filter: contains(text), order: newest, from: From::Start, limit: 50 };
        let begun = Instant::now();
        let found = views.events(query).await.unwrap().found.events.len();
        println!("contains {text:?}: {found} in {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let found = views.count(&equals(Field::Category, "category-3")).await.unwrap().found;
    println!("count of a category: {found} in {:?}", begun.elapsed());
    let query = EventsQuery { filter: Filter::Any, order: newest, from: From::Skip(count / 2), limit: 50 };
    let begun = Instant::now();
    views.events(query).await.unwrap();
    println!("half of all skipped: {:?}; {} MB in memory", begun.elapsed(), memory_mb());
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what}: median {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn log_rate() {
    let count = u64::from(env_number("QASERVICE_LOG_EVENTS", 1_000_000));
    let folder = tempfile::tempdir_in(std::env::var("QASERVICE_LOG_FOLDER").as_deref().unwrap_or("/tmp")).unwrap();
    let store = open(Path::new(folder.path()));
    fill(&store.views, count).await;
    measure(&store.views, count).await;
    close(store);
}
