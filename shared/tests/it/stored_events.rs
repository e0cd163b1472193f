//! What is stored today must be read by every later version: the JSON of events
//! as text, and a folder of the embedded store as it was written by this one.
//!
//! `data-v1` and `data-v2` are never made again. A later format gets a folder of its own
//! beside them, by `make_data` below, and these go on being read.

use std::fs;
use std::path::{Path, PathBuf};

use shared::domain::answer::{Answer, AnswerEvent, Key};
use shared::domain::outcome::{Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Receipt, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, Metadata, NewEvent, Position, RecordedEvent, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{AnswersQuery, Checkpoint, Claim, Direction, EventFeed, EventStore, LogId, Outcomes, ViewReader};
use uuid::Uuid;

use super::model;
use super::support::{close, open, resume, runtime};

/// Type, data and metadata of each kind of event, and what they mean.
fn snapshots() -> [(&'static str, &'static str, &'static str, Timestamp, AnswerEvent); 6] {
    let key = Key::from_stored("name");
    let odd = Key::from_stored("a\"b\\c/d é\u{1f600}\u{10ffff}\u{2028}");
    let text = "\"\\/\u{0}\u{8}\t\n\u{c}\r\u{1f}\u{7f}é\u{1f600}\u{2028}\u{fffd}";
    let created = |key: &Key, value: &str| AnswerEvent::Created { key: key.clone(), value: value.into() };
    let updated = |key: &Key, value: &str| AnswerEvent::Updated { key: key.clone(), value: value.into() };
    [
        (
            "AnswerCreatedEvent",
            r#"{"key":"name","value":"john"}"#,
            r#"{"schema":1,"recorded_at":"2023-11-14T22:13:20.000000Z"}"#,
            Timestamp::from_micros(1_700_000_000_000_000),
            created(&key, "john"),
        ),
        (
            "AnswerUpdatedEvent",
            r#"{"key":"name","value":"jane"}"#,
            r#"{"schema":1,"recorded_at":"2023-11-14T22:13:20.000001Z"}"#,
            Timestamp::from_micros(1_700_000_000_000_001),
            updated(&key, "jane"),
        ),
        (
            "AnswerDeletedEvent",
            r#"{"key":"name","value":""}"#,
            r#"{"schema":1,"recorded_at":"1970-01-01T00:00:00.000000Z"}"#,
            Timestamp::from_micros(0),
            AnswerEvent::Deleted { key },
        ),
        (
            "AnswerCreatedEvent",
            "{\"key\":\"a\\\"b\\\\c/d é😀\u{10ffff}\u{2028}\",\"value\":\
             \"\\\"\\\\/\\u0000\\b\\t\\n\\f\\r\\u001f\u{7f}é😀\u{2028}\u{fffd}\"}",
            r#"{"schema":1,"recorded_at":"9999-12-31T23:59:59.999999Z"}"#,
            Timestamp::from_micros(i64::MAX),
            created(&odd, text),
        ),
        (
            "AnswerUpdatedEvent",
            "{\"key\":\"a\\\"b\\\\c/d é😀\u{10ffff}\u{2028}\",\"value\":\" \"}",
            r#"{"schema":1,"recorded_at":"2100-01-01T00:00:00.123456Z"}"#,
            Timestamp::from_micros(4_102_444_800_123_456),
            updated(&odd, " "),
        ),
        (
            "AnswerDeletedEvent",
            "{\"key\":\"a\\\"b\\\\c/d é😀\u{10ffff}\u{2028}\",\"value\":\"\"}",
            r#"{"schema":1,"recorded_at":"1969-12-31T23:59:59.999999Z"}"#,
            Timestamp::from_micros(-1),
            AnswerEvent::Deleted { key: odd },
        ),
    ]
}

#[test]
fn stored_events_are_frozen() {
    for (kind, data, metadata, at, event) in snapshots() {
        let new = event.to_new(Uuid::from_u128(1), at);
        assert_eq!(&*new.kind, kind);
        assert_eq!(std::str::from_utf8(&new.data), Ok(data), "the data of {event:?}");
        assert_eq!(serde_json::to_string(&new.metadata).unwrap(), metadata, "the metadata of {event:?}");
    }
}

#[test]
fn stored_events_are_read() {
    for (kind, data, metadata, at, event) in snapshots() {
        let metadata: Metadata = serde_json::from_str(metadata).unwrap();
        assert_eq!(metadata, Metadata { schema: 1, recorded_at: at });
        let stored = NewEvent { id: Uuid::from_u128(1), kind: kind.into(), data: data.into(), metadata };
        let recorded = RecordedEvent {
            position: Position(1),
            stream: StreamId::of_answer(event.key()),
            revision: Revision::FIRST,
            event: stored,
        };
        assert_eq!(AnswerEvent::from_recorded(&recorded).unwrap(), event);
    }
}

/// The same event as another writer of JSON would put it.
#[test]
fn stored_events_may_be_escaped_and_ordered_otherwise() {
    let data = r#"{ "later": [1], "value": "j\u006fhn\ud83d\ude00", "key": "n\u0061me" }"#;
    let metadata = r#"{"recorded_at":"2023-11-14T23:13:20+01:00","later":{},"schema":1}"#;
    let metadata = serde_json::from_str(metadata).unwrap();
    let event = NewEvent { id: Uuid::nil(), kind: "AnswerCreatedEvent".into(), data: data.into(), metadata };
    let stream = StreamId::of_answer(&Key::from_stored("name"));
    let recorded = RecordedEvent { position: Position(1), stream, revision: Revision(0), event };
    assert_eq!(recorded.event.metadata.recorded_at, Timestamp::from_micros(1_700_000_000_000_000));
    let read = AnswerEvent::from_recorded(&recorded).unwrap();
    assert_eq!(read, AnswerEvent::Created { key: Key::from_stored("name"), value: "john😀".into() });
}

/// The ids of the logs in `data-v1` and so on.
const LOGS: [u128; 2] = [0x7afc_6819_9a54_462e_9703_d02c_cc95_2b7c, 0xe1fa_ca9c_dc17_413f_8c5c_3c3d_56a8_25d0];

fn data(format: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/data-v{format}"))
}

/// The events of each folder: of each stream, in order; the last two lie under keys.
fn events() -> Vec<RecordedEvent> {
    let mut revisions = std::collections::HashMap::new();
    let record = |(position, (_, _, _, at, event)): (u64, (_, _, _, Timestamp, AnswerEvent))| {
        let stream = StreamId::of_answer(event.key());
        let revision = revisions.entry(stream.clone()).or_insert(0);
        *revision += 1;
        let event = event.to_new(Uuid::from_u128(u128::from(position)), at);
        RecordedEvent { position: Position(position), stream, revision: Revision(*revision - 1), event }
    };
    let large = AnswerEvent::Created { key: Key::from_stored("large"), value: "0123456789".repeat(400).into() };
    let last = AnswerEvent::Created { key: Key::from_stored("z"), value: "last".into() };
    let more = [large, last].map(|event| ("", "", "", Timestamp::from_micros(5), event));
    (1..).zip(snapshots().into_iter().chain(more)).map(record).collect()
}

fn claims() -> [(Claim, Kept); 3] {
    let at = Timestamp::from_micros(4_102_444_800_000_000);
    let key = IdempotencyKey::parse("0b5c~!").unwrap();
    let done = |kind, position| {
        Outcome::Done(Receipt { event: kind, revision: Revision::FIRST, position: Position(position) })
    };
    let refused = Outcome::Refused(Refused { refusal: Refusal::KeyExists, position: Some(Position(8)) });
    [
        (key.of_line(7), 1, done(Happened::Created, 7)),
        (key.clone(), 2, done(Happened::Created, 8)),
        (key.of_line(300), 3, refused),
    ]
    .map(|(key, print, outcome)| {
        let fingerprint = Fingerprint([print * 0x55; 32]);
        (Claim { key, fingerprint, at }, Kept { fingerprint, outcome })
    })
}

#[test]
fn todays_data_is_read() {
    for (format, id) in (1..).zip(LOGS) {
        let folder = tempfile::tempdir().unwrap();
        copy(&data(format), folder.path());
        runtime().block_on(is_read(format, LogId(Uuid::from_u128(id)), folder.path()));
        // What it has become is read as well.
        runtime().block_on(goes_on(folder.path(), Revision(1)));
    }
}

async fn is_read(format: usize, id: LogId, folder: &Path) {
    let store = open(folder);
    // The first folder is older than the event log: its views have no file of that yet.
    assert_eq!(store.rebuilding.is_some(), format == 1, "the views are filled again");
    assert_eq!(store.events.log_id().await.unwrap(), id);
    let expected = events();
    let batch = store.events.subscribe(Checkpoint::START).await.unwrap().next(100).await.unwrap();
    assert_eq!(batch.events, expected);
    assert_eq!(batch.checkpoint.position(), Position(8));
    for event in &expected {
        let read = store.events.read(&event.stream, event.revision, Direction::Forwards, 1).await.unwrap();
        assert_eq!(read.as_slice(), std::slice::from_ref(event));
    }
    for (claim, kept) in claims() {
        assert_eq!(store.events.find(&claim.key, claim.at).await.unwrap(), Some(kept), "{:?}", claim.key);
    }
    views_are_read(&store).await;
    close(store);
    goes_on(folder, Revision(0)).await;
}

/// The log goes on behind the last event of its last stream.
async fn goes_on(folder: &Path, last: Revision) {
    let store = open(folder);
    let stream = &events()[7].stream;
    let stored = store.events.last(stream).await.unwrap().map(|last| last.revision);
    assert_eq!(stored, Some(last));
    let new = AnswerEvent::Deleted { key: Key::from_stored("z") }.to_new(Uuid::new_v4(), Timestamp::from_micros(6));
    let appended = EventStore::append(&store.events, stream, stored.into(), vec![new]).await.unwrap();
    assert_eq!((appended.first, appended.positions), (last.next(), vec![Position(9 + last.0)]));
    close(store);
}

async fn views_are_read(store: &shared::adapters::embedded::Embedded) {
    resume(&store.views).await;
    model::pair::project(&store.events, &store.views, Position(8)).await;
    let all = AnswersQuery { prefix: String::new(), after: None, limit: 10 };
    let page = store.views.answers(all).await.unwrap().found;
    let large =
        Answer { key: Key::from_stored("large"), value: "0123456789".repeat(400).into(), revision: Revision::FIRST };
    let z = Answer { key: Key::from_stored("z"), value: "last".into(), revision: Revision::FIRST };
    assert_eq!(page.answers, [large, z]);
}

/// Makes such a folder. Its log has an id of its own: put it into the test.
#[test]
#[ignore = "it is made once for each format"]
fn make_data() {
    let folder = data(LOGS.len());
    assert!(!folder.exists(), "{} is there and must go on being read", folder.display());
    runtime().block_on(async {
        let store = open(&folder);
        let expected = events();
        let expect = |event: &RecordedEvent| ExpectedRevision::from(event.revision.0.checked_sub(1).map(Revision));
        for (from, to) in [(0, 1), (1, 3), (3, 6)] {
            let (first, some) = (&expected[from], &expected[from..to]);
            let some = some.iter().map(|event| event.event.clone()).collect();
            EventStore::append(&store.events, &first.stream, expect(first), some).await.unwrap();
        }
        let [first, second, (refusal, kept)] = claims();
        for (event, (claim, _)) in expected[6..].iter().zip([first, second]) {
            let (expected, new) = (expect(event), event.event.clone());
            let kind = Happened::Created;
            Outcomes::append(&store.events, &claim, &event.stream, expected, new, kind).await.unwrap();
        }
        store.events.keep(&refusal, kept.outcome).await.unwrap();
        model::pair::project(&store.events, &store.views, Position(7)).await;
        println!("the log's id: {:#x}", store.events.log_id().await.unwrap().0.as_u128());
        close(store);
    });
    trim_journals(&folder.join("events"));
}

/// The engine makes its journals large beforehand; the zeros tell nothing.
fn trim_journals(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "jnl") {
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            fs::write(&path, bytes).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
