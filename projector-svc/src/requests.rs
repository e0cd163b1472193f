//! What operators ask for, carried out by the projector whose turn it is: replays of
//! parked streams, and the building of new views beside the live ones. Requests are
//! stored in the views, so whoever has the turn next goes on with them.

use std::time::Duration;

use shared::clock;
use shared::domain::projection::{Parked, project};
use shared::ports::{Checkpoint, Direction, Generation, Replayed, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::follower::Follower;
use crate::{Failure, Projector};

/// Events of a parked stream that are read at once.
const PAGE: usize = 1_000;
/// Events that a rebuild projects together.
const BATCH: usize = 4_096;
/// How often a rebuild lets replays come in between, and takes note of the log's end.
const BETWEEN: Duration = Duration::from_secs(1);
/// Whoever gets fewer events at once than this is near the end of the log.
const NEAR: usize = 512;
/// How long to wait where the live views may have shown more than the new ones hold.
const PASSED: Duration = Duration::from_millis(50);
/// How long a rebuild waits that has no room for one more parked stream.
const STUCK: Duration = Duration::from_secs(5);

/// Carries out requests until something fails, or until other views are the live ones.
pub(crate) async fn serve(projector: &Projector, live: &Mutex<Follower>) -> Failure {
    loop {
        let served = async {
            replay(projector, live).await?;
            rebuild(projector, live).await
        };
        match served.await {
            Ok(false) => projector.views.asked().await,
            Ok(true) => return Failure::PutBack,
            // The live views have no part in it.
            Err(Failure::Event(error)) => {
                let what = format!("{error}: {}", error.source);
                tracing::error!(error = what, "too many streams are parked in the rebuild for one more; it waits");
                tokio::time::sleep(STUCK).await;
            }
            Err(failure) => return failure,
        }
    }
}

/// Reads parked streams again for which that was asked.
pub(crate) async fn replay(projector: &Projector, live: &Mutex<Follower>) -> Result<(), Failure> {
    if live.lock().await.parked.is_empty() {
        return Ok(());
    }
    for was in projector.views.parked(Generation::Live).await?.into_iter().filter(|parked| parked.replay) {
        // What comes behind this place comes through the live views again.
        let mut live = live.lock().await;
        let stream = was.stream.clone();
        let replayed = read_again(projector, was, live.at).await?;
        let still = replayed.still.clone();
        projector.views.replayed(live.at, replayed).await?;
        match still {
            Some(still) => {
                tracing::warn!(
                    stream = stream.as_str(),
                    error = still.error,
                    "a stream was read again and stays parked"
                );
                live.parked.insert(stream, still);
            }
            None => {
                tracing::info!(stream = stream.as_str(), "a stream was read again and is parked no more");
                live.parked.remove(&stream);
            }
        }
    }
    Ok(())
}

/// Reads a stream again, from where it is parked up to a checkpoint.
async fn read_again(projector: &Projector, was: Parked, to: Checkpoint) -> Result<Replayed, StoreError> {
    let (mut change, mut from) = (None, was.revision);
    loop {
        let page = match projector.events.read(&was.stream, from, Direction::Forwards, PAGE).await {
            Ok(page) => page,
            // Not the store is at fault, but what it holds.
            Err(error @ StoreError::Corrupt { .. }) => {
                let still = Some(Parked { error: error.to_string(), replay: false, ..was.clone() });
                return Ok(Replayed { was, change, still });
            }
            Err(error) => return Err(error),
        };
        let Some(last) = page.last().map(|last| last.revision) else {
            return Ok(Replayed { was, change, still: None });
        };
        for event in page {
            if !to.has_reached(event.position) {
                return Ok(Replayed { was, change, still: None });
            }
            match project(&event) {
                Ok(made) => change = Some(made),
                Err(error) => {
                    let since = if event.revision == was.revision { was.since } else { clock::now() };
                    return Ok(Replayed { was, change, still: Some(Parked::new(&error, since)) });
                }
            }
        }
        from = last.next();
    }
}

/// Builds new views beside the live ones, if that is asked for; whether they are the
/// live ones now.
async fn rebuild(projector: &Projector, live: &Mutex<Follower>) -> Result<bool, Failure> {
    let (feed, views) = (&projector.feed, &*projector.views);
    let Some(at) = views.rebuild(feed.head().await?).await? else { return Ok(false) };
    let mut next = Follower::new(views, Generation::Next, at, projector.parked_max).await?;
    let mut events = feed.subscribe(at).await?;
    tracing::info!(position = at.position().0, "views are built anew beside the live ones");
    let (mut is_near, mut looked) = (false, Instant::now());
    loop {
        let head = feed.head().await?;
        if looked.elapsed() >= BETWEEN {
            replay(projector, live).await?;
            if views.rebuild(head).await?.is_none() {
                return Ok(false);
            }
            looked = Instant::now();
        }
        let end = live.lock().await.at.position().min(head);
        if !is_near && !next.at.has_reached(end) {
            let batch = events.next(BATCH).await?;
            is_near = batch.events.len() < NEAR;
            next.project(views, batch).await?;
            // Views that are written without waiting would let nobody else work.
            tokio::task::yield_now().await;
            continue;
        }
        // The live views wait, so that both come to one place.
        let live = live.lock().await;
        let end = live.at.position().min(feed.head().await?);
        while !next.at.has_reached(end) {
            let batch = events.next(BATCH).await?;
            next.project(views, batch).await?;
        }
        if views.swap(live.at, next.at).await? {
            tracing::info!(
                position = live.at.max(next.at).position().0,
                "the views that were built anew are the live ones"
            );
            return Ok(true);
        }
        drop(live);
        tokio::time::sleep(PASSED).await;
    }
}
