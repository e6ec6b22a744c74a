//! A cell of the shipped binary: its processes, its network, its disks, and what can be done to them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bramah_client::{Client, ReplicaStatus, Route};
use bramah_sim::check::digests;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::disks::{self, Disk};
use super::helpers;
use super::leftovers::{self, PREFIX};
use super::load::Load;
use super::network::{Host, Network};
use super::tool::{left_out, say};
use crate::support::{Layout, PATIENCE, Replica, run};

/// How long a replica may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at the replicas.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a call of a client may take: longer than any fault lasts, so that its outcome gets known.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// What is shown of each replica's log when a test fails.
const LOG_TAIL_LINES: usize = 25;

/// One cell at a time: each has several processes and a load, and elections take fractions of a second.
static LANE: Mutex<()> = Mutex::const_new(());

/// What a scenario needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    pub(crate) disks: disks::Kind,
    /// Whether it delays what is sent, which takes the forwarder.
    pub(crate) delays: bool,
    /// Whether clocks go wrong, or disks fail.
    pub(crate) faults: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { replicas: 3, disks: disks::Kind::Folder, delays: false, faults: false }
    }
}

/// The cell. Dropping it, also by a panic, removes everything that was made for it.
pub(crate) struct RealCell {
    // In the order in which they have to go.
    replicas: Vec<Option<Replica>>,
    pub(crate) network: Network,
    pub(crate) disks: Vec<Disk>,
    folder: TempDir,
    layout: Layout,
    /// What ended processes had logged.
    logs: Vec<String>,
    faults: Option<PathBuf>,
    began: Instant,
    _lane: MutexGuard<'static, ()>,
}

impl RealCell {
    /// A cell with a leader, or none where the machine doesn't let us make its disks, which is said and counted.
    pub(crate) async fn start(plan: Plan) -> Option<Self> {
        let lane = LANE.lock().await;
        leftovers::remove();
        match Self::prepare(plan, lane) {
            Ok(mut cell) => {
                (1..=plan.replicas).for_each(|replica| cell.spawn(replica));
                cell.leader().await;
                Some(cell)
            }
            Err(why) => {
                left_out(&why);
                None
            }
        }
    }

