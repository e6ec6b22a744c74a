//! What a storm proved: every checker over everything that was seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Storm;
use super::timeline::Note;
use crate::check::linear;
use crate::history::{Counts, History};

/// What came of one storm.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where all its chance came from.
    pub seed: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Milliseconds that it really took, judgement and all.
    pub took_ms: u64,
    /// Operations of clients that were checked.
    pub operations: u64,
    /// How they ended.
    pub outcomes: Counts,
    /// Events of the cell that were checked.
    pub events: u64,
    /// Keys that were checked, and those of which the checker could not say whether they are linearizable.
    pub keys: u64,
    /// See `keys`.
    pub undecided: u64,
    /// What must never happen and did.
    pub anomalies: Vec<String>,
    /// Faults that had their effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// A number that is the same if everything happened alike.
    pub fingerprint: u64,
    /// What happened.
    #[serde(skip)]
    pub timeline: Vec<Note>,
    /// What clients asked and were told.
    #[serde(skip)]
    pub history: History,
}

pub(super) fn judge(storm: Storm, began: std::time::Instant) -> Report {
    compare_digests(&storm);
    let history = storm.recorder.history();
    let mut anomalies = storm.watch.anomalies();
    let linear = linear::check(&history, linear::STEPS);
    anomalies.extend(linear.anomalies.iter().cloned());
    Report {
        seed: storm.plan.seed,
        simulated_ms: storm.engine.now_ms(),
        took_ms: millis(began.elapsed()),
        operations: history.counts().total(),
        outcomes: history.counts(),
        events: storm.watch.events(),
        keys: history.by_key().len() as u64,
        undecided: linear.undecided.len() as u64,
        anomalies,
        faults: storm.fired.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect(),
        fingerprint: storm.engine.fingerprint(),
        timeline: storm.timeline.notes(),
        history,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// All replicas have applied the same; so they must hold the same (spec G-9).
fn compare_digests(storm: &Storm) {
    let mut digests: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for replica in &storm.replicas {
        if let Some(cell) = replica.cell() {
            let applied = cell.status().applied_index;
            digests.entry(applied).or_default().push((replica.number, cell.view().digest()));
        }
    }
    for (applied, digests) in digests {
        if digests.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            storm.watch.report(format!(
                "the replicas differ after entry {applied}: digests {digests:x?} (spec G-9)"
            ));
        }
    }
}
