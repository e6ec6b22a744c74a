//! The watches of a client: begun, told of, begun again on each new connection. No I/O and no clock of its own.
//!
//! The cell tells events in the order of their revisions, and that all up to a revision have been told. So a watch that
//! begins again asks for what came after the newest revision that it has whole, and passes over what it has of the next
//! one: no event comes twice, none is missed, and what the cell no longer has comes as a gap (spec E-3).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::MAX_WATCHES_PER_SESSION;
use bramah_wire::v1;
use tokio::time::Instant;

use crate::calls::is_passing;
use crate::error::Error;
use crate::watch::{Event, Inbox};

/// Most watches in one message, and most bytes of their paths.
const MOST_PER_MESSAGE: usize = 500;
const MOST_BYTES_PER_MESSAGE: usize = 1 << 20;
/// Before a watch is tried again that the cell could not begin just now.
const REST: Duration = Duration::from_millis(500);

/// What the application wants to watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    pub(crate) path: String,
    pub(crate) subtree: bool,
    pub(crate) kinds: Vec<i32>,
    /// None: from now on.
    pub(crate) after: Option<u64>,
}

struct Watch {
    /// With the revision after which it began first, once it has.
    interest: Interest,
    inbox: Arc<Inbox>,
    /// All up to this revision was told.
    whole: u64,
    /// The newest event told, and how many of its revision.
    told: (u64, usize),
    /// How many events of that revision come again on this connection.
    again: usize,
    /// It began on this connection, when the cell had vouched so often.
    begun: Option<u64>,
}

impl Watch {
    /// After which revision it begins again. All before the newest told was told, because they come in order.
    fn after(&self) -> Option<u64> {
        self.interest.after.map(|_| self.whole.max(self.told.0.saturating_sub(1)))
    }

    fn as_request(&mut self, number: u64) -> v1::Watch {
        let after_revision = self.after();
        self.again = if after_revision.is_some_and(|after| self.told.0 > after) { self.told.1 } else { 0 };
        let Interest { path, subtree, kinds, .. } = self.interest.clone();
        v1::Watch { number, path, subtree, kinds, after_revision }
    }

    fn take(&mut self, event: &Arc<Event>) {
        let revision = event.revision;
        if revision <= self.whole || revision < self.told.0 {
            return;
        }
        if revision > self.told.0 {
            self.told = (revision, 0);
            self.again = 0;
        }
        if self.again > 0 {
            self.again -= 1;
            return;
        }
        self.told.1 += 1;
        self.inbox.push(event.clone());
    }

    fn gap(&mut self, revision: u64) {
        (self.whole, self.told, self.again) = (self.whole.max(revision), (0, 0), 0);
        self.inbox.gap(revision);
    }
}

/// All watches of a client.
#[derive(Default)]
pub(crate) struct Watches {
    table: HashMap<u64, Watch>,
    to_begin: BTreeSet<u64>,
    to_end: VecDeque<u64>,
    /// All events up to this were told on the present connection, and how often that was said.
    whole: u64,
    vouched: u64,
    /// When those that could not begin are tried again.
    rested: Option<(Instant, Vec<u64>)>,
}

impl Watches {
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn begin(&mut self, number: u64, interest: Interest, inbox: Arc<Inbox>) {
        if self.table.len() >= MAX_WATCHES_PER_SESSION {
            let message =
                format!("this client has {MAX_WATCHES_PER_SESSION} watches: end some, or use another client");
            return inbox.end(Error::TooMany { message });
        }
        let whole = interest.after.unwrap_or(0);
        let watch = Watch { interest, inbox, whole, told: (0, 0), again: 0, begun: None };
        self.table.insert(number, watch);
        self.to_begin.insert(number);
    }

    pub(crate) fn end(&mut self, number: u64) {
        if self.table.remove(&number).is_some() && !self.to_begin.remove(&number) {
            self.to_end.push_back(number);
        }
    }

    /// A new connection knows of no watch.
    pub(crate) fn connection_lost(&mut self) {
        self.note_whole();
        self.whole = 0;
        self.table.values_mut().for_each(|watch| watch.begun = None);
        self.to_begin = self.table.keys().copied().collect();
        self.to_end.clear();
        self.rested = None;
    }

    /// What the cell said for all watches, noted for each.
    fn note_whole(&mut self) {
        for watch in self.table.values_mut() {
            // What was said before it began says nothing of it.
            if watch.begun.is_some_and(|when| self.vouched > when) {
                watch.whole = watch.whole.max(self.whole);
            }
        }
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.to_begin.is_empty() || !self.to_end.is_empty()
    }

