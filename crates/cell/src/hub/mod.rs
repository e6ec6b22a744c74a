//! Who is told of which events (spec E-1 to E-4).
//!
//! Applying an entry only appends its events to the [`ring`]. A task of the fronts walks the ring, looks up who wants
//! each event, and puts it into the inboxes of those [`follower`]s. An inbox is small: who does not empty it reads on
//! from the ring, at its own pace and cost, and only when the ring has moved past it was something left out.

mod follower;
mod interest;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bramah_machine::{Event, SessionId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};

pub use follower::{Begun, Delivery, Follower, MAX_WATCHES, MAX_WATCHES_OF_ONE, Told, TooManyWatches};
pub use interest::{Interest, Kinds};
pub(crate) use ring::{Bounds, Ring};

use follower::Inbox;
use interest::way;

/// Events that are taken out of the ring at once.
const CHUNK: usize = 1_024;

/// How many followers are served, or events looked at, before others on the thread get their turn.
const STEPS_A_TURN: usize = 256;

/// The followers that want the events of one node, subtree or session, by their numbers.
type Wanting = BTreeMap<u64, Arc<Inbox>>;

/// Who may want an event.
#[derive(Default)]
struct Index {
    exact: HashMap<Box<str>, Wanting>,
    subtree: HashMap<Box<str>, Wanting>,
    sessions: HashMap<SessionId, Wanting>,
    all: Wanting,
}

impl Index {
    fn places(&mut self, subtree: bool) -> &mut HashMap<Box<str>, Wanting> {
        if subtree { &mut self.subtree } else { &mut self.exact }
    }

    fn add(&mut self, path: &str, subtree: bool, number: u64, inbox: Arc<Inbox>) {
        self.places(subtree).entry(path.into()).or_default().insert(number, inbox);
    }

    fn remove(&mut self, path: &str, subtree: bool, number: u64) {
        let places = self.places(subtree);
        let Some(wanting) = places.get_mut(path) else { return };
        wanting.remove(&number);
        if wanting.is_empty() {
            places.remove(path);
        }
    }

    fn enter(&mut self, session: SessionId, number: u64, inbox: Arc<Inbox>) {
        self.sessions.entry(session).or_default().insert(number, Arc::clone(&inbox));
        self.all.insert(number, inbox);
    }

    fn leave(&mut self, session: SessionId, number: u64) {
        self.all.remove(&number);
        let Some(wanting) = self.sessions.get_mut(&session) else { return };
        wanting.remove(&number);
        if wanting.is_empty() {
            self.sessions.remove(&session);
        }
    }

    /// Those who may want an event, some of them perhaps twice.
    fn find(&self, event: &Event, found: &mut Vec<Arc<Inbox>>) {
        let mut take = |wanting: Option<&Wanting>| {
            found.extend(wanting.into_iter().flat_map(BTreeMap::values).map(Arc::clone));
        };
        take(self.exact.get(event.path.as_str()));
        if !self.subtree.is_empty() {
            way(&event.path).for_each(|name| take(self.subtree.get(name)));
        }
        if let Some(session) = event.change.told_to() {
            take(self.sessions.get(&session));
        }
    }
}

/// The ring, and those who follow it.
///
/// Locks are taken in this order: a follower's inbox, the index, the ring.
pub(crate) struct Hub {
    bounds: Bounds,
    ring: Mutex<Ring>,
    index: RwLock<Index>,
    /// The number of the newest follower.
    followers: AtomicU64,
    watches: AtomicUsize,
    /// The place up to which events have been handed out.
    handed_out: AtomicU64,
    /// The revision up to which they have.
    handed_out_revision: AtomicU64,
    /// Somebody follows now.
    followed: Notify,
    /// Held by the one task that hands out.
    handing_out: tokio::sync::Mutex<()>,
}

