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
    /// Stand in the queue if the lock can't be had now; else that is refused.
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
            let (holders, waiters) = state.crowd(handle.instance);
            if !self.wait {
                return Err(Refusal::LockHeld { path: handle.path.clone(), holders, waiters });
            }
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
            return Err(Refusal::LockNotHeld { path: handle.path.clone(), handle: self.handle });
        }
        state.leave_lock((session, self.handle), &handle, Leaving::InOrder, events);
        Ok(Answer::Done)
    }
}

impl SetSequencer {
    pub(crate) fn apply(self, state: &mut State, session: SessionId) -> Outcome {
        if let Some(sequencer) = &self.sequencer {
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

    /// What a handle is to its lock now, as an answer.
    fn place_of(&self, (session, id): crate::lock::Who) -> Answer {
        let Some(handle) = self.handle(session, id) else { return Answer::LockApart };
        match handle.place {
            Place::Apart => Answer::LockApart,
            Place::Waiting { .. } => Answer::LockWaiting { waiters: self.crowd(handle.instance).1 },
            Place::Holding { generation } => Answer::LockAcquired { generation, shared: self.is_shared(handle) },
        }
    }
}
