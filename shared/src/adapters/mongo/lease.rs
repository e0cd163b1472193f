//! Whose turn it is to write the views: a lease in the meta document, by the server's
//! clock.
//!
//! The lease only keeps two processes from doing the same work. What keeps the views
//! right is that the checkpoint moves by compare-and-set on holder, epoch and place,
//! and that rows are guarded: whoever believes wrongly that it is its turn can repeat
//! rows of the same log, and nothing else.

use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;
use uuid::Uuid;

use super::connection::{READ, WRITE, within};
use super::meta::{self, Filled, ID, Meta, Rows, signed};
use crate::ports::{Checkpoint, Generation, StoreError};

/// How often the lease is renewed.
pub(super) const RENEWAL: Duration = Duration::from_millis(2_500);
/// How long it lasts, in milliseconds.
const TERM_MS: i64 = 10_000;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Lease {
    /// Grows with each new holder.
    epoch: i64,
}

/// A process's turn.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    views: String,
    holder: Uuid,
    epoch: i64,
    /// The views that are shown, as this turn left them.
    pub(super) live: Filled,
    /// Those that this turn builds beside them.
    pub(super) next: Option<Filled>,
}

impl Turn {
    /// The turn that a document gives to whoever has just taken it.
    pub(super) fn new(meta: &Meta, holder: Uuid) -> Self {
        Self { views: meta.views.clone(), holder, epoch: meta.lease.epoch, live: meta.live(), next: meta.next() }
    }

    /// A generation as this turn left it.
    pub(super) fn of(&self, generation: Generation) -> Option<Known<'_>> {
        let filled = match generation {
            Generation::Live => &self.live,
            Generation::Next => self.next.as_ref()?,
        };
        Some(Known { turn: self, generation, rows: &filled.rows, at: filled.at })
    }

    /// Takes note of how far a generation is, unless the turn knows of another by now.
    pub(super) fn moved(&mut self, generation: Generation, rows: &Rows, to: Checkpoint) {
        let filled = match generation {
            Generation::Live => Some(&mut self.live),
            Generation::Next => self.next.as_mut(),
        };
        if let Some(filled) = filled.filter(|filled| filled.rows == *rows) {
            filled.at = to;
        }
    }

    /// Whether both are one turn, wherever they are in it.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.views == other.views && self.holder == other.holder && self.epoch == other.epoch
    }

    /// The document while it is this turn.
    pub(super) fn filter(&self) -> Document {
        let (holder, epoch) = (self.holder.to_string(), self.epoch);
        doc! { "_id": ID, "views": &self.views, "lease.holder": holder, "lease.epoch": epoch }
    }
}

/// A generation as a turn left it.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) turn: &'a Turn,
    pub(super) generation: Generation,
    pub(super) rows: &'a Rows,
    pub(super) at: Checkpoint,
}

impl Known<'_> {
    /// The document while it is this turn, and the generation is where it was left.
    pub(super) fn filter(&self) -> Document {
        let mut filter = self.turn.filter();
        filter.insert(self.field("generation"), self.rows.number);
        filter.insert(self.field("commit"), signed(self.at.commit));
        filter.insert(self.field("prepare"), signed(self.at.prepare));
        filter
    }

    /// One of the document's fields that each generation has.
    pub(super) fn field(&self, name: &str) -> String {
        match self.generation {
            Generation::Live => name.to_owned(),
            Generation::Next => format!("next.{name}"),
        }
    }
}

/// The server's clock, in milliseconds.
pub(super) fn now() -> Bson {
    doc! { "$toLong": "$$NOW" }.into()
}

fn end_of_term() -> Bson {
    doc! { "$add": [now(), TERM_MS] }.into()
}

/// Takes the lease, if it is free or this holder's already; gives the document as it is
/// then.
pub(super) async fn take(database: &Database, meta: &Meta, holder: Uuid) -> Result<Option<Meta>, StoreError> {
    let holder = holder.to_string();
    let free = doc! { "$expr": { "$lte": ["$lease.until", now()] } };
    let filter = doc! { "_id": ID, "views": &meta.views, "$or": [{ "lease.holder": &holder }, free] };
    let epoch = doc! { "$cond": [
        { "$eq": ["$lease.holder", { "$literal": &holder }] },
        "$lease.epoch",
        { "$add": ["$lease.epoch", 1_i64] },
    ] };
    let lease = doc! { "holder": { "$literal": &holder }, "epoch": epoch, "until": end_of_term() };
    let collection = meta::collection(database);
    let take = collection
        .find_one_and_update(filter, vec![doc! { "$set": { "lease": lease } }])
        .projection(meta::without_parked())
        .return_document(ReturnDocument::After);
    within(WRITE, take).await
}

/// Renews the lease; false if it is another's.
pub(super) async fn renew(database: &Database, turn: &Turn) -> Result<bool, StoreError> {
    let set = vec![doc! { "$set": { "lease.until": end_of_term() } }];
    let collection = meta::collection(database);
    Ok(within(READ, collection.update_one(turn.filter(), set)).await?.matched_count == 1)
}

/// Frees the lease.
pub(super) async fn release(database: &Database, turn: &Turn) -> Result<(), StoreError> {
    let set = doc! { "$set": { "lease.until": 0_i64 } };
    let collection = meta::collection(database);
    within(READ, collection.update_one(turn.filter(), set)).await.map(drop)
}
