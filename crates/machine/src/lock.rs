//! Locks: every node is one (spec L-1 to L-6; Chubby §2.4).
//!
//! A lock is here while somebody holds it, waits for it, or its lock-delay runs. Waiters stand in a queue, and
//! whatever frees the lock hands it to the first of them in the same step (spec L-2).

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::handle::{Handle, HandleId, Place};
use crate::planted::{self, Bug};
use crate::{Change, Event, Path, Refusal, SessionId, State};

/// The most that wait for one lock.
pub const MAX_WAITERS: usize = 100_000;
/// How many lock-delays end in one step; more end in the next.
const DELAYS_ENDED_PER_COMMAND: usize = 64;

/// A holder or waiter.
pub(crate) type Who = (SessionId, HandleId);

/// A lock as it was acquired: what a holder shows to those it works with (spec L-4; Chubby §2.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequencer {
    /// The node that is locked.
    pub path: Path,
    /// Its instance.
    pub instance: u64,
    /// Its lock generation, which grows each time the free lock is taken.
    pub generation: u64,
    /// Whether others may hold it too.
    pub shared: bool,
}

impl fmt::Display for Sequencer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.shared { 's' } else { 'x' };
        write!(formatter, "{}#{mode}{}.{}", self.path, self.instance, self.generation)
    }
}

/// A lock that is held, waited for, or kept free by a lock-delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The node.
    pub path: Path,
    /// Whether those who hold it share it.
    pub shared: bool,
    /// Who holds it, and since when by the cell's time.
    pub(crate) holders: OrdMap<Who, u64>,
    /// Who waits, in order.
    pub(crate) waiters: OrdMap<u64, Waiter>,
    /// Nobody gets it before this, by the cell's time (spec L-5); 0: no lock-delay runs.
    pub free_at_ms: u64,
}

/// Who waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// The session.
    pub session: SessionId,
    /// The handle that is to hold the lock.
    pub handle: HandleId,
    /// Whether it would share it.
    pub shared: bool,
    /// Since when it waits, by the cell's time.
    pub since_ms: u64,
}

impl Lock {
    fn on(path: Path) -> Lock {
        Lock { path, shared: false, holders: OrdMap::new(), waiters: OrdMap::new(), free_at_ms: 0 }
    }

    /// Who holds it, and since when by the cell's time.
    pub fn holders(&self) -> impl Iterator<Item = (SessionId, HandleId, u64)> {
        self.holders.iter().map(|((session, handle), since)| (*session, *handle, *since))
    }

    /// Who waits, first come, first served.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    /// The numbers of those who wait: each that comes gets a greater one than any before it.
    pub fn queue(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.waiters.iter().map(|(number, waiter)| (*number, waiter))
    }

    /// Whether somebody who comes now may hold it, waiters aside.
    pub(crate) fn takes(&self, shared: bool) -> bool {
        let together = shared || planted::is(Bug::ExclusiveBesideShared);
        self.free_at_ms == 0 && (self.holders.is_empty() || (self.shared && together))
    }

    /// The one in the queue whose turn it is.
    fn next_in_line(&self) -> Option<(u64, Waiter)> {
        let mut line = self.waiters.iter().map(|(ticket, waiter)| (*ticket, *waiter));
        let first = line.next()?;
        let past = planted::is(Bug::LockPastQueue).then(|| line.next()).flatten();
        Some(past.filter(|second| second.1.shared == first.1.shared).unwrap_or(first))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty() && self.free_at_ms == 0
    }
}

/// All locks that are not simply free, by instance of their node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks {
    pub(crate) table: OrdMap<u64, Arc<Lock>>,
    /// Their instances by name.
    pub(crate) by_path: OrdMap<Path, u64>,
    /// The lock-delays that run, by their end.
    pub(crate) delays: OrdSet<(u64, u64)>,
    /// The newest number in a queue.
    pub(crate) tickets: u64,
}

impl Locks {
    /// The lock of a node, which is a free one if it was not here.
    fn entry(&mut self, path: &Path, instance: u64) -> &mut Lock {
        if !self.table.contains_key(&instance) {
            self.insert(instance, Lock::on(path.clone()));
        }
        Arc::make_mut(self.table.entry(instance).or_insert_with(|| Arc::new(Lock::on(path.clone()))))
    }

    pub(crate) fn insert(&mut self, instance: u64, lock: Lock) {
        self.by_path.insert(lock.path.clone(), instance);
        self.table.insert(instance, Arc::new(lock));
    }

    fn remove(&mut self, instance: u64) -> Option<Arc<Lock>> {
        let lock = self.table.remove(&instance)?;
        self.by_path.remove(&lock.path);
        Some(lock)
    }

    /// How many are found by name.
    pub(crate) fn named(&self) -> usize {
        self.by_path
            .iter()
            .filter(|(path, id)| self.table.get(*id).is_some_and(|lock| lock.path == **path))
            .count()
    }
}

