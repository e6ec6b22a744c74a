//! Real processes on small disks that get full: writes are refused clearly, everything else goes on, and once
//! there is space again so do they, by themselves.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bramah_client::{Client, Error, ReplicaStatus, Route};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::support::{Layout, PATIENCE, Replica, assert_fails, json, run, stderr};

/// Room for the log that is kept behind a snapshot (32 MiB), and for what is written until it is noticed that the
/// next one is due.
const DISK_MEBIBYTES: u32 = 128;
/// What the rest of a disk is filled up with.
const PAGE_BYTES: usize = 4096;
/// What each writer writes.
const FILE_BYTES: usize = 32 << 10;
/// So many writes at once take less than a log of small segments keeps back for elections, 256 KiB,
const FEW: usize = 4;
/// and so many take more: then some wait for space, unanswered.
const MANY: usize = 24;
/// Between two writes of a writer, so that the disk doesn't get full of the log alone.
const PACE: Duration = Duration::from_millis(20);
/// Before a refused write is tried again.
const REST: Duration = Duration::from_millis(20);
/// A write under way when the disk gets full may be answered only after there is space again.
const CALL_LIMIT: Duration = Duration::from_secs(60);
const COUNTER: &str = "/full/counter";

/// Spec G-8: with a full disk a cell refuses writes and says what to do, answers reads, survives a restart, and
/// takes writes again once there is space. Nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_whose_disk_is_full_refuses_writes_until_there_is_space() {
    let name = "full_disk::a_cell_whose_disk_is_full_refuses_writes_until_there_is_space";
    let Some(mut cell) = SmallCell::start(name, 1).await else { return };
    let reader = cell.client().await;
    let load = Load::start(&cell, FEW).await;
    load.acknowledges(200).await;

    cell.disks[0].fill();
    load.is_refused().await;
    check_refusal(&cell);
    check_reads(&cell, &reader, &load).await;

    cell.kill(1);
    cell.spawn(1);
    check_reads(&cell, &reader, &load).await;
    load.is_refused().await;
    check_refusal(&cell);

    cell.disks[0].empty();
    load.acknowledges(200).await;
    let output = cell.run(&["set", "/full/allowed", "text"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let promised = load.end().await;
    cell.check(&promised).await;

    cell.stop(1);
    cell.spawn(1);
    cell.check(&promised).await;
    let refused = cell.run(&["get", "/full/refused"]);
    assert_fails(&refused, 1, &["/full/refused"]);
}

/// Spec G-8: a follower whose disk is full disturbs nobody, and is brought up to date when it has space, by then
/// with a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_disturbs_nobody() {
    let name = "full_disk::a_follower_whose_disk_is_full_disturbs_nobody";
    let Some(mut cell) = SmallCell::start(name, 3).await else { return };
    let leader = cell.leader().await;
    let follower = leader % 3 + 1;
    let load = Load::start(&cell, MANY).await;
    load.acknowledges(200).await;

    cell.disks[follower - 1].fill();
    eventually("the leader's log no longer reaches back to the follower's", async || {
        let (leader, follower) = (cell.status(leader, false).await, cell.status(follower, false).await);
        leader.purged_index > follower.last_log_index
    })
    .await;
    assert_eq!(load.refused(), 0, "the others have space");
    assert_eq!(cell.status(follower, false).await.role, "follower", "it hears the leader all the while");

    cell.disks[follower - 1].empty();
    load.acknowledges(200).await;
    let promised = load.end().await;
    cell.check(&promised).await;
}

/// Spec G-8: a leader whose disk is full refuses writes; killed, it leaves the cell to the others; started with a
/// disk that is still full, it follows them once there is space. Nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_loses_nothing() {
    let name = "full_disk::a_leader_whose_disk_is_full_loses_nothing";
    let Some(mut cell) = SmallCell::start(name, 3).await else { return };
    let leader = cell.leader().await;
    let reader = cell.client().await;
    let load = Load::start(&cell, FEW).await;
    load.acknowledges(200).await;

    cell.disks[leader - 1].fill();
    load.is_refused().await;
    check_refusal(&cell);
    check_reads(&cell, &reader, &load).await;
    cell.disks[leader - 1].empty();
    load.acknowledges(200).await;

    let leader = cell.leader().await;
    cell.disks[leader - 1].fill();
    load.is_refused().await;
    cell.kill(leader);
    load.acknowledges(200).await;
    cell.spawn(leader);
    cell.status(leader, false).await;
    load.acknowledges(200).await;
    check_reads(&cell, &reader, &load).await;

    cell.disks[leader - 1].empty();
    let promised = load.end().await;
    cell.check(&promised).await;
}

