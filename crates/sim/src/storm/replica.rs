//! One simulated replica: the shipped server on an imagined disk, and what its operator does when it ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bramah_cell::{Cell, LogOptions, Member, ReplicaId, Tuning, WallClock, World};
use bramah_server::{InPlace, ServerConfig};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::disk::HostDisk;
use super::watch::Watch;
use crate::engine::{self, HostId, network};

/// Ports of every replica.
const CLIENTS_PORT: u16 = 7_501;
const PEERS_PORT: u16 = 7_502;

/// The wall clock at the beginning, in milliseconds since 1970.
const WALL_BEGINS_MS: i64 = 1_800_000_000_000;

/// What is known of a replica's process from outside.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) cell: Option<Cell>,
    /// Why the process ended by itself.
    pub(super) ended: Option<String>,
    /// Tells the process to stop as by SIGTERM.
    pub(super) stop: Option<oneshot::Sender<()>>,
    /// It has stopped, because it was told to.
    pub(super) stopped: bool,
}

/// How a process is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// On the folder that it has.
    Again,
    /// With an empty folder, to be repaired from the others (`--replace`).
    Replace,
}

/// What a replica's operator tells it of the others.
pub(super) struct Known {
    /// The members that the cell began with.
    pub(super) founders: Vec<(ReplicaId, Member)>,
    /// Where members are reached that may be there now.
    pub(super) peers: Vec<String>,
}

/// A machine that is to run a replica.
pub struct Replica {
    pub(super) host: HostId,
    pub(super) number: ReplicaId,
    pub(super) disk: HostDisk,
    pub(super) slot: Arc<Mutex<Slot>>,
    /// What its wall clock is off by, in milliseconds.
    pub(super) wall_off_ms: Arc<AtomicI64>,
    pub(super) starts: u64,
    far_apart: bool,
    /// It has lost its data once, and is told of the members that there are now.
    replaced: bool,
    /// It lost its folder when the cell had applied so much, and may not take part in all before it has that again.
    pub(super) lost_at: Option<u64>,
    /// It came later: it joins the cell, instead of founding it.
    pub(super) joins: bool,
    /// The cell has removed it for good.
    pub(super) retired: bool,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replica {}", self.number)
    }
}

impl Replica {
    pub(super) fn new(host: HostId, number: ReplicaId, seed: u64, far_apart: bool) -> Self {
        Self {
            host,
            number,
            disk: HostDisk::new(seed),
            slot: Arc::default(),
            wall_off_ms: Arc::default(),
            starts: 0,
            far_apart,
            replaced: false,
            lost_at: None,
            joins: false,
            retired: false,
        }
    }

    /// The running cell's face, if it runs.
    pub fn cell(&self) -> Option<Cell> {
        self.slot.lock().cell.clone()
    }

    /// What this replica is called in the list of members.
    pub(super) fn member(&self) -> (ReplicaId, Member) {
        let at = |port| network::address(self.host, port).to_string();
        (self.number, Member { peer_address: at(PEERS_PORT), client_address: at(CLIENTS_PORT) })
    }

    /// The process, from its start to its end.
    pub(super) fn main(
        &mut self,
        members: Known,
        manner: Manner,
        transport: Arc<dyn bramah_wire::transport::Transport>,
        watch: Watch,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.starts += 1;
        if manner == Manner::Replace {
            (self.replaced, self.joins) = (true, true);
        }
        // Whoever gave it an empty folder says so at each start until it is in use, and whom to ask now.
        let manner = if self.replaced && !self.disk.holds_a_replica() { Manner::Replace } else { manner };
        *self.slot.lock() = Slot::default();
        let off = Arc::clone(&self.wall_off_ms);
        let clock = WallClock::from_fn(move || {
            (WALL_BEGINS_MS + engine::now_ms() as i64 + off.load(Ordering::Relaxed)) as u64
        });
        let disk = self.disk.clone();
        let config = self.config(members, manner);
        let (slot, number) = (Arc::clone(&self.slot), self.number);
        async move {
            let world = World { disk: disk.begin(), transport, clock };
            match InPlace::start(config, world).await {
                Ok(replica) => serve(replica, &slot, number, watch).await,
                Err(error) => slot.lock().ended = Some(error.to_string()),
            }
            slot.lock().cell = None;
        }
    }

    fn config(&self, known: Known, manner: Manner) -> ServerConfig {
        let (_, own) = self.member();
        ServerConfig {
            cell: "storm".to_owned(),
            replica: self.number,
            data: PathBuf::from("/data"),
            clients_listen: own.client_address,
            peers_listen: own.peer_address,
            members: if self.joins { Vec::new() } else { known.founders },
            // As a unit file has it: given at each start, also after the folder was lost.
            bootstrap: !self.joins,
            replace: manner == Manner::Replace,
            join: if self.joins { known.peers } else { Vec::new() },
            max_connections: 256,
            token_key_file: None,
            dns: None,
            tuning: tuning(self.far_apart),
        }
    }
}

/// Until the engine ends by itself, or the process is told to stop.
async fn serve(replica: InPlace, slot: &Mutex<Slot>, number: ReplicaId, watch: Watch) {
    let cell = replica.cell().clone();
    let (stop, stopped) = oneshot::channel();
    {
        let mut slot = slot.lock();
        (slot.cell, slot.stop) = (Some(cell.clone()), Some(stop));
    }
    tokio::spawn(watch.follow(number, cell.clone()));
    tokio::select! {
        () = cell.failed() => slot.lock().ended = Some(cell.status().trouble),
        Ok(()) = stopped => {
            replica.stop().await;
            slot.lock().stopped = true;
        }
    }
}

/// As shipped, or as an operator sets it for replicas that are far apart; but with a log so small that segments,
/// snapshots and purges come all the time.
fn tuning(far_apart: bool) -> Tuning {
    let ms = Duration::from_millis;
    let (heartbeat, election_min, election_max) =
        if far_apart { (ms(500), ms(1_500), ms(2_500)) } else { (ms(50), ms(150), ms(250)) };
    Tuning {
        heartbeat,
        election_min,
        election_max,
        slow_disk: ms(250),
        digest_interval: ms(1_000),
        snapshot_log_bytes: 48 << 10,
        log_keep_bytes: 16 << 10,
        log: LogOptions {
            segment_bytes: 32 << 10,
            cache_bytes: 16 << 10,
            read_bytes: 8 << 10,
            queue_bytes: 1 << 20,
            retry_interval: Duration::from_millis(500),
            ..LogOptions::default()
        },
        ..Tuning::default()
    }
}
