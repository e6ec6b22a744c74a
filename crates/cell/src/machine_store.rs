//! The state machine as openraft drives it: applies entries, freezes views, writes and installs snapshots.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{Batch, Event, State};
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use tokio::sync::{broadcast, oneshot, watch};

use crate::comparison::Freezer;
use crate::consensus::{ReplicaId, TypeConfig};
use crate::disk::{self, Disk};
use crate::snapshot_store::{SnapshotFile, SnapshotStore};

/// How long a snapshot that found no space waits before it is tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(5);

/// How many entries' events a slow reader may fall behind before it is told that it lagged.
const EVENTS_KEPT: usize = 4_096;

/// The state with the point of the log that it is the state of.
#[derive(Clone)]
pub(crate) struct AppliedState {
    pub(crate) state: State,
    pub(crate) last: Option<LogIdOf<TypeConfig>>,
    pub(crate) membership: StoredMembershipOf<TypeConfig>,
    /// Members that have left for good.
    pub(crate) removed: Arc<BTreeSet<ReplicaId>>,
}

impl AppliedState {
    fn set_membership(&mut self, membership: StoredMembershipOf<TypeConfig>) {
        let stays = |id: &ReplicaId| membership.membership().get_node(id).is_some();
        let before = self.membership.membership().nodes();
        let gone = before.filter(|(id, member)| member.is_leaving() && !stays(id)).map(|(id, _)| *id);
        let gone: Vec<_> = gone.collect();
        if !gone.is_empty() {
            Arc::make_mut(&mut self.removed).extend(gone);
        }
        self.membership = membership;
    }
}

/// Begins what stands behind the state in a snapshot's body once a member was removed: their count and numbers.
const REMOVED_MAGIC: &[u8; 8] = b"bramgone";

/// A damaged count must not make us ask for more memory than this.
const MAX_REMOVED: u32 = 1 << 20;

fn write_removed(removed: &BTreeSet<ReplicaId>, body: &mut impl Write) -> io::Result<()> {
    if removed.is_empty() {
        return Ok(());
    }
    body.write_all(REMOVED_MAGIC)?;
    body.write_all(&(removed.len() as u32).to_le_bytes())?;
    removed.iter().try_for_each(|id| body.write_all(&id.to_le_bytes()))
}

fn read_removed(body: &mut impl Read) -> io::Result<BTreeSet<ReplicaId>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "what follows the state can't be read");
    let (mut magic, mut count, mut id) = ([0; 8], [0; 4], [0; 8]);
    if body.read(&mut magic[..1])? == 0 {
        return Ok(BTreeSet::new());
    }
    body.read_exact(&mut magic[1..])?;
    body.read_exact(&mut count)?;
    let count =
        Some(u32::from_le_bytes(count)).filter(|count| magic == *REMOVED_MAGIC && *count <= MAX_REMOVED);
    let mut removed = BTreeSet::new();
    for _ in 0..count.ok_or_else(wrong)? {
        body.read_exact(&mut id)?;
        removed.insert(ReplicaId::from_le_bytes(id));
    }
    // Also the only way to learn that the file's end is as it should be.
    if body.read(&mut magic)? == 0 { Ok(removed) } else { Err(wrong()) }
}

/// What readers share with the task that applies entries.
pub(crate) struct Machine {
    applied: RwLock<AppliedState>,
    index: watch::Sender<u64>,
    events: broadcast::Sender<Arc<[Event]>>,
    snapshot_bytes: AtomicU64,
    freezer: Freezer,
}

impl Machine {
    fn new(applied: AppliedState) -> Self {
        let index = applied.last.as_ref().map_or(0, |log_id| log_id.index);
        Self {
            applied: RwLock::new(applied),
            index: watch::Sender::new(index),
            events: broadcast::Sender::new(EVENTS_KEPT),
            snapshot_bytes: AtomicU64::new(0),
            freezer: Freezer::default(),
        }
    }

    /// The state right after the entry `index`, once that is applied. The sender is dropped if it is too late for
    /// that, or when another index is asked for.
    pub(crate) fn state_at(&self, index: u64) -> oneshot::Receiver<State> {
        let applied = self.applied.read();
        self.freezer.want(index, applied.last.map_or(0, |log_id| log_id.index), &applied.state)
    }

