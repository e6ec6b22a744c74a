//! How a replica sees itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::consensus::{Member, ReplicaId};
use crate::leadership::Leadership;

/// A replica's view of itself and its cell.
#[derive(Clone, Debug)]
pub struct Status {
    /// The cell's name.
    pub cell: String,
    /// What tells this cell from others of the same name.
    pub cell_id: u64,
    /// This replica's number.
    pub replica: ReplicaId,
    /// Who leads, and this replica's part.
    pub leadership: Leadership,
    /// Index of the last entry in the log.
    pub last_log_index: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry applied to the state.
    pub applied_index: u64,
    /// Index of the last entry in the newest snapshot.
    pub snapshot_index: u64,
    /// Index of the last entry that the log no longer has.
    pub purged_index: u64,
    /// Changes to the state so far.
    pub revision: u64,
    /// Nodes in the tree.
    pub nodes: u64,
    /// Sessions that exist.
    pub sessions: u64,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Bytes of the newest snapshot.
    pub snapshot_bytes: u64,
    /// Bytes free where the data lies.
    pub disk_free_bytes: u64,
    /// Since this replica started.
    pub uptime: Duration,
    /// The members, and whether each votes.
    pub members: Vec<(ReplicaId, Member, bool)>,
    /// Those whose majority decides, by the newest entry of the log that says so; two sets during a joint change
    /// (Raft §6), and then a majority of each.
    pub voter_sets: Vec<BTreeSet<ReplicaId>>,
    /// Empty when well; else what stopped the engine.
    pub trouble: String,
}

/// A digest of the state after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Index of the last entry applied.
    pub index: u64,
    /// XXH3-64 of the state's canonical encoding.
    pub digest: u64,
}
