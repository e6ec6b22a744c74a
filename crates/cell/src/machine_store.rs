//! The state machine as openraft drives it: applies entries, freezes views, writes and installs snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{Batch, Change, Event, State};
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use crate::comparison::Freezer;
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::disk::{self, Disk};
use crate::hub::{Bounds, Hub};
use crate::snapshot_store::{SnapshotFile, SnapshotStore};

/// How long a snapshot that found no space waits before it is tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(5);

/// The state with the point of the log that it is the state of.
#[derive(Clone)]
pub(crate) struct AppliedState {
    pub(crate) state: State,
    pub(crate) last: Option<LogIdOf<TypeConfig>>,
    pub(crate) membership: StoredMembershipOf<TypeConfig>,
    /// Members that have left for good.
    pub(crate) removed: Arc<Removed>,
    /// Members that were taken out with their addresses: a leader was about to begin them anew.
    pub(crate) away: Arc<Away>,
}

impl AppliedState {
    fn set_membership(&mut self, membership: StoredMembershipOf<TypeConfig>) {
        let stays = |id: &ReplicaId| membership.membership().get_node(id).is_some();
        let mut away = (*self.away).clone();
        for (id, member) in self.membership.membership().nodes().filter(|(id, _)| !stays(id)) {
            match member.is_leaving() {
                true => drop(Arc::make_mut(&mut self.removed).insert(*id)),
                false => drop(away.insert(*id, member.clone())),
            }
        }
        away.retain(|id, _| !stays(id));
        self.away = Arc::new(away);
        self.membership = membership;
    }
}

/// Begins what stands behind the state in a snapshot's body once a member was removed: their count and numbers.
const REMOVED_MAGIC: &[u8; 8] = b"bramgone";

/// Begins what stands behind that while members are being begun anew: a length, and their numbers and addresses.
const AWAY_MAGIC: &[u8; 8] = b"bramaway";

/// A damaged count must not make us ask for more memory than this.
const MAX_REMOVED: u32 = 1 << 20;

/// Nor a damaged length.
const MAX_AWAY_BYTES: u32 = 1 << 16;

type Removed = BTreeSet<ReplicaId>;
type Away = BTreeMap<ReplicaId, Member>;

fn write_gone(removed: &Removed, away: &Away, body: &mut impl Write) -> io::Result<()> {
    if !removed.is_empty() {
        body.write_all(REMOVED_MAGIC)?;
        body.write_all(&(removed.len() as u32).to_le_bytes())?;
        removed.iter().try_for_each(|id| body.write_all(&id.to_le_bytes()))?;
    }
    if !away.is_empty() {
        let away = postcard::to_stdvec(away).map_err(io::Error::other)?;
        body.write_all(AWAY_MAGIC)?;
        body.write_all(&(away.len() as u32).to_le_bytes())?;
        body.write_all(&away)?;
    }
    Ok(())
}

/// Reads to the end: also the only way to learn that the file's end is as it should be.
fn read_gone(body: &mut impl Read) -> io::Result<(Removed, Away)> {
    let (mut removed, mut away, mut magic) = (Removed::new(), Away::new(), [0; 8]);
    while body.read(&mut magic[..1])? != 0 {
        body.read_exact(&mut magic[1..])?;
        match &magic {
            REMOVED_MAGIC if removed.is_empty() && away.is_empty() => removed = read_removed(body)?,
            AWAY_MAGIC if away.is_empty() => away = read_away(body)?,
            _ => return Err(unreadable()),
        }
    }
    Ok((removed, away))
}

fn read_removed(body: &mut impl Read) -> io::Result<Removed> {
    let (mut removed, mut id) = (Removed::new(), [0; 8]);
    for _ in 0..read_u32(body, MAX_REMOVED)? {
        body.read_exact(&mut id)?;
        removed.insert(ReplicaId::from_le_bytes(id));
    }
    Ok(removed)
}

fn read_away(body: &mut impl Read) -> io::Result<Away> {
    let mut bytes = vec![0; read_u32(body, MAX_AWAY_BYTES)? as usize];
    body.read_exact(&mut bytes)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((away, [])) => Ok(away),
        _ => Err(unreadable()),
    }
}

fn read_u32(body: &mut impl Read, most: u32) -> io::Result<u32> {
    let mut number = [0; 4];
    body.read_exact(&mut number)?;
    Some(u32::from_le_bytes(number)).filter(|number| *number <= most).ok_or_else(unreadable)
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what follows the state can't be read")
}

