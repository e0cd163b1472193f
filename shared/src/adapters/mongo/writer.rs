//! Writing the views: whose turn it is, rows before checkpoints, and what operators asked
//! for.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongodb::bson::Document;
use tokio_util::task::AbortOnDropHandle;

use super::lease::{self, Known, Turn};
use super::meta::{self, Meta};
use super::parked::{self, Settled};
use super::{Inner, MongoViews, Verdict, log, rebuild, rows, write};
use crate::clock;
use crate::domain::projection::{Changes, LogChange, Parked, fold};
use crate::domain::stream::Position;
use crate::ports::{Checkpoint, Generation, LogId, Replayed, StoreError, ViewWriter};

/// How often whoever stands by asks for the turn.
const STAND_BY: Duration = Duration::from_secs(1);
/// How often whoever has the turn looks whether something was asked for.
const ASKED: Duration = Duration::from_secs(1);
/// With every so many renewals of the lease the rows are removed that nobody reads.
const SWEEPS: u32 = 4;

impl Inner {
    /// Waits for the turn to write the views of this log.
    async fn take_turn(&self, log: LogId) -> Result<Meta, StoreError> {
        let mut told = false;
        loop {
            let database = self.database().await?;
            let meta = meta::find_or_make(database, log).await?;
            let name = self.connection.name();
            if let Some(why) = meta.unknown_format(name).or_else(|| meta.other_log(log, name)) {
                return Err(self.foreign(why));
            }
            if let Some(meta) = lease::take(database, &meta, self.holder).await? {
                return Ok(meta);
            }
            // Whoever has the turn knows that the views are not ahead of the log.
            self.own(log, &meta);
            if !told {
                tracing::info!("another process projects; standing by");
                told = true;
            }
            tokio::time::sleep(STAND_BY).await;
        }
    }

    /// Begins the turn that was taken, or goes on with it.
    fn begin(self: &Arc<Self>, meta: &Meta) {
        let turn = Turn::new(meta, self.holder);
        let goes_on = self.turn.borrow().as_ref().is_some_and(|now| now.is(&turn));
        self.turn.send_replace(Some(turn.clone()));
        // What is written from now on may be elsewhere than a look before found it.
        self.looks.outdate();
        if !goes_on {
            let renewal = self.runtime.spawn(renew(Arc::downgrade(self), turn));
            *self.renewal.lock() = Some(AbortOnDropHandle::new(renewal));
        }
    }

    /// Ends a turn that another process may have now.
    fn lose(&self, turn: &Turn) {
        self.turn.send_if_modified(|now| {
            let is_it = now.as_ref().is_some_and(|now| now.is(turn));
            if is_it {
                *now = None;
            }
            is_it
        });
    }

    /// The turn that this process has.
    fn own_turn(&self) -> Result<Turn, StoreError> {
        self.turn.borrow().clone().ok_or(StoreError::Conflict)
    }

    /// Changes what is known of a turn, if it goes on.
    fn in_turn(&self, turn: &Turn, change: impl FnOnce(&mut Turn)) {
        self.turn.send_if_modified(|now| {
            if let Some(now) = now.as_mut().filter(|now| now.is(turn)) {
                change(now);
            }
            false
        });
    }

    /// What came of a write: after a conflict it may be another's turn.
    fn settled<T>(&self, turn: &Turn, written: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(written, Err(StoreError::Conflict)) {
            self.lose(turn);
        }
        written
    }

