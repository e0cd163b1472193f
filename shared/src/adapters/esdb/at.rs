//! One look at a position of the log.
//!
//! Where no record begins the server fails the read with `Unknown`, as it would if it
//! were in trouble. The two are told apart by reads that it must be able to answer.

use std::sync::Arc;

use tokio::time::Instant;

use super::feed::last_of_all;
use super::link::{Link, Open};
use super::node::{ReadError, is_followed};
use super::read::{Broken, READ, next, until};
use super::stored;
use crate::domain::stream::{Position, RecordedEvent};
use crate::ports::StoreError;

impl Link {
    /// As `EventStore::at`. A connection that turns out to be broken is made again, once.
    pub(super) async fn at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        if position == Position::START || position > Position::MAX {
            return Ok(None);
        }
        let deadline = Instant::now() + READ;
        let mut open = self.open().await?;
        let mut again = true;
        loop {
            let error = match found(&open, position, deadline).await {
                Ok(found) => return Ok(found),
                Err(Broken::Store(error)) => return Err(error),
                Err(Broken::Read(error)) => error,
            };
            let broke = matches!(error, ReadError::Node(_));
            let error = self.read_failed(&open, error);
            if !broke || !std::mem::replace(&mut again, false) {
                return Err(error);
            }
            open = self.open().await?;
        }
    }
}

async fn found(open: &Arc<Open>, position: Position, deadline: Instant) -> Result<Option<RecordedEvent>, Broken> {
    match look(open, position, deadline).await {
        Err(Broken::Read(error)) if error.may_be_of_the_place() => {}
        found => return found,
    }
    // A server that can read its last event, and right behind that still does not read
    // from here, has nothing here.
    if position > last_of_all(open).await? {
        return Ok(None);
    }
    match look(open, position, deadline).await {
        Err(Broken::Read(error)) if error.may_be_of_the_place() => {}
        found => return found,
    }
    last_of_all(open).await.map(|_| None)
}

async fn look(open: &Arc<Open>, position: Position, deadline: Instant) -> Result<Option<RecordedEvent>, Broken> {
    let mut answers = until(deadline, open.node.first_from(position)).await?;
    let event = next(&mut answers, deadline).await?.filter(|event| event.position == position.0);
    let Some(event) = event.filter(|event| event.stream.as_ref().is_some_and(|name| is_followed(&name.bytes))) else {
        return Ok(None);
    };
    stored::decode(event, open.log).map_err(Broken::Store)
}
