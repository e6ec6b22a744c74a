//! Three replicas in one process, each on a runtime of its own, so that one can be killed like a process. Further ones
//! can join them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bramah_cell::disk::{Disk, RealDisk};
use bramah_cell::{
    Cell, CellConfig, Leadership, LogOptions, Member, ReplicaId, StartError, Tuning, WallClock, World,
};
use bramah_machine::{Command, Identity, Increment, Outcome, Path, Request};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::cut::Cable;

/// How long anything in these tests may take: generous, because two cores may be shared by many.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

struct Replica {
    cell: Cell,
    runtime: Runtime,
}

impl Replica {
    /// Returns when nothing of it runs any more: a second one with its number must not meet the first.
    async fn end(self) {
        drop(self.cell);
        let ended = tokio::task::spawn_blocking(move || self.runtime.shutdown_timeout(LIMIT));
        ended.await.expect("shutting down does not panic");
    }
}

/// Replicas that a test may have: three that the cell begins with, and five that may join.
const MOST: u64 = 8;

/// A cell of three.
pub(crate) struct Trio {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) members: Vec<(ReplicaId, Member)>,
    /// Those that may join.
    pub(crate) spares: Vec<(ReplicaId, Member)>,
    pub(crate) tuning: Tuning,
    replicas: Vec<Option<Replica>>,
    cables: [Cable; MOST as usize],
    disks: [Arc<dyn Disk>; MOST as usize],
}

/// Ports that nobody listens on now.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

/// Small files, so that tests see segments and snapshots come and go.
pub(crate) fn small() -> Tuning {
    Tuning {
        snapshot_log_bytes: 256 << 10,
        log_keep_bytes: 64 << 10,
        log: LogOptions { segment_bytes: 128 << 10, ..LogOptions::default() },
        ..Tuning::default()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for replica in self.replicas.drain(..).flatten() {
            replica.runtime.shutdown_background();
        }
    }
}

impl Trio {
    pub(crate) async fn start(tuning: Tuning) -> Trio {
        Self::of_none(tuning).founded().await
    }

    /// With other disks than the real one, for the replicas 1, 2 and so on.
    pub(crate) async fn start_on(tuning: Tuning, disks: impl IntoIterator<Item = Arc<dyn Disk>>) -> Trio {
        let mut trio = Self::of_none(tuning);
        trio.disks.iter_mut().zip(disks).for_each(|(place, disk)| *place = disk);
        trio.founded().await
    }

