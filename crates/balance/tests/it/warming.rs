//! Spec P-8: slow start.

use std::collections::BTreeMap;
use std::time::Duration;

use bramah_balance::{
    Ask, Balancer, LeastRequest, Outcome, Policy, Random, RoundRobin, Settings, SlowStart, SmoothWeighted,
    TwoChoices, WeightedRandom,
};

use crate::{at, instances, name};

/// Ten instances, of which the last comes at 1 s. Calls take 20 ms, and come 1 ms apart.
fn share_of_newcomer(policy: impl Policy + 'static, from_ms: u64, to_ms: u64) -> f64 {
    let slow_start = SlowStart { window: Duration::from_secs(10), ..SlowStart::default() };
    let balancer = Balancer::new(Settings { slow_start, ..Settings::with(policy) }, at(0));
    balancer.update(at(0), instances(9));
    let mut running = std::collections::VecDeque::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for ms in 0..to_ms {
        if ms == 1_000 {
            balancer.update(at(ms), instances(10));
        }
        let call = balancer.pick(&Ask::at(at(ms))).unwrap();
        if ms >= from_ms {
            *counts.entry(call.id().to_owned()).or_default() += 1;
        }
        running.push_back(call);
        if running.len() == 20 {
            running.pop_front().unwrap().end(at(ms), Outcome::Success);
        }
    }
    counts.get(&name(9)).copied().unwrap_or(0) as f64 / (to_ms - from_ms) as f64
}

/// From a tenth of its share to half of it in half of the window, and to the whole: what the mean over a time should be.
fn shares_grow(policy: impl Fn() -> Box<dyn Policy>) {
    for (from, to, expected) in [(1_000, 2_000, 0.010), (5_500, 6_500, 0.05), (12_000, 22_000, 0.1)] {
        let share = share_of_newcomer(policy(), from, to);
        assert!((share - expected).abs() < expected * 0.35, "{:?}: {share} of {expected}", policy());
    }
}

#[test]
fn a_newcomer_gets_its_share_by_and_by() {
    shares_grow(|| Box::new(RoundRobin::seeded(1)));
    shares_grow(|| Box::new(Random::seeded(1)));
    shares_grow(|| Box::new(WeightedRandom::seeded(1)));
    shares_grow(|| Box::new(SmoothWeighted::new()));
}

/// Policies by load give it less than its share, though not by the same formula: the load it may have is smaller.
#[test]
fn load_is_judged_by_how_warm_one_is() {
    for least in [true, false] {
        let policy = || -> Box<dyn Policy> {
            if least { Box::new(LeastRequest::seeded(1)) } else { Box::new(TwoChoices::least_request(1)) }
        };
        let early = share_of_newcomer(policy(), 1_000, 2_000);
        let late = share_of_newcomer(policy(), 12_000, 22_000);
        assert!(early < 0.02 && (0.08..0.12).contains(&late), "{early} {late}");
    }
}

#[test]
fn the_first_set_is_warm_and_what_was_away_is_not() {
    let balancer = Balancer::new(Settings::with(RoundRobin::seeded(1)), at(0));
    balancer.update(at(0), instances(2));
    assert!(!balancer.set().is_warming());
    let mut sick = instances(2);
    sick[1].healthy = false;
    balancer.update(at(1), sick);
    balancer.update(at(2), instances(2));
    assert!(balancer.set().is_warming());
    assert_eq!([0, 1].map(|place| balancer.set()[place].warmth(at(15_002))), [1.0, 0.5]);
    balancer.maintain(at(30_002));
    assert!(!balancer.set().is_warming(), "and then picks need not look any more");
}
