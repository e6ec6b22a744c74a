//! What a data folder may hold after a crash, by what was asked of it and what was promised.

use std::fmt::Debug;

use super::super::{Entry, LogId, Vote};

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: Vec<Entry>,
}

impl Contents {
    /// The index of the entry that comes next.
    pub(super) fn next(&self) -> u64 {
        let purged = self.purged.map_or(0, |purged| purged.index + 1);
        self.entries.last().map_or(purged, |entry| entry.log_id.index + 1)
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }
}

/// Every state that something passes through, in order. What is certain after a crash is that it is in one of
/// them, and not in one before `sure`.
#[derive(Clone, Debug)]
pub(super) struct Track<T> {
    states: Vec<T>,
    sure: usize,
}

impl<T: Clone + Debug + PartialEq> Track<T> {
    fn new(state: T) -> Self {
        Self { states: vec![state], sure: 0 }
    }

    pub(super) fn now(&self) -> &T {
        &self.states[self.states.len() - 1]
    }

    /// Where [`Track::now`] is, for [`Track::sure_of`].
    pub(super) fn at(&self) -> usize {
        self.states.len() - 1
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut T)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    pub(super) fn sure_of(&mut self, at: usize) {
        self.sure = self.sure.max(at);
    }

    pub(super) fn all_sure(&mut self) {
        self.sure = self.at();
    }

    pub(super) fn may_be(&self, found: &T) -> bool {
        self.states[self.sure..].contains(found)
    }

    /// It was found like this: from now on it is.
    fn accept(&mut self, found: T, what: &str) -> Result<(), String> {
        if !self.may_be(&found) {
            let promised = &self.states[self.sure..];
            return Err(format!("{what}: found {found:?}\nbut it can only be one of {promised:?}"));
        }
        (self.states, self.sure) = (vec![found], 0);
        Ok(())
    }
}

/// All of a data folder.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) log: Track<Contents>,
    /// The index of the newest snapshot.
    pub(super) snapshot: Track<Option<u64>>,
    /// The replica is to be repaired from the others.
    pub(super) replacing: Track<bool>,
    /// A log was opened in it.
    pub(super) started: Track<bool>,
    /// The newest index that was said to be committed.
    pub(super) committed: Option<u64>,
    pub(super) term: u64,
}

/// What is found in a data folder.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) contents: Contents,
    pub(super) committed: Option<LogId>,
    pub(super) snapshot: Option<u64>,
    pub(super) replacing: bool,
    pub(super) was_new: bool,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            log: Track::new(Contents::default()),
            snapshot: Track::new(None),
            replacing: Track::new(false),
            started: Track::new(false),
            committed: None,
            term: 1,
        }
    }

    /// The folder was opened again and holds `found`: all that was promised, and nothing that never was.
    pub(super) fn accept(&mut self, found: Found) -> Result<(), String> {
        let committed = found.committed.map(|log_id| log_id.index);
        if committed > self.committed.max(found.contents.purged.map(|purged| purged.index)) {
            return Err(format!("{committed:?} is said to be committed, but only {:?} was", self.committed));
        }
        self.log.accept(found.contents, "the log")?;
        self.snapshot.accept(found.snapshot, "the snapshot")?;
        self.replacing.accept(found.replacing, "the mark of a repair")?;
        self.started.accept(!found.was_new, "whether a log was ever opened")?;
        // It was opened just now.
        self.started = Track::new(true);
        self.term += 1;
        Ok(())
    }
}
