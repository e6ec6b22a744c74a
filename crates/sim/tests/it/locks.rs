//! The judge of locks: right records pass, and each wrong one is refused.

use bramah_sim::check::locks::{Delay, Hold, Sample, check_delays, check_holds, check_queues};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn hold(who: &str, generation: u64, shared: bool, from: u64, until: u64) -> Hold {
    Hold { lock: "/l".into(), who: who.into(), sequencer: (1, generation), shared, from, until }
}

fn only_anomaly(report: &bramah_sim::check::Report) -> &str {
    assert_eq!(report.anomalies.len(), 1, "{report}");
    &report.anomalies[0]
}

/// Spec L-1, L-3.
#[test]
fn one_after_the_other_or_shared_is_well() {
    let holds = [
        hold("a", 1, false, 10, 20),
        hold("b", 2, false, 20, 30),
        hold("c", 3, true, 30, 50),
        hold("d", 3, true, 35, 45),
        hold("e", 4, false, 50, 60),
        Hold { lock: "/other".into(), ..hold("f", 1, false, 10, 60) },
    ];
    let report = check_holds(&holds);
    assert!(report.is_clean() && report.checked == 6, "{report}");
}

#[test]
fn two_at_once_are_refused() {
    let report = check_holds(&[hold("a", 1, false, 10, 21), hold("b", 2, false, 20, 30)]);
    assert!(only_anomaly(&report).starts_with("b (alone, 1.2"), "{report}");
    let report = check_holds(&[hold("a", 1, true, 10, 21), hold("b", 2, false, 20, 30)]);
    assert!(only_anomaly(&report).contains("while a (shared"), "{report}");
    let report = check_holds(&[hold("a", 1, false, 10, 21), hold("b", 2, true, 20, 30)]);
    assert!(only_anomaly(&report).contains("while a (alone"), "{report}");
    let long_ago = [hold("a", 1, false, 0, 100), hold("b", 2, false, 200, 201), hold("c", 3, true, 99, 150)];
    assert!(only_anomaly(&check_holds(&long_ago)).contains("c (shared"));
}

#[test]
fn a_generation_that_comes_twice_is_refused() {
    let report = check_holds(&[hold("a", 1, false, 10, 20), hold("b", 1, false, 20, 30)]);
    assert!(only_anomaly(&report).contains("had one sequencer"), "{report}");
    let report = check_holds(&[hold("a", 1, true, 10, 20), hold("b", 1, false, 20, 30)]);
    assert!(only_anomaly(&report).contains("had one sequencer"), "{report}");
}

/// The judge of overlaps says of any few holds what comparing each with each says.
#[test]
fn agrees_with_comparing_all_pairs() {
    let mut found = [0, 0];
    for seed in 0..20_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let holds: Vec<Hold> = (0..random.random_range(2..6))
            .map(|number| {
                let from = random.random_range(0..20);
                let until = from + random.random_range(1..6);
                hold("x", number, random.random_bool(0.5), from, until)
            })
            .collect();
        let overlap = |one: &Hold, other: &Hold| {
            !(one.shared && other.shared) && one.from < other.until && other.from < one.until
        };
        let wrong =
            holds.iter().enumerate().any(|(at, one)| holds[..at].iter().any(|other| overlap(one, other)));
        assert_eq!(!check_holds(&holds).is_clean(), wrong, "{holds:?}");
        found[usize::from(wrong)] += 1;
    }
    assert!(found.iter().all(|count| *count > 1_000), "both kinds come: {found:?}");
}

fn sample(applied: u64, holders: &[u64], waiters: &[(u64, u64)]) -> Sample {
    Sample {
        replica: 1,
        applied,
        lock: ("/l".into(), 1),
        holders: holders.iter().map(|session| (*session, 1)).collect(),
        waiters: waiters.iter().map(|(session, ticket)| (*session, 1, *ticket)).collect(),
    }
}

/// Spec L-2.
#[test]
fn a_queue_is_served_in_its_order() {
    let before = sample(1, &[1], &[(2, 10), (3, 11), (4, 12)]);
    for after in [
        sample(2, &[2], &[(3, 11), (4, 12)]),
        sample(2, &[4], &[]),
        sample(2, &[2, 3], &[(4, 12), (5, 13)]),
        sample(2, &[1], &[(2, 10), (4, 12)]),
        sample(2, &[], &[(2, 10), (3, 11), (4, 12)]),
        // It gave up and came again.
        sample(2, &[3], &[(4, 12), (2, 14)]),
    ] {
        let report = check_queues(&[before.clone(), after]);
        assert!(report.is_clean(), "{report}");
    }
    for wrong in [sample(2, &[3], &[(2, 10), (4, 12)]), sample(9, &[4, 2], &[(3, 11)])] {
        let report = check_queues(&[before.clone(), wrong.clone()]);
        assert!(only_anomaly(&report).contains("which came first"), "{report}");
        let of_another = Sample { replica: 2, ..wrong.clone() };
        assert!(
            check_queues(&[before.clone(), of_another]).is_clean(),
            "each replica is compared with itself"
        );
        let earlier = Sample { applied: 0, ..wrong };
        assert!(
            check_queues(&[before.clone(), earlier]).is_clean(),
            "it lost its state and comes from behind"
        );
    }
}

/// Spec L-5.
#[test]
fn a_lock_delay_is_waited_for() {
    let delay = |next| Delay { lock: "/l".into(), died: 1_000, next, delay: 100 };
    assert!(check_delays(&[delay(1_100), delay(1_050), delay(5_000)]).is_clean());
    let report = check_delays(&[delay(1_049)]);
    assert!(only_anomaly(&report).contains("in spite of a lock-delay"), "{report}");
    assert!(!check_delays(&[delay(900)]).is_clean());
}
