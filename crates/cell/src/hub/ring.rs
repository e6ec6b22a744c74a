//! The recent history of events, as this replica applied it: in memory, bounded by count and by bytes.
//!
//! An event's *place* is its number among all that the ring was ever given. It is this replica's own; what clients
//! know is the revision.

use std::collections::VecDeque;
use std::sync::Arc;

use bramah_machine::Event;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Events.
    pub(crate) events: usize,
    /// Bytes that they take, as estimated.
    pub(crate) bytes: usize,
    /// Events that wait for one follower besides.
    pub(crate) inbox: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 65_536, bytes: 32 << 20, inbox: 256 }
    }
}

/// The events of one log entry, in the order of their revisions.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// The place of the first.
    pub(crate) first: u64,
    pub(crate) events: Arc<[Event]>,
    bytes: usize,
}

impl Batch {
    /// The place after the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The newest revision in it.
    pub(crate) fn revision(&self) -> u64 {
        self.events.last().map_or(0, |event| event.revision)
    }

    /// The events from a place on, with their places.
    pub(crate) fn from(&self, place: u64) -> impl Iterator<Item = (u64, &Event)> {
        let skipped = place.saturating_sub(self.first) as usize;
        (self.first..).zip(self.events.iter()).skip(skipped)
    }
}

/// Where the ring ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The place of the event that comes next.
    pub(crate) place: u64,
    /// The newest revision.
    pub(crate) revision: u64,
}

/// What is kept. It loses whole batches, so that all events of one revision are there or none.
#[derive(Debug)]
pub(crate) struct Ring {
    bounds: Bounds,
    batches: VecDeque<Batch>,
    events: usize,
    bytes: usize,
    end: End,
    /// All events after this revision are here.
    begins_after: u64,
}

impl Ring {
    /// Empty, beside a state of this revision.
    pub(crate) fn new(bounds: Bounds, revision: u64) -> Self {
        let end = End { place: 0, revision };
        Self { bounds, batches: VecDeque::new(), events: 0, bytes: 0, end, begins_after: revision }
    }

    /// Takes the events of one entry.
    pub(crate) fn push(&mut self, events: Vec<Event>) {
        let Some(newest) = events.last().map(|event| event.revision) else { return };
        let bytes = events.iter().map(|event| size_of::<Event>() + event.path.as_str().len()).sum();
        let batch = Batch { first: self.end.place, events: events.into(), bytes };
        self.end = End { place: batch.end(), revision: newest };
        self.events += batch.events.len();
        self.bytes += bytes;
        self.batches.push_back(batch);
        while self.events > self.bounds.events || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.batches.pop_front() else { return };
            self.events -= oldest.events.len();
            self.bytes -= oldest.bytes;
            self.begins_after = oldest.revision();
        }
    }

    /// The state became one of this revision, and nobody knows by which events.
    pub(crate) fn begin_anew(&mut self, revision: u64) {
        self.batches.clear();
        (self.events, self.bytes, self.begins_after) = (0, 0, revision);
        // A place that nobody gets: whoever waits for it learns that something is missing.
        self.end = End { place: self.end.place + 1, revision };
    }

    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// The place of the oldest event that is kept; the end if none is.
    pub(crate) fn first(&self) -> u64 {
        self.batches.front().map_or(self.end.place, |batch| batch.first)
    }

    /// The place of what comes after a revision; none if not all of that is kept.
    pub(crate) fn place_after(&self, revision: u64) -> Option<u64> {
        if revision < self.begins_after {
            return None;
        }
        let at = self.batches.partition_point(|batch| batch.revision() <= revision);
        let Some(batch) = self.batches.get(at) else { return Some(self.end.place) };
        Some(batch.first + batch.events.partition_point(|event| event.revision <= revision) as u64)
    }

    /// The batches from a place on, until they have `most` events; none if not all of them are kept.
    pub(crate) fn from(&self, place: u64, most: usize) -> Option<Vec<Batch>> {
        if place < self.first() {
            return None;
        }
        let at = self.batches.partition_point(|batch| batch.end() <= place);
        let mut events = 0;
        let wanted = self.batches.range(at..).take_while(|batch| {
            let enough = events >= most;
            events += batch.events.len();
            !enough
        });
        Some(wanted.cloned().collect())
    }

    /// All events before this place have at most this revision, and those after it more, unless they share it with the
    /// one there. None if it is not known any more.
    pub(crate) fn revision_before(&self, place: u64) -> Option<u64> {
        let batch = self.from(place, 1)?.into_iter().next();
        let event = batch.as_ref().and_then(|batch| batch.from(place).next());
        Some(event.map_or(self.end.revision, |(_, event)| event.revision - 1))
    }

    #[cfg(test)]
    pub(crate) fn begins_after(&self) -> u64 {
        self.begins_after
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.events, self.bytes)
    }
}
