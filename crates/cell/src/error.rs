//! Why the cell did not do what was asked, and whether it certainly did not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a request has no outcome, or a barrier was not passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// Too much waits already.
    #[error("overloaded: {waiting} requests wait at this replica; try again in {retry_after_ms} ms")]
    Overloaded {
        /// Requests that wait or are under way.
        waiting: usize,
        /// A good time to try again.
        retry_after_ms: u32,
    },
    /// The request would not fit in a log entry.
    #[error(
        "the requests of one message take {bytes} bytes, more than the {limit} that a log entry holds; send fewer at once"
    )]
    TooLarge {
        /// What they take.
        bytes: usize,
        /// What they may take.
        limit: usize,
    },
    /// The leader's disk is full.
    #[error(
        "no space: the leader's disk has {free} bytes free and needs {needed}: free some; reads go on, and so do writes by themselves once there is space"
    )]
    NoSpace {
        /// Free bytes on the leader's disk.
        free: u64,
        /// What it needs before it takes writes again.
        needed: u64,
    },
    /// No leader was found in time. Nothing was done.
    #[error(
        "unavailable: no leader, members {members}; waited {waited:?} for one: a majority of the members must run and reach each other"
    )]
    NoLeader {
        /// How long it was waited for one.
        waited: Duration,
        /// The members and their addresses.
        members: String,
    },
    /// Asked of a replica that does not lead. Nothing was done.
    #[error("this replica does not lead")]
    NotLeader,
    /// The deadline passed while the request was under way.
    #[error(
        "the deadline passed after {waited:?} while a majority had not confirmed; the leader may have lost touch with the members {members}"
    )]
    Deadline {
        /// How long it was waited.
        waited: Duration,
        /// The members and their addresses.
        members: String,
    },
    /// The leader was lost while a request without an identity was under way.
    #[error(
        "the leader was lost while the request was under way; give requests an idempotency key or a session to have them retried safely"
    )]
    LeaderLost,
    /// An earlier try may have done it; this is what the last one ended with.
    #[error("it may have been done by an earlier try whose answer was lost; then: {0}")]
    Uncertain(#[serde(deserialize_with = "never_sent")] Box<ProposeError>),
    /// Requests from another replica that can't be read. Nothing was done.
    #[error("the requests can't be read: {why}; do all replicas run one version?")]
    Unreadable {
        /// What is wrong with them.
        why: String,
    },
    /// This replica is stopping or has failed.
    #[error("this replica is stopping: {why}; use another one")]
    Stopping {
        /// What stopped it.
        why: String,
        /// Whether the request was under way by then.
        under_way: bool,
    },
}

/// What an earlier try may have done is known to the replica that tried, and to nobody else. A body that nested such
/// errors deeply would also exhaust the stack of whoever reads it.
fn never_sent<'de, D: serde::Deserializer<'de>>(_: D) -> Result<Box<ProposeError>, D::Error> {
    Err(serde::de::Error::custom("an uncertain failure, which no replica sends"))
}

impl ProposeError {
    /// The same, for something that an earlier try may have done.
    pub(crate) fn uncertain(self) -> Self {
        if self.may_have_been_done() { self } else { ProposeError::Uncertain(Box::new(self)) }
    }

    /// False: certainly nothing was done.
    pub fn may_have_been_done(&self) -> bool {
        match self {
            ProposeError::Deadline { .. } | ProposeError::LeaderLost | ProposeError::Uncertain(_) => true,
            ProposeError::Stopping { under_way, .. } => *under_way,
            _ => false,
        }
    }
}

/// Why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("{0}")]
    Config(String),
    /// The data folder is not usable.
    #[error(transparent)]
    Folder(#[from] crate::data_folder::FolderError),
    /// The log is not usable.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The snapshot is not usable.
    #[error("the newest snapshot can't be used: {0}")]
    Snapshot(#[source] std::io::Error),
    /// An address can't be listened on.
    #[error(
        "can't listen on {address}: {error}; is another process using the port? choose another one, or end that process"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The consensus engine did not start.
    #[error("the consensus engine did not start: {0}")]
    Engine(String),
    /// No member of the cell to join was found.
    #[error(
        "no replica of the cell answers at {asked} within {waited:?}: give the peers' addresses of replicas that run, and the cell's name, with --join and --cell"
    )]
    NobodyToJoin {
        /// Where it was asked.
        asked: String,
        /// For how long.
        waited: Duration,
    },
    /// The number belongs to a member that votes.
    #[error(
        "replica {replica} is a voter of the cell already, but no replica has used this data folder yet; if it lost its own, repair it with --replace; a new replica needs a number of its own"
    )]
    AlreadyVotes {
        /// The number.
        replica: u64,
    },
    /// The number belonged to a member that was removed.
    #[error(
        "replica {replica} was removed from the cell for good; start a new replica with another number, and add it with `bramah member add`"
    )]
    RemovedReplica {
        /// The number.
        replica: u64,
    },
    /// The replica was to found a cell with other members than the settings name now.
    #[error(
        "the data folder {0} was begun for a new cell with another list of members, and the cell has not begun yet; start the replica with that list, or, to begin anew with this one, move the folder away"
    )]
    OtherFounders(String),
    /// The folder is empty and nothing says that the cell is new.
    #[error(
        "the data folder {0} holds no cell yet; start every member of a new cell with --bootstrap and the same list of members; a new replica of a cell that lives joins it with --join; one that lost its folder is repaired from the others with --replace"
    )]
    NotBootstrapped(String),
}
