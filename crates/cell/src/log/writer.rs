//! The worker that writes: takes all that is queued, writes it in one go, syncs once, then says so to all
//! (spec G-1, G-3).
//!
//! Votes, truncations and purges stand in the same queue as appends, because a vote must never be on the
//! disk before an append that was asked for earlier (openraft reports both by one watermark).

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bramah_machine::planted::{self, Bug};
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::control::Control;
use super::record::{
    Entry, HEADER_BYTES, Header, Kind, LogId, MAX_PAYLOAD_BYTES, encode, encode_payload, record_bytes, weight,
};
use super::recovery::Active;
use super::segment::{MAX_SEGMENT_BYTES, PAGE_BYTES, Segment, encode_head, segment_name};
use super::spares::Spare;
use super::tail::{Job, Place};
use super::{Identity, LogError, LogOptions, Shared};
use crate::consensus::TypeConfig;
use crate::disk::{Disk, Turn, Worker, is_no_space};

/// A group is written when it has grown to this, even if more is queued.
const GROUP_BYTES: usize = 8 << 20;
/// Every segment keeps room for its seal.
const SEAL_BYTES: usize = HEADER_BYTES;

/// Why the writer can't go on.
pub(super) enum Halt {
    /// A spare is still being made.
    Waiting,
    /// The disk is full.
    NoSpace(io::Error),
    /// The disk failed. What is on it is not known, so nothing may be promised any more.
    Failed(io::Error),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        if is_no_space(&error) { Halt::NoSpace(error) } else { Halt::Failed(error) }
    }
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        io::Error::from(error).into()
    }
}

/// Records that wait to be written together.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    placed: Vec<Placed>,
    callbacks: Vec<IOFlushed<TypeConfig>>,
    weight: u64,
}

struct Placed {
    index: u64,
    serial: u64,
    place: Place,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) identity: Identity,
    pub(super) options: LogOptions,
    pub(super) control: Control,
    segment: Arc<Segment>,
    /// The segment is on the disk up to here; the group will follow.
    durable: u64,
    sealed: bool,
    /// A spare on its way to become the next segment, and whether it has its name already.
    activating: Option<(Spare, bool)>,
    jobs: VecDeque<Job>,
    group: Group,
    /// The index of the entry that will follow those in the group.
    next_index: u64,
    /// One more than the newest committed index that is known.
    committed: u64,
    /// The log says of itself that its last group is on the disk.
    marked: bool,
    held: bool,
    /// Dropped last, which tells that the folder is no longer in use.
    _gone: oneshot::Sender<()>,
}

/// What a writer begins with.
pub(super) struct Beginning {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) identity: Identity,
    pub(super) options: LogOptions,
    pub(super) control: Control,
    pub(super) gone: oneshot::Sender<()>,
}