    /// What to send now: watches to begin, and numbers of those to end.
    pub(crate) fn next_batch(&mut self) -> (Vec<v1::Watch>, Vec<u64>) {
        let (mut begin, mut bytes) = (Vec::new(), 0);
        while let Some(number) = self.to_begin.pop_first() {
            let Some(watch) = self.table.get_mut(&number) else { continue };
            bytes += watch.interest.path.len();
            begin.push(watch.as_request(number));
            if begin.len() >= MOST_PER_MESSAGE || bytes >= MOST_BYTES_PER_MESSAGE {
                break;
            }
        }
        let ends = self.to_end.len().min(MOST_PER_MESSAGE);
        (begin, self.to_end.drain(..ends).collect())
    }

    /// What one message says of watches.
    pub(crate) fn replied(
        &mut self,
        events: Vec<v1::Event>,
        states: Vec<v1::WatchState>,
        revision: u64,
        now: Instant,
    ) {
        // A watch that begins, or has a gap, does so before the events of the same message.
        states.into_iter().for_each(|state| self.stands(state, now));
        for mut event in events {
            let numbers = std::mem::take(&mut event.watches);
            let Some(event) = Event::of(event) else { continue };
            let event = Arc::new(event);
            for number in numbers {
                if let Some(watch) = self.table.get_mut(&number) {
                    watch.take(&event);
                }
            }
        }
        if revision == 0 {
            return;
        }
        if revision < self.whole {
            // It goes back when a watch begins in the past: of the others it was said before.
            self.note_whole();
        }
        self.whole = revision;
        self.vouched += 1;
    }

    fn stands(&mut self, state: v1::WatchState, now: Instant) {
        let Some(watch) = self.table.get_mut(&state.number) else { return };
        if let Some(failure) = state.failure {
            watch.begun = None;
            if is_passing(failure.code()) {
                let at = now + REST;
                return self.rested.get_or_insert_with(|| (at, Vec::new())).1.push(state.number);
            }
            watch.inbox.end(Error::from_failure(failure, false));
            self.table.remove(&state.number);
            return;
        }
        watch.begun.get_or_insert(self.vouched);
        if state.gap {
            watch.gap(state.revision);
        } else if watch.interest.after.is_none() {
            // It began now: a later connection goes on from here.
            watch.whole = state.revision;
        }
        watch.interest.after.get_or_insert(state.revision);
        watch.inbox.begun(state.revision);
    }

    /// Tries those again that could not begin.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((_, numbers)) = self.rested.take_if(|(at, _)| now >= *at) {
            self.to_begin.extend(numbers.into_iter().filter(|number| self.table.contains_key(number)));
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.rested.as_ref().map(|(at, _)| *at)
    }

    /// None of them can go on.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        self.table.drain().for_each(|(_, watch)| watch.inbox.end(error.clone()));
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(number: u64, revision: u64) -> v1::WatchState {
        v1::WatchState { number, revision, ..Default::default() }
    }

    fn resumes_after(watches: &mut Watches) -> Vec<(u64, Option<u64>)> {
        let (batch, _) = watches.next_batch();
        batch.into_iter().map(|watch| (watch.number, watch.after_revision)).collect()
    }

    /// Spec E-3: a watch that begins in the past takes the cell's word back to there, and misses nothing of it when the
    /// connection breaks before all was told.
    #[test]
    fn a_watch_that_begins_in_the_past_misses_nothing() {
        let (mut watches, now) = (Watches::default(), Instant::now());
        let inbox = || Arc::new(Inbox::new(10));
        watches.begin(1, Interest { path: "/a".into(), ..Interest::default() }, inbox());
        assert_eq!(resumes_after(&mut watches), [(1, None)]);
        watches.replied(Vec::new(), vec![begun(1, 900)], 0, now);
        watches.replied(Vec::new(), Vec::new(), 1000, now);
        watches.begin(2, Interest { path: "/b".into(), after: Some(500), ..Interest::default() }, inbox());
        assert_eq!(resumes_after(&mut watches), [(2, Some(500))]);
        watches.replied(Vec::new(), vec![begun(2, 500)], 0, now);
        let event =
            v1::Event { revision: 600, path: "/b".into(), kind: 2, watches: vec![2], ..Default::default() };
        watches.replied(vec![event], Vec::new(), 600, now);
        watches.connection_lost();
        assert_eq!(resumes_after(&mut watches), [(1, Some(1000)), (2, Some(600))]);
    }
}