/// A command that writes is refused, certainly not done, and says what has to be done.
fn check_refusal(cell: &SmallCell) {
    let refused: Output = cell.run(&["set", "/full/refused", "text"]);
    assert_fails(&refused, 1, &["no space", "bytes free", "free some"]);
    let refused = cell.run(&["--json", "set", "/full/refused", "text"]);
    let error: serde_json::Value = serde_json::from_str(&stderr(&refused)).expect("an object on one line");
    assert_eq!(error["error"]["code"], "no_space", "{error}");
    assert_eq!(error["error"]["may_have_been_done"], false, "{error}");
}

/// Everything but writing goes on.
async fn check_reads(cell: &SmallCell, reader: &Client, load: &Load) {
    let acknowledged = load.promised().increments as i64;
    let value = reader.counter(COUNTER).get().await.expect("reads go on");
    assert!(value >= acknowledged, "{value} is less than the {acknowledged} that were acknowledged before");
    let names = reader.list("/full").await.expect("reads go on");
    assert_eq!(names.len(), 1 + FEW, "{names:?}");
    let status = json(&cell.run(&["--json", "status"]));
    assert!(status["leader"].is_u64(), "{status}");
}

/// Waits until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// What is written.

/// Writers that go on until they are told to end, and keep count of what they were promised.
struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
    client: Client,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    increments: AtomicU64,
    /// The number of the last write of each file that was acknowledged.
    files: Vec<AtomicU64>,
    failure: Mutex<Option<String>>,
}

/// What the cell must hold in the end.
struct Promised {
    increments: u64,
    files: Vec<u64>,
}

impl Load {
    async fn start(cell: &SmallCell, count: usize) -> Self {
        let client = cell.client().await;
        client.mkdir_all("/full").await.expect("there is space");
        let files = std::iter::repeat_with(AtomicU64::default).take(count).collect();
        let shared = Arc::new(Shared { files, ..Shared::default() });
        let mut writers = JoinSet::new();
        for writer in 0..count {
            writers.spawn(Arc::clone(&shared).write(client.clone(), writer));
        }
        Self { shared, writers, client }
    }

    fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    fn promised(&self) -> Promised {
        Promised {
            increments: self.shared.increments.load(Ordering::Relaxed),
            files: self.shared.files.iter().map(|file| file.load(Ordering::Relaxed)).collect(),
        }
    }

    /// Waits until so many further writes are acknowledged.
    async fn acknowledges(&self, count: u64) {
        let wanted = self.shared.acknowledged.load(Ordering::Relaxed) + count;
        self.wait("writes go on", || self.shared.acknowledged.load(Ordering::Relaxed) >= wanted).await;
    }

    /// Waits until every writer is refused again and again, and nothing is acknowledged any more.
    async fn is_refused(&self) {
        let mut seen = (0, 0);
        self.wait("all writes are refused", || {
            let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
            if seen.0 != acknowledged {
                seen = (acknowledged, self.refused());
            }
            self.refused() >= seen.1 + 10 * self.shared.files.len() as u64
        })
        .await;
    }

    async fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        eventually(what, async || {
            self.check_failure();
            is_so()
        })
        .await;
    }

    /// A session knows what became of its writes as long as it lives.
    fn check_failure(&self) {
        let failure = self.shared.failure.lock();
        assert!(failure.is_none(), "a write that may have been done: {failure:?}");
    }

    async fn end(mut self) -> Promised {
        self.shared.ended.store(true, Ordering::Relaxed);
        let ended = async { while self.writers.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("every writer ends");
        self.check_failure();
        let promised = self.promised();
        self.client.close().await;
        promised
    }
}

