//! From a query to what the views hold, as new as was asked for.

use std::sync::Arc;
use std::time::Duration;

use shared::domain::answer::{Answer, Key};
use shared::domain::stream::Position;
use shared::error::Error;
use shared::ports::{AnswersPage, AnswersQuery, Seen, ViewReader};

/// Answers queries.
#[derive(Clone)]
pub struct Queries {
    views: Arc<dyn ViewReader>,
    patience: Duration,
}

impl Queries {
    /// Queries on these views; a read waits for a position up to `patience`.
    pub fn new(views: Arc<dyn ViewReader>, patience: Duration) -> Self {
        Self { views, patience }
    }

    /// The live answer of a key.
    ///
    /// # Errors
    /// `NotReached` if the views do not reach the awaited position in time.
    pub async fn answer(&self, key: &Key, awaited: Option<Position>) -> Result<Seen<Option<Answer>>, Error> {
        self.reach(awaited).await?;
        Ok(self.views.answer(key).await?)
    }

    /// A page of live answers.
    ///
    /// # Errors
    /// As `answer`.
    pub async fn answers(&self, query: AnswersQuery, awaited: Option<Position>) -> Result<Seen<AnswersPage>, Error> {
        self.reach(awaited).await?;
        Ok(self.views.answers(query).await?)
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
