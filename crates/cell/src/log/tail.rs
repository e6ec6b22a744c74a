//! The log as it is in memory: where each entry lies, the newest entries themselves, and what the writer is
//! still to do.
//!
//! Entries are here from the moment `append` returns, so that they can be read and sent at once. An entry
//! leaves the cache only after it is on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::control::Vote;
use super::record::{Entry, LogId, leader_id, weight};
use super::segment::Segment;
use crate::consensus::TypeConfig;

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's sequence; 0 while the record is not on the disk.
    pub(super) segment: u64,
    pub(super) offset: u32,
    /// Of the payload.
    pub(super) length: u32,
}

impl Place {
    pub(super) const NOWHERE: Place = Place { segment: 0, offset: 0, length: 0 };
}

/// What is kept for each entry: 40 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    term: u64,
    leader: u64,
    /// Bytes that were appended before this entry. Only grows, so it also tells an entry from another one
    /// that had its index before a truncation.
    pub(super) serial: u64,
    pub(super) place: Place,
}

/// What the writer is asked for, in order.
pub(super) enum Job {
    Append { serial: u64, entries: VecDeque<Entry>, callback: Option<IOFlushed<TypeConfig>> },
    Truncate { next: u64 },
    Purge { upto: LogId },
    Vote { vote: Vote, done: Option<oneshot::Sender<io::Result<()>>> },
}

/// An entry that must be read from the disk.
pub(super) struct OnDisk {
    pub(super) log_id: LogId,
    pub(super) place: Place,
    pub(super) segment: Arc<Segment>,
}

/// How to get a range of entries: first those on the disk, then those in the cache.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) on_disk: Vec<OnDisk>,
    pub(super) cached: Vec<Entry>,
}

/// Since when something waits for the disk. The writer takes all that is queued at once, and more only when that is
/// done, so two moments say it.
#[derive(Default)]
pub(super) struct Waiting {
    taken: Option<Instant>,
    queued: Option<Instant>,
}

impl Waiting {
    pub(super) fn since(&self) -> Option<Instant> {
        self.taken.or(self.queued)
    }

    /// Something joins the queue.
    pub(super) fn queue(&mut self) {
        self.queued.get_or_insert_with(Instant::now);
    }

    /// The writer takes what is queued; `done`: all that it took before is on the disk.
    pub(super) fn take(&mut self, done: bool) {
        if done {
            self.taken = None;
        }
        let queued = self.queued.take();
        self.taken = self.taken.or(queued);
    }
}

#[derive(Default)]
pub(super) struct Tail {
    /// The index of `slots[0]`, or of the next entry.
    first: u64,
    slots: VecDeque<Slot>,
    /// The last `recent.len()` entries.
    recent: VecDeque<Entry>,
    recent_bytes: u64,
    appended_bytes: u64,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    pub(super) queue: Vec<Job>,
    pub(super) queued_bytes: u64,
    pub(super) waiting: Waiting,
    /// Why nothing can be written any more.
    pub(super) failed: Option<String>,
    pub(super) closing: bool,
}

