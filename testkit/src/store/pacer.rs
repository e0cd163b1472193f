//! Shows appends when their delay is over. A thread of its own, because timers of
//! the runtime are a millisecond coarse.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Visible;

/// Appends due within this time of each other are shown at once.
const GRAIN: Duration = Duration::from_micros(100);

#[derive(Default)]
struct Queue {
    due: VecDeque<(Instant, usize)>,
    closed: bool,
}

pub(super) struct Pacer {
    visible: Arc<Visible>,
    queue: Mutex<Queue>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Pacer {
    pub(super) fn start(visible: Arc<Visible>) -> io::Result<Arc<Self>> {
        let pacer =
            Arc::new(Self { visible, queue: Mutex::default(), changed: Condvar::new(), thread: Mutex::default() });
        let own = pacer.clone();
        let thread = std::thread::Builder::new().name("esdb-pacer".to_owned()).spawn(move || own.run())?;
        *pacer.thread.lock() = Some(thread);
        Ok(pacer)
    }

    /// Shows the first `count` records at that time, and not before earlier ones.
    pub(super) fn publish_at(&self, due: Instant, count: usize) {
        let mut queue = self.queue.lock();
        if queue.due.is_empty() && due <= Instant::now() {
            return self.visible.publish(count);
        }
        let due = queue.due.back().map_or(due, |(last, _)| due.max(*last));
        let idle = queue.due.is_empty();
        queue.due.push_back((due, count));
        if idle {
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            let Some((due, _)) = queue.due.front().copied() else {
                self.changed.wait(&mut queue);
                continue;
            };
            let due = due + GRAIN;
            if Instant::now() < due {
                self.changed.wait_until(&mut queue, due);
                continue;
            }
            let now = Instant::now();
            let ready = queue.due.partition_point(|(due, _)| *due <= now);
            if let Some((_, count)) = queue.due.drain(..ready).next_back() {
                self.visible.publish(count);
            }
        }
    }
}
