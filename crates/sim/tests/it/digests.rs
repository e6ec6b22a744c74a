//! Digests: replicas that differ are named.

use bramah_sim::check::digests::{Record, check};

fn records(digests: &[(u64, u64, u64)]) -> Vec<Record> {
    let record = |(replica, applied, digest): &(u64, u64, u64)| Record {
        replica: *replica,
        applied: *applied,
        digest: *digest,
    };
    digests.iter().map(record).collect()
}

/// Spec G-9.
#[test]
fn replicas_that_agree() {
    let report = check(&records(&[(1, 10, 5), (2, 10, 5), (3, 20, 6), (1, 20, 6), (2, 30, 7), (2, 30, 7)]));
    assert!(report.is_clean());
    assert_eq!(report.checked, 4, "30 was seen at one replica only");
}

/// Spec G-9.
#[test]
fn replicas_that_differ() {
    let report = check(&records(&[(3, 10, 5), (2, 10, 6), (1, 10, 5), (1, 20, 9), (2, 20, 9)]));
    assert_eq!(
        report.anomalies,
        ["after entry 10 replicas differ: [1, 3] have 0000000000000005, [2] have 0000000000000006"]
    );
}

/// A replica that applies the same entries again, after a start, must come to the same state.
#[test]
fn a_replica_that_differs_from_itself() {
    let report = check(&records(&[(1, 10, 5), (1, 10, 6)]));
    assert_eq!(report.anomalies.len(), 1);
}

#[test]
fn what_is_too_much_is_counted() {
    let records: Vec<_> = (0..100).flat_map(|index| records(&[(1, index, 1), (2, index, 2)])).collect();
    let report = check(&records);
    assert_eq!((report.anomalies.len(), report.undescribed), (32, 68));
    assert!(report.to_string().starts_with("equal digests at equal indexes: 200 checked, 100 anomalies"));
}