impl Shared {
    async fn write(self: Arc<Self>, client: Client, writer: usize) {
        let path = file_path(writer);
        let counter = client.counter(COUNTER);
        for number in 1.. {
            while !self.is_settled(client.set(&path, contents_of(number)).await.map(drop)) {
                tokio::time::sleep(REST).await;
            }
            self.files[writer].store(number, Ordering::Relaxed);
            while !self.is_settled(counter.increment(1).await.map(drop)) {
                tokio::time::sleep(REST).await;
            }
            self.increments.fetch_add(1, Ordering::Relaxed);
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Notes what became of a write. If it was certainly not done it is to be made again.
    fn is_settled(&self, result: Result<(), Error>) -> bool {
        match result {
            Ok(()) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err(error) if error.may_have_been_done() => {
                self.failure.lock().get_or_insert(error.to_string());
            }
            Err(Error::NoSpace { .. }) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            Err(_) => return false,
        }
        true
    }
}

fn file_path(writer: usize) -> String {
    format!("/full/file-{writer}")
}

fn contents_of(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(FILE_BYTES / size_of::<u64>())
}

// The cell and its disks.

/// Replicas with a small disk each.
struct SmallCell {
    layout: Layout,
    // Before the disks, which can't be unmounted while they are used.
    replicas: Vec<Option<Replica>>,
    disks: Vec<SmallDisk>,
}

impl SmallCell {
    /// A cell that runs, or none where nothing can be mounted.
    async fn start(name: &str, replicas: usize) -> Option<Self> {
        let disks: Result<Vec<_>, _> = (0..replicas).map(|_| SmallDisk::mount(DISK_MEBIBYTES)).collect();
        let disks = match disks {
            Ok(disks) => disks,
            Err(why) => {
                // Not by println!, which the test harness keeps to itself.
                let _ = writeln!(std::io::stderr(), "LEFT OUT: {name}: a tmpfs can't be mounted: {why}");
                return None;
            }
        };
        let none = std::iter::repeat_with(|| None);
        let mut cell = Self { layout: Layout::new(replicas), replicas: none.take(replicas).collect(), disks };
        for replica in 1..=replicas {
            cell.spawn(replica);
        }
        cell.leader().await;
        Some(cell)
    }

    /// Starts a replica, counted from 1, with a log of small pieces.
    fn spawn(&mut self, replica: usize) {
        let mut command = self.layout.server(replica, &self.disks[replica - 1].path().join("data"));
        command.args(["--log-segment-bytes", "1MiB", "--snapshot-log-bytes", "1MiB"]);
        self.replicas[replica - 1] = Some(Replica::spawn(&mut command));
    }

    fn kill(&mut self, replica: usize) {
        assert!(self.is_running(replica), "replica {replica} has ended by itself");
        self.replicas[replica - 1] = None;
    }

    fn stop(&mut self, replica: usize) {
        let running = self.replicas[replica - 1].take().expect("it was started");
        running.signal(Signal::TERM);
        let (status, log) = running.wait();
        assert_eq!(status.code(), Some(0), "{log}");
    }

    fn is_running(&mut self, replica: usize) -> bool {
        self.replicas[replica - 1].as_mut().is_some_and(Replica::is_running)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let addresses = self.layout.addresses();
        run(&[&["--addresses", &addresses], arguments].concat())
    }

    async fn client(&self) -> Client {
        client(&self.layout.addresses(), Route::Leader).await
    }

    /// Asks a replica until it answers.
    async fn status(&self, replica: usize, digest: bool) -> ReplicaStatus {
        let (address, _) = &self.layout.replicas[replica - 1];
        let until = Instant::now() + PATIENCE;
        loop {
            match Client::status_of(address, digest, PATIENCE).await {
                Ok(status) => return status,
                Err(error) => assert!(Instant::now() < until, "replica {replica} does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until all agree on who leads.
    async fn leader(&self) -> usize {
        let mut leader = None;
        eventually("all agree on a leader", async || {
            let mut leaders = BTreeSet::new();
            for replica in 1..=self.replicas.len() {
                let status = self.status(replica, false).await;
                leaders.insert(status.leader.map(|leader| leader.replica as usize));
            }
            leader = leaders.first().copied().flatten();
            leaders.len() == 1 && leader.is_some()
        })
        .await;
        leader.expect("it was waited for")
    }

    /// Every replica still runs, gives exactly what was promised, and has the same state as the others.
    async fn check(&mut self, promised: &Promised) {
        self.leader().await;
        for replica in 1..=self.replicas.len() {
            assert!(self.is_running(replica), "replica {replica} has ended by itself");
            let client = client(&self.layout.addresses(), Route::Fixed(replica - 1)).await;
            let value = client.counter(COUNTER).get().await.expect("it exists");
            assert_eq!(value, promised.increments as i64, "the counter at replica {replica}");
            for (writer, number) in promised.files.iter().enumerate() {
                let file = client.get(file_path(writer)).await.expect("it exists");
                assert!(file.contents == contents_of(*number), "file {writer} at replica {replica}");
            }
            client.close().await;
        }
        eventually("all have the same digest of the same entry", async || {
            let mut digests = BTreeSet::new();
            for replica in 1..=self.replicas.len() {
                let status = self.status(replica, true).await;
                digests.insert((status.digest_index, status.digest));
            }
            let indexes: BTreeSet<u64> = digests.iter().map(|(index, _)| *index).collect();
            assert_eq!(indexes.len(), digests.len(), "two states of one entry: {digests:?}");
            digests.len() == 1
        })
        .await;
    }
}

async fn client(addresses: &str, route: Route) -> Client {
    let builder = Client::builder().addresses(addresses).route(route).deadline(CALL_LIMIT);
    builder.connect().await.expect("a session")
}

/// A small file system in memory; unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mebibytes: u32) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let output = mount.output().map_err(|error| format!("mount can't be run: {error}"))?;
        match output.status.success() {
            true => Ok(Self { folder }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let ballast = OpenOptions::new().create(true).append(true).open(self.ballast());
        let mut ballast: File = ballast.expect("a file on a disk that is not full yet");
        for piece in [1 << 20, PAGE_BYTES] {
            let full = loop {
                if let Err(error) = ballast.write_all(&vec![1; piece]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives the space back.
    fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("the file that fills the disk");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.path()).status();
        let gone = status.is_ok_and(|status| status.success());
        // A second panic would leave the other disks mounted.
        assert!(gone || std::thread::panicking(), "{} is still mounted", self.path().display());
    }
}
