//! One timer for all of a session's times. Being early costs a look, so it is set anew only to an earlier time.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Nothing is timed more finely.
const GRAIN: Duration = Duration::from_millis(2);

pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(now)), armed: None }
    }

    /// Fires at `due` or before.
    pub(crate) fn arm(&mut self, due: Option<Instant>, now: Instant) {
        let Some(due) = due else { return };
        if self.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        let due = due.max(now + GRAIN);
        if self.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        self.sleep.as_mut().reset(due);
        self.armed = Some(due);
    }

    /// Waits until the timer fires, for ever when it isn't set.
    pub(crate) async fn fired(&mut self) {
        if self.armed.is_none() {
            return std::future::pending().await;
        }
        self.sleep.as_mut().await;
        self.armed = None;
    }
}
