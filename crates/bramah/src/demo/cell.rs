//! Three replicas as three processes on this machine, each of which can be killed and started again.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bramah_client::ReplicaStatus;
use rand::RngExt;
use tempfile::TempDir;

use crate::command::connect::status_of_all;

/// How long a cell may take until it has a leader.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Sets of ports to try before giving up.
const START_TRIES: usize = 5;
/// How long a question about a replica's state may take.
const STATUS_LIMIT: Duration = Duration::from_millis(1_000);
/// Between two looks at the replicas.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Characters of a replica's log that an error shows.
const LOG_TAIL_CHARACTERS: usize = 2_000;
const REPLICAS: u64 = 3;

/// Three replica processes. Dropping it kills them and removes their data.
pub struct LocalCell {
    executable: PathBuf,
    folder: Option<TempDir>,
    replicas: Vec<Replica>,
    /// Whether the processes are to outlive this one.
    keep: bool,
}

struct Replica {
    id: u64,
    clients: String,
    peers: String,
    process: Option<Child>,
}

/// Why the cell is not there.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// A file or a process could not be made.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        error: std::io::Error,
    },
    /// A replica ended by itself.
    #[error("replica {replica} ended ({status}); its log ends with:\n{log}")]
    Ended {
        /// Which.
        replica: u64,
        /// How.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Something that should happen did not in time.
    #[error("{what} within {limit:?}; the log of replica 1 ends with:\n{log}")]
    Late {
        /// What did not happen.
        what: String,
        /// How long it was waited.
        limit: Duration,
        /// The end of a log.
        log: String,
    },
}

