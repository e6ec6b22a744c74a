//! Handles: a session's hold on one instance of a node (spec H-1, H-3; Chubby §2.2).
//!
//! They are part of the replicated state: a handle works after any change of leader, and a closed one never
//! comes back, not even by a delayed copy of a command that used it (H-5).

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::acl::Right;
use crate::lock::Sequencer;
use crate::tree::Node;
use crate::{Path, Refusal, SessionId, State};

/// The most handles a session has.
pub const MAX_HANDLES_PER_SESSION: u64 = 10_000;
/// The most handles all sessions have.
pub const MAX_HANDLES: usize = 1_000_000;
/// The longest lock-delay, in milliseconds (spec L-5).
pub const MAX_LOCK_DELAY_MS: u32 = 60_000;

/// Names a handle in its cell; never used again after the handle was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandleId(pub u64);

impl fmt::Display for HandleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a handle may be used for; what it may not be used for is refused without asking the ACLs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// Read the node.
    pub read: bool,
    /// Write and lock the node.
    pub write: bool,
    /// Change its ACL names.
    pub change_acl: bool,
}

impl Mode {
    /// The rights that it stands for.
    pub fn rights(self) -> impl Iterator<Item = Right> {
        let asked =
            [(self.read, Right::Read), (self.write, Right::Write), (self.change_acl, Right::ChangeAcl)];
        asked.into_iter().filter_map(|(asked, right)| asked.then_some(right))
    }

    fn has(self, right: Right) -> bool {
        self.rights().any(|has| has == right)
    }
}

/// A session's hold on one instance of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The node it was opened on.
    pub path: Path,
    /// The instance it was opened on: if the name exists again, it is not this one (spec H-3).
    pub instance: u64,
    /// What it may be used for.
    pub mode: Mode,
    /// For how long nobody gets a lock that it holds when its session dies, in milliseconds (spec L-5).
    pub lock_delay_ms: u32,
    /// While it is set, everything through the handle fails once this is no longer valid (spec L-4).
    pub sequencer: Option<Sequencer>,
    /// What it is to its node's lock.
    pub place: Place,
    /// When it was opened, by the cell's time.
    pub opened_ms: u64,
}

/// What a handle is to its node's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Nothing.
    Apart,
    /// It waits in the queue.
    Waiting {
        /// Its number in the queue: lower ones come first.
        ticket: u64,
    },
    /// It holds the lock.
    Holding {
        /// The lock generation that it holds.
        generation: u64,
    },
}

/// All handles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handles {
    pub(crate) table: OrdMap<(SessionId, HandleId), Arc<Handle>>,
    /// How many were ever opened; the last one's name.
    pub(crate) opened: u64,
}

impl Handles {
    /// Those of a session, oldest first.
    pub(crate) fn of(&self, session: SessionId) -> impl Iterator<Item = (HandleId, &Arc<Handle>)> {
        let range = (session, HandleId(0))..=(session, HandleId(u64::MAX));
        self.table.range(range).map(|((_, id), handle)| (*id, handle))
    }

    pub(crate) fn find(&self, session: SessionId, id: HandleId) -> Result<&Arc<Handle>, Refusal> {
        self.table.get(&(session, id)).ok_or(Refusal::UnknownHandle { session, handle: id })
    }

    pub(crate) fn place(&mut self, session: SessionId, id: HandleId, place: Place) {
        if let Some(handle) = self.table.get_mut(&(session, id)) {
            Arc::make_mut(handle).place = place;
        }
    }
}

impl State {
    /// A session's handle, if it is open.
    pub fn handle(&self, session: SessionId, id: HandleId) -> Option<&Handle> {
        self.handles.table.get(&(session, id)).map(|handle| &**handle)
    }

    /// A session's handles, oldest first.
    pub fn handles_of(&self, session: SessionId) -> impl Iterator<Item = (HandleId, &Handle)> {
        self.handles.of(session).map(|(id, handle)| (id, &**handle))
    }

    /// How many handles there are.
    pub fn handle_count(&self) -> usize {
        self.handles.table.len()
    }

    /// The node behind a handle, if the handle may be used for this now (spec H-3, H-6, L-4).
    pub fn through_handle(
        &self,
        session: SessionId,
        id: HandleId,
        right: Right,
    ) -> Result<(&Handle, &Node), Refusal> {
        let (handle, node) = self.usable_handle(session, id)?;
        if !handle.mode.has(right) {
            return Err(Refusal::HandleLacksRight { path: handle.path.clone(), right });
        }
        Ok((handle, node))
    }

    /// The node behind a handle, if the handle may be used at all now.
    pub(crate) fn usable_handle(
        &self,
        session: SessionId,
        id: HandleId,
    ) -> Result<(&Handle, &Node), Refusal> {
        if self.session(session).is_none() {
            return Err(Refusal::SessionExpired { session });
        }
        let handle = self.handles.find(session, id)?;
        let node = self.check_alive(handle, id)?;
        if let Some(sequencer) = &handle.sequencer {
            self.check_sequencer(sequencer)?;
        }
        Ok((handle, node))
    }

    /// The node that a handle was opened on, if that is there still (spec H-3).
    pub(crate) fn check_alive(&self, handle: &Handle, id: HandleId) -> Result<&Node, Refusal> {
        let node = self.node(&handle.path).filter(|node| node.instance == handle.instance);
        node.ok_or_else(|| Refusal::NodeDeleted { path: handle.path.clone(), handle: id })
    }
}
