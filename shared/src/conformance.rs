//! What each port promises, as tests for its adapters. A broken promise panics.
//!
//! The suites take nothing for granted that a shared server could not give: names
//! are fresh, logs need not be empty, positions may have gaps, and what may take
//! a moment is waited for. They want a runtime with several threads.

mod events;
mod feed;
mod log;
mod outcomes;
mod parked;
mod rebuild;
mod views;

use std::future::Future;
use std::time::Duration;

use uuid::Uuid;

pub use events::events;
pub use feed::feed;
pub use log::log;
pub use outcomes::outcomes;
pub use parked::parked;
pub use rebuild::rebuild;
pub use views::views;

use crate::clock;
use crate::domain::answer::{AnswerEvent, Key};
use crate::domain::stream::{NewEvent, StreamId};

/// What takes longer never comes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A key that nobody else has; not only ASCII.
fn fresh_key() -> Key {
    Key::from_stored(&format!("Ключ 鍵/😀-{}", Uuid::new_v4()))
}

/// A stream that nobody else has.
fn fresh_stream() -> StreamId {
    StreamId::of_answer(&fresh_key())
}

/// An event with an id of its own.
fn event(value: &str) -> NewEvent {
    let event = AnswerEvent::Updated { key: Key::from_stored("k"), value: value.into() };
    event.to_new(Uuid::new_v4(), clock::now())
}

/// Events with ids of their own.
fn some_events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|number| event(&number.to_string())).collect()
}

/// What a future comes to, which must not take long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing after {DEADLINE:?}"),
    }
}
