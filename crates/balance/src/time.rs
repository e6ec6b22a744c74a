//! A moment, as the caller's clock has it.

use std::ops::Add;
use std::time::Duration;

/// A moment: nanoseconds since one that the caller chose, on a clock that never goes back.
///
/// All calls of one [`Balancer`](crate::Balancer) must use the same clock. Threads may be a little apart: a moment before
/// one that was seen already counts as that one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The moment that the clock counts from.
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens.
    pub(crate) const NEVER: Time = Time(u64::MAX);

    /// The moment this many nanoseconds after the one that the clock counts from.
    pub const fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Nanoseconds since the moment that the clock counts from.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it is still to come.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Stays at the end of time, 584 years after its beginning, rather than begin anew.
impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, after: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }
}
