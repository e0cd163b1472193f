//! From a query on the event log to what the views hold, as new as was asked for.

use std::sync::Arc;

use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use shared::domain::filter::Filter;
use shared::domain::log_event::{Rejection, Session};
use shared::domain::projection::EventChange;
use shared::domain::stream::{Position, StreamId, Subject};
use shared::error::Error;
use shared::ports::{
    EventRef, EventsPage, EventsQuery, From, ListQuery, LogReader, Order, Page, Record, Seen, StatsQuery, StatsRow,
    StoreError,
};
use uuid::Uuid;

use crate::queries::{Listed, Queries};

/// How many rows a whole list takes from the views at once.
const PAGE: usize = 500;

/// Answers queries on the event log.
#[derive(Clone)]
pub struct LogQueries {
    log: Arc<dyn LogReader>,
    queries: Queries,
}

/// A whole list, read a page at a time while it is taken.
pub type Whole<T> = BoxStream<'static, Result<T, Error>>;

/// Reads the page that begins behind a row.
type Behind<T> = Box<dyn Fn(&T) -> BoxFuture<'static, Result<Page<T>, Error>> + Send>;

impl LogQueries {
    /// Queries on this log; `queries` are those on the same views, which wait.
    pub fn new(log: Arc<dyn LogReader>, queries: Queries) -> Self {
        Self { log, queries }
    }

    /// A log event that is not deleted.
    ///
    /// # Errors
    /// `NotReached` if the views do not reach the awaited position in time, `Parked` if
    /// the event is parked at or before it.
    pub async fn event(&self, which: EventRef, awaited: Option<Position>) -> Result<Seen<Option<Record>>, Error> {
        let Some(position) = awaited else { return Ok(self.log.event(which).await?) };
        let stream = match which {
            EventRef::Id(id) => Some(StreamId::of_event(id)),
            EventRef::Number(number) => {
                self.queries.reach(awaited).await?;
                match self.log.event(which).await?.found {
                    Some(record) => Some(StreamId::of_event(record.event.id)),
                    None => self.parked_recording(number, |subject| matches!(subject, Subject::Event(_))).await?,
                }
            }
        };
        self.fresh(stream, position, self.log.event(which)).await
    }

    /// What is read of a stream; of none, if there is none that it could be of.
    async fn fresh<T>(
        &self,
        stream: Option<StreamId>,
        awaited: Position,
        read: BoxFuture<'_, Result<T, StoreError>>,
    ) -> Result<T, Error> {
        match stream {
            Some(stream) => self.queries.fresh(&stream, awaited, read).await,
            None => Ok(read.await?),
        }
    }

    /// The stream that began where an integer id says, if its first event is parked.
    async fn parked_recording(
        &self,
        number: u64,
        is_meant: impl Fn(Subject<'_>) -> bool,
    ) -> Result<Option<StreamId>, Error> {
        let parked = self.queries.parked_from(Position(number)).await?;
        Ok(parked.filter(|stream| stream.subject().is_some_and(is_meant)))
    }

    /// A page of log events.
    ///
    /// # Errors
    /// As `event`.
    pub async fn events(&self, query: EventsQuery, awaited: Option<Position>) -> Result<Listed<EventsPage>, Error> {
        self.queries.listed(awaited, self.log.events(query)).await
    }

    /// How many log events there are.
    ///
    /// # Errors
    /// As `event`.
    pub async fn count(&self, filter: &Filter, awaited: Option<Position>) -> Result<Listed<u64>, Error> {
        self.queries.listed(awaited, self.log.count(filter)).await
    }

    /// How many there are by time and member; none if that are more rows than allowed.
    ///
    /// # Errors
    /// As `event`.
    pub async fn stats(
        &self,
        query: StatsQuery,
        awaited: Option<Position>,
    ) -> Result<Listed<Option<Vec<StatsRow>>>, Error> {
        self.queries.listed(awaited, self.log.stats(query)).await
    }

    /// A session.
    ///
    /// # Errors
    /// As `event`.
    pub async fn session(&self, id: Uuid, awaited: Option<Position>) -> Result<Seen<Option<Arc<Session>>>, Error> {
        let Some(position) = awaited else { return Ok(self.log.session(id).await?) };
        self.fresh(Some(StreamId::of_session(id)), position, self.log.session(id)).await
    }

    /// A page of sessions.
    ///
    /// # Errors
    /// As `event`.
    pub async fn sessions(
        &self,
        query: ListQuery,
        awaited: Option<Position>,
    ) -> Result<Listed<Page<Arc<Session>>>, Error> {
        self.queries.listed(awaited, self.log.sessions(query)).await
    }

    /// A rejection, by its integer id.
    ///
    /// # Errors
    /// As `event`.
    pub async fn rejection(
        &self,
        number: u64,
        awaited: Option<Position>,
    ) -> Result<Seen<Option<Arc<Rejection>>>, Error> {
        let Some(position) = awaited else { return Ok(self.log.rejection(number).await?) };
        self.queries.reach(awaited).await?;
        let stream = match self.log.rejection(number).await?.found {
            Some(rejection) => Some(StreamId::of_rejection(rejection.id)),
            None => self.parked_recording(number, |subject| matches!(subject, Subject::Rejection(_))).await?,
        };
        self.fresh(stream, position, self.log.rejection(number)).await
    }

    /// A page of rejections.
    ///
    /// # Errors
    /// As `event`.
    pub async fn rejections(
        &self,
        query: ListQuery,
        awaited: Option<Position>,
    ) -> Result<Listed<Page<Arc<Rejection>>>, Error> {
        self.queries.listed(awaited, self.log.rejections(query)).await
    }

    /// All log events that there are now, in an order. The first page has been read
    /// already, the others are read while they are taken.
    ///
    /// # Errors
    /// As `event`.
    pub async fn all(
        &self,
        filter: Filter,
        order: Order,
        awaited: Option<Position>,
    ) -> Result<Listed<Whole<Record>>, Error> {
        let query = move |from| EventsQuery { filter: filter.clone(), order, from, limit: PAGE };
        let Listed { found, position, parked } = self.events(query(From::Start), awaited).await?;
        let log = self.log.clone();
        let behind = move |last: &Record| -> BoxFuture<'static, Result<Page<Record>, Error>> {
            let (log, query) = (log.clone(), query(From::Behind(order.place_of(&last.event))));
            Box::pin(async move { Ok(page_of(log.events(query).await?.found)) })
        };
        // Events that are recorded meanwhile would make a list endless.
        let known = move |record: &Record| record.event.number <= position.0;
        Ok(Listed { found: whole(page_of(found), Box::new(behind), known), position, parked })
    }

