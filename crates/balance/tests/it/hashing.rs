//! Consistent hashing: who moves, and how full anyone gets.

use std::sync::Arc;

use bramah_balance::{Ask, Chance, Instance, Maglev, Outcome, Policy, Ring, Set, Time};

use crate::instances;

const KEYS: u64 = 50_000;

/// Where all keys go, by name, when nothing is in flight.
fn owners(policy: &impl Policy, set: &Arc<Set>) -> Vec<String> {
    let policy = policy.over(set);
    let owner = |key| {
        let place = policy.pick(&Ask { key: Some(key), ..Ask::default() }).unwrap();
        set[place].end(Time::ZERO, Time::ZERO, Outcome::Success);
        set[place].id().to_owned()
    };
    (0..KEYS).map(owner).collect()
}

/// What part of the keys has another owner, of those that did not have to move.
fn moved(before: &[String], after: &[String], gone_or_come: &str) -> (f64, f64) {
    let changed = before.iter().zip(after).filter(|(before, after)| before != after);
    let (forced, others): (Vec<_>, Vec<_>) =
        changed.partition(|(before, after)| *before == gone_or_come || *after == gone_or_come);
    (forced.len() as f64 / KEYS as f64, others.len() as f64 / KEYS as f64)
}

/// Spec P-6: when one of n comes or goes, its share moves; on a ring nothing else, in a table little.
fn moves_little(policy: &impl Policy, share_error: f64, others_at_most: f64) {
    for count in [10, 100] {
        let all = Set::new(instances(count));
        for gone in [0, count / 2, count - 1] {
            let mut rest = instances(count);
            let gone = rest.remove(gone).id;
            let (with, without) = (owners(policy, &all), owners(policy, &Set::new(rest)));
            for (forced, others) in [moved(&with, &without, &gone), moved(&without, &with, &gone)] {
                let share = 1.0 / count as f64;
                assert!(forced < share * (1.0 + share_error), "{forced} of {count}");
                assert!(others <= others_at_most, "{others} of {count} moved without need");
            }
        }
    }
}

#[test]
fn on_a_ring_only_the_share_of_one_moves() {
    moves_little(&Ring::seeded(1), 0.35, 0.0);
    moves_little(&Ring::seeded(1).with_points(1_000), 0.12, 0.0);
}

#[test]
fn in_a_table_hardly_more_than_the_share_of_one_moves() {
    moves_little(&Maglev::seeded(1), 0.12, 0.02);
}

/// Callers have other seeds, and other orders of the instances; keys go to the same.
#[test]
fn all_callers_agree() {
    let forwards = Set::new(instances(20));
    let backwards = Set::new(instances(20).into_iter().rev());
    assert_eq!(owners(&Maglev::seeded(1), &forwards), owners(&Maglev::seeded(2), &backwards));
    assert_eq!(owners(&Ring::seeded(1), &forwards), owners(&Ring::seeded(2), &backwards));
}

/// Spec P-6: half of all calls are for one key, and yet nobody has more than (1+ε) of the mean, at any moment.
fn keeps_its_bound(policy: &impl Policy, excess: f64, weights: impl Fn(usize) -> u32) {
    let set = Set::new(
        instances(20).into_iter().enumerate().map(|(i, one)| Instance { weight: weights(i), ..one }),
    );
    let policy = policy.over(&set);
    let chance = Chance::seeded(8);
    let (mut begun, mut at_home) = (Vec::new(), 0);
    for step in 0..20_000 {
        if begun.is_empty() || chance.below(100) < 53 {
            let key = if chance.below(2) == 0 { 0 } else { chance.below(1_000) };
            let place = policy.pick(&Ask { key: Some(key), ..Ask::default() }).unwrap();
            begun.push(place);
            at_home += u32::from(key != 0);
            let mean = begun.len() as f64 * f64::from(set.weight(place)) / set.total_weight() as f64;
            let most = ((1.0 + excess) * mean - 1e-9).ceil();
            assert!(f64::from(set[place].in_flight()) <= most, "step {step}: {place} of mean {mean}");
        } else {
            let place = begun.swap_remove(chance.below(begun.len() as u64) as usize);
            set[place].end(Time::ZERO, Time::ZERO, Outcome::Success);
        }
    }
    assert!(at_home > 0);
}

