//! Ways to make a server misbehave while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How subscriptions are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As if there were nothing more to say, which the real server never does.
    Clean,
    /// With the error of a server that shuts down.
    Unavailable,
    /// With the error of a server that failed at something.
    Unknown,
}

/// What subscriptions are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    pub(super) paused: bool,
    /// Counts how often all were ended, and how they were the last time.
    pub(super) ended: u64,
    pub(super) ending: Ending,
}

/// Each takes effect at once, for calls under way too where that makes sense, and
/// stays until it is set otherwise, also when the server stops and starts.
#[derive(Debug)]
pub struct Switches {
    append_delay: AtomicU64,
    read_delay: AtomicU64,
    calls_refused: AtomicBool,
    reads_failed: AtomicBool,
    connections_refused: AtomicBool,
    refuse_appends: AtomicU64,
    lose_replies: AtomicU64,
    leader: Mutex<Option<(String, u16)>>,
    connections: Mutex<CancellationToken>,
    orders: watch::Sender<Orders>,
}

impl Default for Switches {
    fn default() -> Self {
        let orders = Orders { paused: false, ended: 0, ending: Ending::Unavailable };
        Self {
            append_delay: AtomicU64::new(0),
            read_delay: AtomicU64::new(0),
            calls_refused: AtomicBool::new(false),
            reads_failed: AtomicBool::new(false),
            connections_refused: AtomicBool::new(false),
            refuse_appends: AtomicU64::new(0),
            lose_replies: AtomicU64::new(0),
            leader: Mutex::new(None),
            connections: Mutex::new(CancellationToken::new()),
            orders: watch::Sender::new(orders),
        }
    }
}

impl Switches {
    /// Time between the decision on an append and its reply, in which nobody sees its
    /// events. The delays of different calls overlap, as on a disk that syncs groups.
    pub fn delay_appends(&self, delay: Duration) {
        self.append_delay.store(micros(delay), Ordering::Relaxed);
    }

    /// Time before a read or a subscription is answered.
    pub fn delay_reads(&self, delay: Duration) {
        self.read_delay.store(micros(delay), Ordering::Relaxed);
    }

    /// New calls fail with Unavailable. Open batches and subscriptions go on.
    pub fn refuse_calls(&self, refuse: bool) {
        self.calls_refused.store(refuse, Ordering::Relaxed);
    }

    /// New reads and subscriptions fail with Unknown, as those of a server that cannot
    /// read its files.
    pub fn fail_reads(&self, fail: bool) {
        self.reads_failed.store(fail, Ordering::Relaxed);
    }

    /// New connections are closed at once.
    pub fn refuse_connections(&self, refuse: bool) {
        self.connections_refused.store(refuse, Ordering::Relaxed);
    }

    /// Cuts all connections that there are.
    pub fn drop_connections(&self) {
        std::mem::take(&mut *self.connections.lock()).cancel();
    }

    /// The next `count` appends fail with Unavailable; nothing is written.
    pub fn refuse_appends(&self, count: u64) {
        self.refuse_appends.store(count, Ordering::Relaxed);
    }

    /// The next `count` appends are written, and their connection is cut instead of a
    /// reply.
    pub fn lose_replies(&self, count: u64) {
        self.lose_replies.store(count, Ordering::Relaxed);
    }

    /// Calls that require a leader are sent to this one; `None` is as usual.
    pub fn not_leader(&self, leader: Option<(String, u16)>) {
        *self.leader.lock() = leader;
    }

    /// Subscriptions deliver nothing until this is taken back.
    pub fn pause_subscriptions(&self, pause: bool) {
        self.orders.send_modify(|orders| orders.paused = pause);
    }

    /// Ends all subscriptions that there are.
    pub fn end_subscriptions(&self, ending: Ending) {
        self.orders.send_modify(|orders| {
            orders.ended += 1;
            orders.ending = ending;
        });
    }

    pub(super) fn append_delay(&self) -> Duration {
        Duration::from_micros(self.append_delay.load(Ordering::Relaxed))
    }

    pub(super) fn read_delay(&self) -> Duration {
        Duration::from_micros(self.read_delay.load(Ordering::Relaxed))
    }

    pub(super) fn calls_refused(&self) -> bool {
        self.calls_refused.load(Ordering::Relaxed)
    }

    pub(super) fn reads_failed(&self) -> bool {
        self.reads_failed.load(Ordering::Relaxed)
    }

    pub(super) fn connections_refused(&self) -> bool {
        self.connections_refused.load(Ordering::Relaxed)
    }

    pub(super) fn leader(&self) -> Option<(String, u16)> {
        self.leader.lock().clone()
    }

    pub(super) fn connection(&self) -> CancellationToken {
        self.connections.lock().child_token()
    }

    pub(super) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    pub(super) fn refuses_append(&self) -> bool {
        take(&self.refuse_appends)
    }

    pub(super) fn loses_reply(&self) -> bool {
        take(&self.lose_replies)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn take(count: &AtomicU64) -> bool {
    count.load(Ordering::Relaxed) > 0
        && count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
}
