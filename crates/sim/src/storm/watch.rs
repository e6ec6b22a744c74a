//! What is looked at while the storm goes on, besides what clients are told: leaders, events, sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bramah_cell::{Cell, ReplicaId};
use bramah_machine::State;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;

use super::timeline::{Kind, Timeline};
use super::told;
use crate::check::{events, sessions};
use crate::engine;
use crate::history::History;

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
    /// Their clients are about to end them.
    closing: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    /// The last watcher of each replica, and the snapshot that it knew.
    newest: BTreeMap<ReplicaId, (usize, u64)>,
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
    pub(super) fn judge(&self, history: &History, rules: sessions::Rules) -> [crate::check::Report; 2] {
        let seen = self.0.lock();
        let changes = events::all_changes(&seen.changes, history, &seen.watchers);
        [events::check(&changes, &seen.watchers), sessions::check(&seen.sessions, rules)]
    }

    /// This replica has told all that its state shows now.
    pub(super) fn ends(&self, replica: ReplicaId, cell: &Cell) {
        let (revision, snapshot) = (cell.read(State::revision), cell.status().snapshot_index);
        let mut seen = self.0.lock();
        // With another snapshot, entries and their events may have been left out.
        if let Some((watcher, _)) = seen.newest.get(&replica).copied().filter(|(_, known)| *known == snapshot)
        {
            seen.watchers[watcher].until = Some(revision);
        }
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
        // That it is gone from now on has a cause, and isn't the end of a lease.
        self.0.lock().closing.insert(session);
    }

    /// Sessions that their clients have ended, or are about to.
    pub(super) fn closing(&self) -> BTreeSet<u64> {
        self.0.lock().closing.clone()
    }

    /// Follows what a client's watch on everything tells, until that ends: over all its connections and whatever happens
    /// to the replicas (spec E-3). Where it says that something is missing it is judged anew.
    pub(super) async fn follow_client(self, name: String, client: bramah_client::Client) {
        use bramah_client::{EventKind as K, WatchEvent};
        let of_nodes = [K::Created, K::ContentsModified, K::CounterChanged, K::Deleted, K::AclChanged];
        let of_locks = [K::LockAcquired, K::LockWanted, K::LockReleased, K::LockLost];
        let request = client.watch("/").subtree().kinds(of_nodes.into_iter().chain(of_locks));
        let Ok(mut watch) = request.await else { return };
        let mut watcher = self.begin_client(&name, watch.begun_at());
        loop {
            match watch.next().await {
                Ok(WatchEvent::Happened(event)) => {
                    let told = events::Seen { change: told::by_client(&event), state_revision: None };
                    self.0.lock().watchers[watcher].seen.push(told);
                }
                Ok(WatchEvent::Gap { resume }) => watcher = self.begin_client(&name, resume),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    fn begin_client(&self, name: &str, after: u64) -> usize {
        let name = format!("{name} from revision {after} on");
        let under = "/".into();
        let mut seen = self.0.lock();
        seen.watchers.push(events::Watcher {
            name,
            under,
            after: Some(after),
            until: None,
            seen: Vec::new(),
        });
        seen.watchers.len() - 1
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
        let new =
            events::Watcher { name, under: "/".into(), after: Some(newest), until: None, seen: Vec::new() };
        seen.watchers.push(new);
        let watcher = seen.watchers.len() - 1;
        let snapshot = cell.status().snapshot_index;
        seen.newest.insert(replica, (watcher, snapshot));
        drop(seen);
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
        seen.newest.insert(following.replica, (following.watcher, snapshot));
        for event in batch {
            following.newest = following.newest.max(event.revision);
            let change = told::by_replica(event);
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
                let closed = seen.closing.contains(&session);
                let event = if closed { sessions::Event::Closed } else { sessions::Event::Expired };
                seen.sessions.push(sessions::Record { session, at: engine::now_ns(), event });
            }
        }
        following.sessions = now;
    }
}
