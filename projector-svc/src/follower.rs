//! One generation of the views on its way along the log.

use std::collections::HashMap;

use shared::clock;
use shared::domain::projection::{Changes, Parked, project};
use shared::domain::stream::{RecordedEvent, StreamId};
use shared::ports::{Batch, Checkpoint, Generation, StoreError, ViewWriter};

use crate::Failure;

/// Where a generation is, and which streams it does not follow.
pub(crate) struct Follower {
    generation: Generation,
    pub(crate) at: Checkpoint,
    pub(crate) parked: HashMap<StreamId, Parked>,
    /// Streams that may be parked at once.
    max: usize,
}

impl Follower {
    /// One that goes on at the generation's checkpoint.
    pub(crate) async fn new(
        views: &dyn ViewWriter,
        generation: Generation,
        at: Checkpoint,
        max: usize,
    ) -> Result<Self, StoreError> {
        let parked = views.parked(generation).await?;
        let parked = parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
        Ok(Self { generation, at, parked, max })
    }

    /// Whether there is no room for another parked stream.
    pub(crate) fn is_full(&self) -> bool {
        self.parked.len() >= self.max
    }

    /// Projects a batch and moves on; gives how many changes that were. A stream whose
    /// event cannot be projected is parked. Where there is no room for that the rest in
    /// front of the event is still written.
    pub(crate) async fn project(&mut self, views: &dyn ViewWriter, batch: Batch) -> Result<usize, Failure> {
        let mut changes = Changes::default();
        let mut stuck = None;
        let mut to = batch.checkpoint;
        for event in &batch.events {
            if self.is_held(event, &changes.parked) {
                continue;
            }
            match project(event) {
                Ok(change) => changes.push(change),
                Err(error) if self.parked.len() + changes.parked.len() < self.max => {
                    changes.parked.push(Parked::new(&error, clock::now()));
                }
                Err(error) => {
                    to = before(event, &batch.events, self.at);
                    stuck = Some(error);
                    break;
                }
            }
        }
        let count = changes.len();
        if to > self.at {
            let parked = changes.parked.clone();
            views.apply(self.generation, self.at, changes, to).await?;
            self.at = to;
            self.park(parked);
        }
        stuck.map_or(Ok(count), |error| Err(Failure::Event(error)))
    }

    /// Whether an event waits for one in front of it in its stream.
    fn is_held(&self, event: &RecordedEvent, new: &[Parked]) -> bool {
        self.parked.get(&event.stream).is_some_and(|parked| parked.holds(event))
            || new.iter().any(|parked| parked.holds(event))
    }

    fn park(&mut self, new: Vec<Parked>) {
        for parked in new {
            let Parked { stream, revision, position, error, .. } = &parked;
            let (stream, revision, position) = (stream.as_str(), revision.0, position.0);
            if self.generation == Generation::Live {
                tracing::error!(
                    stream,
                    revision,
                    position,
                    error,
                    "an event cannot be projected; its stream is parked"
                );
            } else {
                tracing::warn!(stream, revision, position, error, "an event cannot be projected in the rebuild either");
            }
            self.parked.insert(parked.stream.clone(), parked);
        }
    }
}

/// The checkpoint right in front of an event of a batch.
fn before(event: &RecordedEvent, batch: &[RecordedEvent], from: Checkpoint) -> Checkpoint {
    let earlier = batch.iter().take_while(|other| other.position < event.position).last();
    earlier.map_or(from, |earlier| Checkpoint::at(earlier.position))
}