impl Tail {
    /// One past the last entry.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.log_id(self.next().wrapping_sub(1)).or(self.purged)
    }

    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        let slot = self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        Some(LogId { leader_id: leader_id(slot.term, slot.leader), index })
    }

    /// Bytes of the entries from `index` on.
    pub(super) fn bytes_since(&self, index: u64) -> u64 {
        let at = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.get(at).map_or(0, |slot| self.appended_bytes - slot.serial)
    }

    /// Checks that `index` may follow. An empty log may begin anywhere behind what was purged.
    fn admit(&self, index: u64) -> Result<(), String> {
        let purged = self.purged.map_or(0, |purged| purged.index + 1);
        let fits = if self.slots.is_empty() { index >= purged } else { index == self.next() };
        if fits { Ok(()) } else { Err(format!("entry {index} does not follow entry {:?}", self.last())) }
    }

    /// Takes up new entries and gives back the serial of the first.
    pub(super) fn append(&mut self, entries: &VecDeque<Entry>) -> Result<u64, String> {
        let serial = self.appended_bytes;
        for entry in entries {
            let (log_id, bytes) = (entry.log_id, weight(entry));
            self.push(log_id, bytes, Place::NOWHERE)?;
            self.recent.push_back(entry.clone());
            self.recent_bytes += bytes;
        }
        Ok(serial)
    }

    /// Takes up an entry that was found on the disk.
    pub(super) fn push(&mut self, log_id: LogId, bytes: u64, place: Place) -> Result<(), String> {
        self.admit(log_id.index)?;
        if self.slots.is_empty() {
            self.first = log_id.index;
        }
        let (term, leader) = (log_id.leader_id.term, log_id.leader_id.node_id);
        self.slots.push_back(Slot { term, leader, serial: self.appended_bytes, place });
        self.appended_bytes += bytes;
        Ok(())
    }

    /// Forgets the entries from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        if next >= self.next() {
            return;
        }
        let keep = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let dropped = self.slots.len() - keep;
        self.slots.truncate(keep);
        for _ in 0..dropped {
            let Some(entry) = self.recent.pop_back() else {
                break;
            };
            self.recent_bytes -= weight(&entry);
        }
        self.first = self.first.min(next);
    }

    /// Forgets the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        let drop = usize::try_from((upto.index + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let drop = drop.min(self.slots.len());
        self.slots.drain(..drop);
        self.first = if self.slots.is_empty() { upto.index + 1 } else { self.first + drop as u64 };
        while self.recent.len() > self.slots.len() {
            self.drop_oldest_cached();
        }
    }

    /// Notes where an entry lies now, unless it is gone by now.
    pub(super) fn place(&mut self, index: u64, serial: u64, place: Place) {
        let Some(at) = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(at)
            && slot.serial == serial
        {
            slot.place = place;
        }
    }

    /// Shrinks the cache to about `limit` bytes; entries that are not on the disk stay.
    pub(super) fn shrink(&mut self, limit: u64) {
        while self.recent_bytes > limit {
            let oldest = self.slots.len() - self.recent.len();
            if self.slots[oldest].place.segment == 0 {
                return;
            }
            self.drop_oldest_cached();
        }
    }

    fn drop_oldest_cached(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= weight(&entry);
        }
    }

    /// How to read the entries of `range` that the log has, at most `limit` bytes but at least one.
    pub(super) fn plan(&self, range: Range<u64>, limit: u64) -> Plan {
        let mut plan = Plan::default();
        let start = range.start.max(self.first);
        let end = range.end.min(self.next());
        let cached_from = self.next() - self.recent.len() as u64;
        let mut bytes = 0;
        for index in start..end {
            let at = (index - self.first) as usize;
            let slot = &self.slots[at];
            let following = self.slots.get(at + 1).map_or(self.appended_bytes, |slot| slot.serial);
            bytes += following - slot.serial;
            if bytes > limit && index > start {
                break;
            }
            if index >= cached_from {
                plan.cached.push(self.recent[(index - cached_from) as usize].clone());
            } else if let Some(segment) = self.segments.get(&slot.place.segment) {
                let log_id = LogId { leader_id: leader_id(slot.term, slot.leader), index };
                plan.on_disk.push(OnDisk { log_id, place: slot.place, segment: Arc::clone(segment) });
            }
        }
        plan
    }

    /// The last log id of each leader in `first..=last`, which is what openraft takes for key log ids.
    pub(super) fn key_log_ids(&self, first: u64, last: u64) -> Option<Vec<LogId>> {
        let mut keys: Vec<LogId> = Vec::new();
        for index in first..=last {
            let log_id = self.log_id(index)?;
            if keys.last().is_some_and(|key| key.leader_id == log_id.leader_id) {
                keys.pop();
            }
            keys.push(log_id);
        }
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Spec G-8: the oldest of what waits is what counts, also while the writer is held up and takes more.
    #[tokio::test(start_paused = true)]
    async fn the_oldest_waits_longest() {
        let (mut waiting, began) = (Waiting::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(waiting.since(), None);
        waiting.queue();
        tokio::time::advance(second).await;
        waiting.queue();
        assert_eq!(waiting.since(), Some(began));
        waiting.take(true);
        tokio::time::advance(second).await;
        waiting.queue();
        waiting.take(false);
        assert_eq!(waiting.since(), Some(began), "what was taken first is not on the disk");
        waiting.queue();
        waiting.take(true);
        assert_eq!(waiting.since(), Some(began + second * 2));
        waiting.take(true);
        assert_eq!(waiting.since(), None);
    }
}
