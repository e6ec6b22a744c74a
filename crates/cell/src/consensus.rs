//! The types that openraft is asked to work with.

use std::fmt;

use bramah_machine::Outcome;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A replica's stable number in its cell.
pub type ReplicaId = u64;

/// A member of the cell and where it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` for the other replicas.
    pub peer_address: String,
    /// `host:port` for clients.
    pub client_address: String,
}

impl Member {
    /// Without addresses it leaves the cell for good: one that is replaced keeps them.
    pub(crate) fn is_leaving(&self) -> bool {
        self.peer_address.is_empty() && self.client_address.is_empty()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peers {}, clients {}", self.peer_address, self.client_address)
    }
}

/// What a log entry carries: an encoded `bramah_machine::Batch`, which travels and lies on disk unread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedBatch(pub Bytes);

impl fmt::Display for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// What applying an entry gives back: an outcome a request.
pub type Applied = Vec<Outcome>;

openraft::declare_raft_types!(
    /// The cell's instance of openraft.
    pub TypeConfig:
        D = EncodedBatch,
        R = Applied,
        NodeId = ReplicaId,
        Node = Member,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);
