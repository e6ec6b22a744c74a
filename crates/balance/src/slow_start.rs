//! Warming up an instance that is new or came back.

use std::time::Duration;

use crate::Time;

/// How the share of an instance that is new, or was away, grows to its whole (spec P-8).
///
/// The formula is Envoy's (*slow start mode*): with `a` the part of the window that has passed, an instance counts for
/// `max(least_share, a^(1/aggression))` of its weight. Consistent hashing knows no slow start, there as here: its keys would
/// move twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes. Zero: an instance has its whole share at once.
    pub window: Duration,
    /// 1: the share grows in proportion to time; more: faster at first.
    pub aggression: f64,
    /// The share at the beginning, of 1.
    pub least_share: f64,
}

/// 30 s, in proportion to time, from 10 %.
impl Default for SlowStart {
    fn default() -> Self {
        SlowStart { window: Duration::from_secs(30), aggression: 1.0, least_share: 0.1 }
    }
}

impl SlowStart {
    /// No slow start.
    pub const OFF: SlowStart = SlowStart { window: Duration::ZERO, aggression: 1.0, least_share: 1.0 };

    /// The part of its weight that an instance counts for now, if it has been warming up since then.
    pub(crate) fn share(&self, since: Time, now: Time) -> f64 {
        let passed = now.since(since);
        if passed >= self.window {
            return 1.0;
        }
        let part = passed.as_secs_f64() / self.window.as_secs_f64();
        let share = part.powf(1.0 / self.aggression.max(f64::MIN_POSITIVE));
        share.max(self.least_share).clamp(f64::EPSILON, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_the_least_to_the_whole() {
        let slow = SlowStart::default();
        let began = Time::from_nanos(5);
        let share = |seconds: u64| slow.share(began, began + Duration::from_secs(seconds));
        assert_eq!([share(0), share(15), share(30), share(9_999)], [0.1, 0.5, 1.0, 1.0]);
        let eager = SlowStart { aggression: 2.0, ..slow };
        assert!(eager.share(began, began + Duration::from_secs(15)) > 0.7);
        assert_eq!(SlowStart::OFF.share(began, began), 1.0);
        let odd = SlowStart { aggression: f64::NAN, least_share: f64::NAN, ..slow };
        assert!((0.0..=1.0).contains(&odd.share(began, began)));
    }
}
