//! The event log's rows: three collections beside that of the answers.

mod condition;
mod copy;
mod events;
mod listed;
mod needle;
mod stats;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use mongodb::Database;
use uuid::Uuid;

use super::meta::Rows;
use super::write::write;
use super::{MongoViews, nothing};

use crate::domain::filter::Filter;
use crate::domain::log_event::{Rejection, Session};
use crate::domain::projection::{EventChange, LogChange};
use crate::domain::stream::Position;
use crate::ports::{
    EventRef, EventsPage, EventsQuery, ListQuery, LogReader, Page, Record, Seen, StatsQuery, StatsRow, StoreError,
};

/// Makes what the rows need.
pub(super) async fn prepare(database: &Database, rows: &Rows) -> Result<(), StoreError> {
    events::prepare(database, &rows.events()).await?;
    listed::prepare(database, &rows.sessions()).await?;
    listed::prepare(database, &rows.rejections()).await
}

/// By how much changes, all that there are between two places of the log, change the
/// number of log events. (That of a recording bears its own position.)
pub(super) fn growth(changes: &[LogChange]) -> i64 {
    let of = |change: &LogChange| match change {
        LogChange::Event(EventChange { event: None, .. }) => -1,
        LogChange::Event(change) => i64::from(change.number == change.position.0),
        LogChange::Session(_) | LogChange::Rejection(_) => 0,
    };
    changes.iter().map(of).sum()
}

/// The position of the last change that a list or a count can show by what it leaves
/// out, or by a number.
pub(super) fn unseen(changes: &[LogChange]) -> Option<Position> {
    let events = changes.iter().filter(|change| matches!(change, LogChange::Event(_)));
    events.map(LogChange::position).max()
}

/// Writes rows. Of each event only the last change is.
pub(super) async fn put(database: &Database, rows: &Rows, changes: Vec<LogChange>) -> Result<(), StoreError> {
    let (mut events, mut sessions, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            LogChange::Event(change) => events.push(change),
            LogChange::Session(session) => sessions.push(session),
            LogChange::Rejection(rejection) => rejections.push(rejection),
        }
    }
    keep_last(&mut events, |change| change.id);
    keep_last(&mut sessions, |session| session.id);
    keep_last(&mut rejections, |rejection| rejection.id);
    let (all_events, all_sessions, all_rejections) = (rows.events(), rows.sessions(), rows.rejections());
    tokio::try_join!(
        write(database, &all_events, events.iter().map(events::put).collect()),
        write(database, &all_sessions, sessions.iter().map(|session| listed::put(&**session)).collect()),
        write(database, &all_rejections, rejections.iter().map(|rejection| listed::put(&**rejection)).collect()),
    )
    .map(drop)
}

/// The latest changes of events between two positions, the last one included, and
/// whether there may be more.
pub(super) async fn changes(
    database: &Database,
    rows: &Rows,
    after: Position,
    to: Position,
    limit: usize,
) -> Result<(Vec<EventChange>, bool), StoreError> {
    events::changes(database, &rows.events(), after, to, limit).await
}

fn keep_last<T, K: Eq + Hash>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let last: HashMap<_, _> = items.iter().enumerate().map(|(index, item)| (key(item), index)).collect();
    if last.len() < items.len() {
        let mut index = 0;
        items.retain(|item| {
            index += 1;
            last.get(&key(item)) == Some(&(index - 1))
        });
    }
}

#[async_trait]
impl LogReader for MongoViews {
    async fn event(&self, which: EventRef) -> Result<Seen<Option<Record>>, StoreError> {
        match which {
            EventRef::Id(id) => {
                let find =
                    |database: Database, rows: Rows| async move { events::find(&database, &rows.events(), id).await };
                let Seen { found, position } = self.0.one(find, |change| change.position).await?;
                Ok(Seen { found: found.and_then(events::record), position })
            }
            // A deleted one is in no index of numbers.
            EventRef::Number(number) => {
                let find = |database: Database, rows: Rows| async move {
                    events::numbered(&database, &rows.events(), number).await
                };
                self.0.listed(None, find).await
            }
        }
    }

    async fn events(&self, query: EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
        let none = EventsPage { events: Vec::new(), more: false };
        let query = &query;
        let page = |database: Database, rows: Rows| async move { events::page(&database, &rows.events(), query).await };
        self.0.listed(none, page).await
    }

    async fn count(&self, filter: &Filter) -> Result<Seen<u64>, StoreError> {
        if *filter == Filter::Any {
            let Some(meta) = self.0.shown(Instant::now()).await? else { return Ok(nothing(0)) };
            return Ok(Seen { found: meta.events(), position: meta.checkpoint().position() });
        }
        let count = |database: Database, rows: Rows| async move {
            let found = events::count(&database, &rows.events(), filter).await?;
            Ok(Seen { found, position: Position::START })
        };
        self.0.listed(0, count).await
    }

    async fn stats(&self, query: StatsQuery) -> Result<Seen<Option<Vec<StatsRow>>>, StoreError> {
        let query = &query;
        let count = |database: Database, rows: Rows| async move {
            let found = stats::count(&database, &rows.events(), query).await?;
            Ok(Seen { found, position: Position::START })
        };
        self.0.listed(Some(Vec::new()), count).await
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError> {
        self.0.changes(after, limit).await
    }

    async fn session(&self, id: Uuid) -> Result<Seen<Option<Arc<Session>>>, StoreError> {
        let find = |database: Database, rows: Rows| async move {
            listed::find(&database, &rows.sessions(), listed::by_id(id)).await
        };
        self.0.one(find, |session: &Session| session.position).await.map(shared)
    }

    async fn sessions(&self, query: ListQuery) -> Result<Seen<Page<Arc<Session>>>, StoreError> {
        let page =
            |database: Database, rows: Rows| async move { listed::page(&database, &rows.sessions(), query).await };
        self.0.listed(Page { found: Vec::new(), more: false }, page).await
    }

    async fn rejection(&self, number: u64) -> Result<Seen<Option<Arc<Rejection>>>, StoreError> {
        let find = |database: Database, rows: Rows| async move {
            listed::find(&database, &rows.rejections(), listed::by_position(number)).await
        };
        self.0.one(find, |rejection: &Rejection| Position(rejection.number)).await.map(shared)
    }

    async fn rejections(&self, query: ListQuery) -> Result<Seen<Page<Arc<Rejection>>>, StoreError> {
        let page =
            |database: Database, rows: Rows| async move { listed::page(&database, &rows.rejections(), query).await };
        self.0.listed(Page { found: Vec::new(), more: false }, page).await
    }
}

fn shared<T>(seen: Seen<Option<T>>) -> Seen<Option<Arc<T>>> {
    Seen { found: seen.found.map(Arc::new), position: seen.position }
}