    fn prepare(plan: Plan, lane: MutexGuard<'static, ()>) -> Result<Self, String> {
        static CELLS: AtomicU32 = AtomicU32::new(1);
        let number = CELLS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().map_err(|error| error.to_string())?;
        if matches!(plan.disks, disks::Kind::Image(_)) {
            helpers::power_cut()?;
        }
        let disk = |replica| Disk::make(plan.disks, folder.path().join(format!("disk-{replica}")));
        let disks = (1..=plan.replicas).map(disk).collect::<Result<Vec<_>, _>>()?;
        let network = match plan.delays {
            true => Network::forwarder(plan.replicas),
            false => Network::make(number, plan.replicas),
        };
        let faults = if plan.faults || network.needs_faults() { Some(helpers::faults()?) } else { None };
        let layout = network.layout(plan.replicas);
        let replicas = std::iter::repeat_with(|| None).take(plan.replicas).collect();
        let logs = vec![String::new(); plan.replicas];
        Ok(Self {
            replicas,
            network,
            disks,
            folder,
            layout,
            logs,
            faults,
            began: Instant::now(),
            _lane: lane,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    /// All replicas but this one.
    pub(crate) fn others(&self, replica: Host) -> Vec<Host> {
        (1..=self.count()).filter(|other| *other != replica).collect()
    }

    // The processes.

    /// Starts a replica, counted from 1, with a log of small pieces.
    pub(crate) fn spawn(&mut self, replica: Host) {
        self.spawn_with(replica, &[]);
    }

    pub(crate) fn spawn_with(&mut self, replica: Host, options: &[&str]) {
        let mut command = self.layout.server(replica, &self.data(replica));
        command.args(["--log-segment-bytes", "1MiB", "--snapshot-log-bytes", "1MiB"]).args(options);
        if let Some(library) = &self.faults {
            command.env("LD_PRELOAD", library);
            command.env("BRAMAH_FAULTS_CLOCK", self.clock_file(replica));
            command.env("BRAMAH_FAULTS_DISK", self.disk_file(replica));
        }
        let process = Replica::spawn(&mut self.network.enclose(replica, command));
        self.replicas[replica - 1] = Some(process);
    }

    pub(crate) fn data(&self, replica: Host) -> PathBuf {
        self.disks[replica - 1].path().join("data")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, replica: Host) {
        assert!(self.is_running(replica), "replica {replica} has ended by itself");
        let log = self.take(replica).kill();
        self.logs[replica - 1].push_str(&log);
    }

    /// SIGTERM, after which it must end well within its limit. How long it took.
    pub(crate) fn stop(&mut self, replica: Host) -> Duration {
        let began = Instant::now();
        self.process(replica).signal(Signal::TERM);
        let (status, _) = self.wait(replica);
        assert_eq!(status.code(), Some(0), "replica {replica} was stopped");
        began.elapsed()
    }

    /// SIGTERM to all at once, with the same demands.
    pub(crate) fn stop_all(&mut self) -> Vec<Duration> {
        let (began, count) = (Instant::now(), self.count());
        self.replicas.iter().flatten().for_each(|process| process.signal(Signal::TERM));
        let stop = |replica| {
            let (status, _) = self.wait(replica);
            assert_eq!(status.code(), Some(0), "replica {replica} was stopped");
            began.elapsed()
        };
        (1..=count).map(stop).collect()
    }

    /// What its processes had logged that have ended.
    pub(crate) fn log(&self, replica: Host) -> &str {
        &self.logs[replica - 1]
    }

    /// Waits until it has ended by itself: how, and what it had logged.
    pub(crate) fn wait(&mut self, replica: Host) -> (ExitStatus, String) {
        let (status, log) = self.take(replica).wait();
        self.logs[replica - 1].push_str(&log);
        (status, log)
    }

    /// SIGSTOP; returns when it stands still.
    pub(crate) async fn pause(&self, replica: Host) {
        self.process(replica).signal(Signal::STOP);
        eventually("it stands still", async || self.process(replica).stands_still()).await;
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, replica: Host) {
        self.process(replica).signal(Signal::CONT);
    }

    pub(crate) fn is_running(&mut self, replica: Host) -> bool {
        self.replicas[replica - 1].as_mut().is_some_and(Replica::is_running)
    }

    fn process(&self, replica: Host) -> &Replica {
        self.replicas[replica - 1].as_ref().expect("it was started")
    }

    fn take(&mut self, replica: Host) -> Replica {
        self.replicas[replica - 1].take().expect("it was started")
    }

    // Their clocks and disks; only with `faults`.

    /// From now on this replica's wall clock is wrong by so much.
    pub(crate) fn set_clock(&self, replica: Host, seconds_off: i64) {
        let file = self.clock_file(replica);
        // In one step: half a number would be another one.
        let beside = file.with_extension("new");
        std::fs::write(&beside, seconds_off.to_string()).expect("our folder");
        std::fs::rename(&beside, &file).expect("our folder");
    }

    /// From now on this replica's disk fails to `s`ync or to `w`rite.
    pub(crate) fn break_disk(&self, replica: Host, kind: char) {
        std::fs::write(self.disk_file(replica), kind.to_string()).expect("our folder");
    }

    /// The replica gets another disk, which works and is empty.
    pub(crate) fn replace_disk(&self, replica: Host) {
        std::fs::remove_file(self.disk_file(replica)).expect("it was broken");
        let data = self.data(replica);
        let free =
            (1..).map(|number| data.with_extension(format!("broken-{number}"))).find(|path| !path.exists());
        std::fs::rename(&data, free.expect("there is no end of numbers")).expect("our folder");
    }

    fn clock_file(&self, replica: Host) -> PathBuf {
        self.folder.path().join(format!("clock-{replica}"))
    }

    fn disk_file(&self, replica: Host) -> PathBuf {
        self.folder.path().join(format!("broken-{replica}"))
    }

    // What clients see.

    /// Runs a command against this cell.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(&[&["--addresses", &self.layout.addresses()], arguments].concat())
    }

    /// A session that begins at this replica, and goes elsewhere only when it has to.
    pub(crate) async fn client_at(&self, replica: Host) -> Client {
        session(&self.layout.addresses(), Route::Fixed(replica - 1)).await
    }

    /// A session that stays with this replica.
    pub(crate) async fn client_only_at(&self, replica: Host) -> Client {
        session(&self.layout.replicas[replica - 1].0, Route::Fixed(0)).await
    }

    /// A session that follows the leader.
    pub(crate) async fn client(&self) -> Client {
        session(&self.layout.addresses(), Route::Leader).await
    }

    /// How a replica sees itself; none if it doesn't answer.
    pub(crate) async fn status(&self, replica: Host, digest: bool) -> Option<ReplicaStatus> {
        Client::status_of(&self.layout.replicas[replica - 1].0, digest, STATUS_LIMIT).await.ok()
    }

    /// Waits until all that run agree on who leads.
    pub(crate) async fn leader(&self) -> Host {
        let running: Vec<Host> =
            (1..=self.count()).filter(|replica| self.replicas[replica - 1].is_some()).collect();
        self.leader_of(&running).await
    }

    /// Waits until these replicas agree that one of them leads.
    pub(crate) async fn leader_of(&self, replicas: &[Host]) -> Host {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut seen = Vec::new();
            for replica in replicas {
                seen.push(self.status(*replica, false).await);
            }
            let leaders = seen.iter().map(|status| Some(status.as_ref()?.leader.as_ref()?.replica as Host));
            match leaders.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..] {
                [Some(leader)] if replicas.contains(&leader) => return leader,
                _ => assert!(
                    Instant::now() < until,
                    "no leader of {replicas:?} within {PATIENCE:?}: {seen:#?}"
                ),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The term that a replica knows of.
    pub(crate) async fn term(&self, replica: Host) -> u64 {
        let status = self.status(replica, false).await.expect("it runs and can be reached");
        status.leader.map_or(0, |leader| leader.term)
    }

    // The end of each scenario.

    /// All is well again: the load goes on, the replicas become alike, and the judges find nothing.
    pub(crate) async fn finish(mut self, load: Load) {
        self.network.heal();
        load.progresses(100).await;
        self.leader().await;
        for replica in 1..=self.count() {
            assert!(self.is_running(replica), "replica {replica} has ended by itself");
        }
        let record = load.end().await;
        for replica in 1..=self.count() {
            record.read_all_through(self.client_only_at(replica).await).await;
        }
        record.judge(&self.converge().await);
        say(&format!("took {:?}", self.began.elapsed()));
    }

    /// Waits until all have applied the same entries, and tells all digests that were seen on the way.
    async fn converge(&self) -> Vec<digests::Record> {
        let mut seen = Vec::new();
        eventually("all have applied the same entries", async || {
            let mut indexes = BTreeSet::new();
            for replica in 1..=self.count() {
                let Some(status) = self.status(replica, true).await else { return false };
                indexes.insert(status.digest_index);
                let digest = status.digest.expect("it was asked for");
                seen.push(digests::Record { replica: replica as u64, applied: status.digest_index, digest });
            }
            indexes.len() == 1
        })
        .await;
        seen
    }

    fn show_logs(&mut self) {
        for replica in 1..=self.count() {
            if let Some(process) = self.replicas[replica - 1].take() {
                let log = process.kill();
                self.logs[replica - 1].push_str(&log);
            }
            let lines: Vec<&str> = self.logs[replica - 1].lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            println!("--- log of replica {replica}, {} lines, its end:\n{}", lines.len(), tail.join("\n"));
        }
    }
}

impl Drop for RealCell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // Disks can't be unmounted, nor namespaces go, while somebody uses them.
        self.replicas.clear();
    }
}

async fn session(addresses: &str, route: Route) -> Client {
    let until = Instant::now() + PATIENCE;
    loop {
        let builder = Client::builder().addresses(addresses).route(route).deadline(CALL_LIMIT);
        match builder.connect().await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < until, "no session: {error}"),
        }
    }
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
