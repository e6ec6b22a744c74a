//! Digests: replicas that have applied the same commands have the same state (spec G-9).

use std::collections::BTreeMap;

use super::Report;

/// A replica's state at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The replica's id.
    pub replica: u64,
    /// The index of the last log entry that it has applied.
    pub applied: u64,
    /// The digest of its state.
    pub digest: u64,
}

/// Judges all digests of one cell, in any sequence, also those of replicas that were started again and applied entries anew.
/// What counts as checked is a digest that could be compared with one of *another* replica.
pub fn check(records: &[Record]) -> Report {
    let mut report = Report::new("equal digests at equal indexes");
    // By index, then by digest: which replicas have it.
    let mut indexes: BTreeMap<u64, BTreeMap<u64, Vec<u64>>> = BTreeMap::new();
    for record in records {
        indexes.entry(record.applied).or_default().entry(record.digest).or_default().push(record.replica);
    }
    for (applied, digests) in indexes {
        report.checked += compared(&digests);
        if digests.len() > 1 {
            report.anomaly(|| format!("after entry {applied} replicas differ: {}", who_has_what(&digests)));
        }
    }
    report
}

fn compared(digests: &BTreeMap<u64, Vec<u64>>) -> u64 {
    let mut replicas = digests.values().flatten();
    let first = replicas.next();
    if replicas.all(|other| Some(other) == first) {
        return 0;
    }
    digests.values().map(|replicas| replicas.len() as u64).sum()
}

fn who_has_what(digests: &BTreeMap<u64, Vec<u64>>) -> String {
    let one = |(digest, replicas): (&u64, &Vec<u64>)| {
        let mut replicas = replicas.clone();
        replicas.sort_unstable();
        replicas.dedup();
        format!("{replicas:?} have {digest:016x}")
    };
    digests.iter().map(one).collect::<Vec<_>>().join(", ")
}