    /// Makes this replica's state another one than it should be.
    #[cfg(feature = "simulation")]
    pub(crate) fn alter(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.applied.write().state);
    }

    /// Looks at the state. `look` must be short: nothing is applied meanwhile. For more take a `view`.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.applied.read().state)
    }

    /// The state as it is now, frozen; costs a few pointer copies.
    pub(crate) fn view(&self) -> AppliedState {
        self.applied.read().clone()
    }

    /// Follows the index of the last applied entry.
    pub(crate) fn applied_index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// The events of every entry that is applied from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Arc<[Event]>> {
        self.events.subscribe()
    }

    /// Length of the newest snapshot.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes.load(Ordering::Relaxed)
    }

    fn change<R>(&self, log_id: LogIdOf<TypeConfig>, change: impl FnOnce(&mut AppliedState) -> R) -> R {
        let mut applied = self.applied.write();
        let result = change(&mut applied);
        applied.last = Some(log_id);
        self.freezer.applied(log_id.index, &applied.state);
        result
    }

    fn install(&self, applied: AppliedState) {
        let index = applied.last.as_ref().map_or(0, |log_id| log_id.index);
        {
            let mut installed = self.applied.write();
            *installed = applied;
            self.freezer.applied(index, &installed.state);
        }
        self.index.send_replace(index);
    }
}

/// The half that openraft owns.
pub(crate) struct MachineStore {
    machine: Arc<Machine>,
    disk: Arc<dyn Disk>,
    snapshots: SnapshotStore,
}

impl MachineStore {
    /// Begins with the newest snapshot on disk, or with an empty state.
    pub(crate) fn open(disk: Arc<dyn Disk>, snapshots: SnapshotStore) -> Result<Self, io::Error> {
        let applied = match snapshots.newest() {
            Some(file) => load(&file)?,
            None => AppliedState {
                state: State::default(),
                last: None,
                membership: StoredMembershipOf::<TypeConfig>::default(),
                removed: Arc::default(),
            },
        };
        let machine = Machine::new(applied);
        machine.snapshot_bytes.store(snapshots.newest().map_or(0, |file| file.length()), Ordering::Relaxed);
        Ok(Self { machine: Arc::new(machine), disk, snapshots })
    }

