//! Work that is begun by a request but belongs to the process: if the request
//! goes away, it is finished all the same.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is polled in place and, dropped unfinished, goes on as a task.
pub(crate) struct Detach(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Detach {
    pub(crate) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }

    /// Nothing to do.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }
}

impl Future for Detach {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.0 else { return Poll::Ready(()) };
        let done = work.as_mut().poll(cx);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl Drop for Detach {
    fn drop(&mut self) {
        if let Some(work) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn dropped_work_is_finished() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let mut work = Detach::new(async move {
            gone.await.expect("told to go");
            done.send(()).expect("somebody waits");
        });
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go.send(()).expect("the work goes on");
        is_done.await.expect("finished");
    }
}
