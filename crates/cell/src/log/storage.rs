//! The log as openraft drives it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;

use futures_util::Stream;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use tokio::sync::oneshot;

use super::control::Vote;
use super::record::{Entry, LogId, weight};
use super::tail::{Job, Tail};
use super::{Handle, Log, reader};
use crate::consensus::TypeConfig;
use crate::disk;

impl Handle {
    /// Changes the tail and queues what the writer must do for it; nothing is queued if `change` gives back
    /// `None`.
    fn queue(&self, change: impl FnOnce(&mut Tail) -> io::Result<Option<Job>>) -> io::Result<()> {
        let must_wake = {
            let mut tail = self.shared.tail.lock();
            if let Some(why) = &tail.failed {
                return Err(io::Error::other(why.clone()));
            }
            match change(&mut tail)? {
                Some(job) => {
                    tail.queue.push(job);
                    tail.waiting.queue();
                    tail.queue.len() == 1
                }
                None => false,
            }
        };
        if must_wake {
            self.shared.wake_writer();
        }
        Ok(())
    }

    /// Waits until the queue has room. The disk decides how long: a slow one slows its replica down, a full
    /// one is announced by [`Log::space`] long before the queue is full.
    async fn wait_for_room(&self) {
        loop {
            let room = self.shared.room.notified();
            {
                let tail = self.shared.tail.lock();
                if tail.queued_bytes <= self.options.queue_bytes || tail.failed.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    async fn read(&self, range: Range<u64>, limit: u64) -> io::Result<Vec<Entry>> {
        let plan = self.shared.tail.lock().plan(range, limit);
        if plan.on_disk.is_empty() {
            return Ok(plan.cached);
        }
        let (on_disk, cached) = (plan.on_disk, plan.cached);
        let mut entries = disk::run(&self.disk, move || reader::read(&on_disk)).await?;
        entries.extend(cached);
        Ok(entries)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.handle.read(bounds(&range), u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.handle.read(start..end, self.handle.options.read_bytes).await
    }

    /// Reads a piece at a time: the range may be longer than memory, and what is applied does not change.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let handle = Arc::clone(&self.handle);
        let begin = (bounds(&range), VecDeque::<Entry>::new());
        futures_util::stream::try_unfold(begin, move |(range, mut piece)| {
            let handle = Arc::clone(&handle);
            async move {
                if piece.is_empty() && !range.is_empty() {
                    piece = handle.read(range.clone(), handle.options.read_bytes).await?.into();
                }
                Ok(piece.pop_front().map(|entry| {
                    let rest = entry.log_id.index + 1..range.end;
                    (entry, (rest, piece))
                }))
            }
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.handle.shared.tail.lock().vote)
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let (first, last) = (range.start().index, range.end().index);
        let keys = self.handle.shared.tail.lock().key_log_ids(first, last);
        keys.ok_or_else(|| io::Error::other(format!("the log does not hold all of {first} to {last}")))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.handle.shared.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        self.handle.queue(|_| Ok(Some(Job::Vote { vote: *vote, done: Some(done) })))?;
        saved.await.map_err(|_| io::Error::other("the log was closed before the vote was saved"))?
    }

    /// Only noted: it goes to the disk with the next record. After a restart it is used to show the state as
    /// it was, and an older one does no harm.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut tail = self.handle.shared.tail.lock();
        tail.committed = tail.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.handle.shared.tail.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: VecDeque<Entry> = entries.into_iter().collect();
        self.handle.wait_for_room().await;
        self.handle.queue(|tail| {
            let bytes: u64 = entries.iter().map(weight).sum();
            let serial =
                tail.append(&entries).map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
            tail.queued_bytes += bytes;
            Ok(Some(Job::Append { serial, entries, callback: Some(callback) }))
        })
    }

    /// Not waited for: later appends are written behind the record of it, and until then it has done no harm
    /// that the entries are still there.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let next = last_log_id.map_or(0, |log_id| log_id.index + 1);
        self.handle.queue(|tail| {
            if next >= tail.next() {
                return Ok(None);
            }
            tail.truncate(next);
            Ok(Some(Job::Truncate { next }))
        })
    }

    /// Not waited for: should it be forgotten by a crash, the entries are there a while longer.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.handle.queue(|tail| {
            if tail.purged.is_some_and(|purged| purged.index >= upto.index) {
                return Ok(None);
            }
            tail.purge(upto);
            Ok(Some(Job::Purge { upto }))
        })
    }
}
