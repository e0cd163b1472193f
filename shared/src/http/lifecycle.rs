//! The end of a process, in steps that others can wait for.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Where a process stands between its start and its end.
#[derive(Clone, Default)]
pub struct Lifecycle(Arc<Steps>);

#[derive(Default)]
struct Steps {
    draining: CancellationToken,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Lifecycle {
    /// Not ready any more, but still taking requests.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }

    /// No new requests; those in flight are finished, streams end.
    pub fn stop(&self) {
        self.0.draining.cancel();
        self.0.stopping.cancel();
    }

    /// Connections that are still open are cut.
    pub fn cut(&self) {
        self.stop();
        self.0.cut.cancel();
    }

    /// Whether the end has been announced.
    pub fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// Whether streams have to end.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Whether what is open is cut.
    pub fn is_cutting(&self) -> bool {
        self.0.cut.is_cancelled()
    }

    /// Returns when requests are no longer taken.
    pub async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Returns when what is open is cut.
    pub async fn cutting(&self) {
        self.0.cut.cancelled().await;
    }
}
