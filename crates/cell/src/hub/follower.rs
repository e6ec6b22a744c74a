//! One follower: its watches, its inbox, and how it catches up from the ring when that is not enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bramah_machine::{Event, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::interest::Watches;
use super::ring::{Batch, End};
use super::{Hub, Interest};

/// The most watches of one follower.
pub const MAX_WATCHES_OF_ONE: usize = 10_000;
/// The most watches of all followers at one replica.
pub const MAX_WATCHES: usize = 1_000_000;

/// How many events of the ring are looked at in one step.
const SCAN: usize = 512;

/// A watch is refused; give some up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} has {watches} watches, and no more are taken; end some first",
    if *own { "the session" } else { "this replica" }
)]
pub struct TooManyWatches {
    /// How many there are.
    pub watches: usize,
    /// They are the session's own; else all of this replica's.
    pub own: bool,
}

/// How a watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// It tells what comes after this revision.
    pub revision: u64,
    /// Events before that may be missing, because not all that was asked for is kept: read anew.
    pub gap: bool,
}

/// An event, and what it is told for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// The numbers of the watches that it is for.
    pub watches: Vec<u64>,
    /// It says what became of a handle of the follower's session, without a call of its own.
    pub own: bool,
}

/// What came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// In the order of their revisions.
    pub events: Vec<Delivery>,
    /// Watches for which events were left out, and after which revision they go on. What is in `events` came before
    /// that. Read anew.
    pub lagged: Vec<(u64, u64)>,
    /// Events that speak of the session's handles were left out: look at their places anew.
    pub own_lagged: bool,
    /// All that is of interest up to this revision has been told; 0: nothing is said of it. It goes back when a watch
    /// begins in the past.
    pub revision: u64,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.lagged.is_empty() && !self.own_lagged
    }
}

/// What is known and kept of one follower.
pub(super) struct Inbox {
    session: SessionId,
    state: Mutex<State>,
    arrived: Notify,
}

struct State {
    watches: Watches,
    /// The place from which on events that speak of the session's handles are told.
    own_from: u64,
    /// What is before this place has been told, except to watches that wanted nothing before a later one.
    told: u64,
    /// What is not told yet, in order.
    waiting: VecDeque<(u64, Arc<Event>)>,
    /// What is offered before this place is there already, or of no interest.
    accept: u64,
    /// What is from this place on is to be looked for in the ring, once what waits has been told.
    behind: Option<u64>,
    /// All up to this revision has been told whenever nothing waits.
    floor: u64,
    /// Where `told` stood when the watches last learnt of it.
    marked: u64,
}

