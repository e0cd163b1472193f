//! What waits for the log's writer: jobs, and how the group that it has handed over
//! ended. It is woken no more often than it has use for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::writer::{Job, UNAVAILABLE};
use crate::ports::StoreError;

/// How many jobs may wait for the writer.
const QUEUE: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// How many appends they are.
    appends: usize,
    ended: Option<Result<(), StoreError>>,
    closed: bool,
    /// The writer sleeps until there are so many appends; 0 while it does not sleep.
    asleep_until: usize,
}

/// What the writer waits for.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// Nothing: what is there is enough.
    Now,
    /// A job or the end of everything, for some time.
    Any(Duration),
    /// The end of the group that was handed over, or so many appends.
    EndedOr(usize),
    /// The end of the group that was handed over.
    Ended,
}

/// What the writer finds.
pub(super) struct News {
    pub(super) jobs: VecDeque<Job>,
    /// How the group that was handed over ended.
    pub(super) ended: Option<Result<(), StoreError>>,
    /// Nothing more will come.
    pub(super) closed: bool,
}

impl Inbox {
    /// Hands a job in.
    ///
    /// # Errors
    /// `Busy` if too many wait; `Unavailable` after the end.
    pub(super) fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(UNAVAILABLE);
        }
        if waiting.jobs.len() >= QUEUE {
            return Err(StoreError::Busy);
        }
        waiting.appends += job.appends();
        waiting.jobs.push_back(job);
        if waiting.asleep_until > 0 && waiting.appends >= waiting.asleep_until {
            waiting.asleep_until = 0;
            drop(waiting);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Tells how the group that was handed over ended.
    pub(super) fn end(&self, ended: Result<(), StoreError>) {
        let mut waiting = self.waiting.lock();
        waiting.ended = Some(ended);
        waiting.asleep_until = 0;
        drop(waiting);
        self.changed.notify_one();
    }

    /// Lets no more jobs in.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.asleep_until = 0;
        drop(waiting);
        self.changed.notify_one();
    }

    /// Waits for what the writer has use for, and takes up to `most` jobs.
    pub(super) fn next(&self, until: Until, most: usize) -> News {
        let (enough, deadline) = match until {
            Until::Now => (0, None),
            Until::Any(patience) => (1, Some(Instant::now() + patience)),
            Until::EndedOr(enough) => (enough, None),
            Until::Ended => (usize::MAX, None),
        };
        let mut waiting = self.waiting.lock();
        while waiting.appends < enough && waiting.ended.is_none() {
            waiting.asleep_until = enough;
            match deadline {
                Some(_) if waiting.closed => break,
                Some(deadline) if self.changed.wait_until(&mut waiting, deadline).timed_out() => break,
                Some(_) => {}
                None => self.changed.wait(&mut waiting),
            }
        }
        waiting.asleep_until = 0;
        let take = waiting.jobs.len().min(most);
        let jobs = if take == waiting.jobs.len() {
            // As many are likely to come next, and need not grow a queue for it.
            std::mem::replace(&mut waiting.jobs, VecDeque::with_capacity(take))
        } else {
            waiting.jobs.drain(..take).collect()
        };
        waiting.appends -= jobs.iter().map(Job::appends).sum::<usize>();
        News { jobs, ended: waiting.ended.take(), closed: waiting.closed }
    }
}
