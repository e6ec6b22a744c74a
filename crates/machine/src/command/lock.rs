//! `Acquire`, `CancelAcquire`, `Release`, `SetSequencer`: what a handle does with its node's lock (spec L-1 to L-4).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acl::Right;
use crate::handle::{Handle, HandleId, Place};
use crate::lock::{Leaving, MAX_WAITERS, Sequencer};
use crate::{Answer, Event, Outcome, Refusal, SessionId, State};

/// Takes a node's lock, or a place in its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// The handle that is to hold the lock.
    pub handle: HandleId,
    /// Hold it together with others that share it.
    pub shared: bool,
    /// Stand in the queue if the lock can't be had now; else that is refused, and who holds it is not told. A handle
    /// that waits already keeps its place either way.
    pub wait: bool,
}

/// Leaves the queue. If the lock was given to the handle before that, the handle holds it, and the answer says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAcquire {
    /// The handle.
    pub handle: HandleId,
}

/// Gives a lock back, and so to the next in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The handle that holds the lock.
    pub handle: HandleId,
}

/// Ties a handle to a lock: what is done through it fails once the lock is not held any more as the sequencer says.
/// Takes the right to read the node that is locked, since the answer tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSequencer {
    /// The handle.
    pub handle: HandleId,
    /// The lock; `None` unties the handle.
    pub sequencer: Option<Sequencer>,
}

impl Acquire {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        let (handle, _) = state.through_handle(session, self.handle, Right::Write)?;
        let handle = handle.clone();
        let who = (session, self.handle);
        match handle.place {
            Place::Apart => self.stand_for(state, who, &handle, events),
            Place::Waiting { .. } if !self.wait && self.shared == state.is_shared(&handle) => {
                Err(state.lock_held(&handle))
            }
            // Asked again, by a caller that does not know its answer.
            _ if self.shared == state.is_shared(&handle) => Ok(state.place_of(who)),
            _ => Err(Refusal::LockInUse { path: handle.path.clone(), handle: self.handle }),
        }
    }

    fn stand_for(
        &self,
        state: &mut State,
        who: crate::lock::Who,
        handle: &Handle,
        events: &mut Vec<Event>,
    ) -> Outcome {
        if !state.try_acquire(who, handle, self.shared, events) {
            if !self.wait {
                return Err(state.lock_held(handle));
            }
            let (_, waiters) = state.crowd(handle.instance);
            if waiters >= MAX_WAITERS as u64 {
                return Err(Refusal::TooManyWaiters { path: handle.path.clone(), waiters });
            }
            state.queue_up(who, handle, self.shared, events);
        }
        Ok(state.place_of(who))
    }
}

impl CancelAcquire {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        let who = (session, self.handle);
        let handle = Arc::clone(state.handles.find(session, self.handle)?);
        if let Place::Waiting { .. } = handle.place {
            state.leave_lock(who, &handle, Leaving::InOrder, events);
        }
        Ok(state.place_of(who))
    }
}

impl Release {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        let handle = Arc::clone(state.handles.find(session, self.handle)?);
        if !matches!(handle.place, Place::Holding { .. }) {
            state.check_alive(&handle, self.handle)?;
            return Err(Refusal::LockNotHeld { path: handle.path.clone(), handle: self.handle });
        }
        state.leave_lock((session, self.handle), &handle, Leaving::InOrder, events);
        Ok(Answer::Done)
    }
}

impl SetSequencer {
    pub(crate) fn apply(self, state: &mut State, session: SessionId) -> Outcome {
        if let Some(sequencer) = &self.sequencer {
            state.permit_reading(&state.principal_of(session)?, &sequencer.path)?;
            state.check_sequencer(sequencer)?;
        }
        state.handles.find(session, self.handle)?;
        if let Some(handle) = state.handles.table.get_mut(&(session, self.handle)) {
            Arc::make_mut(handle).sequencer = self.sequencer;
        }
        Ok(Answer::Done)
    }
}

impl State {
    /// Whether a handle that holds or waits shares, or would.
    fn is_shared(&self, handle: &Handle) -> bool {
        let lock = self.locks.table.get(&handle.instance);
        lock.is_some_and(|lock| match handle.place {
            Place::Waiting { ticket } => lock.waiters.get(&ticket).is_some_and(|waiter| waiter.shared),
            _ => lock.shared,
        })
    }

    fn crowd(&self, instance: u64) -> (u64, u64) {
        let lock = self.locks.table.get(&instance);
        lock.map_or((0, 0), |lock| (lock.holders.len() as u64, lock.waiters.len() as u64))
    }

