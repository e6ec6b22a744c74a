//! What is looked at while the storm goes on: events in order and never early, one leader a term.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramah_cell::{Cell, ReplicaId};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;

use super::timeline::{Kind, Timeline};

/// Sees what every replica shows of itself; clones share what they saw.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    leaders: BTreeMap<u64, ReplicaId>,
    events: u64,
    anomalies: Vec<String>,
    timeline: Timeline,
}

impl Watch {
    pub(super) fn new(timeline: Timeline) -> Self {
        Self(Arc::new(Mutex::new(Seen { timeline, ..Seen::default() })))
    }

    /// What was wrong.
    pub(super) fn anomalies(&self) -> Vec<String> {
        self.0.lock().anomalies.clone()
    }

    /// Events that were looked at.
    pub(super) fn events(&self) -> u64 {
        self.0.lock().events
    }

    /// Says that something is wrong.
    pub(super) fn report(&self, anomaly: String) {
        let mut seen = self.0.lock();
        seen.timeline.note(None, Kind::Anomaly, &anomaly);
        seen.anomalies.push(anomaly);
    }

    /// Follows one process of a replica until it dies.
    pub(super) async fn follow(self, replica: ReplicaId, cell: Cell) {
        let mut leadership = cell.leadership();
        let mut events = cell.events();
        let mut last = cell.read(bramah_machine::State::revision);
        loop {
            tokio::select! {
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = leadership.borrow_and_update().clone();
                    if now.here {
                        self.leads(replica, now.term);
                    }
                }
                batch = events.recv() => match batch {
                    Ok(batch) => last = self.events_of(replica, &cell, &batch, last),
                    // A receiver that fell behind says so, and looks again from here.
                    Err(RecvError::Lagged(_)) => last = cell.read(bramah_machine::State::revision),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn leads(&self, replica: ReplicaId, term: u64) {
        let mut seen = self.0.lock();
        seen.timeline.note(Some(replica), Kind::Leads, &format!("leads in term {term}"));
        let first = *seen.leaders.entry(term).or_insert(replica);
        drop(seen);
        if first != replica {
            self.report(format!("replicas {first} and {replica} both led in term {term} (Raft, election safety)"));
        }
    }

    /// Checks a batch of events (spec E-2); the revision that the next one must not fall behind.
    fn events_of(
        &self,
        replica: ReplicaId,
        cell: &Cell,
        batch: &[bramah_machine::Event],
        last: u64,
    ) -> u64 {
        let state = cell.read(bramah_machine::State::revision);
        let mut newest = last;
        for event in batch {
            if event.revision > state {
                self.report(format!(
                    "replica {replica} told of revision {} while its state was at {state} (spec E-2)",
                    event.revision
                ));
            }
            if event.revision < newest {
                self.report(format!("replica {replica} told of revision {} after {newest}", event.revision));
            }
            newest = newest.max(event.revision);
        }
        self.0.lock().events += batch.len() as u64;
        newest
    }
}
