//! Moments, counted from the start of the proxy.

use std::time::Instant;

use bramah_balance::Time;

/// The proxy's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Time {
        // 584 years fit.
        Time::from_nanos(self.start.elapsed().as_nanos() as u64)
    }
}
