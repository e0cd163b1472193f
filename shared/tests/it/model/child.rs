//! The embedded store in a process of its own, which can be killed.
//!
//! The test binary runs itself with the folder in the environment. Orders come
//! in by lines, each is carried out and answered by a line.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::domain::answer::{AnswerEvent, Key};
use shared::domain::outcome::{Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Refused};
use shared::domain::refusal::Refusal;
use shared::domain::stream::{ExpectedRevision, NewEvent, Position, Revision, StreamId};
use shared::domain::time::Timestamp;
use shared::ports::{Claim, ClaimedAppend, EventFeed as _, EventStore, Outcomes, StoreError};
use uuid::Uuid;

use super::pair;
use crate::support;

const FOLDER: &str = "QASERVICE_MODEL_CHILD";
/// When claims are made: not in the past, so that none is ever swept away.
pub(crate) fn claimed_at() -> Timestamp {
    Timestamp::from_micros(4_102_444_800_000_000)
}

/// What is an answer and not the test harness's own.
const MARK: &str = "answer ";

/// A write in all detail, so that it means the same in both processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Append {
        key: String,
        after: Option<u64>,
        events: Vec<Event>,
    },
    Claim {
        claim: usize,
        fingerprint: u8,
        key: String,
        after: Option<u64>,
        event: Event,
    },
    Refuse {
        claim: usize,
        fingerprint: u8,
    },
    /// Folds the whole log into the views.
    Project,
}

/// An event by what sets it apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: u128,
    pub(crate) bytes: usize,
}

impl Event {
    fn to_new(&self, key: &Key) -> NewEvent {
        let value = std::iter::repeat_n(self.id.to_string(), self.bytes).collect::<String>();
        let value = value[..self.bytes].into();
        let made = match self.id % 4 {
            0 => AnswerEvent::Deleted { key: key.clone() },
            1 => AnswerEvent::Created { key: key.clone(), value },
            _ => AnswerEvent::Updated { key: key.clone(), value },
        };
        let at = i64::try_from(self.id).expect("small");
        let new = made.to_new(Uuid::from_u128(self.id), Timestamp::from_micros(at));
        NewEvent { data: Bytes::from(new.data.to_vec()), ..new }
    }
}

/// What an order came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Appended(u64, Vec<u64>),
    Kept(String),
    Conflict,
    Projected,
}

fn expected(after: Option<u64>) -> ExpectedRevision {
    ExpectedRevision::from(after.map(Revision))
}

fn claim(number: usize, fingerprint: u8) -> Claim {
    Claim { key: claim_key(number), fingerprint: Fingerprint([fingerprint; 32]), at: claimed_at() }
}

pub(crate) fn claim_key(number: usize) -> IdempotencyKey {
    let key = IdempotencyKey::parse(&format!("key{}", number / 2)).expect("valid");
    if number.is_multiple_of(2) { key } else { key.of_line(number as u64) }
}

fn kept(kept: &Kept) -> Answer {
    Answer::Kept(format!("{kept:?}"))
}

fn answer<T>(result: Result<T, StoreError>, told: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => told(value),
        Err(StoreError::Conflict) => Answer::Conflict,
        Err(error) => panic!("a store failed: {}", error.chain()),
    }
}

impl Order {
    pub(crate) async fn carry_out<S: EventStore + Outcomes>(&self, store: &S) -> Answer {
        let appended = |appended: shared::ports::Appended| {
            Answer::Appended(appended.first.0, appended.positions.iter().map(|position| position.0).collect())
        };
        match self {
            Self::Append { key, after, events } => {
                let key = Key::from_stored(key);
                let events = events.iter().map(|event| event.to_new(&key)).collect();
                let result = EventStore::append(store, &StreamId::of_answer(&key), expected(*after), events).await;
                answer(result, appended)
            }
            Self::Claim { claim: number, fingerprint, key, after, event } => {
                let (claim, key) = (claim(*number, *fingerprint), Key::from_stored(key));
                let (stream, event) = (StreamId::of_answer(&key), event.to_new(&key));
                let kind = Happened::Updated;
                let result = Outcomes::append(store, &claim, &stream, expected(*after), event, kind).await;
                answer(result, |claimed| match claimed {
                    ClaimedAppend::Appended(new) => appended(new),
                    ClaimedAppend::Taken(taken) => kept(&taken),
                })
            }
            Self::Refuse { claim: number, fingerprint } => {
                let position = Some(Position(u64::from(*fingerprint) + 1));
                let why = Refused { refusal: Refusal::KeyNotFound, position };
                answer(store.keep(&claim(*number, *fingerprint), Outcome::Refused(why)).await, |stands| kept(&stands))
            }
            Self::Project => Answer::Projected,
        }
    }
}

/// The process, seen from its parent.
pub(crate) struct Child {
    process: std::process::Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Child {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "model::child_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let (orders, answers) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        Self { process, orders, answers: BufReader::new(answers) }
    }

    pub(crate) fn tell(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("JSON");
        line.push(b'\n');
        self.orders.write_all(&line).expect("the child reads");
    }

    pub(crate) fn ask(&mut self, order: &Order) -> Answer {
        self.tell(order);
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.answers.read_line(&mut line).expect("the child writes") > 0, "the child has ended");
            if let Some(answer) = parse(&line) {
                return answer;
            }
        }
    }

    /// Kills it; an answer that was on its way is still an answer.
    pub(crate) fn kill(mut self) -> Option<Answer> {
        self.process.kill().expect("killed");
        self.process.wait().expect("it ends");
        let mut rest = String::new();
        self.answers.read_to_string(&mut rest).expect("readable");
        rest.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(parse)
    }
}

/// The harness may have begun the line.
fn parse(line: &str) -> Option<Answer> {
    let (_, json) = line.split_once(MARK)?;
    Some(serde_json::from_str(json).expect("an answer"))
}

/// What the process does.
pub(crate) fn run() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = support::open(Path::new(&folder));
    support::runtime().block_on(async {
        for line in std::io::stdin().lines() {
            let order: Order = serde_json::from_str(&line.expect("a line")).expect("an order");
            let answer = match &order {
                Order::Project => {
                    let head = store.events.head().await.expect("a head");
                    pair::project(&store.events, &store.views, head).await;
                    Answer::Projected
                }
                order => order.carry_out(&store.events).await,
            };
            let answer = serde_json::to_string(&answer).expect("JSON");
            let mut out = std::io::stdout().lock();
            writeln!(out, "{MARK}{answer}").and_then(|()| out.flush()).expect("the parent reads");
        }
    });
    support::close(store);
}
