//! The verbs: one file each, holding its arguments, what it does to the state, and its tests.

use serde::{Deserialize, Serialize};

mod counter;
mod create_directory;
mod delete;
mod lock;
mod on_handle;
mod open_node;
mod session;
mod set_acl;
mod set_contents;
mod txn;

pub use counter::{Increment, ResetCounter};
pub use create_directory::CreateDirectory;
pub use delete::{Delete, DeleteTree, MAX_DELETED};
pub use lock::{Acquire, CancelAcquire, Release, SetSequencer};
pub use on_handle::{OnHandle, Verb};
pub use open_node::{CloseHandles, Creation, OpenNode, RevokeHandle};
pub use session::{
    EndSession, ExpireSession, MAX_CLIENT_BYTES, MAX_LEASE_MS, MIN_LEASE_MS, OpenSession, SECRET_BYTES,
};
pub use set_acl::{SetAcl, SetQuota};
pub use set_contents::{MAX_CONTENTS_BYTES, SetContents};
pub use txn::{Comparison, Guard, MAX_TXN_PARTS, Txn, TxnOperation};

use crate::session::Identity;

/// A command and who sent it: what one caller asks the cell to do, exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Tells a retry from a new command.
    pub identity: Identity,
    /// What to do.
    pub command: Command,
}

/// Everything that can change the state. The order of the variants is part of the durable format: add at
/// the end, never reorder (docs/formats.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Starts a session.
    OpenSession(OpenSession),
    /// Ends a session because its client said so.
    EndSession(EndSession),
    /// Ends a session because its lease ran out at the leader.
    ExpireSession(ExpireSession),
    /// Writes a file whole.
    SetContents(SetContents),
    /// Makes a directory.
    CreateDirectory(CreateDirectory),
    /// Removes a node.
    Delete(Delete),
    /// Adds to a counter.
    Increment(Increment),
    /// Sets a counter to a value.
    ResetCounter(ResetCounter),
    /// Opens a handle.
    OpenNode(OpenNode),
    /// Closes handles.
    CloseHandles(CloseHandles),
    /// Closes a handle that is not allowed any more.
    RevokeHandle(RevokeHandle),
    /// Takes a lock, or a place in its queue.
    Acquire(Acquire),
    /// Leaves a lock's queue.
    CancelAcquire(CancelAcquire),
    /// Gives a lock back.
    Release(Release),
    /// Ties a handle to a lock.
    SetSequencer(SetSequencer),
    /// Changes the node that a handle is on.
    OnHandle(OnHandle),
    /// Sets a node's ACL names.
    SetAcl(SetAcl),
    /// Sets a directory's quota.
    SetQuota(SetQuota),
    /// Removes a node and all below it.
    DeleteTree(DeleteTree),
    /// Guards and operations, all or nothing.
    Txn(Txn),
    /// Nothing: time goes on, and lock-delays end. Only the leader sends it.
    PassTime,
}
