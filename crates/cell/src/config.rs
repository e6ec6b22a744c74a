//! What a replica is told before it starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::consensus::{Member, ReplicaId};
use crate::error::StartError;
use crate::log::LogOptions;

/// What makes a replica this replica.
#[derive(Clone, Debug)]
pub struct CellConfig {
    /// The cell's name, the `<cell>` of `/ls/<cell>/…`.
    pub cell: String,
    /// This replica's number, greater than 0 and its own for ever.
    pub replica: ReplicaId,
    /// The folder that holds the log, the vote and the snapshots.
    pub data: PathBuf,
    /// The members that the cell starts with, this replica among them. Once the cell lives this is only where members
    /// are looked for that are not where the cell says.
    pub members: Vec<(ReplicaId, Member)>,
    /// Start a new cell of these members if the data folder is empty. Every member of a new cell is
    /// started this way, with the same list.
    pub bootstrap: bool,
    /// Begin with an empty data folder and be repaired from the other members: the folder that this replica had
    /// is lost, or damaged and moved away. Goes before `bootstrap`.
    pub replace: bool,
    /// Join a cell that lives, if the data folder is empty: peers' addresses of some of its replicas. `members` may
    /// be empty then. This replica waits until it is added under its number.
    pub join: Vec<String>,
    /// Where to listen for the other replicas.
    pub peers_listen: String,
    /// Times and sizes.
    pub tuning: Tuning,
}

/// Times and sizes; the defaults are for replicas that are a millisecond or less apart.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How often the leader says that it lives.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between this and `election_max` stands for election.
    pub election_min: Duration,
    /// See `election_min`. Also the leader's lease: no vote is given away this long after a heartbeat.
    pub election_max: Duration,
    /// A snapshot is written after this many bytes of log, or as many as the last snapshot has, if more.
    pub snapshot_log_bytes: u64,
    /// Log that is kept behind a snapshot, so that a replica that was away for a moment needs no snapshot.
    pub log_keep_bytes: u64,
    /// Log entries on their way at once. Fewer make larger entries, more hide the disk's delay.
    pub batches_in_flight: usize,
    /// Requests that may wait or be under way at once; more are refused as *overloaded*.
    pub queue_requests: usize,
    /// Bytes of requests that may wait or be under way at once.
    pub queue_bytes: usize,
    /// Connections from other replicas.
    pub max_peer_connections: usize,
    /// How long a replica of a new cell waits for members that don't answer before it founds the cell with a majority.
    pub founding_wait: Duration,
    /// How often the leader has the replicas' states compared; zero for never.
    pub digest_interval: Duration,
    /// A leader whose log has waited so long for its disk hands over; zero for never.
    pub slow_disk: Duration,
    /// Recent events that this replica keeps in memory, for watches that begin in the past (spec E-3).
    pub events_kept: usize,
    /// Bytes that those may take, as estimated.
    pub events_kept_bytes: usize,
    /// The log's segments and caches.
    pub log: LogOptions,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(250),
            snapshot_log_bytes: 64 << 20,
            log_keep_bytes: 32 << 20,
            batches_in_flight: 8,
            queue_requests: 65_536,
            queue_bytes: 64 << 20,
            max_peer_connections: 64,
            founding_wait: Duration::from_secs(5),
            digest_interval: Duration::from_secs(60),
            slow_disk: Duration::from_secs(1),
            events_kept: 65_536,
            events_kept_bytes: 32 << 20,
            log: LogOptions::default(),
        }
    }
}

impl CellConfig {
    /// What can be known to be wrong before anything is opened.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let problem = |text: String| Err(StartError::Config(text));
        if self.cell.is_empty() || self.cell.len() > 255 || self.cell.contains('/') {
            return problem(format!("the cell's name {:?} must have 1 to 255 bytes and no '/'", self.cell));
        }
        if self.replica == 0 {
            return problem("a replica's number must be greater than 0".to_owned());
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some((twice, _)) = self.members.iter().find(|(id, _)| !seen.insert(*id)) {
            return problem(format!("the list of members has replica {twice} twice"));
        }
        if !seen.contains(&self.replica) && self.join.is_empty() {
            return problem(format!("the list of members {seen:?} lacks this replica, {}", self.replica));
        }
        if self.replace && self.members.len() < 3 && self.join.is_empty() {
            return problem(format!(
                "a cell of {} can't repair a replica: without it the others are no majority. If the data folder is lost, so \
                 is the cell; start without --replace",
                seen.len()
            ));
        }
        if self.bootstrap && !self.join.is_empty() {
            return problem(
                "a replica either begins a new cell or joins one: leave out --bootstrap or --join".to_owned(),
            );
        }
        if self.tuning.election_min >= self.tuning.election_max
            || self.tuning.election_min <= self.tuning.heartbeat * 2
        {
            return problem(format!(
                "the election timeouts {:?} to {:?} must be a range above twice the heartbeat of {:?}",
                self.tuning.election_min, self.tuning.election_max, self.tuning.heartbeat
            ));
        }
        Ok(())
    }

    /// The number that every member of a new cell computes alike from the list that the cell begins with, so
    /// that replicas of different cells know each other for strangers.
    pub(crate) fn cell_id(&self) -> u64 {
        let mut members = self.members.clone();
        members.sort_by_key(|(id, _)| *id);
        let text = members.iter().fold(self.cell.clone(), |text, (id, member)| {
            format!("{text}\n{id} {} {}", member.peer_address, member.client_address)
        });
        // Two different checksums side by side: the number is for telling cells apart, not for security.
        let bytes = text.as_bytes();
        u64::from(crc32c::crc32c(bytes)) << 32 | u64::from(crc32c::crc32c_append(0x4272_616d, bytes))
    }
}