    async fn founded(self) -> Trio {
        let mut trio = self;
        for id in 1..=3 {
            trio.start_replica(id).await.expect("a new cell starts");
        }
        // One that is killed before would have to be taken in again.
        let deadline = Instant::now() + LIMIT;
        while !trio.running().all(|id| trio.cell(id).status().trouble.is_empty()) {
            assert!(Instant::now() < deadline, "the cell is not founded within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        trio
    }

    /// With no replica started yet.
    pub(crate) fn of_none(tuning: Tuning) -> Trio {
        // Shown with `RUST_LOG=info cargo test -- --nocapture`.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut members: Vec<_> = free_ports(MOST as usize)
            .into_iter()
            .zip(1..)
            .map(|(port, id)| {
                let peer_address = format!("127.0.0.1:{port}");
                (id, Member { peer_address, client_address: format!("127.0.0.1:{}", port ^ 1) })
            })
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spares = members.split_off(3);
        let replicas = (0..MOST).map(|_| None).collect();
        let disks = std::array::from_fn(|_| Arc::new(RealDisk) as Arc<dyn Disk>);
        Trio { folder, members, spares, tuning, replicas, cables: Default::default(), disks }
    }

    /// Where a replica is.
    pub(crate) fn member(&self, id: ReplicaId) -> Member {
        let all = self.members.iter().chain(&self.spares);
        all.clone().find(|(known, _)| *known == id).expect("there is such a replica").1.clone()
    }

    /// What connects a replica with the others.
    pub(crate) fn cable(&self, id: ReplicaId) -> &Cable {
        &self.cables[id as usize - 1]
    }

    pub(crate) fn data(&self, id: ReplicaId) -> PathBuf {
        self.folder.path().join(format!("replica-{id}"))
    }

    pub(crate) async fn start_replica(&mut self, id: ReplicaId) -> Result<(), StartError> {
        self.start_replica_with(id, |_| ()).await
    }

    /// With other settings than usual.
    pub(crate) async fn start_replica_with(
        &mut self,
        id: ReplicaId,
        change: impl FnOnce(&mut CellConfig),
    ) -> Result<(), StartError> {
        let mut config = CellConfig {
            cell: "test".to_owned(),
            replica: id,
            data: self.data(id),
            members: if id <= 3 { self.members.clone() } else { Vec::new() },
            bootstrap: id <= 3,
            replace: false,
            join: match id {
                1..=3 => Vec::new(),
                _ => self.members.iter().map(|(_, member)| member.peer_address.clone()).collect(),
            },
            peers_listen: self.member(id).peer_address,
            tuning: self.tuning.clone(),
        };
        change(&mut config);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let world = World {
            disk: Arc::clone(&self.disks[id as usize - 1]),
            transport: Arc::new(self.cable(id).clone()),
            clock: WallClock::system(),
        };
        match runtime.spawn(Cell::start(config, world)).await.expect("starting does not panic") {
            Ok(cell) => {
                self.replicas[id as usize - 1] = Some(Replica { cell, runtime });
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    pub(crate) fn cell(&self, id: ReplicaId) -> &Cell {
        &self.replicas[id as usize - 1].as_ref().expect("the replica runs").cell
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = ReplicaId> {
        (1..=MOST).filter(|id| self.replicas[*id as usize - 1].is_some())
    }

    /// Ends a replica as if its process had died.
    pub(crate) async fn kill(&mut self, id: ReplicaId) {
        let replica = self.replicas[id as usize - 1].take().expect("the replica runs");
        replica.cell.kill().await;
        replica.end().await;
    }

    /// Ends a replica in good order.
    pub(crate) async fn stop(&mut self, id: ReplicaId) {
        let replica = self.replicas[id as usize - 1].take().expect("the replica runs");
        let cell = replica.cell.clone();
        let stopping = cell.clone();
        replica.runtime.spawn(async move { stopping.stop().await }).await.expect("stopping does not panic");
        drop(cell);
        replica.end().await;
    }

    /// Waits until all running replicas agree on a leader that runs; gives back what they agree on.
    pub(crate) async fn leader(&self) -> Leadership {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen: Vec<Leadership> =
                self.running().map(|id| self.cell(id).leadership().borrow().clone()).collect();
            let leaders: Vec<_> = seen.iter().map(|l| (l.term, l.leader.clone())).collect();
            if leaders.windows(2).all(|pair| pair[0] == pair[1])
                && let Some(leading) = seen.iter().find(|l| l.here)
            {
                return leading.clone();
            }
            assert!(Instant::now() < deadline, "no leader within {LIMIT:?}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn leader_id(&self) -> ReplicaId {
        self.leader().await.leader.expect("there is a leader").0
    }

    /// A running replica that does not lead.
    pub(crate) async fn follower_id(&self) -> ReplicaId {
        let leader = self.leader_id().await;
        self.running().find(|id| *id != leader).expect("more than one runs")
    }

    /// Waits until all running replicas have applied the same, and gives the digests back.
    pub(crate) async fn digests(&self) -> Vec<u64> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut digests = Vec::new();
            for id in self.running() {
                digests.push(self.cell(id).digest().await.expect("a running replica has a digest"));
            }
            if digests.windows(2).all(|pair| pair[0].index == pair[1].index) {
                return digests.into_iter().map(|digest| digest.digest).collect();
            }
            assert!(Instant::now() < deadline, "replicas don't catch up within {LIMIT:?}: {digests:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn path(text: &str) -> Path {
    Path::parse(text).expect("a good path")
}

pub(crate) fn increment(identity: Identity, delta: i64) -> Request {
    let command = Command::Increment(Increment {
        path: path("/hits"),
        delta,
        create: true,
        floor: None,
        ceiling: None,
    });
    Request { identity, command }
}

/// Adds to the counter, and must succeed.
pub(crate) async fn add(cell: &Cell, key: &str, delta: i64) -> Outcome {
    let request = increment(Identity::Key(key.as_bytes().to_vec()), delta);
    cell.propose(&request, Instant::now() + LIMIT).await.expect("a majority runs")
}

/// The counter's value, linearizably, at this replica.
pub(crate) async fn hits(cell: &Cell) -> i64 {
    cell.barrier(Vec::new(), Instant::now() + LIMIT).await.expect("a majority runs");
    cell.read(|state| state.get_counter(&path("/hits")).map_or(0, |(value, _)| value))
}
