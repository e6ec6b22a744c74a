//! Spec P-8: ejection of instances that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use bramah_balance::{Ask, Balancer, Outcome, OutlierSettings, RoundRobin, Settings};

use crate::{at, instances, name};

fn balancer(count: usize, outliers: Option<OutlierSettings>) -> Balancer {
    let balancer = Balancer::new(Settings { outliers, ..Settings::with(RoundRobin::seeded(0)) }, at(0));
    balancer.update(at(0), instances(count));
    balancer
}

/// Calls one millisecond apart from then on; what each instance got.
fn calls(
    balancer: &Balancer,
    from_ms: u64,
    count: u64,
    fails: impl Fn(&str, u64) -> bool,
) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for ms in from_ms..from_ms + count {
        let call = balancer.pick(&Ask::at(at(ms))).unwrap();
        *counts.entry(call.id().to_owned()).or_default() += 1;
        let outcome = if fails(call.id(), ms) { Outcome::Failure } else { Outcome::Success };
        call.end(at(ms), outcome);
    }
    counts
}

fn first_fails(id: &str, _: u64) -> bool {
    id == name(0)
}

#[test]
fn five_failures_in_a_row_eject_for_half_a_minute() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    let counts = calls(&balancer, 0, 5_000, first_fails);
    assert_eq!(counts[&name(0)], 5);
    assert_eq!(*balancer.ejected(), [name(0).into()]);
    // The fifth failure was by 49 ms, and the ejection began with the pick after.
    assert_eq!(calls(&balancer, 29_000, 1_000, first_fails).get(&name(0)), None);
    balancer.maintain(at(30_050));
    assert_eq!(*balancer.ejected(), []);
    let share = calls(&balancer, 70_000, 1_000, |_, _| false)[&name(0)];
    assert_eq!(share, 100, "it has its share again");
}

#[test]
fn a_success_in_between_begins_the_count_anew() {
    let balancer = balancer(10, Some(OutlierSettings { rate_instances: 0, ..OutlierSettings::default() }));
    // Of each five of its calls one is well.
    let fails = |id: &str, ms: u64| id == name(0) && !(ms / 10).is_multiple_of(5);
    calls(&balancer, 0, 60_000, fails);
    assert_eq!(*balancer.ejected(), []);
}

#[test]
fn each_ejection_is_longer_than_the_one_before() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    let mut ejected_at = Vec::new();
    let mut was = false;
    for ms in 0..400_000 {
        calls(&balancer, ms, 1, first_fails);
        let is = !balancer.ejected().is_empty();
        if is && !was {
            ejected_at.push(ms / 1_000);
        }
        was = is;
    }
    // 30 s, 60 s less what an interval in between took off, and so on.
    let pauses: Vec<_> = ejected_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] >= 30 && pauses[1] >= 55 && pauses[1] > pauses[0], "{ejected_at:?}");
}

/// Intervals that an instance gets through take back what it was ejected for before.
#[test]
fn an_old_ejection_is_forgotten() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    calls(&balancer, 0, 100, first_fails);
    calls(&balancer, 31_000, 60_000, |_, _| false);
    calls(&balancer, 91_000, 500, first_fails);
    assert_eq!(*balancer.ejected(), [name(0).into()]);
    balancer.maintain(at(91_500 + 30_000));
    assert_eq!(*balancer.ejected(), [], "30 s again, and not 60");
}

#[test]
fn at_most_a_tenth_is_ejected_but_one_always_may_be() {
    for (count, most) in [(2, 1), (5, 1), (10, 1), (20, 2), (100, 10)] {
        let balancer = balancer(count, Some(OutlierSettings::default()));
        calls(&balancer, 0, 5_000, |_, _| true);
        assert_eq!(balancer.ejected().len(), most, "of {count}");
    }
}

/// All are ejected, or unhealthy, one way or another: panic makes them serve all the same.
#[test]
fn when_all_are_ejected_all_serve() {
    let balancer = balancer(4, Some(OutlierSettings { most_ejected: 1.0, ..OutlierSettings::default() }));
    let counts = calls(&balancer, 0, 1_000, |_, _| true);
    assert_eq!(balancer.ejected().len(), 4);
    assert!(balancer.panics());
    assert!(counts.values().all(|&count| count > 200), "{counts:?}");
}

#[test]
fn a_low_success_rate_ejects_at_the_end_of_an_interval() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    // Every other call, so never five in a row.
    let fails = |id: &str, ms: u64| id == name(4) && (ms / 10).is_multiple_of(2);
    calls(&balancer, 0, 9_999, fails);
    assert_eq!(*balancer.ejected(), []);
    calls(&balancer, 9_999, 2, fails);
    assert_eq!(*balancer.ejected(), [name(4).into()]);
}

#[test]
fn rates_count_only_with_enough_calls_and_instances() {
    let fails = |id: &str, ms: u64| id == name(1) && (ms / 30).is_multiple_of(2);
    let few_calls = balancer(10, Some(OutlierSettings { rate_calls: 1_001, ..OutlierSettings::default() }));
    calls(&few_calls, 0, 10_001, fails);
    assert_eq!(*few_calls.ejected(), []);
    let few_instances =
        balancer(3, Some(OutlierSettings { failures_in_a_row: 0, ..OutlierSettings::default() }));
    calls(&few_instances, 0, 20_000, fails);
    assert_eq!(*few_instances.ejected(), []);
}

#[test]
fn nobody_is_ejected_if_that_is_off() {
    let balancer = balancer(10, None);
    calls(&balancer, 0, 50_000, first_fails);
    assert_eq!(*balancer.ejected(), []);
}

/// An ejected instance that stays in the set stays ejected; one that leaves and returns does not.
#[test]
fn ejection_goes_along_when_the_set_changes() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    calls(&balancer, 0, 1_000, first_fails);
    balancer.update(at(1_000), instances(12));
    assert_eq!(*balancer.ejected(), [name(0).into()]);
    assert_eq!(calls(&balancer, 1_000, 1_000, first_fails).get(&name(0)), None);
    balancer.update(at(2_000), instances(12).into_iter().skip(1));
    balancer.update(at(2_000), instances(12));
    assert_eq!(*balancer.ejected(), []);
}

/// Whoever keeps time says when it wants to be called, and is: picks then find nothing left to do.
#[test]
fn maintenance_says_when_it_is_due() {
    let balancer = balancer(10, Some(OutlierSettings::default()));
    assert_eq!(balancer.maintain(at(0)), at(10_000), "the first interval");
    calls(&balancer, 0, 100, first_fails);
    balancer.maintain(at(10_000));
    balancer.maintain(at(20_000));
    let due = balancer.maintain(at(25_000));
    assert_eq!(due, at(30_000));
    balancer.maintain(due + Duration::from_millis(100));
    assert_eq!(*balancer.ejected(), []);
}

/// Who wants to keep picks short maintains the balancer elsewhere; then no pick does.
#[test]
fn picks_leave_maintenance_alone_if_told_so() {
    let settings = Settings { picks_maintain: false, ..Settings::with(RoundRobin::seeded(0)) };
    let balancer = Balancer::new(settings, at(0));
    balancer.update(at(0), instances(10));
    assert_eq!(calls(&balancer, 0, 1_000, first_fails)[&name(0)], 100);
    balancer.maintain(at(1_000));
    assert_eq!(*balancer.ejected(), [name(0).into()]);
    assert_eq!(calls(&balancer, 1_000, 1_000, first_fails).get(&name(0)), None);
}
