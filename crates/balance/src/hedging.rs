//! A second try beside the first, if that takes long.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::{BudgetSettings, RetryBudget, Time};

/// When a second try goes out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeSettings {
    /// When the first takes longer than this part of all calls. 0.95.
    pub quantile: f64,
    /// Second tries for each call, at most. 0.05.
    pub per_call: f64,
    /// Never before so long. 1 ms.
    pub earliest: Duration,
    /// Not before so many answers were measured. 100.
    pub answers: u32,
}

impl Default for HedgeSettings {
    fn default() -> Self {
        HedgeSettings { quantile: 0.95, per_call: 0.05, earliest: Duration::from_millis(1), answers: 100 }
    }
}

/// Decides when a second try of a call goes to another instance while the first goes on; whichever answers first counts, and
/// the other is cancelled (spec P-8). Only for calls that may be done twice.
///
/// Source: Dean and Barroso, *The tail at scale*, CACM 2013 ("hedged requests"): after the 95th percentile, for 5 % more calls.
#[derive(Debug)]
pub struct Hedging {
    settings: HedgeSettings,
    latencies: Box<[AtomicU32; BUCKETS]>,
    counted: AtomicU32,
    /// What the quantile was last, in nanoseconds; 0: unknown.
    after: AtomicU64,
    budget: RetryBudget,
}

/// Buckets for each doubling, so that a quantile is right to 1/8.
const FINE: u32 = 8;
const BUCKETS: usize = 64 * FINE as usize;
/// The quantile is taken anew after so many answers.
const OFTEN: u32 = 128;
/// After so many answers all counts are halved, so that old ones are forgotten.
const HALVED_AFTER: u32 = 8_192;

impl Hedging {
    /// Knows no latencies yet, and so allows no second try.
    pub fn new(settings: HedgeSettings) -> Self {
        let per_call = settings.per_call;
        Hedging {
            settings,
            latencies: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
            counted: AtomicU32::new(0),
            after: AtomicU64::new(0),
            budget: RetryBudget::new(BudgetSettings {
                per_call,
                per_second: 0.0,
                ..BudgetSettings::default()
            }),
        }
    }

    /// A call begins. When a second try may go out if there is no answer; `None`: not at all.
    pub fn begin(&self, now: Time) -> Option<Time> {
        self.budget.earn(now);
        match self.after.load(Relaxed) {
            0 => None,
            after => Some(now + Duration::from_nanos(after).max(self.settings.earliest)),
        }
    }

    /// That time has come, and there is no answer. Whether the second try goes out: not if too many do already.
    pub fn may_send(&self, now: Time) -> bool {
        self.budget.take(now)
    }

    /// A try was answered after so long. Tell it for the first tries of all calls, also those that a second one overtook, with
    /// the time until then.
    pub fn answered(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies[bucket(nanos)].fetch_add(1, Relaxed);
        let counted = self.counted.fetch_add(1, Relaxed).wrapping_add(1);
        if counted.is_multiple_of(OFTEN) || counted == self.settings.answers {
            self.measure(counted);
        }
    }

    fn measure(&self, counted: u32) {
        let counts: Vec<u64> = self.latencies.iter().map(|count| u64::from(count.load(Relaxed))).collect();
        let wanted = counts.iter().sum::<u64>() as f64 * self.settings.quantile;
        let mut seen = 0;
        let reached = counts.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        });
        if counted >= self.settings.answers {
            self.after.store(upper_end(reached.unwrap_or(BUCKETS - 1)).max(1), Relaxed);
        }
        if counted >= HALVED_AFTER.max(self.settings.answers) {
            for count in self.latencies.iter() {
                count.fetch_update(Relaxed, Relaxed, |count| Some(count / 2)).ok();
            }
            self.counted.fetch_sub(counted / 2, Relaxed);
        }
    }
}

/// Doublings, each in eight steps.
fn bucket(nanos: u64) -> usize {
    let doubling = nanos.max(1).ilog2();
    let step = if doubling >= 3 { (nanos >> (doubling - 3)) & 7 } else { (nanos << (3 - doubling)) & 7 };
    (doubling * FINE) as usize + step as usize
}

/// What is above all latencies of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u32 / FINE, bucket as u128 % u128::from(FINE));
    let end = ((u128::from(FINE) + step + 1) << doubling) / u128::from(FINE);
    u64::try_from(end).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    /// Spec P-8: after the 95th percentile, and for no more than one call of twenty.
    #[test]
    fn a_second_try_goes_out_late_and_seldom() {
        let hedging = Hedging::new(HedgeSettings::default());
        assert_eq!(hedging.begin(at(0)), None, "nothing is known yet");
        for ms in (1..=100).cycle().take(2_000) {
            hedging.answered(Duration::from_millis(ms));
        }
        let after = hedging.begin(at(0)).unwrap().since(at(0));
        assert!((95..=107).contains(&after.as_millis()), "{after:?}");
        (2..1_000).for_each(|_| assert!(hedging.begin(at(0)).is_some()));
        assert_eq!((0..1_000).filter(|_| hedging.may_send(at(0))).count(), 50);
    }

    #[test]
    fn old_latencies_are_forgotten() {
        let hedging = Hedging::new(HedgeSettings::default());
        (0..100_000).for_each(|_| hedging.answered(Duration::from_millis(10)));
        (0..50_000).for_each(|_| hedging.answered(Duration::from_millis(100)));
        assert!(hedging.begin(at(0)).unwrap() > at(99));
        (0..50_000).for_each(|_| hedging.answered(Duration::from_micros(10)));
        assert_eq!(hedging.begin(at(0)), Some(at(1)), "the earliest");
    }

    #[test]
    fn buckets_hold_what_they_say() {
        let samples =
            (0..64).flat_map(|bits| [1_u64 << bits, (1 << bits) + (1 << bits) / 3, u64::MAX >> bits]);
        for nanos in samples.chain(0..1_000) {
            let end = upper_end(bucket(nanos));
            assert!(end >= nanos && end as f64 <= nanos.max(1) as f64 * 1.13 + 1.0, "{nanos} {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