impl LocalCell {
    /// Starts three replicas of `executable` and waits until they have a leader. With `keep` they live on when this
    /// process ends; otherwise they die with it, however it ends, if this is called on the main thread.
    pub async fn start(executable: &Path, keep: bool) -> Result<Self, CellError> {
        let mut tries = 1;
        loop {
            let mut cell = Self::new(executable, keep)?;
            match cell.start_all().await {
                Ok(()) => return Ok(cell),
                // Between our look at a port and the replica's, somebody else has taken it.
                Err(CellError::Ended { log, .. }) if tries < START_TRIES && log.contains("in use") => {
                    tries += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn new(executable: &Path, keep: bool) -> Result<Self, CellError> {
        let folder = tempfile::Builder::new()
            .prefix("bramah-demo-")
            .tempdir()
            .map_err(io("make a temporary folder"))?;
        let ports = free_ports(2 * REPLICAS as usize)?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let replicas = (1..=REPLICAS).zip(ports.chunks(2)).map(|(id, ports)| Replica {
            id,
            clients: address(ports[0]),
            peers: address(ports[1]),
            process: None,
        });
        Ok(Self {
            executable: executable.to_owned(),
            replicas: replicas.collect(),
            folder: Some(folder),
            keep,
        })
    }

    async fn start_all(&mut self) -> Result<(), CellError> {
        for id in 1..=REPLICAS {
            self.spawn(id)?;
        }
        self.wait_for("the replicas agreed on no leader", START_LIMIT, |statuses| {
            statuses.iter().flatten().any(|status| status.role == "leader")
                && statuses.iter().all(Option::is_some)
        })
        .await
    }

    /// The clients' addresses of all replicas, in the order of their numbers.
    pub fn addresses(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.clients.clone()).collect()
    }

    /// The process ids of the replicas that run.
    pub fn process_ids(&self) -> Vec<u32> {
        self.replicas.iter().filter_map(|replica| replica.process.as_ref().map(Child::id)).collect()
    }

    /// The folder with the data and the logs.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it is there as long as the cell").path()
    }

    /// The replica that leads, in the newest term that any replica knows of.
    pub async fn leader(&self) -> Option<u64> {
        let statuses = self.statuses(false).await;
        let term = |status: &ReplicaStatus| status.leader.as_ref().map_or(0, |leader| leader.term);
        let newest = statuses.iter().flatten().map(term).max()?;
        let leads = |status: &&ReplicaStatus| status.role == "leader" && term(status) == newest;
        statuses.iter().flatten().find(leads).map(|status| status.replica)
    }

    /// Waits until there is a leader.
    pub async fn wait_for_leader(&mut self) -> Result<u64, CellError> {
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(self.late("the replicas agreed on no leader", START_LIMIT))
    }

    /// How each replica sees itself; nothing for one that does not answer.
    pub async fn statuses(&self, digest: bool) -> Vec<Option<ReplicaStatus>> {
        let limit = if digest { START_LIMIT } else { STATUS_LIMIT };
        let addresses = self.addresses();
        let replies = status_of_all(&addresses, digest, limit).await;
        replies.into_iter().take(addresses.len()).map(|(_, reply)| reply.ok()).collect()
    }

    /// Ends a replica with SIGKILL, and returns when it is gone.
    pub fn kill(&mut self, id: u64) -> Result<(), CellError> {
        let Some(mut process) = self.replica(id).process.take() else {
            return Ok(());
        };
        process.kill().map_err(io("kill a replica"))?;
        process.wait().map(drop).map_err(io("wait for a killed replica"))
    }

    /// Starts a killed replica again and waits until it answers.
    pub async fn restart(&mut self, id: u64) -> Result<(), CellError> {
        self.spawn(id)?;
        let index = (id - 1) as usize;
        self.wait_for(&format!("replica {id} did not come back"), START_LIMIT, |statuses| {
            statuses[index].is_some()
        })
        .await
    }

    /// Waits until every replica has applied as much as the others had committed when it was asked.
    pub async fn wait_until_caught_up(&mut self) -> Result<(), CellError> {
        self.wait_for("not every replica caught up", START_LIMIT, |statuses| {
            let committed = statuses.iter().flatten().map(|status| status.committed_index).max().unwrap_or(0);
            // Under load a replica that keeps up is still a moment behind another one's answer.
            let near = |status: &ReplicaStatus| status.applied_index + 1_000 >= committed;
            statuses.iter().all(|status| status.as_ref().is_some_and(near))
        })
        .await
    }

    /// Asks until all replicas have their digests of one and the same index, and returns these.
    pub async fn digests(&mut self) -> Result<Vec<u64>, CellError> {
        let until = Instant::now() + START_LIMIT;
        while Instant::now() < until {
            let statuses = self.statuses(true).await;
            let digests: Vec<(u64, u64)> = statuses
                .iter()
                .flatten()
                .filter_map(|status| Some((status.digest_index, status.digest?)))
                .collect();
            let same_index = digests.windows(2).all(|pair| pair[0].0 == pair[1].0);
            if digests.len() == self.replicas.len() && same_index {
                return Ok(digests.into_iter().map(|(_, digest)| digest).collect());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(self.late("the replicas did not come to rest at the same index", START_LIMIT))
    }

    /// Leaves the processes and their data behind.
    pub fn leave_running(mut self) -> PathBuf {
        for replica in &mut self.replicas {
            replica.process = None;
        }
        self.folder.take().expect("it is there as long as the cell").keep()
    }

    fn replica(&mut self, id: u64) -> &mut Replica {
        &mut self.replicas[(id - 1) as usize]
    }

    fn spawn(&mut self, id: u64) -> Result<(), CellError> {
        let members: Vec<String> = self
            .replicas
            .iter()
            .map(|replica| format!("{}={}/{}", replica.id, replica.peers, replica.clients))
            .collect();
        let data = self.folder().join(format!("replica-{id}"));
        let log = self.open_log(id)?;
        let (executable, keep) = (self.executable.clone(), self.keep);
        let replica = self.replica(id);
        let mut command = Command::new(executable);
        command.args([
            "server",
            "--cell",
            "demo",
            "--replica",
            &id.to_string(),
            "--members",
            &members.join(","),
        ]);
        command.args([
            "--clients-listen",
            &replica.clients,
            "--peers-listen",
            &replica.peers,
            "--bootstrap",
            "--data",
        ]);
        command.arg(data);
        if !keep {
            command.args(["--exit-with-parent", &std::process::id().to_string()]);
        }
        for variable in crate::settings::table::SETTINGS.iter().map(|setting| setting.variable()) {
            command.env_remove(variable);
        }
        // A group of its own: Ctrl-C at the terminal is for the demo, which then ends its replicas itself.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        replica.process = Some(command.spawn().map_err(io("start a replica"))?);
        Ok(())
    }

    fn open_log(&self, id: u64) -> Result<File, CellError> {
        let path = self.folder().join(format!("replica-{id}.log"));
        OpenOptions::new().create(true).append(true).open(path).map_err(io("write a replica's log"))
    }

    async fn wait_for(
        &mut self,
        what_did_not: &str,
        limit: Duration,
        is_so: impl Fn(&[Option<ReplicaStatus>]) -> bool,
    ) -> Result<(), CellError> {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            self.check_processes()?;
            if is_so(&self.statuses(false).await) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(self.late(what_did_not, limit))
    }

    fn late(&self, what: &str, limit: Duration) -> CellError {
        CellError::Late { what: what.to_owned(), limit, log: self.log_tail(1) }
    }

    /// An error if a replica has ended by itself.
    fn check_processes(&mut self) -> Result<(), CellError> {
        for index in 0..self.replicas.len() {
            let replica = &mut self.replicas[index];
            let Some(process) = &mut replica.process else {
                continue;
            };
            if let Some(status) = process.try_wait().map_err(io("look after a replica"))? {
                let id = replica.id;
                replica.process = None;
                return Err(CellError::Ended {
                    replica: id,
                    status: status.to_string(),
                    log: self.log_tail(id),
                });
            }
        }
        Ok(())
    }

    fn log_tail(&self, id: u64) -> String {
        let log = std::fs::read(self.folder().join(format!("replica-{id}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        // A panic's reason comes before its long backtrace.
        let tail = match log.rfind("panicked at") {
            Some(panic) => log[panic..].chars().take(LOG_TAIL_CHARACTERS).collect::<String>(),
            None => log.chars().skip(log.chars().count().saturating_sub(LOG_TAIL_CHARACTERS)).collect(),
        };
        tail.trim_end().to_owned()
    }
}

impl Drop for LocalCell {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            if let Some(mut process) = replica.process.take() {
                // Nothing can be done about one that is gone already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> CellError {
    let what = what.to_owned();
    move |error| CellError::Io { what, error }
}

/// Different ports on which nobody listens now. Below the range from which the kernel takes ports for outgoing
/// connections (32,768 and up by default): there, one could take a killed replica's port before it is back.
pub fn free_ports(count: usize) -> Result<Vec<u16>, CellError> {
    const TRIES: usize = 1_000;
    let mut random = rand::rng();
    let mut ports = Vec::new();
    for _ in 0..TRIES {
        let port = random.random_range(12_000..32_000);
        if !ports.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    Err(io("find free ports on 127.0.0.1")(std::io::ErrorKind::AddrInUse.into()))
}