    /// Writes rows, then the checkpoint.
    async fn write(&self, known: Known<'_>, changes: Changes, to: Checkpoint) -> Result<(), StoreError> {
        let growth = log::growth(&changes.log);
        let parked = self.write_rows(known, known.filter(), changes).await?;
        let moved = meta::advance(self.database().await?, known, to, growth, &parked).await?;
        if moved { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Writes rows while the document is as it was left, after a note of how far they go.
    /// So whoever has the turn next knows of all that this process may still write, however
    /// late that is. Gives back what is to be parked.
    async fn write_rows(
        &self,
        known: Known<'_>,
        as_left: Document,
        changes: Changes,
    ) -> Result<Vec<Parked>, StoreError> {
        let database = self.database().await?;
        let Changes { mut answers, log, parked } = changes;
        let of_answers = answers.iter().map(|change| change.position).max();
        let Some(last) = of_answers.max(log.iter().map(LogChange::position).max()) else { return Ok(parked) };
        let removed = answers.iter().filter(|change| change.value.is_none()).map(|change| change.position).max();
        // Nobody sees the rows of the next generation.
        let unseen = removed.max(log::unseen(&log)).filter(|_| known.generation == Generation::Live);
        if !meta::announce(database, as_left, last, unseen).await? {
            return Err(StoreError::Conflict);
        }
        fold(&mut answers);
        let of_answers = known.rows.answers();
        tokio::try_join!(
            write::write(database, &of_answers, answers.iter().map(rows::put).collect()),
            log::put(database, known.rows, log),
        )?;
        Ok(parked)
    }

    /// Writes a row whose place the views have passed, then what becomes of its entry. The
    /// row's guard lets it in: what is there is of an event in front of those that waited.
    async fn replay(&self, turn: &Turn, live: Known<'_>, replayed: &Replayed) -> Result<(), StoreError> {
        let as_left = parked::as_left(live, &replayed.was);
        self.write_rows(live, as_left.clone(), replayed.change.iter().cloned().collect()).await?;
        match parked::settle(self.database().await?, as_left, replayed).await? {
            Settled::Done => Ok(()),
            Settled::Anew => {
                tracing::info!("the rebuild begins anew: it had parked a stream that was read again since");
                self.in_turn(turn, |turn| turn.next = None);
                Ok(())
            }
            Settled::Elsewhere => Err(StoreError::Conflict),
        }
    }

    async fn rebuild(&self, turn: &Turn, head: Position) -> Result<Option<Checkpoint>, StoreError> {
        let database = self.database().await?;
        let meta = meta::find_in(database, turn).await?.ok_or(StoreError::Conflict)?;
        if !meta.is_rebuilding() {
            return Ok(None);
        }
        let next = match meta.next() {
            Some(next) => next,
            None => rebuild::begin(database, turn, &meta).await?.ok_or(StoreError::Conflict)?,
        };
        // Whoever began it may have died right then.
        if next.at == Checkpoint::START {
            rebuild::prepare(database, &next.rows).await?;
        }
        if meta.rebuild_state().total < head {
            rebuild::note_total(database, turn, head).await?;
        }
        let at = next.at;
        self.in_turn(turn, |turn| turn.next = Some(next));
        Ok(Some(at))
    }

    async fn swap(&self, turn: &Turn, live: Known<'_>, next: Known<'_>) -> Result<bool, StoreError> {
        let database = self.database().await?;
        if !rebuild::swap(database, live, next, clock::now()).await? {
            let meta = meta::find_in(database, turn).await?.ok_or(StoreError::Conflict)?;
            let as_left = meta.live() == turn.live && meta.next() == turn.next;
            return if as_left { Ok(false) } else { Err(StoreError::Conflict) };
        }
        // In this order: no read shows the old rows once something is in the new ones alone.
        self.looks.outdate();
        let at = live.at.max(next.at);
        let rows = next.rows.clone();
        self.in_turn(turn, |turn| {
            turn.live = meta::Filled { rows, at };
            turn.next = None;
        });
        self.reached.advance(at.position().0);
        Ok(true)
    }
}

/// Renews the lease until it is lost. While the database is away the turn goes on: only
/// the database can say that another process has it.
async fn renew(views: Weak<Inner>, turn: Turn) {
    let mut failing = false;
    for round in 0_u32.. {
        tokio::time::sleep(lease::RENEWAL).await;
        let Some(views) = views.upgrade() else { return };
        if !views.turn.borrow().as_ref().is_some_and(|now| now.is(&turn)) {
            return;
        }
        let renewed = async { lease::renew(views.database().await?, &turn).await };
        match renewed.await {
            Ok(true) => {
                failing = false;
                if round.is_multiple_of(SWEEPS) {
                    sweep(&views, &turn).await;
                }
            }
            Ok(false) => {
                tracing::warn!("another process projects now");
                return views.lose(&turn);
            }
            Err(error) if !failing => {
                tracing::warn!(error = %error.chain(), "the lease of the views cannot be renewed; it is tried again");
                failing = true;
            }
            Err(_) => {}
        }
    }
}

async fn sweep(views: &Inner, turn: &Turn) {
    let swept = async { rebuild::sweep(views.database().await?, turn).await };
    if let Err(error) = swept.await {
        tracing::warn!(error = %error.chain(), "rows that are not shown any more could not be removed; it is tried again");
    }
}

#[async_trait]
impl ViewWriter for MongoViews {
    async fn resume(&self, log: LogId, end: Position) -> Result<Checkpoint, StoreError> {
        let had_turn = self.0.turn.borrow().clone();
        let meta = self.0.take_turn(log).await?;
        let database = self.0.database().await?;
        rebuild::prepare(database, &meta.rows()).await?;
        rows::show(database, &meta.rows().answers()).await?;
        self.0.begin(&meta);
        let checkpoint = meta.checkpoint();
        if checkpoint.position() > end {
            // Another process may have moved on behind `end`, unless this one has had
            // the turn since before `end` was asked for: ask again.
            let exact = had_turn.is_some_and(|turn| turn.is(&Turn::new(&meta, self.0.holder)));
            if exact {
                return Err(self.0.foreign(meta.ahead_of_log(end, self.0.connection.name())));
            }
            *self.0.verdict.write() = Verdict::Unknown;
            return Err(StoreError::Conflict);
        }
        self.0.own(log, &meta);
        self.0.note(Some(&meta));
        Ok(checkpoint)
    }

    async fn apply(
        &self,
        generation: Generation,
        from: Checkpoint,
        mut changes: Changes,
        to: Checkpoint,
    ) -> Result<(), StoreError> {
        let turn = self.0.own_turn()?;
        let known = turn.of(generation).filter(|known| known.at == from).ok_or(StoreError::Conflict)?;
        if to <= from {
            return Ok(());
        }
        changes.answers.retain(|change| !from.has_reached(change.position));
        changes.log.retain(|change| !from.has_reached(change.position()));
        self.0.settled(&turn, self.0.write(known, changes, to).await)?;
        self.0.in_turn(&turn, |turn| turn.moved(generation, known.rows, to));
        if generation == Generation::Live {
            self.0.reached.advance(to.position().0);
        }
        Ok(())
    }

    async fn interrupted(&self) {
        // The sender lives as long as self.
        let _ = self.0.turn.subscribe().wait_for(Option::is_none).await;
    }

    async fn parked(&self, generation: Generation) -> Result<Vec<Parked>, StoreError> {
        let turn = self.0.own_turn()?;
        let Some(known) = turn.of(generation) else { return Ok(Vec::new()) };
        let found = async { parked::all(self.0.database().await?, known).await?.ok_or(StoreError::Conflict) };
        self.0.settled(&turn, found.await)
    }

    async fn replayed(&self, at: Checkpoint, replayed: Replayed) -> Result<(), StoreError> {
        let turn = self.0.own_turn()?;
        let live = turn.of(Generation::Live).filter(|live| live.at == at).ok_or(StoreError::Conflict)?;
        self.0.settled(&turn, self.0.replay(&turn, live, &replayed).await)
    }

    async fn asked(&self) {
        loop {
            tokio::select! {
                () = self.0.asked.notified() => return,
                () = tokio::time::sleep(ASKED) => {}
            }
            if self.0.turn.borrow().is_none() {
                continue;
            }
            let Ok(Some(meta)) = self.0.look(Instant::now() - ASKED / 2).await else { continue };
            let asked = Some((meta.views, meta.asked));
            let before = std::mem::replace(&mut *self.0.heard.lock(), asked.clone());
            if before != asked {
                return;
            }
        }
    }

    async fn rebuild(&self, head: Position) -> Result<Option<Checkpoint>, StoreError> {
        let turn = self.0.own_turn()?;
        self.0.settled(&turn, self.0.rebuild(&turn, head).await)
    }

    async fn swap(&self, live: Checkpoint, next: Checkpoint) -> Result<bool, StoreError> {
        let turn = self.0.own_turn()?;
        let of = |generation, at| turn.of(generation).filter(|known| known.at == at).ok_or(StoreError::Conflict);
        let (live, next) = (of(Generation::Live, live)?, of(Generation::Next, next)?);
        self.0.settled(&turn, self.0.swap(&turn, live, next).await)
    }
}