/// What readers share with the task that applies entries.
pub(crate) struct Machine {
    applied: RwLock<AppliedState>,
    index: watch::Sender<u64>,
    hub: Arc<Hub>,
    /// Follows `index`, once the answers are on their way.
    told: watch::Sender<u64>,
    /// How often ACLs changed.
    acls: watch::Sender<u64>,
    snapshot_bytes: AtomicU64,
    freezer: Freezer,
}

impl Machine {
    fn new(applied: AppliedState, events: Bounds) -> Self {
        let hub = Hub::new(events, applied.state.revision());
        let index = applied.last.as_ref().map_or(0, |log_id| log_id.index);
        Self {
            applied: RwLock::new(applied),
            index: watch::Sender::new(index),
            hub,
            told: watch::Sender::new(index),
            acls: watch::Sender::new(0),
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

    /// Follows the index of the last applied entry whose callers have their answers: events are handed out after those.
    /// Many may watch what one writes, and who writes would wait for all of them.
    pub(crate) fn answered_index(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Follows changes of ACLs: of what nodes say, and of who is in one.
    pub(crate) fn acl_changes(&self) -> watch::Receiver<u64> {
        self.acls.subscribe()
    }

    /// What was applied last, and who follows it.
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
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
            self.hub.begin_anew(installed.state.revision());
        }
        self.acls.send_modify(|changes| *changes += 1);
        self.index.send_replace(index);
        self.told.send_replace(index);
    }
}

/// Nearly all events are of nodes elsewhere, which the first bytes of their names show.
fn changes_acls(event: &Event) -> bool {
    (event.path.as_str().starts_with("/acl/") || matches!(event.change, Change::AclChanged { .. }))
        && event.changes_acls()
}

/// The half that openraft owns.
pub(crate) struct MachineStore {
    machine: Arc<Machine>,
    disk: Arc<dyn Disk>,
    snapshots: SnapshotStore,
}

impl MachineStore {
    /// Begins with the newest snapshot on disk, or with an empty state.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        snapshots: SnapshotStore,
        events: Bounds,
    ) -> Result<Self, io::Error> {
        let applied = match snapshots.newest() {
            Some(file) => load(&file)?,
            None => AppliedState {
                state: State::default(),
                last: None,
                membership: StoredMembershipOf::<TypeConfig>::default(),
                removed: Arc::default(),
                away: Arc::default(),
            },
        };
        let machine = Machine::new(applied, events);
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
            self.machine.hub.push(events);
            self.machine.index.send_modify(|_| ());
            self.machine.told.send_modify(|_| ());
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
        if events.iter().any(changes_acls) {
            self.machine.acls.send_modify(|changes| *changes += 1);
        }
        let dropped = planted::is(Bug::EventDropped) && log_id.index.is_multiple_of(61);
        if !dropped {
            self.machine.hub.push(events);
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
            let (index, is_awaited) = (entry.0.log_id.index, entry.1.is_some());
            if planted::is(Bug::EventBeforeChange) {
                self.tell_early(&entry.0).await;
            }
            self.apply_one(entry)?;
            self.machine.index.send_replace(index);
            if is_awaited {
                // The router passes the answers on first.
                tokio::task::yield_now().await;
            }
            self.machine.told.send_replace(index);
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
                write_gone(&view.removed, &view.away, &mut body)
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
    let (removed, away) = read_gone(&mut body).map_err(|error| damaged(&error))?;
    let (removed, away) = (Arc::new(removed), Arc::new(away));
    let membership = file.meta().last_membership.clone();
    Ok(AppliedState { state, last: file.meta().last_log_id, membership, removed, away })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec G-7: a snapshot remembers who was removed and who is away; one of a cell without such looks as it always
    /// did.
    #[test]
    fn members_that_are_gone_stand_behind_the_state() {
        let mut bytes = Vec::new();
        write_gone(&Removed::new(), &Away::new(), &mut bytes).expect("a Vec takes all");
        assert!(bytes.is_empty());
        let member = Member { peer_address: "a:1".to_owned(), client_address: "b:1".to_owned() };
        for (removed, away) in [
            (Removed::new(), Away::new()),
            (Removed::from([2, 9]), Away::new()),
            (Removed::new(), Away::from([(4, member.clone())])),
            (Removed::from([2, 9]), Away::from([(4, member)])),
        ] {
            let mut bytes = Vec::new();
            write_gone(&removed, &away, &mut bytes).expect("a Vec takes all");
            assert_eq!(read_gone(&mut &*bytes).expect("it is whole"), (removed, away));
            let Some(last) = bytes.len().checked_sub(1) else { continue };
            assert!(read_gone(&mut &bytes[..last]).is_err());
            bytes[0] ^= 1;
            assert!(read_gone(&mut &*bytes).is_err());
        }
    }
}