    fn lock_held(&self, handle: &Handle) -> Refusal {
        let (holders, waiters) = self.crowd(handle.instance);
        Refusal::LockHeld { path: handle.path.clone(), holders, waiters }
    }

    /// What a handle is to its lock now, as an answer.
    fn place_of(&self, (session, id): crate::lock::Who) -> Answer {
        let Some(handle) = self.handle(session, id) else { return Answer::LockApart };
        match handle.place {
            Place::Apart => Answer::LockApart,
            Place::Waiting { .. } => Answer::LockWaiting { waiters: self.crowd(handle.instance).1 },
            Place::Holding { generation } => {
                Answer::LockAcquired { generation, shared: self.is_shared(handle) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Change, Command, Moment, OpenNode};

    fn held(generation: u64, shared: bool) -> Outcome {
        Ok(Answer::LockAcquired { generation, shared })
    }

    fn waiting(waiters: u64) -> Outcome {
        Ok(Answer::LockWaiting { waiters })
    }

    fn pass_time(cell: &mut Cell, ms: u64) {
        cell.moment = Moment { time_ms: cell.moment.time_ms + ms, ..cell.moment };
        cell.run(Command::PassTime).unwrap();
    }

    /// A cell with the file `/l`, and sessions that have it open.
    fn contenders<const COUNT: usize>() -> (Cell, [(SessionId, HandleId); COUNT]) {
        let mut cell = Cell::new();
        cell.run(set("/l", "")).unwrap();
        let who = std::array::from_fn(|_| {
            let session = cell.open_session();
            (session, cell.open(session, "/l"))
        });
        cell.told();
        (cell, who)
    }

    fn open_with_delay(cell: &mut Cell, session: SessionId, lock_delay_ms: u32) -> Outcome {
        let open = OpenNode { path: path("/l"), mode: ALL, create: None, lock_delay_ms, within: None };
        cell.by(session, Command::OpenNode(open))
    }

    /// Spec L-1, L-3: one holder, and a new generation each time the free lock is taken; directories and counters are
    /// locks as well.
    #[test]
    fn one_holds_a_lock() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        assert_eq!(cell.try_acquire(a, ha), held(1, false));
        assert_eq!(cell.try_acquire(a, ha), held(1, false), "asked again");
        let refusal = Refusal::LockHeld { path: path("/l"), holders: 1, waiters: 0 };
        assert_eq!(cell.try_acquire(b, hb), Err(refusal));
        assert_eq!(cell.release(a, ha), Ok(Answer::Done));
        assert_eq!(cell.try_acquire(b, hb), held(2, false));
        assert_eq!(cell.state.stat(&path("/l")).unwrap().lock_generation, 2);
        cell.run(create_directory("/d")).unwrap();
        cell.run(increment("/n", 1)).unwrap();
        for text in ["/d", "/n", "/"] {
            let handle = cell.open(a, text);
            assert_eq!(cell.try_acquire(a, handle), held(1, false));
        }
    }

    /// Spec L-2: first come, first served, and a release hands the lock on in the same step.
    #[test]
    fn waiters_are_served_in_order() {
        let (mut cell, [(a, ha), (b, hb), (c, hc), (d, hd)]) = contenders();
        assert_eq!(cell.acquire(a, ha), held(1, false));
        assert_eq!(cell.acquire(b, hb), waiting(1));
        assert_eq!(cell.acquire(c, hc), waiting(2));
        assert_eq!(cell.acquire(c, hc), waiting(2), "asked again, it keeps its place");
        let refusal = Refusal::LockHeld { path: path("/l"), holders: 1, waiters: 2 };
        assert_eq!(cell.try_acquire(c, hc), Err(refusal), "not asked to wait, it can't have it now");
        assert_eq!(cell.acquire(d, hd), waiting(3));
        cell.told();
        cell.release(a, ha).unwrap();
        assert!(cell.holds(b, hb) && !cell.holds(c, hc));
        let changes: Vec<Change> = cell.told().into_iter().map(|event| event.change).collect();
        let handed = [
            Change::LockReleased { session: a, handle: ha },
            Change::LockAcquired { session: b, handle: hb, generation: 2, shared: false, waited: true },
            Change::LockWanted { shared: false },
        ];
        assert_eq!(changes, handed, "nobody else is woken, and the new holder hears that others wait");
        cell.by(c, Command::CancelAcquire(CancelAcquire { handle: hc })).unwrap();
        cell.die(b);
        assert!(cell.holds(d, hd), "the one before it has left the queue");
        assert_eq!(cell.state.lock(&path("/l")).unwrap().waiters().count(), 0);
    }

    /// Spec L-2: those who share and stand together get the lock together; one who wants it alone is not passed by.
    #[test]
    fn sharers_are_served_together() {
        let (mut cell, [(a, ha), (b, hb), (c, hc), (d, hd), (e, he)]) = contenders();
        assert_eq!(cell.share(a, ha), held(1, true));
        assert_eq!(cell.share(b, hb), held(1, true));
        assert_eq!(cell.acquire(c, hc), waiting(1));
        assert_eq!(cell.share(d, hd), waiting(2), "not past the one who waits");
        assert_eq!(cell.share(e, he), waiting(3));
        cell.release(a, ha).unwrap();
        assert!(!cell.holds(c, hc), "somebody holds it still");
        cell.release(b, hb).unwrap();
        assert!(cell.holds(c, hc));
        cell.told();
        cell.release(c, hc).unwrap();
        assert!(cell.holds(d, hd) && cell.holds(e, he));
        let wanted = |event: &Event| matches!(event.change, Change::LockWanted { .. });
        assert!(!cell.told().iter().any(wanted), "nobody waits any more");
        assert_eq!(
            (cell.place(d, hd), cell.place(e, he)),
            (Place::Holding { generation: 3 }, Place::Holding { generation: 3 })
        );
    }

    /// Cancelling tells the truth when the lock was given before that.
    #[test]
    fn a_cancelled_acquire_may_have_succeeded() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        let cancel = |handle| Command::CancelAcquire(CancelAcquire { handle });
        cell.acquire(a, ha).unwrap();
        cell.acquire(b, hb).unwrap();
        assert_eq!(cell.by(a, cancel(ha)), held(1, false));
        cell.release(a, ha).unwrap();
        assert_eq!(cell.by(b, cancel(hb)), held(2, false));
        cell.release(b, hb).unwrap();
        assert_eq!(cell.by(b, cancel(hb)), Ok(Answer::LockApart));
        assert_eq!(cell.state.locks().count(), 0, "a free lock takes no memory");
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        let not_held = |handle| Refusal::LockNotHeld { path: path("/l"), handle };
        assert_eq!(cell.release(a, ha), Err(not_held(ha)));
        cell.acquire(a, ha).unwrap();
        cell.acquire(b, hb).unwrap();
        assert_eq!(cell.release(b, hb), Err(not_held(hb)), "it only waits");
        let in_use = |handle| Refusal::LockInUse { path: path("/l"), handle };
        assert_eq!(cell.share(a, ha), Err(in_use(ha)));
        assert_eq!(cell.share(b, hb), Err(in_use(hb)));
        let foreign = Refusal::UnknownHandle { session: b, handle: ha };
        assert_eq!(cell.release(b, ha), Err(foreign.clone()));
        assert_eq!(cell.acquire(b, ha), Err(foreign));
        let mode = crate::Mode { read: true, ..crate::Mode::default() };
        let open = OpenNode { path: path("/l"), mode, create: None, lock_delay_ms: 0, within: None };
        let reader = opened(cell.by(a, Command::OpenNode(open)));
        let refusal = Refusal::HandleLacksRight { path: path("/l"), right: Right::Write };
        assert_eq!(cell.acquire(a, reader), Err(refusal));
        let sessionless = Command::Acquire(Acquire { handle: ha, shared: false, wait: true });
        assert!(matches!(cell.run(sessionless), Err(Refusal::InvalidArgument { .. })));
    }

    /// Spec L-5: when the holder's session dies, nobody gets the lock before the lock-delay is over; one that is
    /// released, or whose session ends in order, is free at once.
    #[test]
    fn a_dead_holder_s_lock_is_kept_for_the_lock_delay() {
        let (mut cell, [(a, _), (b, hb), (c, hc)]) = contenders();
        assert!(matches!(open_with_delay(&mut cell, a, 60_001), Err(Refusal::InvalidArgument { .. })));
        let ha = opened(open_with_delay(&mut cell, a, 10_000));
        cell.acquire(a, ha).unwrap();
        cell.acquire(b, hb).unwrap();
        cell.die(a);
        assert!(!cell.holds(b, hb));
        assert!(matches!(cell.try_acquire(c, hc), Err(Refusal::LockHeld { .. })));
        let end = cell.state.next_lock_delay_ms().unwrap();
        assert_eq!(end, cell.state.time_ms() + 10_000);
        pass_time(&mut cell, 9_999);
        assert!(!cell.holds(b, hb));
        pass_time(&mut cell, 1);
        assert!(cell.holds(b, hb));
        assert_eq!(cell.state.next_lock_delay_ms(), None);
        for end in [true, false] {
            let d = cell.open_session();
            let hd = opened(open_with_delay(&mut cell, d, 10_000));
            cell.acquire(d, hd).unwrap();
            let (holder, next) = if cell.holds(b, hb) { ((b, hb), (c, hc)) } else { ((c, hc), (b, hb)) };
            cell.acquire(next.0, next.1).unwrap();
            cell.release(holder.0, holder.1).unwrap();
            assert!(cell.holds(d, hd));
            match end {
                true => drop(cell.run(Command::EndSession(crate::EndSession { session: d })).unwrap()),
                false => drop(cell.release(d, hd).unwrap()),
            }
            assert!(cell.holds(next.0, next.1), "at once");
        }
    }

    /// Spec E-2, L-7: one entry says once that somebody waits, and says it last.
    #[test]
    fn an_entry_tells_once_that_a_lock_is_wanted() {
        let (mut cell, [(a, _), (b, hb), (c, hc), (d, hd)]) = contenders();
        let ha = opened(open_with_delay(&mut cell, a, 10_000));
        cell.acquire(a, ha).unwrap();
        cell.acquire(b, hb).unwrap();
        cell.acquire(c, hc).unwrap();
        cell.die(a);
        cell.told();
        // The same entry ends the lock-delay, which gives the lock to one of two, and brings a third.
        cell.moment.time_ms += 10_000;
        cell.acquire(d, hd).unwrap();
        let changes: Vec<Change> = cell.told().into_iter().map(|event| event.change).collect();
        let told = [
            Change::LockAcquired { session: b, handle: hb, generation: 2, shared: false, waited: true },
            Change::LockWanted { shared: false },
        ];
        assert_eq!(changes, told);
    }

    /// Spec L-5, N-4: an ephemeral node outlives its last handle for the lock-delay, so that nobody gets its lock anew;
    /// then it goes, and so does the ephemeral directory it was in.
    #[test]
    fn an_ephemeral_lock_is_kept_for_the_lock_delay() {
        let mut cell = Cell::new();
        let (a, b) = (cell.open_session(), cell.open_session());
        let ephemeral = |kind| Some(crate::Creation { kind, ephemeral: true, ..file() });
        let directory = opened(cell.by(a, open_node("/d", ephemeral(crate::NodeKind::Directory))));
        let open = |text, session, cell: &mut Cell| {
            let create = ephemeral(crate::NodeKind::File);
            let open = OpenNode { path: path(text), mode: ALL, create, lock_delay_ms: 10_000, within: None };
            opened(cell.by(session, Command::OpenNode(open)))
        };
        let ha = open("/d/l", a, &mut cell);
        cell.acquire(a, ha).unwrap();
        cell.close(a, directory).unwrap();
        cell.die(a);
        let instance = cell.state.node(&path("/d/l")).unwrap().instance;
        let hb = open("/d/l", b, &mut cell);
        assert_eq!(cell.state.handle(b, hb).unwrap().instance, instance);
        assert!(matches!(cell.try_acquire(b, hb), Err(Refusal::LockHeld { .. })));
        cell.close(b, hb).unwrap();
        assert!(cell.state.node(&path("/d/l")).is_some(), "its lock-delay runs still");
        let mut bytes = Vec::new();
        cell.state.write_snapshot(&mut bytes).unwrap();
        cell.state = State::read_snapshot(&mut bytes.as_slice()).unwrap();
        cell.told();
        pass_time(&mut cell, 10_000);
        let told: Vec<_> = cell.told().into_iter().map(|event| (event.path, event.change)).collect();
        assert_eq!(told, [(path("/d/l"), Change::Deleted), (path("/d"), Change::Deleted)]);
        assert_eq!(cell.state.locks().count(), 0);

        let hb = open("/l", b, &mut cell);
        cell.acquire(b, hb).unwrap();
        cell.close(b, hb).unwrap();
        assert!(cell.state.node(&path("/l")).is_none(), "closed in order it has no lock-delay");
    }

    /// Spec L-4: a sequencer is valid as long as the lock is held as it says.
    #[test]
    fn a_sequencer_outlives_no_holder() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        cell.acquire(a, ha).unwrap();
        let sequencer = cell.state.sequencer_of(cell.state.handle(a, ha).unwrap()).unwrap();
        assert_eq!((sequencer.generation, sequencer.shared, &sequencer.path), (1, false, &path("/l")));
        assert_eq!(sequencer.to_string(), "/l#x2.1");
        assert_eq!(cell.state.check_sequencer(&sequencer), Ok(()));
        let tie = |handle, sequencer| Command::SetSequencer(SetSequencer { handle, sequencer });
        cell.run(set("/d", "one")).unwrap();
        let tied = cell.open(b, "/d");
        cell.by(b, tie(tied, Some(sequencer.clone()))).unwrap();
        let write = |contents: &'static str| {
            let verb = crate::Verb::SetContents { contents: contents.into(), if_generation: None };
            Command::OnHandle(crate::OnHandle { handle: tied, verb })
        };
        cell.by(b, write("two")).unwrap();
        cell.release(a, ha).unwrap();
        let invalid = Refusal::SequencerInvalid { sequencer: sequencer.clone() };
        assert_eq!(cell.state.check_sequencer(&sequencer), Err(invalid.clone()));
        assert_eq!(cell.by(b, write("three")), Err(invalid.clone()));
        assert_eq!(cell.by(b, tie(hb, Some(sequencer.clone()))), Err(invalid.clone()));
        cell.acquire(a, ha).unwrap();
        assert_eq!(cell.by(b, write("four")), Err(invalid), "held again is held anew");
        cell.by(b, tie(tied, None)).unwrap();
        cell.by(b, write("five")).unwrap();
        assert_eq!(cell.state.get_contents(&path("/d")).unwrap().contents, "five");
    }

    /// Spec A-2: whether a sequencer is valid is told only to who may read its node.
    #[test]
    fn a_sequencer_is_not_probed() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        cell.acquire(a, ha).unwrap();
        let sequencer = cell.state.sequencer_of(cell.state.handle(a, ha).unwrap()).unwrap();
        let names = crate::AclNames { read: "nobody".into(), ..Default::default() };
        cell.run(Command::SetAcl(crate::SetAcl { path: path("/l"), names, if_generation: None })).unwrap();
        let tie = Command::SetSequencer(SetSequencer { handle: hb, sequencer: Some(sequencer) });
        let refused = cell.by(b, tie);
        assert!(matches!(refused, Err(Refusal::NotPermitted { .. })), "{refused:?}");
    }

    /// Spec L-6: the lock goes with its node; whoever held it or waited hears so.
    #[test]
    fn a_deleted_node_is_no_lock_any_more() {
        let (mut cell, [(a, ha), (b, hb)]) = contenders();
        cell.acquire(a, ha).unwrap();
        cell.acquire(b, hb).unwrap();
        cell.told();
        cell.run(delete("/l")).unwrap();
        let lost = |session, handle| Change::LockLost { session, handle };
        let changes: Vec<Change> = cell.told().into_iter().map(|event| event.change).collect();
        assert_eq!(changes, [lost(a, ha), lost(b, hb), Change::Deleted]);
        cell.run(set("/l", "another")).unwrap();
        let deleted = |handle| Refusal::NodeDeleted { path: path("/l"), handle };
        assert_eq!(cell.acquire(b, hb), Err(deleted(hb)));
        assert_eq!(cell.release(a, ha), Err(deleted(ha)), "spec H-3");
        let again = cell.open(b, "/l");
        assert_eq!(cell.try_acquire(b, again), held(1, false));
    }

    /// Ten thousand wait for one lock, and each gets it once.
    #[test]
    fn many_wait_for_one_lock() {
        let mut cell = Cell::new();
        cell.run(set("/l", "")).unwrap();
        let session = cell.open_session();
        let apply = |cell: &mut Cell, command| {
            let number = cell.state.session(session).map_or(1, |it| it.highest.max(it.confirmed) + 1);
            let request = crate::Request { identity: numbered(session, number, number - 1), command };
            cell.state.apply(request, cell.moment, &mut cell.events)
        };
        let handles: Vec<HandleId> =
            (0..10_000).map(|_| opened(apply(&mut cell, open_node("/l", None)))).collect();
        for &handle in &handles {
            apply(&mut cell, Command::Acquire(Acquire { handle, shared: false, wait: true })).unwrap();
        }
        let refusal = Refusal::TooManyHandles { handles: 10_000, whose: Some(session) };
        assert_eq!(apply(&mut cell, open_node("/l", None)), Err(refusal));
        cell.state.check_invariants().unwrap();
        for (generation, &handle) in (1..).zip(&handles) {
            assert_eq!(cell.place(session, handle), Place::Holding { generation });
            apply(&mut cell, Command::Release(Release { handle })).unwrap();
        }
        assert_eq!(cell.state.locks().count(), 0);
    }
}
