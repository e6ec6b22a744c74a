//! The storage of one replica, driven step by step beside its model.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bramah_cell::data_folder::{DataFolder, Entrance, Owner};
use bramah_cell::disk::imagined::{
    CutBefore, Faults, ImaginedDisk, Inline, Kind, NoFaults, Operation, Verdict, Wreck,
};
use bramah_cell::log::{Log, LogOptions};
use bramah_cell::snapshot_store::{SnapshotFile, SnapshotStore};
use futures_util::FutureExt;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::super::{Entry, IDENTITY, Meta, entry, log_id, small, submit, vote};
use super::model::{Contents, Found, Model};

const FOLDER: &str = "/replica/data";
/// The body of a snapshot: some sectors, most of them written in more than one piece.
const BODY_BYTES: usize = 1300;

/// What is asked of a replica's storage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// Opens the folder, or opens it again in the same process.
    Open,
    /// Opens it as whoever restarts it after a crash does: with `--replace` again, if that was asked for.
    Restart,
    /// Opens it with `--replace`.
    OpenToReplace,
    /// Notes that the repair is over.
    Replaced,
    /// The process dies and is started again; the machine goes on.
    Kill,
    Append {
        entries: usize,
        bytes: usize,
    },
    Truncate {
        entries: usize,
    },
    Purge {
        entries: u64,
    },
    /// As after a snapshot from the leader: the log goes on behind its own end.
    PurgeBeyond {
        entries: u64,
    },
    Vote,
    /// Says that all entries but the last one are committed.
    Commit,
    /// Writes a snapshot of all entries.
    Snapshot,
    /// Gets a snapshot from another replica that is so far ahead, in so many pieces, and resets the log.
    Install {
        ahead: u64,
        pieces: usize,
    },
    /// Gets the first half of one, which [`Step::Install`] goes on with.
    Receive {
        ahead: u64,
    },
    /// The writer falls behind, so what follows is written as one group.
    Pause,
    Resume,
    /// Time passes.
    Tick,
}

/// A planted error: which operations the disk only pretends to do.
pub(super) type Lie = fn(&Operation<'_>, last_offset: u64) -> bool;

/// Cuts the power at a given change, and lies if it is told to.
pub(super) struct Plan {
    cut: CutBefore,
    lie: Option<Lie>,
    last_offset: AtomicU64,
    /// The operation at which the power was cut.
    cut_at: Mutex<Option<String>>,
}

impl Plan {
    pub(super) fn new(changes: u64, lie: Option<Lie>) -> Arc<Self> {
        let (last_offset, cut_at) = (AtomicU64::new(0), Mutex::new(None));
        Arc::new(Self { cut: CutBefore::new(changes), lie, last_offset, cut_at })
    }

    pub(super) fn cut_at(&self) -> Option<String> {
        self.cut_at.lock().expect("no panic").clone()
    }

    /// Cuts the power after so many more changes.
    pub(super) fn cut_after(&self, changes: u64) {
        self.cut.set(changes);
    }

    pub(super) fn changes(&self) -> u64 {
        self.cut.changes()
    }
}

impl Faults for Plan {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let verdict = self.cut.before(operation);
        if matches!(verdict, Verdict::CutPower { .. }) {
            *self.cut_at.lock().expect("no panic") = Some(operation.name());
            return verdict;
        }
        if let Kind::Write { offset, .. } = operation.kind {
            self.last_offset.store(offset, Ordering::Relaxed);
        }
        let lies = self.lie.is_some_and(|lie| lie(operation, self.last_offset.load(Ordering::Relaxed)));
        if lies { Verdict::Pretend } else { verdict }
    }
}

struct Parts {
    folder: DataFolder,
    log: Log,
    snapshots: SnapshotStore,
}

/// A replica's storage on an imagined disk, and what it may hold.
pub(super) struct Replica {
    disk: ImaginedDisk,
    turns: Arc<Inline>,
    parts: Option<Parts>,
    pub(super) model: Model,
    appends: Vec<(super::super::Flushed, usize)>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.parts = None;
        self.appends.clear();
        // Without power workers stand still, and would stay for ever.
        self.turns.drop_workers();
    }
}

