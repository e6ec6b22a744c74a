//! What is looked at while the storm goes on, besides what clients are told: leaders, events, sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bramah_cell::{Cell, ReplicaId};
use bramah_machine::State;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;

use super::timeline::{Kind, Timeline};
use crate::check::{events, sessions};
use crate::engine;

/// How often the sessions of a replica are looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// Sees what every replica and every application shows of itself; clones share what they saw.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    changes: BTreeMap<u64, Vec<events::Change>>,
    watchers: Vec<events::Watcher>,
    sessions: Vec<sessions::Record>,
    ended: BTreeSet<u64>,
    anomalies: Vec<String>,
    timeline: Timeline,
}

/// What a process of a replica has shown so far.
struct Following {
    replica: ReplicaId,
    cell: Cell,
    watcher: usize,
    newest: u64,
    snapshot: u64,
    sessions: BTreeSet<u64>,
}

impl Watch {
    pub(super) fn new(timeline: Timeline) -> Self {
        Self(Arc::new(Mutex::new(Seen { timeline, ..Seen::default() })))
    }

    /// What was wrong.
    pub(super) fn anomalies(&self) -> Vec<String> {
        self.0.lock().anomalies.clone()
    }

    /// Judges the events and the sessions that were seen until now.
    pub(super) fn judge(&self, rules: sessions::Rules) -> [crate::check::Report; 2] {
        let seen = self.0.lock();
        let changes: Vec<events::Change> = seen.changes.values().flatten().cloned().collect();
        [events::check(&changes, &seen.watchers), sessions::check(&seen.sessions, rules)]
    }

    /// Says that something is wrong.
    pub(super) fn report(&self, anomaly: String) {
        let mut seen = self.0.lock();
        seen.timeline.note(None, Kind::Anomaly, &anomaly);
        seen.anomalies.push(anomaly);
    }

    /// A client relies on its session for so much longer.
    pub(super) fn promised(&self, session: u64, lease_left: Duration) {
        let at = engine::now_ns();
        let until = at + lease_left.as_nanos() as u64;
        let event = sessions::Event::Granted { until };
        self.0.lock().sessions.push(sessions::Record { session, at, event });
    }

    /// A client is about to end its session.
    pub(super) fn closes(&self, session: u64) {
        let record = sessions::Record { session, at: engine::now_ns(), event: sessions::Event::Closed };
        let mut seen = self.0.lock();
        // That it is gone from now on has a cause, and isn't the end of a lease.
        seen.ended.insert(session);
        seen.sessions.push(record);
    }

    /// Follows one process of a replica until it dies.
    pub(super) async fn follow(self, replica: ReplicaId, cell: Cell) {
        let mut leadership = cell.leadership();
        let mut events = cell.events();
        let mut tick = tokio::time::interval(INTERVAL);
        let mut following = self.begin(replica, cell);
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
                    Ok(batch) => self.events_of(&mut following, &batch),
                    // It fell behind and is told so: it begins anew.
                    Err(RecvError::Lagged(_)) => following = self.begin(replica, following.cell),
                    Err(RecvError::Closed) => return,
                },
                _ = tick.tick() => self.sessions_of(&mut following),
            }
        }
    }

    fn begin(&self, replica: ReplicaId, cell: Cell) -> Following {
        let newest = cell.read(State::revision);
        let mut seen = self.0.lock();
        let name = format!("replica {replica} from revision {newest} on");
        seen.watchers.push(events::Watcher { name, under: "/".into(), seen: Vec::new() });
        let watcher = seen.watchers.len() - 1;
        drop(seen);
        let snapshot = cell.status().snapshot_index;
        Following { replica, cell, watcher, newest, snapshot, sessions: BTreeSet::new() }
    }

    fn leads(&self, replica: ReplicaId, term: u64) {
        let seen = self.0.lock();
        seen.timeline.note(Some(replica), Kind::Leads, &format!("leads in term {term}"));
    }

    fn events_of(&self, following: &mut Following, batch: &[bramah_machine::Event]) {
        let state_revision = following.cell.read(State::revision);
        let gap = batch.first().is_some_and(|event| event.revision > following.newest + 1);
        let snapshot = following.cell.status().snapshot_index;
        if gap && snapshot != following.snapshot {
            // A snapshot took the place of entries, and of their events.
            let again = self.begin(following.replica, following.cell.clone());
            *following = Following { sessions: std::mem::take(&mut following.sessions), ..again };
        }
        following.snapshot = snapshot;
        let mut seen = self.0.lock();
        for event in batch {
            following.newest = following.newest.max(event.revision);
            let change = events::Change {
                revision: event.revision,
                path: event.path.as_str().into(),
                what: format!("{:?}", event.change),
            };
            let known = seen.changes.entry(event.revision).or_default();
            if !known.contains(&change) {
                known.push(change.clone());
            }
            let told = events::Seen { change, state_revision: Some(state_revision) };
            seen.watchers[following.watcher].seen.push(told);
        }
    }

    /// Notes sessions that were there and are not.
    fn sessions_of(&self, following: &mut Following) {
        let now: BTreeSet<u64> = following.cell.read(|state| state.sessions().map(|(id, _)| id.0).collect());
        let gone: Vec<u64> = following.sessions.difference(&now).copied().collect();
        let mut seen = self.0.lock();
        for session in gone {
            // Whoever is first sees it best; another replica may learn of it much later.
            if seen.ended.insert(session) {
                let at = engine::now_ns();
                seen.sessions.push(sessions::Record { session, at, event: sessions::Event::Expired });
            }
        }
        following.sessions = now;
    }
}