    /// As many log events as a query asks for, though the views may give fewer at once;
    /// read while they are taken.
    ///
    /// # Errors
    /// As `event`.
    pub async fn window(&self, query: EventsQuery, awaited: Option<Position>) -> Result<Listed<Whole<Record>>, Error> {
        let Listed { found, position, parked } = self.events(query.clone(), awaited).await?;
        let (log, limit) = (self.log.clone(), query.limit);
        let behind = move |last: &Record| -> BoxFuture<'static, Result<Page<Record>, Error>> {
            let from = From::Behind(query.order.place_of(&last.event));
            let (log, query) = (log.clone(), EventsQuery { from, ..query.clone() });
            Box::pin(async move { Ok(page_of(log.events(query).await?.found)) })
        };
        let rows = whole(page_of(found), Box::new(behind), |_| true);
        Ok(Listed { found: Box::pin(rows.take(limit)), position, parked })
    }

    /// All sessions, as `all`.
    ///
    /// # Errors
    /// As `event`.
    pub async fn all_sessions(
        &self,
        descending: bool,
        awaited: Option<Position>,
    ) -> Result<Listed<Whole<Arc<Session>>>, Error> {
        let query = move |behind| ListQuery { descending, behind, limit: PAGE };
        let Listed { found, position, parked } = self.sessions(query(None), awaited).await?;
        let log = self.log.clone();
        let behind = move |last: &Arc<Session>| -> BoxFuture<'static, Result<Page<Arc<Session>>, Error>> {
            let (log, query) = (log.clone(), query(Some((last.created_at, last.id))));
            Box::pin(async move { Ok(log.sessions(query).await?.found) })
        };
        let known = move |session: &Arc<Session>| session.position <= position;
        Ok(Listed { found: whole(found, Box::new(behind), known), position, parked })
    }

    /// All rejections, as `all`.
    ///
    /// # Errors
    /// As `event`.
    pub async fn all_rejections(
        &self,
        descending: bool,
        awaited: Option<Position>,
    ) -> Result<Listed<Whole<Arc<Rejection>>>, Error> {
        let query = move |behind| ListQuery { descending, behind, limit: PAGE };
        let Listed { found, position, parked } = self.rejections(query(None), awaited).await?;
        let log = self.log.clone();
        let behind = move |last: &Arc<Rejection>| -> BoxFuture<'static, Result<Page<Arc<Rejection>>, Error>> {
            let (log, query) = (log.clone(), query(Some((last.created_at, last.id))));
            Box::pin(async move { Ok(log.rejections(query).await?.found) })
        };
        let known = move |rejection: &Arc<Rejection>| rejection.number <= position.0;
        Ok(Listed { found: whole(found, Box::new(behind), known), position, parked })
    }

    /// The latest change of each log event that changed behind a position, in the order
    /// of these.
    pub(crate) async fn changes(&self, after: Position, limit: usize) -> Result<Seen<Vec<EventChange>>, Error> {
        Ok(self.log.changes(after, limit).await?)
    }

    /// Returns once every change up to a position can be read, however long it takes.
    pub(crate) async fn reached(&self, position: Position) -> Result<(), Error> {
        self.queries.reached(position).await
    }

    /// How far the views are.
    ///
    /// # Errors
    /// As `event`.
    pub(crate) async fn position(&self, awaited: Option<Position>) -> Result<Position, Error> {
        self.queries.reach(awaited).await?;
        self.queries.position().await
    }
}

fn page_of(EventsPage { events, more }: EventsPage) -> Page<Record> {
    Page { found: events, more }
}

/// The rows of a list from its first page on of which something is true.
fn whole<T>(first: Page<T>, behind: Behind<T>, is_true: impl Fn(&T) -> bool + Send + 'static) -> Whole<T>
where
    T: Send + Sync + 'static,
{
    let first: BoxFuture<'static, _> = Box::pin(future::ready(Ok(first)));
    let pages = stream::try_unfold((Some(first), behind), async |(next, behind)| {
        let Some(next) = next else { return Ok(None) };
        let page: Page<T> = next.await?;
        let next = page.found.last().filter(|_| page.more).map(&behind);
        Ok::<_, Error>(Some((page.found, (next, behind))))
    });
    let rows = pages.map_ok(|rows| stream::iter(rows.into_iter().map(Ok::<T, Error>))).try_flatten();
    Box::pin(rows.try_filter(move |row| future::ready(is_true(row))))
}
