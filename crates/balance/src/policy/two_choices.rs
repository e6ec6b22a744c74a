//! The better of two.

use std::sync::Arc;

use super::{Ask, Policy};
use crate::chance::scaled;
use crate::{Chance, Set, Time};

/// The less loaded of two instances drawn at random (spec P-5), in constant time.
///
/// For many instances: nearly as even as looking at all of them (the busiest of `n` has about `ln ln n` calls more than
/// the mean, not `ln n / ln ln n`: Mitzenmacher, *The power of two choices in randomized load balancing*, 2001), and callers that
/// don't know of each other don't all choose the same.
#[derive(Debug)]
pub struct TwoChoices {
    set: Arc<Set>,
    chance: Chance,
    load: Load,
}

/// What makes an instance the more loaded.
#[derive(Clone, Copy, Debug)]
enum Load {
    Requests,
    PeakEwma,
}

/// What an instance costs that has a call in flight and never gave an answer: an hour, as nanoseconds.
///
/// As in Finagle: a new instance gets one call, and no second one before it has shown how fast it is.
const UNKNOWN: f64 = 3.6e12;

impl TwoChoices {
    /// By calls in flight, in proportion to the weight.
    pub fn least_request(seed: u64) -> Self {
        TwoChoices { set: Arc::default(), chance: Chance::seeded(seed), load: Load::Requests }
    }

    /// By the moving average of the latency times the calls in flight and this one, in proportion to the weight.
    ///
    /// Source: Finagle's `PeakEwma`. The average follows a slower answer at once and a faster one by and by, and falls when
    /// nothing is heard, so that a slow instance is tried again after some decay times
    /// ([`LoadSettings::latency_decay`](crate::LoadSettings)). It tells apart instances of different speed better than
    /// [`least_request`](Self::least_request); each such trial is a slow call, which shows in p99.9.
    pub fn peak_ewma(seed: u64) -> Self {
        TwoChoices { set: Arc::default(), chance: Chance::seeded(seed), load: Load::PeakEwma }
    }

    /// Two different places of at least two.
    fn two(&self) -> (usize, usize) {
        let count = self.set.len() as u64;
        let drawn = self.chance.next();
        let one = scaled(drawn, count);
        let other = scaled(drawn.wrapping_mul(count), count - 1);
        (one as usize, (other + u64::from(other >= one)) as usize)
    }

    fn load(&self, place: usize, now: Time) -> f64 {
        let member = &self.set[place];
        let busy = member.busy(now);
        let load = match (self.load, member.latency(now)) {
            (Load::Requests, _) => busy + 1.0,
            (Load::PeakEwma, Some(latency)) => latency * (busy + 1.0),
            (Load::PeakEwma, None) if busy == 0.0 => 0.0,
            (Load::PeakEwma, None) => UNKNOWN * (busy + 1.0),
        };
        self.set.per_weight(load, place, now)
    }
}

impl Policy for TwoChoices {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        Box::new(TwoChoices { set: set.clone(), chance: self.chance.fork(), load: self.load })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let place = match self.set.len() {
            0 => return None,
            1 => 0,
            _ => {
                let (one, other) = self.two();
                if self.load(other, ask.now) < self.load(one, ask.now) { other } else { one }
            }
        };
        self.set[place].begin();
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Instance, Outcome};

    fn set(count: usize) -> Arc<Set> {
        Set::new((0..count).map(|i| Instance::new(format!("{i:03}"))))
    }

    #[test]
    fn the_two_are_different_and_each_pair_is_as_likely() {
        let policy = TwoChoices { set: set(5), ..TwoChoices::least_request(1) };
        let mut counts = [[0_u32; 5]; 5];
        for _ in 0..200_000 {
            let (one, other) = policy.two();
            counts[one][other] += 1;
        }
        for (one, row) in counts.iter().enumerate() {
            for (other, &count) in row.iter().enumerate() {
                let expected = if one == other { 0_u32 } else { 10_000 };
                assert!(count.abs_diff(expected) < 500, "{counts:?}");
            }
        }
    }

    #[test]
    fn two_choices_are_far_more_even_than_one() {
        let set = set(1_000);
        let policy = TwoChoices::least_request(1).over(&set);
        (0..1_000).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        let most = set.members().iter().map(|member| member.in_flight()).max();
        assert!(most <= Some(4), "{most:?}: ln ln 1,000 is 1.9; of one choice 5 to 7 are to be expected");
    }

    /// One call at a time for each 10 ms of `seconds`, of which `slow` are ten times slower; how many the first instance got.
    fn shares(
        policy: &dyn Policy,
        set: &Set,
        from: Time,
        seconds: u64,
        latency: impl Fn(usize) -> u64,
    ) -> Vec<u32> {
        let mut counts = vec![0; set.len()];
        for step in 0..seconds * 100 {
            let begun = from + Duration::from_millis(step * 10);
            let place = policy.pick(&Ask::at(begun)).unwrap();
            set[place].end(begun, begun + Duration::from_millis(latency(place)), Outcome::Success);
            counts[place] += 1;
        }
        counts
    }

    /// Spec P-5: it is shed with its first slow answer, and back within its decay time once it is fast again.
    #[test]
    fn a_slow_instance_is_shed_and_comes_back() {
        let set = set(10);
        let policy = TwoChoices::peak_ewma(1).over(&set);
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let healthy = shares(&*policy, &set, at(0), 10, |_| 5);
        assert!(healthy.iter().all(|&count| count > 40), "{healthy:?}");
        let slow = shares(&*policy, &set, at(10), 10, |place| if place == 0 { 50 } else { 5 });
        assert!(slow[0] <= 2, "{slow:?}: within one decay time");
        let back = shares(&*policy, &set, at(20), 60, |_| 5);
        assert!(back[0] > 100, "{back:?}: after 10 s · ln 10 it is tried again");
    }

    #[test]
    fn one_without_an_answer_gets_one_call() {
        let set = set(2);
        let policy = TwoChoices::peak_ewma(1).over(&set);
        let now = Time::from_nanos(1);
        set[0].begin();
        set[0].end(Time::ZERO, now, Outcome::Success);
        assert_eq!(policy.pick(&Ask::at(now)), Some(1), "to see how fast it is");
        assert_eq!((0..100).map(|_| policy.pick(&Ask::at(now))).filter(|&place| place == Some(1)).count(), 0);
    }

    #[test]
    fn failures_draw_no_calls() {
        for policy in [TwoChoices::least_request(1), TwoChoices::peak_ewma(1)] {
            let set = set(10);
            let policy = policy.over(&set);
            let mut failed = 0;
            for ms in 0..10_000 {
                let now = Time::from_nanos(ms * 1_000_000);
                let place = policy.pick(&Ask::at(now)).unwrap();
                let outcome = if place == 0 { Outcome::Failure } else { Outcome::Success };
                set[place].end(now, now + Duration::from_micros(if place == 0 { 10 } else { 900 }), outcome);
                failed += u32::from(place == 0);
            }
            assert!((3..100).contains(&failed), "{failed} of 10,000");
        }
    }
}