impl Hub {
    /// Begins beside a state of this revision.
    pub(crate) fn new(bounds: Bounds, revision: u64) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            ring: Mutex::new(Ring::new(bounds, revision)),
            index: RwLock::default(),
            followers: AtomicU64::new(0),
            watches: AtomicUsize::new(0),
            handed_out: AtomicU64::new(0),
            handed_out_revision: AtomicU64::new(0),
            followed: Notify::new(),
            handing_out: tokio::sync::Mutex::new(()),
        })
    }

    /// The events of an entry that was just applied. Whoever is to hear of it soon is woken by the caller.
    pub(crate) fn push(&self, events: Vec<Event>) {
        if !events.is_empty() {
            self.ring.lock().push(events);
        }
    }

    /// The state came from elsewhere, by a snapshot.
    pub(crate) fn begin_anew(&self, revision: u64) {
        self.ring.lock().begin_anew(revision);
    }

    /// Follows for one session.
    pub(crate) fn follow(self: &Arc<Self>, session: SessionId) -> Follower {
        let number = self.followers.fetch_add(1, Ordering::Relaxed) + 1;
        let follower = Follower::new(Arc::clone(self), session, number);
        self.followed.notify_one();
        follower
    }

    /// The events of each entry from now on, for whoever wants them all.
    pub(crate) fn stream(self: &Arc<Self>, applied: watch::Receiver<u64>) -> EventStream {
        let next = self.ring.lock().end().place;
        EventStream { hub: Arc::clone(self), next, applied }
    }

    /// Hands events to followers for as long as it is polled; `applied` changes after the events of entries are there. A second call waits
    /// for the first to end.
    pub(crate) async fn dispatch(self: Arc<Self>, mut applied: watch::Receiver<u64>) {
        let _only = self.handing_out.lock().await;
        loop {
            applied.mark_unchanged();
            self.hand_out().await;
            if self.index.read().all.is_empty() {
                // Not even woken by what is applied meanwhile.
                self.followed.notified().await;
            } else if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands out all that is there.
    async fn hand_out(&self) {
        loop {
            let end = self.ring.lock().end();
            // In this order: whoever follows from now on wants nothing that is there already.
            if self.index.read().all.is_empty() {
                return self.handed_out_to(end.place, end.revision);
            }
            let at = self.handed_out.load(Ordering::Relaxed);
            let chunk = self.ring.lock().from(at, CHUNK);
            match chunk {
                None => self.fell_behind(at).await,
                Some(batches) if batches.is_empty() => return self.handed_out_to(end.place, end.revision),
                Some(batches) => self.hand_out_batches(&batches).await,
            }
        }
    }

    fn handed_out_to(&self, place: u64, revision: u64) {
        self.handed_out.fetch_max(place, Ordering::Release);
        self.handed_out_revision.fetch_max(revision, Ordering::Release);
    }

    async fn hand_out_batches(&self, batches: &[ring::Batch]) {
        let (mut found, mut steps) = (Vec::new(), 0);
        for batch in batches {
            for (place, event) in batch.from(self.handed_out.load(Ordering::Relaxed)) {
                self.index.read().find(event, &mut found);
                let mut shared = None;
                for inbox in found.drain(..) {
                    inbox.offer(place, event, &mut shared, self.bounds.inbox);
                    take_turns(&mut steps).await;
                }
                take_turns(&mut steps).await;
            }
            self.handed_out_to(batch.end(), batch.revision());
        }
    }

    /// The ring has moved past what was not handed out yet: everybody looks for themselves what they missed.
    async fn fell_behind(&self, at: u64) {
        let (first, followers) = {
            let index = self.index.read();
            (self.ring.lock().first(), index.all.values().map(Arc::clone).collect::<Vec<_>>())
        };
        let mut steps = 0;
        for inbox in followers {
            inbox.look_for_yourself(at);
            take_turns(&mut steps).await;
        }
        self.handed_out.fetch_max(first, Ordering::Relaxed);
    }
}

async fn take_turns(steps: &mut usize) {
    *steps += 1;
    if steps.is_multiple_of(STEPS_A_TURN) {
        tokio::task::yield_now().await;
    }
}

/// All events of this replica, an entry's at a time.
pub struct EventStream {
    hub: Arc<Hub>,
    next: u64,
    applied: watch::Receiver<u64>,
}

impl EventStream {
    /// The next entry's events. Cancel-safe.
    ///
    /// # Errors
    /// `Lagged` if events were left out: it goes on with the oldest that are kept. `Closed` at the replica's end.
    pub async fn recv(&mut self) -> Result<Arc<[Event]>, RecvError> {
        loop {
            self.applied.mark_unchanged();
            let (batch, first) = {
                let ring = self.hub.ring.lock();
                (ring.from(self.next, 1), ring.first())
            };
            match batch.map(|batches| batches.into_iter().next()) {
                Some(Some(batch)) => {
                    self.next = batch.end();
                    return Ok(batch.events);
                }
                Some(None) => self.applied.changed().await.map_err(|_| RecvError::Closed)?,
                None => {
                    let left_out = first - self.next;
                    self.next = first;
                    return Err(RecvError::Lagged(left_out));
                }
            }
        }
    }
}