    /// See [`Bug::EventBeforeChange`].
    async fn tell_early(&self, entry: &EntryOf<TypeConfig>) {
        if let EntryPayload::Normal(batch) = &entry.payload
            && let Ok(batch) = Batch::decode(&batch.0)
        {
            let mut events = Vec::new();
            self.machine.view().state.apply_decoded(batch, entry.log_id.leader_id.term, &mut events);
            let _ = self.machine.events.send(events.into());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The half that readers share.
    pub(crate) fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// See [`Bug::SkippedEntry`]. Replicas differ in when their snapshots are written.
    fn skips(&self, index: u64) -> bool {
        planted::is(Bug::SkippedEntry) && (index ^ self.machine.snapshot_bytes()).is_multiple_of(61)
    }

    fn apply_one(&self, (entry, responder): EntryResponder<TypeConfig>) -> io::Result<()> {
        let log_id = entry.log_id;
        let term = log_id.committed_leader_id().term;
        let mut events = Vec::new();
        let outcomes = match entry.payload {
            EntryPayload::Blank => self.machine.change(log_id, |_| Vec::new()),
            EntryPayload::Normal(batch) => {
                let batch = Batch::decode(&batch.0).map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {log_id}: {error}"))
                })?;
                self.machine.change(log_id, |applied| match self.skips(log_id.index) {
                    true => applied.state.clone().apply_decoded(batch, term, &mut Vec::new()),
                    false => applied.state.apply_decoded(batch, term, &mut events),
                })
            }
            EntryPayload::Membership(membership) => self.machine.change(log_id, |applied| {
                applied.set_membership(StoredMembershipOf::<TypeConfig>::new(Some(log_id), membership));
                Vec::new()
            }),
        };
        // After the state shows the change (spec E-2).
        let dropped = planted::is(Bug::EventDropped) && log_id.index.is_multiple_of(61);
        if !events.is_empty() && !dropped && self.machine.events.receiver_count() > 0 {
            let _ = self.machine.events.send(events.into());
        }
        if let Some(responder) = responder {
            responder.send(outcomes);
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotWriter;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        let applied = self.machine.applied.read();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let index = entry.0.log_id.index;
            if planted::is(Bug::EventBeforeChange) {
                self.tell_early(&entry.0).await;
            }
            self.apply_one(entry)?;
            self.machine.index.send_replace(index);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotWriter {
        SnapshotWriter {
            view: self.machine.view(),
            machine: Arc::clone(&self.machine),
            disk: Arc::clone(&self.disk),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let meta = meta.clone();
        let (applied, length) = disk::run(&self.disk, move || {
            let applied = load(&snapshot)?;
            if applied.last != meta.last_log_id {
                let message = format!("snapshot {:?} is not the one announced", snapshot.meta().last_log_id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            snapshots.adopt(&snapshot)?;
            Ok((applied, snapshot.length()))
        })
        .await?;
        self.machine.install(applied);
        self.machine.snapshot_bytes.store(length, Ordering::Relaxed);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        Ok(self
            .snapshots
            .newest()
            .map(|file| SnapshotOf::<TypeConfig, SnapshotFile> { meta: file.meta().clone(), snapshot: file }))
    }
}

/// Writes a frozen view to a snapshot file while new entries are applied (spec G-5).
pub(crate) struct SnapshotWriter {
    view: AppliedState,
    machine: Arc<Machine>,
    disk: Arc<dyn Disk>,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotWriter {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let file = loop {
            match self.write().await {
                // The engine would stop at an error; the log goes on without a snapshot until there is space.
                Err(error) if disk::is_no_space(&error) => {
                    tracing::warn!(%error, "no space for a snapshot; trying again in {NO_SPACE_PAUSE:?}");
                    tokio::time::sleep(NO_SPACE_PAUSE).await;
                }
                written => break written?,
            }
        };
        self.machine.snapshot_bytes.store(file.length(), Ordering::Relaxed);
        Ok(SnapshotOf::<TypeConfig, SnapshotFile> { meta: file.meta().clone(), snapshot: file })
    }
}

impl SnapshotWriter {
    async fn write(&self) -> io::Result<SnapshotFile> {
        let (snapshots, view) = (self.snapshots.clone(), self.view.clone());
        let meta =
            SnapshotMetaOf::<TypeConfig> { last_log_id: view.last, last_membership: view.membership.clone() };
        let fill = move || {
            snapshots.write(meta, |mut body| {
                view.state.write_snapshot(&mut body)?;
                write_removed(&view.removed, &mut body)
            })
        };
        disk::run(&self.disk, fill).await
    }
}

fn load(file: &SnapshotFile) -> io::Result<AppliedState> {
    let damaged = |error: &dyn std::fmt::Display| {
        let message = format!("snapshot {}: {error}", file.path().display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let mut body = file.body()?;
    let state = State::read_snapshot(&mut body).map_err(|error| damaged(&error))?;
    let removed = Arc::new(read_removed(&mut body).map_err(|error| damaged(&error))?);
    let membership = file.meta().last_membership.clone();
    Ok(AppliedState { state, last: file.meta().last_log_id, membership, removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec G-7: a snapshot remembers who was removed; one of a cell that has removed nobody looks as it always did.
    #[test]
    fn removed_members_stand_behind_the_state() {
        let mut bytes = Vec::new();
        write_removed(&BTreeSet::new(), &mut bytes).expect("a Vec takes all");
        assert!(bytes.is_empty());
        assert_eq!(read_removed(&mut &*bytes).expect("nothing follows"), BTreeSet::new());
        let removed = BTreeSet::from([2, 9]);
        write_removed(&removed, &mut bytes).expect("a Vec takes all");
        assert_eq!(read_removed(&mut &*bytes).expect("it is whole"), removed);
        assert!(read_removed(&mut &bytes[..bytes.len() - 1]).is_err());
        bytes[0] ^= 1;
        assert!(read_removed(&mut &*bytes).is_err());
    }
}
