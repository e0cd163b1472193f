//! From a query to what the views hold, as new as was asked for.

use std::sync::Arc;
use std::time::Duration;

use shared::domain::answer::{Answer, Key};
use shared::domain::projection::Parked;
use shared::domain::stream::{Position, Revision, StreamId};
use shared::error::Error;
use shared::ports::{AnswersPage, AnswersQuery, ParkedQuery, Seen, StoreError, ViewOperator, ViewReader};

/// Parked streams that are looked through at once.
const PAGE: usize = 1_000;

/// What a list or a count has found.
pub struct Listed<T> {
    pub found: T,
    /// How far the views were.
    pub position: Position,
    /// How many streams are parked: what waits behind them may be missing.
    pub parked: u64,
}

/// Answers queries.
#[derive(Clone)]
pub struct Queries {
    views: Arc<dyn ViewReader>,
    operator: Arc<dyn ViewOperator>,
    patience: Duration,
}

impl Queries {
    /// Queries on these views, and on what operators see of them; a read waits for a
    /// position up to `patience`.
    pub fn new(views: Arc<dyn ViewReader>, operator: Arc<dyn ViewOperator>, patience: Duration) -> Self {
        Self { views, operator, patience }
    }

    /// The live answer of a key.
    ///
    /// # Errors
    /// `NotReached` if the views do not reach the awaited position in time, `Parked` if
    /// the key is parked at or before it.
    pub async fn answer(&self, key: &Key, awaited: Option<Position>) -> Result<Seen<Option<Answer>>, Error> {
        let read = self.views.answer(key);
        match awaited {
            None => Ok(read.await?),
            Some(position) => self.fresh(&StreamId::of_answer(key), position, read).await,
        }
    }

    /// A page of live answers.
    ///
    /// # Errors
    /// `NotReached` if the views do not reach the awaited position in time.
    pub async fn answers(&self, query: AnswersQuery, awaited: Option<Position>) -> Result<Listed<AnswersPage>, Error> {
        self.listed(awaited, self.views.answers(query)).await
    }

    /// How many streams are parked.
    ///
    /// # Errors
    /// If the views do not answer.
    pub async fn parked(&self) -> Result<u64, Error> {
        Ok(self.views.parked().await?)
    }

    /// What is read of one stream, as new as is awaited.
    pub(crate) async fn fresh<T>(
        &self,
        stream: &StreamId,
        awaited: Position,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Error> {
        self.reach(Some(awaited)).await?;
        self.refuse_parked(stream, awaited).await?;
        let seen = read.await?;
        // A rebuild may have put other views in place between the two looks.
        self.refuse_parked(stream, awaited).await?;
        Ok(seen)
    }

    async fn refuse_parked(&self, stream: &StreamId, awaited: Position) -> Result<(), Error> {
        match self.views.parked_stream(stream).await? {
            Some(parked) if parked.position <= awaited => Err(Error::Parked),
            _ => Ok(()),
        }
    }

    /// What is read of many streams, as new as is awaited.
    pub(crate) async fn listed<T>(
        &self,
        awaited: Option<Position>,
        read: impl Future<Output = Result<Seen<T>, StoreError>>,
    ) -> Result<Listed<T>, Error> {
        self.reach(awaited).await?;
        // One that is parked or healed meanwhile may be missing in what is found.
        let before = self.parked().await?;
        let Seen { found, position } = read.await?;
        Ok(Listed { found, position, parked: self.parked().await?.max(before) })
    }

    /// The stream whose first event is at this position and cannot be projected, if
    /// there is one.
    pub(crate) async fn parked_from(&self, position: Position) -> Result<Option<StreamId>, Error> {
        if self.parked().await? == 0 {
            return Ok(None);
        }
        let mut query = ParkedQuery { after: None, limit: PAGE };
        loop {
            let page = self.operator.parked_streams(query).await?;
            let last = page.found.last().filter(|_| page.more).map(|last| last.stream.clone());
            let begins = |parked: &Parked| parked.position == position && parked.revision == Revision::FIRST;
            if let Some(parked) = page.found.into_iter().find(begins) {
                return Ok(Some(parked.stream));
            }
            let Some(last) = last else { return Ok(None) };
            query = ParkedQuery { after: Some(last), limit: PAGE };
        }
    }

    /// Waits until the views have reached a position, if one is awaited.
    pub(crate) async fn reach(&self, awaited: Option<Position>) -> Result<(), Error> {
        let Some(position) = awaited else { return Ok(()) };
        match tokio::time::timeout(self.patience, self.views.reached(position)).await {
            Ok(reached) => Ok(reached?),
            Err(_) => Err(Error::NotReached(position.0)),
        }
    }

    /// Returns once every change up to a position can be read, however long it takes.
    pub(crate) async fn reached(&self, position: Position) -> Result<(), Error> {
        Ok(self.views.reached(position).await?)
    }

    /// How far the views are.
    pub(crate) async fn position(&self) -> Result<Position, Error> {
        Ok(self.views.checkpoint().await?.position())
    }
}
