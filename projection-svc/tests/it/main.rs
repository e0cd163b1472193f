//! Queries on the event log, over views in memory that the tests write themselves and
//! that count how often they are looked at.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says that it failed")]

mod lists;
mod live;
mod parked;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use projection_svc::ReadSide;
use projection_svc::live::Live;
use projection_svc::log::LogQueries;
use projection_svc::queries::Queries;
use serde_json::Value as Json;
use shared::adapters::memory::MemoryViews;
use shared::domain::filter::Filter;
use shared::domain::log_event::{LogEvent, Members, Rejection, Session};
use shared::domain::projection::{Changes, EventChange, LogChange};
use shared::domain::stream::{Position, Revision};
use shared::domain::time::Timestamp;
use shared::http::lifecycle::Lifecycle;
use shared::ports::{
    Checkpoint, EventRef, EventsPage, EventsQuery, Generation, ListQuery, LogReader, Page, Record, Seen, StatsQuery,
    StatsRow, StoreError, ViewReader, ViewWriter,
};
use tower_service::Service;
use uuid::Uuid;

/// Views in memory that count how often they are asked for changes.
struct Counting {
    views: Arc<MemoryViews>,
    looks: AtomicU64,
}

#[async_trait::async_trait]
impl LogReader for Counting {
    async fn event(&self, which: EventRef) -> Result<Seen<Option<Record>>, StoreError> {
        self.views.event(which).await
    }

    async fn events(&self, query: EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
        self.views.events(query).await
    }

    async fn count(&self, filter: &Filter) -> Result<Seen<u64>, StoreError> {
        self.views.count(filter).await
    }

    async fn stats(&self, query: StatsQuery) -> Result<Seen<Option<Vec<StatsRow>>>, StoreError> {
        self.views.stats(query).await
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, StoreError> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.views.changes(after, limit).await
    }

    async fn session(&self, id: Uuid) -> Result<Seen<Option<Arc<Session>>>, StoreError> {
        self.views.session(id).await
    }

    async fn sessions(&self, query: ListQuery) -> Result<Seen<Page<Arc<Session>>>, StoreError> {
        self.views.sessions(query).await
    }

    async fn rejection(&self, number: u64) -> Result<Seen<Option<Arc<Rejection>>>, StoreError> {
        self.views.rejection(number).await
    }

    async fn rejections(&self, query: ListQuery) -> Result<Seen<Page<Arc<Rejection>>>, StoreError> {
        self.views.rejections(query).await
    }
}

/// A read side, and what writes its views.
struct Side {
    log: Arc<Counting>,
    queries: LogQueries,
    router: Router,
    lifecycle: Lifecycle,
    position: u64,
}

fn micros(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

impl Side {
    fn new() -> Self {
        let views = Arc::new(MemoryViews::new());
        let log = Arc::new(Counting { views: views.clone(), looks: AtomicU64::new(0) });
        let answers = Queries::new(views.clone(), views, Duration::from_millis(50));
        let (queries, lifecycle) = (LogQueries::new(log.clone(), answers.clone()), Lifecycle::default());
        let live = Live::new(queries.clone(), lifecycle.clone());
        let read_side = ReadSide {
            queries: answers,
            log: queries.clone(),
            live: live.clone(),
            lifecycle: lifecycle.clone(),
            public_url: None,
        };
        tokio::spawn(async move { live.run().await });
        Self { log, queries, router: projection_svc::router(read_side), lifecycle, position: 0 }
    }

    fn looks(&self) -> u64 {
        self.log.looks.load(Ordering::Relaxed)
    }

    /// Writes changes; each takes a position of its own, with gaps between them.
    async fn apply(&mut self, changes: impl IntoIterator<Item = Box<dyn FnOnce(u64) -> LogChange>>) {
        let from = self.log.views.checkpoint().await.unwrap();
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| {
                self.position += 2;
                change(self.position)
            })
            .collect();
        let to = Checkpoint::at(Position(self.position));
        self.log.views.apply(Generation::Live, from, Changes::from(changes), to).await.unwrap();
    }

    async fn get_with(&self, path: &str, headers: &[(&str, String)]) -> Response {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.router.clone().call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str) -> Json {
        let (status, _, body) = self.reply(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn reply(&self, path: &str) -> (StatusCode, HeaderMap, Json) {
        let response = self.get_with(path, &[]).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap())
    }

    /// Asserts a 400 and gives its error.
    async fn refused(&self, path: &str) -> String {
        let (status, _, body) = self.reply(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
        body["error"].as_str().unwrap().to_owned()
    }
}

type Write = Box<dyn FnOnce(u64) -> LogChange>;

fn change(id: Uuid, number: Option<u64>, created_at: Timestamp, members: Option<Members>) -> Write {
    Box::new(move |position| {
        let number = number.unwrap_or(position);
        let event = members.map(|members| Arc::new(LogEvent { id, number, created_at, members }));
        LogChange::Event(EventChange { id, number, event, revision: Revision(position), position: Position(position) })
    })
}

/// A put of an event.
fn put(id: Uuid, members: Members) -> Write {
    change(id, None, micros(0), Some(members))
}

fn delete(id: Uuid) -> Write {
    change(id, None, micros(0), None)
}

fn named(name: &str) -> Members {
    Members { name: Some(name.into()), ..Members::default() }
}