#[test]
fn nobody_is_above_the_bound() {
    for excess in [0.0, 0.1, 0.25, 1.0] {
        keeps_its_bound(&Maglev::seeded(1).bounded(excess), excess, |_| 1);
        keeps_its_bound(&Ring::seeded(1).bounded(excess), excess, |_| 1);
        keeps_its_bound(&Ring::seeded(1).bounded(excess), excess, |i| 1 + i as u32 % 5);
        keeps_its_bound(&Maglev::seeded(1).bounded(excess), excess, |i| 1 + i as u32 % 5);
    }
}

/// Spec P-6: threads that begin calls at once don't overfill anybody together.
#[test]
fn threads_keep_the_bound_together() {
    let set = Set::new(instances(10));
    let policy = Maglev::seeded(1).bounded(0.25).over(&set);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let pick = || policy.pick(&Ask { key: Some(0), ..Ask::default() });
            scope.spawn(move || (0..5_000).for_each(|_| assert!(pick().is_some())));
        }
    });
    let counts: Vec<u32> = set.members().iter().map(|member| member.in_flight()).collect();
    assert_eq!(counts.iter().sum::<u32>(), 20_000);
    assert!(counts.iter().all(|&count| count <= 2_500), "{counts:?}");
}

/// With room to spare, most keys stay where they belong.
#[test]
fn a_bound_moves_few_keys_if_load_is_even() {
    let set = Set::new(instances(20));
    let plain = owners(&Maglev::seeded(1), &set);
    let policy = Maglev::seeded(1).bounded(0.25).over(&set);
    let mut begun = std::collections::VecDeque::new();
    let mut elsewhere = 0;
    for key in 0..KEYS {
        let place = policy.pick(&Ask { key: Some(key), ..Ask::default() }).unwrap();
        elsewhere += u64::from(set[place].id() != plain[key as usize]);
        begun.push_back(place);
        if begun.len() == 1_000 {
            set[begun.pop_front().unwrap()].end(Time::ZERO, Time::ZERO, Outcome::Success);
        }
    }
    assert!(elsewhere < KEYS / 20, "{elsewhere} of {KEYS}");
}

#[test]
fn a_call_without_a_key_goes_anywhere() {
    let set = Set::new(instances(10));
    for policy in [Maglev::seeded(1).over(&set), Ring::seeded(1).over(&set)] {
        let mut counts = [0; 10];
        (0..1_000).for_each(|_| counts[policy.pick(&Ask::default()).unwrap()] += 1);
        assert!(counts.iter().all(|&count| count > 30), "{counts:?}");
    }
}

/// A second try goes to the next in the key's order, the same for all callers.
#[test]
fn what_is_to_be_avoided_is_passed_over() {
    let set = Set::new(instances(10));
    let policies = [Maglev::seeded(1).over(&set), Maglev::seeded(2).over(&set)];
    for key in 0..100 {
        let ask = Ask { key: Some(key), ..Ask::default() };
        let first = policies[0].pick(&ask).unwrap();
        let avoid = [set[first].id()];
        let ask = Ask { avoid: &avoid, ..ask };
        let second = policies[0].pick(&ask).unwrap();
        assert_ne!(first, second);
        assert_eq!(policies[1].pick(&ask), Some(second));
    }
}

/// All but one are avoided, and then all: the first is picked, and the last resort is one that was to be avoided.
#[test]
fn avoiding_everybody_avoids_nobody() {
    let set = Set::new(instances(10));
    let names: Vec<String> = set.members().iter().map(|member| member.id().to_owned()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let policy = Ring::seeded(1).bounded(0.25).over(&set);
    let ask = |avoid| Ask { key: Some(5), avoid, ..Ask::default() };
    assert_eq!(policy.pick(&ask(&names[1..])), Some(0));
    assert!(policy.pick(&ask(&names)).is_some());
}
