//! The verbs: one file each, holding its arguments, what it does to the state, and its tests.

use serde::{Deserialize, Serialize};

mod counter;
mod create_directory;
mod delete;
mod session;
mod set_contents;

pub use counter::{Increment, ResetCounter};
pub use create_directory::CreateDirectory;
pub use delete::Delete;
pub use session::{EndSession, ExpireSession, MAX_CLIENT_BYTES, MAX_LEASE_MS, MIN_LEASE_MS, OpenSession};
pub use set_contents::{MAX_CONTENTS_BYTES, SetContents};

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
}