impl Inbox {
    /// Takes an event if it is of interest and not there already. `shared` is the event once one follower wanted it.
    pub(super) fn offer(&self, place: u64, event: &Event, shared: &mut Option<Arc<Event>>, most: usize) {
        let mut state = self.state.lock();
        if state.behind.is_some() || place < state.accept {
            return;
        }
        state.accept = place + 1;
        if !state.wants(self.session, place, event) {
            return;
        }
        if state.waiting.len() < most {
            let event = shared.get_or_insert_with(|| Arc::new(event.clone()));
            state.waiting.push_back((place, Arc::clone(event)));
        } else {
            state.behind = Some(place);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// What comes from a place on won't be offered.
    pub(super) fn look_for_yourself(&self, from: u64) {
        let mut state = self.state.lock();
        if state.behind.is_none() {
            state.behind = Some(state.accept.max(from));
            self.arrived.notify_one();
        }
    }
}

impl State {
    fn is_own(&self, session: SessionId, place: u64, event: &Event) -> bool {
        place >= self.own_from && event.change.told_to() == Some(session)
    }

    fn wants(&self, session: SessionId, place: u64, event: &Event) -> bool {
        self.is_own(session, place, event) || self.watches.of(place, event).next().is_some()
    }

    /// What an event is told for; none if it is of no interest any more.
    fn deliver(&self, session: SessionId, place: u64, event: &Event) -> Option<(Vec<u64>, bool)> {
        let mut watches: Vec<u64> = self.watches.of(place, event).collect();
        watches.sort_unstable();
        let own = self.is_own(session, place, event);
        (own || !watches.is_empty()).then_some((watches, own))
    }

    /// A watch wants what is in the ring from a place on: that is told from there, and nobody is told again. All before
    /// the place `offered` has been offered.
    fn rewind(&mut self, from: u64, offered: u64) {
        if self.told != self.marked {
            self.watches.told_before(self.told);
            self.own_from = self.own_from.max(self.told);
        }
        self.told = self.told.min(from);
        self.marked = self.told;
        let keep = self.waiting.partition_point(|(place, _)| *place < from);
        self.waiting.truncate(keep);
        self.behind = Some(self.behind.unwrap_or(self.accept.max(offered)).min(from));
    }

    fn take_waiting(&mut self, session: SessionId, most: usize, told: &mut Told) {
        while told.events.len() < most
            && let Some((place, event)) = self.waiting.pop_front()
        {
            if let Some((watches, own)) = self.deliver(session, place, &event) {
                told.events.push(Delivery { event, watches, own });
            }
            self.told = place + 1;
        }
    }

    fn take_from_ring(&mut self, session: SessionId, batches: &[Batch], most: usize, told: &mut Told) {
        let start = self.behind.unwrap_or(0);
        for (place, event) in batches.iter().flat_map(|batch| batch.from(start)).take(SCAN) {
            if told.events.len() >= most {
                return;
            }
            if let Some((watches, own)) = self.deliver(session, place, event) {
                told.events.push(Delivery { event: Arc::new(event.clone()), watches, own });
            }
            (self.told, self.behind) = (place + 1, Some(place + 1));
        }
    }

    /// What is before the place `first` is not kept any more.
    fn lose(&mut self, first: u64, end: End, told: &mut Told) {
        let losers = self.watches.lose_before(first, end.place);
        told.lagged.extend(losers.into_iter().map(|number| (number, end.revision)));
        if self.own_from < first {
            (told.own_lagged, self.own_from) = (true, end.place);
        }
        let wanted = self.watches.want_before(end.place) || self.own_from < end.place;
        let resume = if wanted { first } else { end.place };
        (self.told, self.marked, self.behind) = (resume, resume, Some(resume));
    }

    /// From here on events are offered.
    fn caught_up(&mut self, end: End) {
        (self.behind, self.accept, self.floor) = (None, end.place, end.revision);
    }
}

/// Follows the events that one session's watches want and those that speak of its handles. Dropped, it is forgotten.
pub struct Follower {
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    number: u64,
}

impl Follower {
    pub(super) fn new(hub: Arc<Hub>, session: SessionId, number: u64) -> Self {
        // Nothing is accepted until it is known where it begins.
        let state = State {
            watches: Watches::default(),
            own_from: 0,
            told: 0,
            waiting: VecDeque::new(),
            accept: u64::MAX,
            behind: None,
            floor: 0,
            marked: 0,
        };
        let inbox = Arc::new(Inbox { session, state: Mutex::new(state), arrived: Notify::new() });
        let mut state = inbox.state.lock();
        hub.index.write().enter(session, number, Arc::clone(&inbox));
        let end = hub.ring.lock().end();
        (state.own_from, state.told, state.marked) = (end.place, end.place, end.place);
        state.caught_up(end);
        drop(state);
        Self { hub, inbox, number }
    }

    /// Begins a watch: what is after `interest.after` and kept comes first. It asks nobody whether the session may
    /// read there.
    ///
    /// # Errors
    /// When there are too many watches.
    pub fn watch(&self, interest: Interest) -> Result<Begun, TooManyWatches> {
        let mut state = self.inbox.state.lock();
        self.end_watch(&mut state, interest.number);
        self.admit(&state)?;
        self.hub.index.write().add(
            interest.path.as_str(),
            interest.subtree,
            self.number,
            Arc::clone(&self.inbox),
        );
        // After the index: what is not in the ring yet will be offered.
        let ring = self.hub.ring.lock();
        let (end, kept) = (ring.end(), ring.place_after(interest.after.unwrap_or(0)));
        drop(ring);
        let (begun, from) = match (interest.after, kept) {
            (None, _) => (Begun { revision: end.revision, gap: false }, end.place),
            (Some(after), Some(from)) => (Begun { revision: after, gap: false }, from),
            (Some(_), None) => (Begun { revision: end.revision, gap: true }, end.place),
        };
        if from < end.place {
            state.rewind(from, self.hub.handed_out.load(Ordering::Acquire));
            self.inbox.arrived.notify_one();
        }
        state.watches.insert(Interest { after: Some(begun.revision), ..interest }, from);
        Ok(begun)
    }

    fn admit(&self, state: &State) -> Result<(), TooManyWatches> {
        if state.watches.len() >= MAX_WATCHES_OF_ONE {
            return Err(TooManyWatches { watches: state.watches.len(), own: true });
        }
        let watches = self.hub.watches.fetch_add(1, Ordering::Relaxed);
        if watches >= MAX_WATCHES {
            self.hub.watches.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyWatches { watches, own: false });
        }
        Ok(())
    }

    /// Ends a watch: nothing more is told for it, not even what waits. Without such a watch nothing happens.
    pub fn unwatch(&self, number: u64) {
        self.end_watch(&mut self.inbox.state.lock(), number);
    }

    fn end_watch(&self, state: &mut State, number: u64) {
        if !state.watches.has(number) {
            return;
        }
        self.hub.watches.fetch_sub(1, Ordering::Relaxed);
        if let Some((path, subtree)) = state.watches.remove(number) {
            self.hub.index.write().remove(path.as_str(), subtree, self.number);
        }
    }

    /// What came, at most `most` events (and at least one): waits until there is something. Cancel-safe.
    pub async fn next(&mut self, most: usize) -> Told {
        loop {
            match self.take(most.max(1)) {
                Some(told) if !told.is_empty() => return told,
                // There is more in the ring.
                Some(_) => tokio::task::yield_now().await,
                None => self.inbox.arrived.notified().await,
            }
        }
    }

    /// What is there now; `None` if nothing is, and nothing will be before more is applied.
    pub(super) fn take(&self, most: usize) -> Option<Told> {
        let mut state = self.inbox.state.lock();
        let mut told = Told::default();
        state.take_waiting(self.inbox.session, most, &mut told);
        let mut more = false;
        if state.waiting.is_empty()
            && told.events.len() < most
            && let Some(place) = state.behind
        {
            self.catch_up(&mut state, place, most, &mut told);
            more = state.behind.is_some();
        }
        if told.is_empty() && !more {
            return None;
        }
        told.revision = self.seen_by(&state);
        Some(told)
    }

    fn catch_up(&self, state: &mut State, place: u64, most: usize, told: &mut Told) {
        let ring = self.hub.ring.lock();
        let (chunk, first, end) = (ring.from(place, SCAN), ring.first(), ring.end());
        drop(ring);
        match chunk {
            Some(batches) => state.take_from_ring(self.inbox.session, &batches, most, told),
            None => state.lose(first, end, told),
        }
        // The inbox is locked: what is applied after this look will be offered after it.
        let end = self.hub.ring.lock().end();
        if state.behind == Some(end.place) {
            state.caught_up(end);
        }
    }

    /// All that is of interest up to this revision was handed out by [`Follower::next`]; 0: that is not known. Cheap.
    pub fn seen(&self) -> u64 {
        self.seen_by(&self.inbox.state.lock())
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.inbox.state.lock().waiting.len()
    }

    fn seen_by(&self, state: &State) -> u64 {
        if let Some((_, event)) = state.waiting.front() {
            return event.revision - 1;
        }
        let told_before = |place| self.hub.ring.lock().revision_before(place).unwrap_or(0);
        if let Some(place) = state.behind {
            return told_before(place);
        }
        let handed_out = self.hub.handed_out_revision.load(Ordering::Acquire).max(state.floor);
        // What was offered and taken this very moment is noted after that.
        let ahead = state.told > self.hub.handed_out.load(Ordering::Acquire);
        if ahead { handed_out.max(told_before(state.told)) } else { handed_out }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let state = self.inbox.state.lock();
        self.hub.watches.fetch_sub(state.watches.len(), Ordering::Relaxed);
        let mut index = self.hub.index.write();
        for (path, subtree) in state.watches.places() {
            index.remove(path, subtree, self.number);
        }
        index.leave(self.inbox.session, self.number);
    }
}