/// The sender's snapshot up to an index; its bytes depend on the index.
fn body(index: u64) -> Vec<u8> {
    format!("{index}/").bytes().cycle().take(BODY_BYTES).collect()
}

fn sender(index: u64) -> SnapshotFile {
    let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()));
    let store = SnapshotStore::open(disk.shared(), Path::new("/snapshots"), IDENTITY).expect("snapshots");
    store.write(meta(index), |writer| writer.write_all(&body(index))).expect("a snapshot")
}

fn meta(index: u64) -> Meta {
    Meta { last_log_id: Some(log_id(1, index)), ..Meta::default() }
}

fn options() -> LogOptions {
    small()
}

impl Replica {
    pub(super) fn new(disk: &ImaginedDisk, plan: Arc<Plan>, model: Model) -> Self {
        let turns = Arc::new(Inline::default());
        let disk = disk.with_faults(plan).with_scheduler(turns.clone());
        Self { disk, turns, parts: None, model, appends: Vec::new() }
    }

    pub(super) fn empty(plan: Arc<Plan>) -> Self {
        let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()));
        Self::new(&disk, plan, Model::new())
    }

    pub(super) fn power_is_cut(&self) -> bool {
        self.disk.power_is_cut()
    }

    pub(super) fn disk(&self) -> &ImaginedDisk {
        &self.disk
    }

    pub(super) fn wreck(&self) -> Wreck {
        self.disk.wreck()
    }

    /// Takes a step. An error is a broken promise; that the power was cut is none.
    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        let taken = self.try_step(step);
        self.hear_callbacks()?;
        match taken {
            Err(error) if !self.power_is_cut() => Err(format!("{step:?} failed: {error}")),
            Ok(()) if !self.power_is_cut() => self.compare(),
            _ => Ok(()),
        }
    }

    fn try_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Open => return self.open(false),
            Step::OpenToReplace => return self.open(true),
            Step::Restart => return self.open(*self.model.replacing.now()),
            Step::Kill => return self.kill(),
            Step::Pause => self.turns.pause(),
            Step::Resume => self.turns.resume(),
            Step::Tick => self.turns.tick(),
            Step::Commit => self.commit(),
            Step::Append { entries, bytes } => return self.append(entries, bytes),
            Step::Truncate { entries } => return self.truncate(entries),
            Step::Vote => return self.vote(),
            Step::Purge { entries } => {
                let last = self.model.log.now().entries.iter().take(entries as usize).last();
                return last.map(|entry| entry.log_id.index).map_or(Ok(()), |upto| self.purge(upto));
            }
            Step::PurgeBeyond { entries } => return self.purge(self.model.log.now().next() + entries),
            Step::Snapshot => return self.snapshot(),
            Step::Receive { ahead } => return self.receive(ahead, 2, true).map(drop),
            Step::Install { ahead, pieces } => return self.install(ahead, pieces),
            Step::Replaced => return self.replaced(),
        }
        Ok(())
    }

    fn parts(&mut self) -> Result<&mut Parts, String> {
        self.parts.as_mut().ok_or_else(|| "the folder is not open".to_owned())
    }

    fn open(&mut self, replace: bool) -> Result<(), String> {
        self.close()?;
        self.check_mark()?;
        if replace {
            self.model.replacing.change(|replacing| *replacing = true);
        }
        let owner = Owner { cell: "main".to_owned(), cell_id: IDENTITY.cell_id, replica: IDENTITY.replica };
        let entrance = replace.then_some(Entrance::Replacing);
        let opened = DataFolder::open_by(self.disk.shared(), Path::new(FOLDER), owner, entrance);
        let mut folder = opened.map_err(|error| error.to_string())?;
        let (replacing, was_new) = (folder.entrance().is_some(), folder.is_new());
        if replace {
            self.model.replacing.all_sure();
        }
        if was_new {
            // Else the log is there already, or its opening fails.
            self.model.started.change(|started| *started = true);
        }
        let log = folder.open_log(options()).map_err(|error| error.to_string())?;
        let snapshots = folder.open_snapshots().map_err(|error| error.to_string())?;
        let mut parts = Parts { folder, log, snapshots };
        let (contents, committed) = contents_of(&mut parts.log)?;
        let snapshot = newest(&parts.snapshots)?;
        self.parts = Some(parts);
        let found = Found { contents, committed, snapshot, replacing, was_new };
        self.model.accept(found)
    }

    /// A folder that is somebody's is marked, if it was to be: a start without `--replace` sees only that.
    fn check_mark(&self) -> Result<(), String> {
        let folder = Path::new(FOLDER);
        let owner = DataFolder::owner_of(&self.disk, folder).map_err(|error| error.to_string())?;
        let marked = self.disk.files().contains(&folder.join("replacing"));
        if owner.is_some() && *self.model.replacing.now() && !marked {
            return Err("the folder has an owner, but not the mark of a repair".to_owned());
        }
        Ok(())
    }

    /// Closes what is open, which promises all that was asked for.
    fn close(&mut self) -> Result<(), String> {
        self.turns.resume();
        let Some(parts) = self.parts.take() else { return Ok(()) };
        let closed = parts.log.close().now_or_never();
        self.hear_callbacks()?;
        if closed.is_some() && !self.power_is_cut() {
            self.model.log.all_sure();
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<(), String> {
        self.hear_callbacks()?;
        self.appends.clear();
        // The cut that this makes is the dead process's: its disk is another handle from now on.
        let left = self.disk.kill();
        self.parts = None;
        self.turns.drop_workers();
        self.turns.resume();
        self.disk = left;
        self.open(*self.model.replacing.now())
    }

    fn commit(&mut self) {
        let last = self.model.log.now().entries.iter().rev().nth(1).map(|entry| entry.log_id);
        if let (Some(last), Some(parts)) = (last, self.parts.as_mut()) {
            self.model.committed = self.model.committed.max(Some(last.index));
            let _ = parts.log.save_committed(Some(last)).now_or_never();
        }
    }

    fn append(&mut self, entries: usize, bytes: usize) -> Result<(), String> {
        let (first, term) = (self.model.log.now().next(), self.model.term);
        let new: Vec<Entry> =
            (first..first + entries as u64).map(|index| entry(term, index, bytes)).collect();
        for entry in &new {
            self.model.log.change(|contents| contents.entries.push(entry.clone()));
        }
        let at = self.model.log.at();
        let submitted = submit(&mut self.parts()?.log, new).now_or_never();
        let flushed = submitted.ok_or("the queue is full")?.map_err(|error| error.to_string())?;
        self.appends.push((flushed, at));
        Ok(())
    }

    fn truncate(&mut self, entries: usize) -> Result<(), String> {
        let kept = self.model.log.now().entries.len().saturating_sub(entries);
        self.model.term += 1;
        self.model.log.change(|contents| contents.entries.truncate(kept));
        let last = self.model.log.now().last();
        let truncated = self.parts()?.log.truncate_after(last).now_or_never();
        truncated.ok_or("it waits")?.map_err(|error| error.to_string())
    }

    fn purge(&mut self, upto: u64) -> Result<(), String> {
        let entries = &self.model.log.now().entries;
        let known = entries.iter().find(|entry| entry.log_id.index == upto);
        let upto = known.map_or(log_id(self.model.term, upto), |entry| entry.log_id);
        self.model.log.change(|contents| {
            contents.purged = Some(upto);
            contents.entries.retain(|entry| entry.log_id.index > upto.index);
        });
        let purged = self.parts()?.log.purge(upto).now_or_never();
        purged.ok_or("it waits")?.map_err(|error| error.to_string())
    }

    fn vote(&mut self) -> Result<(), String> {
        self.turns.resume();
        self.model.term += 1;
        let vote = vote(self.model.term, self.model.term.is_multiple_of(2));
        self.model.log.change(|contents| contents.vote = Some(vote));
        let saved = self.parts()?.log.save_vote(&vote).now_or_never();
        saved.ok_or("it waits")?.map_err(|error| error.to_string())?;
        self.model.log.all_sure();
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), String> {
        let index = self.model.log.now().last().map_or(0, |last| last.index);
        let index = index.max(self.model.snapshot.now().map_or(0, |snapshot| snapshot + 1));
        self.model.snapshot.change(|snapshot| *snapshot = Some(index));
        let written = self.parts()?.snapshots.write(meta(index), |writer| writer.write_all(&body(index)));
        written.map_err(|error| error.to_string())?;
        self.model.snapshot.all_sure();
        Ok(())
    }

    fn receive(
        &mut self,
        ahead: u64,
        pieces: usize,
        half: bool,
    ) -> Result<Option<(u64, SnapshotFile)>, String> {
        let after = self.model.snapshot.now().map_or(0, |snapshot| snapshot + 1);
        let index = self.model.log.now().next().max(after) + ahead;
        let sender = sender(index);
        let (length, store) = (sender.length(), &self.parts()?.snapshots);
        let text = |error: std::io::Error| error.to_string();
        let mut receiving = store.receive(sender.meta().clone(), length, sender.checksum()).map_err(text)?;
        let until = if half { length / 2 } else { length };
        while receiving.offset() < until {
            let piece = sender.read_at(receiving.offset(), length as usize / pieces + 1).map_err(text)?;
            receiving.append(&piece).map_err(text)?;
        }
        if half { Ok(None) } else { receiving.finish().map(|file| Some((index, file))).map_err(text) }
    }

    /// The order that openraft keeps: the snapshot is in place before the log is purged up to it.
    fn install(&mut self, ahead: u64, pieces: usize) -> Result<(), String> {
        let Some((index, file)) = self.receive(ahead, pieces, false)? else { return Ok(()) };
        self.model.snapshot.change(|snapshot| *snapshot = Some(index));
        self.parts()?.snapshots.adopt(&file).map_err(|error| error.to_string())?;
        self.model.snapshot.all_sure();
        self.purge(index)
    }

    fn replaced(&mut self) -> Result<(), String> {
        self.model.replacing.change(|replacing| *replacing = false);
        self.parts()?.folder.entered().map_err(|error| error.to_string())?;
        self.model.replacing.all_sure();
        Ok(())
    }

    /// What was called back is promised.
    fn hear_callbacks(&mut self) -> Result<(), String> {
        let mut waiting = Vec::new();
        for (mut flushed, at) in std::mem::take(&mut self.appends) {
            match flushed.try_recv() {
                Ok(Ok(())) => self.model.log.sure_of(at),
                Ok(Err(error)) if !self.power_is_cut() => return Err(error.to_string()),
                Ok(Err(_)) => {}
                Err(_) => waiting.push((flushed, at)),
            }
        }
        self.appends = waiting;
        Ok(())
    }

    /// While it runs, everything is shown at once.
    fn compare(&mut self) -> Result<(), String> {
        let Some(parts) = self.parts.as_mut() else { return Ok(()) };
        let (contents, _) = contents_of(&mut parts.log)?;
        let (snapshot, expected) = (newest(&parts.snapshots)?, self.model.log.now());
        if contents != *expected || snapshot != *self.model.snapshot.now() {
            return Err(format!("it shows {contents:?} and snapshot {snapshot:?}, but not {expected:?}"));
        }
        Ok(())
    }
}

fn contents_of(log: &mut Log) -> Result<(Contents, Option<super::super::LogId>), String> {
    let text = |error: std::io::Error| error.to_string();
    let state = log.get_log_state().now_or_never().ok_or("it waits")?.map_err(text)?;
    let entries = log.try_get_log_entries(0..u64::MAX).now_or_never().ok_or("it waits")?.map_err(text)?;
    let vote = log.read_vote().now_or_never().ok_or("it waits")?.map_err(text)?;
    let committed = log.read_committed().now_or_never().ok_or("it waits")?.map_err(text)?;
    let contents = Contents { vote, purged: state.last_purged_log_id, entries };
    if state.last_log_id != contents.last() {
        return Err(format!("its last entry is {:?}, it says {:?}", contents.last(), state.last_log_id));
    }
    Ok((contents, committed))
}

/// The index of the newest snapshot, which must be whole.
fn newest(snapshots: &SnapshotStore) -> Result<Option<u64>, String> {
    let Some(file) = snapshots.newest() else { return Ok(None) };
    let index = file.meta().last_log_id.map_or(0, |log_id| log_id.index);
    let mut bytes = Vec::new();
    let read =
        file.verify().map_err(std::io::Error::from).and_then(|()| file.body()?.read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes == body(index) { Ok(Some(index)) } else { Err(format!("snapshot {index} holds something else")) }
}
