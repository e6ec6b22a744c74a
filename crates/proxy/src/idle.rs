//! How long nothing may move in a body.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Watches over one body. It costs nothing as long as nobody waits.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    moved: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(crate) fn new(limit: Duration) -> Self {
        Idle { limit, moved: Instant::now(), sleep: None }
    }

    pub(crate) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    pub(crate) fn moved_at(&self) -> Instant {
        self.moved
    }

    /// Ready when nothing moved for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ends = self.moved + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(ends)));
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                // It was set before the last byte moved.
                Poll::Ready(()) if sleep.deadline() < ends => sleep.as_mut().reset(ends),
                Poll::Ready(()) => return Poll::Ready(()),
            }
        }
    }
}