/// Why a handle gives up its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It was released or closed, or its session ended as it should.
    InOrder,
    /// Its session died, or it was revoked, so the holder may not know yet: the lock-delay begins.
    Taken,
}

impl State {
    /// The lock of a node, unless it is free and nobody has to do with it.
    pub fn lock(&self, path: &Path) -> Option<&Lock> {
        self.node(path).and_then(|node| self.locks.table.get(&node.instance)).map(|lock| &**lock)
    }

    /// All locks that are held, waited for, or kept free by a lock-delay.
    pub fn locks(&self) -> impl Iterator<Item = &Lock> {
        self.locks.table.values().map(|lock| &**lock)
    }

    /// Those of `locks` whose node is `top` or below it, in the order of their names, from the one after `after` on.
    /// Passes over locks elsewhere in the tree: ask a view.
    pub fn locks_below<'a>(
        &'a self,
        top: &Path,
        after: Option<&Path>,
    ) -> impl Iterator<Item = &'a Lock> + use<'a> {
        let top = top.clone();
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let found = self.locks.by_path.range((start, Bound::Unbounded));
        let below = found.filter(move |(path, _)| **path == top || path.is_below(&top));
        below.filter_map(|(_, instance)| self.locks.table.get(instance)).map(|lock| &**lock)
    }

    /// When the next lock-delay ends, by the cell's time. Whoever leads sees to it that a command comes then.
    pub fn next_lock_delay_ms(&self) -> Option<u64> {
        self.locks.delays.get_min().map(|(end, _)| *end)
    }

    /// What a handle holds (spec L-4).
    pub fn sequencer_of(&self, handle: &Handle) -> Option<Sequencer> {
        let Place::Holding { generation } = handle.place else { return None };
        let shared = self.locks.table.get(&handle.instance).is_some_and(|lock| lock.shared);
        Some(Sequencer { path: handle.path.clone(), instance: handle.instance, generation, shared })
    }

    /// Refuses a sequencer whose lock is not held any more as it says (spec L-4).
    pub fn check_sequencer(&self, sequencer: &Sequencer) -> Result<(), Refusal> {
        let node = self.node(&sequencer.path).filter(|node| node.instance == sequencer.instance);
        let lock = self.locks.table.get(&sequencer.instance);
        let holds = lock.is_some_and(|lock| !lock.holders.is_empty() && lock.shared == sequencer.shared);
        let ignored = planted::is(Bug::SequencerGenerationIgnored);
        if holds && node.is_some_and(|node| node.lock_generation == sequencer.generation || ignored) {
            return Ok(());
        }
        Err(Refusal::SequencerInvalid { sequencer: sequencer.clone() })
    }

    /// Gives the lock to a handle if it can have it now.
    pub(crate) fn try_acquire(
        &mut self,
        who: Who,
        handle: &Handle,
        shared: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        let lock = self.locks.table.get(&handle.instance);
        if !lock.is_none_or(|lock| lock.waiters.is_empty() && lock.takes(shared)) {
            return false;
        }
        self.hold(who, &handle.path, handle.instance, shared, false, events);
        true
    }

    fn hold(
        &mut self,
        who: Who,
        path: &Path,
        instance: u64,
        shared: bool,
        waited: bool,
        events: &mut Vec<Event>,
    ) {
        let now_ms = self.time_ms;
        let lock = self.locks.entry(path, instance);
        let was_free = lock.holders.is_empty();
        lock.shared = shared;
        lock.holders.insert(who, now_ms);
        let Some(node) = self.tree.node_mut(path) else { return };
        let stays = planted::is(Bug::LockGenerationStays) && node.lock_generation > 0;
        node.lock_generation += u64::from(was_free && !stays);
        let generation = node.lock_generation;
        let (session, handle) = who;
        self.handles.place(session, handle, Place::Holding { generation });
        let revision = self.tree.revisions.stamp();
        let change = Change::LockAcquired { session, handle, generation, shared, waited };
        events.push(Event { revision, path: path.clone(), change });
    }

    /// Puts a handle at the end of the queue and tells the holders that somebody wants what they have (spec E-1).
    pub(crate) fn queue_up(&mut self, who: Who, handle: &Handle, shared: bool, events: &mut Vec<Event>) {
        let (now_ms, (session, id)) = (self.time_ms, who);
        self.locks.tickets += 1;
        let ticket = self.locks.tickets;
        let lock = self.locks.entry(&handle.path, handle.instance);
        lock.waiters.insert(ticket, Waiter { session, handle: id, shared, since_ms: now_ms });
        self.handles.place(session, id, Place::Waiting { ticket });
        self.tell_wanted(&handle.path, shared, events);
    }

    /// Tells a lock's holders that somebody waits: once an entry, after all that the entry did before.
    fn tell_wanted(&mut self, path: &Path, shared: bool, events: &mut Vec<Event>) {
        let revision = self.tree.revisions.stamp();
        let wanted = Event { revision, path: path.clone(), change: Change::LockWanted { shared } };
        events.retain(|told| *told != wanted);
        events.push(wanted);
    }

    /// Takes a handle out of the holders or the queue, and hands the lock on.
    pub(crate) fn leave_lock(
        &mut self,
        who: Who,
        handle: &Handle,
        leaving: Leaving,
        events: &mut Vec<Event>,
    ) {
        let now_ms = self.time_ms;
        let Some(lock) = self.locks.table.get_mut(&handle.instance).map(Arc::make_mut) else { return };
        match handle.place {
            Place::Apart => return,
            Place::Waiting { ticket } => drop(lock.waiters.remove(&ticket)),
            Place::Holding { .. } => {
                lock.holders.remove(&who);
                let delay_ms = u64::from(handle.lock_delay_ms);
                let delayed = leaving == Leaving::Taken && !planted::is(Bug::LockDelayIgnored);
                if delayed && delay_ms > 0 {
                    let before = lock.free_at_ms;
                    lock.free_at_ms = before.max(now_ms.saturating_add(delay_ms));
                    self.locks.delays.remove(&(before, handle.instance));
                    self.locks.delays.insert((lock.free_at_ms, handle.instance));
                }
                let revision = self.tree.revisions.stamp();
                let change = Change::LockReleased { session: who.0, handle: who.1 };
                events.push(Event { revision, path: handle.path.clone(), change });
            }
        }
        self.handles.place(who.0, who.1, Place::Apart);
        self.hand_on(handle.instance, events);
    }

    /// Takes all handles of a session out of the queues.
    pub(crate) fn leave_queues(&mut self, session: SessionId, events: &mut Vec<Event>) {
        let waiting = |(id, handle): (HandleId, &Arc<Handle>)| match handle.place {
            Place::Waiting { ticket } => Some((id, handle.instance, ticket)),
            _ => None,
        };
        let left: Vec<_> = self.handles.of(session).filter_map(waiting).collect();
        for &(id, instance, ticket) in &left {
            if let Some(lock) = self.locks.table.get_mut(&instance) {
                Arc::make_mut(lock).waiters.remove(&ticket);
            }
            self.handles.place(session, id, Place::Apart);
        }
        for (_, instance, _) in left {
            self.hand_on(instance, events);
        }
    }

    /// Gives the lock to the first who wait, as many as can have it together, and tells these if somebody waits
    /// still (spec L-7): what was told before they held it was for others. Forgets it when nobody has to do with it.
    fn hand_on(&mut self, instance: u64, events: &mut Vec<Event>) {
        let mut given = false;
        while let Some(lock) = self.locks.table.get(&instance) {
            let path = lock.path.clone();
            let Some((ticket, first)) = lock.next_in_line() else {
                if lock.is_idle() {
                    self.locks.remove(instance);
                }
                return;
            };
            if !lock.takes(first.shared) {
                if given {
                    let shared = first.shared;
                    self.tell_wanted(&path, shared, events);
                }
                return;
            }
            given = true;
            if let Some(lock) = self.locks.table.get_mut(&instance) {
                Arc::make_mut(lock).waiters.remove(&ticket);
            }
            self.hold((first.session, first.handle), &path, instance, first.shared, true, events);
        }
    }

    /// What a snapshot without them would do: see [`planted`].
    pub(crate) fn forget_all_waiters(&mut self) {
        let sessions: Vec<SessionId> = self.sessions().map(|(id, _)| id).collect();
        for session in sessions {
            self.leave_queues(session, &mut Vec::new());
        }
    }

    /// The node is going: whoever holds or waits has nothing any more.
    pub(crate) fn lose_lock(&mut self, instance: u64, events: &mut Vec<Event>) {
        let Some(lock) = self.locks.remove(instance) else { return };
        self.locks.delays.remove(&(lock.free_at_ms, instance));
        let waiters = lock.waiters.values().map(|waiter| (waiter.session, waiter.handle));
        for (session, handle) in lock.holders.keys().copied().chain(waiters) {
            self.handles.place(session, handle, Place::Apart);
            let revision = self.tree.revisions.stamp();
            let change = Change::LockLost { session, handle };
            events.push(Event { revision, path: lock.path.clone(), change });
        }
    }

    /// Whether the lock-delay of a node's lock runs.
    pub(crate) fn is_delayed(&self, instance: u64) -> bool {
        self.locks.table.get(&instance).is_some_and(|lock| lock.free_at_ms != 0)
    }

    /// Hands on the locks whose lock-delay is over. An ephemeral node that was there only for its lock-delay goes.
    pub(crate) fn end_lock_delays(&mut self, events: &mut Vec<Event>) {
        for _ in 0..DELAYS_ENDED_PER_COMMAND {
            let Some(&(end, instance)) = self.locks.delays.get_min().filter(|(end, _)| *end <= self.time_ms)
            else {
                return;
            };
            self.locks.delays.remove(&(end, instance));
            let Some(lock) = self.locks.table.get_mut(&instance).map(Arc::make_mut) else { continue };
            lock.free_at_ms = 0;
            let path = lock.path.clone();
            self.hand_on(instance, events);
            self.reap(path, events);
        }
    }
}
