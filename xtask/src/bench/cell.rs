//! Three replicas of one system as three processes on loopback, with their data on one disk.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::processes::{Output, Process};

pub(super) const REPLICAS: usize = 3;

/// How long a cell may take to be ready, from an empty folder or after a restart.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How one kind of server is started and asked how it is.
pub(super) trait System {
    fn name(&self) -> &'static str;

    /// The command that runs one replica in the foreground; the same for its first start and each further one.
    fn server(&self, layout: &Layout, replica: usize) -> Command;

    /// What the replica at this address says of itself, within a few seconds.
    fn status(&self, address: &str) -> Result<ReplicaStatus>;
}

/// Where the replicas of a cell are.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) folder: PathBuf,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) clients: String,
    pub(super) peers: String,
}

impl Layout {
    /// The data folder of one replica.
    pub(super) fn data(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{}", replica + 1))
    }

    fn log(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("replica-{}.log", replica + 1))
    }
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReplicaStatus {
    pub(super) leads: bool,
    /// Whom it takes for the leader, in the system's own words; `None` when it knows none.
    pub(super) leader: Option<String>,
    pub(super) applied: u64,
}

/// A running cell. Dropping it ends its processes and removes its data.
pub(super) struct Cell<'a> {
    system: &'a dyn System,
    layout: Layout,
    processes: Vec<Option<Process>>,
}

impl<'a> Cell<'a> {
    /// Starts a new cell in `folder`, which must not be there yet, and waits until it is ready.
    pub(super) fn start(system: &'a dyn System, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.parent().unwrap_or(folder))?;
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let layout = Layout { folder: folder.to_path_buf(), members: free_members()? };
        let mut cell = Cell { system, layout, processes: Vec::new() };
        for replica in 0..REPLICAS {
            let process = cell.launch(replica)?;
            cell.processes.push(Some(process));
        }
        cell.wait_ready()?;
        Ok(cell)
    }

    fn launch(&self, replica: usize) -> Result<Process> {
        Process::start(self.system.server(&self.layout, replica), &self.layout.log(replica), Output::Log)
    }

    pub(super) fn name(&self) -> &'static str {
        self.system.name()
    }

    /// The clients' addresses, separated by commas.
    pub(super) fn addresses(&self) -> String {
        let clients: Vec<&str> = self.layout.members.iter().map(|member| member.clients.as_str()).collect();
        clients.join(",")
    }

    pub(super) fn client_address(&self, replica: usize) -> &str {
        &self.layout.members[replica].clients
    }

    /// Process ids of the replicas that run, separated by commas.
    pub(super) fn pids(&self) -> String {
        let pids: Vec<String> =
            self.processes.iter().flatten().map(|process| process.pid().to_string()).collect();
        pids.join(",")
    }

    pub(super) fn data(&self, replica: usize) -> PathBuf {
        self.layout.data(replica)
    }

    /// A file beside the data, for the log of whoever works on the cell.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.layout.folder.join(name)
    }

    /// Which replica leads.
    pub(super) fn leader(&self) -> Result<usize> {
        let statuses = self.statuses();
        let leader = statuses.iter().position(|status| status.as_ref().is_some_and(|status| status.leads));
        leader.with_context(|| format!("no replica of {} leads: {statuses:?}", self.name()))
    }

    /// Ends a replica with SIGKILL; returns once it is gone.
    pub(super) fn kill(&mut self, replica: usize) {
        if let Some(process) = self.processes[replica].take() {
            process.kill();
        }
    }

    /// Starts a killed replica again and waits until it has caught up and all agree on a leader.
    pub(super) fn restart(&mut self, replica: usize) -> Result<()> {
        self.processes[replica] = Some(self.launch(replica)?);
        self.wait_ready()
    }

    /// Waits until all replicas answer, agree on one leader, and have applied all that any had applied at the beginning.
    pub(super) fn wait_ready(&self) -> Result<()> {
        let ends = Instant::now() + READY_WITHIN;
        let mut goal = None;
        loop {
            let statuses = self.statuses();
            if let Some(all) = statuses.iter().cloned().collect::<Option<Vec<_>>>() {
                let most = all.iter().map(|status| status.applied).max().unwrap_or(0);
                let goal = *goal.get_or_insert(most);
                if agree(&all) && all.iter().all(|status| status.applied >= goal) {
                    return Ok(());
                }
            }
            self.all_alive()?;
            if Instant::now() > ends {
                let seconds = READY_WITHIN.as_secs();
                bail!("{} is not ready after {seconds} s: {statuses:?}{}", self.name(), self.last_words());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// An error with the last lines of its log if a replica ended by itself.
    pub(super) fn all_alive(&self) -> Result<()> {
        for (replica, process) in self.processes.iter().enumerate() {
            if let Some(process) = process
                && !process.is_alive()?
            {
                bail!("replica {} of {} ended by itself{}", replica + 1, self.name(), self.last_words());
            }
        }
        Ok(())
    }

    fn statuses(&self) -> Vec<Option<ReplicaStatus>> {
        self.layout.members.iter().map(|member| self.system.status(&member.clients).ok()).collect()
    }

    fn last_words(&self) -> String {
        (0..REPLICAS).map(|replica| last_lines(&self.layout.log(replica), 5)).collect()
    }
}

impl Drop for Cell<'_> {
    fn drop(&mut self) {
        self.processes.clear();
        if let Err(error) = fs::remove_dir_all(&self.layout.folder) {
            eprintln!("xtask: cannot remove {}: {error}", self.layout.folder.display());
        }
    }
}

fn agree(all: &[ReplicaStatus]) -> bool {
    let one_leads = all.iter().filter(|status| status.leads).count() == 1;
    one_leads && all.iter().all(|status| status.leader.is_some() && status.leader == all[0].leader)
}

fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(count)..].join("\n  ");
    format!("\n{}:\n  {last}", file.file_name().unwrap_or_default().to_string_lossy())
}

/// Two free ports a replica. They are held until all are chosen, so that none is chosen twice.
fn free_members() -> Result<Vec<Member>> {
    let mut held = Vec::new();
    let mut address = || -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let address = listener.local_addr()?.to_string();
        held.push(listener);
        Ok(address)
    };
    (0..REPLICAS).map(|_| Ok(Member { clients: address()?, peers: address()? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(leads: bool, leader: Option<&str>) -> ReplicaStatus {
        ReplicaStatus { leads, leader: leader.map(str::to_owned), applied: 0 }
    }

    #[test]
    fn replicas_agree_only_on_one_leader_that_all_know() {
        assert!(agree(&[status(true, Some("1")), status(false, Some("1")), status(false, Some("1"))]));
        assert!(!agree(&[status(true, Some("1")), status(false, Some("1")), status(false, None)]));
        assert!(!agree(&[status(true, Some("1")), status(false, Some("1")), status(false, Some("2"))]));
        assert!(!agree(&[status(true, Some("1")), status(true, Some("1")), status(false, Some("1"))]));
        assert!(!agree(&[status(false, Some("1")), status(false, Some("1")), status(false, Some("1"))]));
    }

    #[test]
    fn chosen_ports_differ() {
        let members = free_members().unwrap();
        let mut all: Vec<&str> =
            members.iter().flat_map(|member| [&*member.clients, &*member.peers]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * REPLICAS);
    }
}
