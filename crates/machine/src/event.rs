//! What watchers are told: one event for each node that a command changed (spec E-1).

use crate::acl::is_acl_file;
use crate::{HandleId, NodeKind, Path, SessionId};

/// A change of one node. It is told after the change took place: who reads then sees this change or a
/// later one (spec E-2).
///
/// There is no event of its own for a directory whose child came or went: `Created` and `Deleted` of
/// `/a/b` say so for `/a`. A command that makes missing ancestors gives one event for each, outermost first,
/// all with the same revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The cell's revision of the change.
    pub revision: u64,
    /// The node.
    pub path: Path,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now, with its first contents or value.
    Created {
        /// What it is.
        kind: NodeKind,
    },
    /// The contents of a file were written.
    ContentsModified {
        /// Its content generation now.
        generation: u64,
    },
    /// A counter was added to or reset.
    CounterChanged {
        /// Its value now.
        value: i64,
    },
    /// It is gone.
    Deleted,
    /// Its ACL names were written.
    AclChanged {
        /// Its ACL generation now.
        generation: u64,
    },
    /// Its lock was given to a handle.
    LockAcquired {
        /// Whose handle it is.
        session: SessionId,
        /// The handle.
        handle: HandleId,
        /// The lock generation now.
        generation: u64,
        /// Whether it is held together with others.
        shared: bool,
        /// It stood in the queue: no answer to a call says that it holds the lock now.
        waited: bool,
    },
    /// Somebody stands in its lock's queue: those who hold it may want to give it back (spec L-7). Told when somebody
    /// begins to wait, and to those who were given the lock while others wait still. Who only tries to get the lock,
    /// and is refused, is not told of.
    LockWanted {
        /// Whether it would be shared.
        shared: bool,
    },
    /// Its lock was given back by a handle, or taken from it because its session ended or it was revoked.
    LockReleased {
        /// Whose handle it is.
        session: SessionId,
        /// The handle.
        handle: HandleId,
    },
    /// A handle that held its lock, or waited for it, does so no more, because the node is gone.
    LockLost {
        /// Whose handle it is.
        session: SessionId,
        /// The handle.
        handle: HandleId,
    },
    /// A handle on it was closed because its opener may no longer do what it was opened for (spec A-3).
    HandleClosed {
        /// Whose handle it was.
        session: SessionId,
        /// The handle.
        handle: HandleId,
    },
}

impl Event {
    /// Whether handles may not be allowed any more that were before (spec A-3): ACL names changed, or a file that
    /// says who is in an ACL.
    pub fn changes_acls(&self) -> bool {
        let of_the_node = self.change.is_of_the_node();
        matches!(self.change, Change::AclChanged { .. }) || (of_the_node && is_acl_file(&self.path))
    }
}

impl Change {
    /// The handle that it speaks of, and whose that is.
    pub fn handle(&self) -> Option<(SessionId, HandleId)> {
        match *self {
            Change::LockAcquired { session, handle, .. }
            | Change::LockReleased { session, handle }
            | Change::LockLost { session, handle }
            | Change::HandleClosed { session, handle } => Some((session, handle)),
            _ => None,
        }
    }

    /// The session that is told, whatever it watches: what becomes of its handle without a call of its own. What a call
    /// does is in its answer.
    pub fn told_to(&self) -> Option<SessionId> {
        match *self {
            Change::LockAcquired { waited: false, .. } | Change::LockReleased { .. } => None,
            _ => self.handle().map(|(session, _)| session),
        }
    }

    /// Whether the node itself is another one now: what it is, what it holds, who may use it.
    pub fn is_of_the_node(&self) -> bool {
        let of_the_lock = matches!(self, Change::LockWanted { .. });
        !of_the_lock && self.handle().is_none()
    }
}