impl Worker for Writer {
    fn turn(&mut self, rested: bool) -> Turn {
        match self.work(rested) {
            Ok(turn) => turn,
            Err(Halt::Waiting) => Turn::WaitAtMost(self.options.retry_interval),
            // When the log is being closed there may never be space again, and someone waits for the end.
            Err(Halt::NoSpace(error)) if !self.shared.tail.lock().closing => {
                self.hold(&error);
                Turn::WaitAtMost(self.options.retry_interval)
            }
            Err(Halt::NoSpace(error) | Halt::Failed(error)) => {
                self.fail(&error);
                Turn::Done
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also when a turn panicked: whoever waits must hear of it.
        self.fail(&io::Error::other("the log was closed"));
        self.shared.wake_maker();
    }
}

impl Writer {
    pub(super) fn new(beginning: Beginning, active: Active) -> Self {
        let Beginning { shared, disk, folder, identity, options, control, gone } = beginning;
        let next_index = shared.tail.lock().next();
        let writer = Self {
            shared,
            disk,
            folder,
            identity,
            options,
            control,
            segment: active.segment,
            durable: active.end,
            sealed: active.sealed,
            activating: None,
            jobs: VecDeque::new(),
            group: Group::default(),
            next_index,
            committed: 0,
            marked: false,
            held: false,
            _gone: gone,
        };
        writer.note_room();
        writer
    }

    fn work(&mut self, rested: bool) -> Result<Turn, Halt> {
        loop {
            let closing = self.take();
            if self.jobs.is_empty() && self.group.bytes.is_empty() {
                return self.rest(rested, closing);
            }
            while let Some(mut job) = self.jobs.pop_front() {
                if let Err(halt) = self.take_on(&mut job) {
                    self.jobs.push_front(job);
                    return Err(halt);
                }
            }
            self.flush()?;
        }
    }

    /// Takes what is queued; true if the log is being closed.
    fn take(&mut self) -> bool {
        let mut tail = self.shared.tail.lock();
        tail.waiting.take(self.jobs.is_empty() && self.group.bytes.is_empty());
        self.jobs.extend(tail.queue.drain(..));
        self.committed = tail.committed.map_or(0, |log_id| log_id.index + 1);
        tail.closing
    }

    /// May be called again for a job that could not be finished.
    fn take_on(&mut self, job: &mut Job) -> Result<(), Halt> {
        match job {
            Job::Append { serial, entries, callback } => {
                while let Some(entry) = entries.front() {
                    self.add_entry(entry, *serial)?;
                    *serial += weight(entry);
                    entries.pop_front();
                    if self.group.bytes.len() >= GROUP_BYTES {
                        self.flush()?;
                    }
                }
                self.group.callbacks.extend(callback.take());
            }
            Job::Truncate { next } => {
                self.add(Kind::Truncate, index_only(*next), &[])?;
                self.next_index = self.next_index.min(*next);
            }
            Job::Purge { upto } => {
                self.add(Kind::Purge, *upto, &[])?;
                self.flush()?;
                self.retire_segments(*upto)?;
                self.next_index = self.next_index.max(upto.index + 1);
            }
            Job::Vote { vote, done } => {
                self.flush()?;
                if !planted::is(Bug::ForgottenVote) {
                    self.control.facts.vote = Some(*vote);
                    self.control.save()?;
                }
                self.shared.tail.lock().vote = Some(*vote);
                self.shared.syncs.fetch_add(2, Ordering::Relaxed);
                if let Some(done) = done.take() {
                    let _ = done.send(Ok(()));
                }
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: &Entry, serial: u64) -> Result<(), Halt> {
        let (kind, payload) = encode_payload(entry).map_err(|error| Halt::Failed(io::Error::other(error)))?;
        let index = entry.log_id.index;
        self.add(kind, entry.log_id, &payload)?;
        let end = self.durable + self.group.bytes.len() as u64;
        let offset = (end - record_bytes(payload.len()) as u64) as u32;
        let place = Place { segment: self.segment.sequence, offset, length: payload.len() as u32 };
        self.group.placed.push(Placed { index, serial, place });
        self.group.weight += weight(entry);
        self.segment.note_entry(index);
        self.next_index = index + 1;
        Ok(())
    }

    /// Adds a record to the group; begins a new segment first if it does not fit.
    fn add(&mut self, kind: Kind, log_id: LogId, payload: &[u8]) -> Result<(), Halt> {
        let size = record_bytes(payload.len());
        if payload.len() > MAX_PAYLOAD_BYTES {
            let message = format!("entry {log_id} has {} bytes, more than a log record holds", payload.len());
            return Err(Halt::Failed(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        if self.sealed || size + SEAL_BYTES > self.room() {
            self.next_segment(size)?;
        }
        self.push(kind, log_id, payload);
        Ok(())
    }

    fn push(&mut self, kind: Kind, log_id: LogId, payload: &[u8]) {
        let header = Header {
            length: payload.len() as u32,
            kind,
            index: log_id.index,
            term: log_id.leader_id.term,
            leader: log_id.leader_id.node_id,
            committed: self.committed,
            durable: self.durable as u32,
        };
        encode(&mut self.group.bytes, self.segment.seed, header, payload);
    }

    fn room(&self) -> usize {
        (self.segment.size - self.durable) as usize - self.group.bytes.len()
    }

    /// Writes the group, syncs, and tells everyone whose entries are in it.
    fn flush(&mut self) -> Result<(), Halt> {
        if self.group.bytes.is_empty() {
            return self.complete_callbacks();
        }
        let length = self.group.bytes.len();
        // Whole pages: the kernel then needn't read the old contents of a recycled file, and zeros
        // follow the last record.
        let end = self.durable + length as u64;
        let padded = end.next_multiple_of(PAGE_BYTES as u64).min(self.segment.size) - self.durable;
        self.group.bytes.resize(padded as usize, 0);
        let written = self.segment.file.write_all_at(&self.group.bytes, self.durable);
        self.group.bytes.truncate(length);
        let synced = written.and_then(|()| match planted::is(Bug::AcknowledgeBeforeSync) {
            true => Ok(()),
            false => self.segment.file.sync_data(),
        });
        synced.map_err(|error| self.explain(error))?;
        self.durable = end;
        self.marked = false;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.shared.written_bytes.fetch_add(length as u64, Ordering::Relaxed);
        self.settle();
        self.note_room();
        self.complete_callbacks()
    }

    /// The group is on the disk: its entries may leave the cache.
    fn settle(&mut self) {
        let group = &mut self.group;
        let mut tail = self.shared.tail.lock();
        for placed in group.placed.drain(..) {
            tail.place(placed.index, placed.serial, placed.place);
        }
        tail.shrink(self.options.cache_bytes);
        tail.queued_bytes = tail.queued_bytes.saturating_sub(group.weight);
        drop(tail);
        (group.weight, self.held) = (0, false);
        group.bytes.clear();
        group.bytes.shrink_to(GROUP_BYTES);
        self.shared.room.notify_waiters();
    }

    fn complete_callbacks(&mut self) -> Result<(), Halt> {
        for callback in self.group.callbacks.drain(..) {
            callback.io_completed(Ok(()));
        }
        Ok(())
    }

    /// Seals the segment and goes on in the next one, which holds at least a record of `size` bytes.
    fn next_segment(&mut self, size: usize) -> Result<(), Halt> {
        if !self.sealed {
            self.push(Kind::Seal, index_only(0), &[]);
            self.sealed = true;
        }
        self.flush()?;
        let needed = (PAGE_BYTES + size + SEAL_BYTES).next_multiple_of(PAGE_BYTES) as u64;
        if needed > MAX_SEGMENT_BYTES {
            return Err(Halt::Failed(io::ErrorKind::FileTooLarge.into()));
        }
        if self.activating.is_none() {
            let spare = self.take_spare(needed.max(self.options.segment_bytes), needed)?;
            self.activating = Some((spare, false));
        }
        let segment = Arc::new(self.activate()?);
        self.activating = None;
        self.shared.tail.lock().segments.insert(segment.sequence, Arc::clone(&segment));
        (self.segment, self.durable, self.sealed) = (segment, PAGE_BYTES as u64, false);
        self.note_room();
        Ok(())
    }

    fn take_spare(&mut self, wanted: u64, needed: u64) -> Result<Spare, Halt> {
        if let Some(spare) = self.shared.spares.lock().take(needed) {
            return Ok(spare);
        }
        if self.shared.spares.lock().want(wanted, true) {
            self.shared.wake_maker();
        }
        let mut spares = self.shared.spares.lock();
        match (spares.take(needed), spares.shortage) {
            (Some(spare), _) => Ok(spare),
            (None, None) => Err(Halt::Waiting),
            (None, Some(_)) => Err(Halt::NoSpace(io::ErrorKind::StorageFull.into())),
        }
    }

    /// The steps by which a spare becomes the newest segment. The name comes after the first page, and the
    /// note in the control file after the name, so that a crash between any two leaves a log that opens.
    fn activate(&mut self) -> Result<Segment, Halt> {
        let sequence = self.segment.sequence + 1;
        let path = self.folder.join(segment_name(sequence));
        let next_index = self.next_index;
        let Some((spare, renamed)) = &mut self.activating else {
            return Err(Halt::Failed(io::Error::other("no spare segment to begin")));
        };
        if !*renamed {
            spare.file.write_all_at(&encode_head(self.identity, sequence, next_index, spare.size), 0)?;
            spare.file.sync_data()?;
            self.disk.rename(&spare.path, &path)?;
            *renamed = true;
        }
        self.disk.sync_directory(&self.folder)?;
        let (file, size) = (Arc::clone(&spare.file), spare.size);
        self.control.facts.last_segment = sequence;
        self.control.save()?;
        Ok(Segment::new(self.identity, sequence, size, path, file))
    }

    /// Segments whose entries are all purged are put away, after the control file says that they don't count.
    fn retire_segments(&mut self, upto: LogId) -> Result<(), Halt> {
        let first = {
            let tail = self.shared.tail.lock();
            let kept = tail.segments.values().find(|segment| {
                segment.sequence == self.segment.sequence || segment.next_index() > upto.index + 1
            });
            kept.map_or(self.segment.sequence, |segment| segment.sequence)
        };
        if first <= self.control.facts.first_segment {
            return Ok(());
        }
        let before = self.control.facts.clone();
        (self.control.facts.first_segment, self.control.facts.purged) = (first, Some(upto));
        if let Err(error) = self.control.save() {
            self.control.facts = before;
            return Err(error.into());
        }
        let retired: Vec<Arc<Segment>> = {
            let mut tail = self.shared.tail.lock();
            let kept = tail.segments.split_off(&first);
            std::mem::replace(&mut tail.segments, kept).into_values().collect()
        };
        let mut spares = self.shared.spares.lock();
        for segment in retired {
            spares.retire(&*self.disk, &self.folder, segment, self.options.segment_bytes);
        }
        Ok(())
    }

    /// The queue is empty. If it stays so, the log notes that all of it is on the disk, so that a damaged
    /// last record can be told from a torn one.
    fn rest(&mut self, rested: bool, closing: bool) -> Result<Turn, Halt> {
        if !self.marked && !rested && !closing {
            return Ok(Turn::WaitAtMost(self.options.mark_delay));
        }
        if !self.marked && !self.sealed && self.room() >= HEADER_BYTES + SEAL_BYTES {
            self.push(Kind::Mark, index_only(0), &[]);
            self.flush()?;
        }
        self.marked = true;
        Ok(if closing { Turn::Done } else { Turn::Wait })
    }

    /// Lets others know how much room the segment has, and has a spare made in time.
    fn note_room(&self) {
        let room = if self.sealed { 0 } else { self.segment.size - self.durable };
        self.shared.room_bytes.store(room, Ordering::Relaxed);
        self.shared.reserve_bytes.store(self.segment.size / 4, Ordering::Relaxed);
        if room < self.segment.size / 2 && self.shared.spares.lock().want(self.options.segment_bytes, false) {
            self.shared.wake_maker();
        }
    }

    /// The disk is full: everything stays queued, nothing is reported (spec G-8).
    fn hold(&mut self, error: &io::Error) {
        if !self.held {
            self.held = true;
            tracing::warn!(folder = %self.folder.display(), %error, "the disk is full and the log's reserve is used up: writes wait until there is space");
        }
    }

    fn explain(&self, error: io::Error) -> Halt {
        Halt::from(io::Error::new(
            error.kind(),
            format!("can't write {}: {error}", self.segment.path.display()),
        ))
    }

    /// Nothing more can be promised: tells everyone who waits, and all who come later.
    fn fail(&mut self, error: &io::Error) {
        let queued = {
            let mut tail = self.shared.tail.lock();
            if tail.failed.is_none() {
                tail.failed = Some(error.to_string());
                if !tail.closing {
                    self.shared.broken.send_replace(Some(error.to_string()));
                    tracing::error!(folder = %self.folder.display(), %error, "the log can't be written any more; this replica must be stopped");
                }
            }
            std::mem::take(&mut tail.queue)
        };
        let again = || io::Error::new(error.kind(), error.to_string());
        for callback in self.group.callbacks.drain(..) {
            callback.io_completed(Err(again()));
        }
        for job in self.jobs.drain(..).chain(queued) {
            match job {
                Job::Append { callback: Some(callback), .. } => callback.io_completed(Err(again())),
                Job::Vote { done: Some(done), .. } => drop(done.send(Err(again()))),
                _ => {}
            }
        }
        self.shared.room.notify_waiters();
    }
}

/// For records that carry an index but belong to no leader.
fn index_only(index: u64) -> LogId {
    LogId { leader_id: super::record::leader_id(0, 0), index }
}
