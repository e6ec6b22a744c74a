//! Bramah, the release build of this workspace: how it is built, started and asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cell::{Layout, ReplicaStatus, System};
use crate::processes::Process;
use crate::workspace;

/// Longest time to build everything from nothing.
const BUILD_WITHIN: Duration = Duration::from_secs(60 * 60);

pub(super) struct Bramah {
    pub(super) program: PathBuf,
}

impl Bramah {
    pub(super) fn build(root: &Path, target: &Path) -> Result<Self> {
        eprintln!("xtask: building bramah");
        let build = ["build", "--release", "--package", "bramah", "--bin", "bramah"];
        let cargo = Process::spawn(workspace::cargo(root, &build))?;
        if !cargo.wait(BUILD_WITHIN)? {
            bail!("bramah does not build (see above)");
        }
        let program = target.join("release").join("bramah");
        if !program.is_file() {
            bail!("cargo built bramah, but not as {}", program.display());
        }
        Ok(Bramah { program })
    }

    /// What the replica at `address` says of itself, as `bramah status` has it.
    pub(super) fn ask(&self, address: &str) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(["status", "--output", "json", "--timeout", "2s", "--addresses", address])
            .output()
            .context("cannot start bramah")?;
        if !output.status.success() {
            bail!("bramah status: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("cannot read what bramah status printed")
    }
}

impl System for Bramah {
    fn name(&self) -> &'static str {
        "bramah"
    }

    /// Default settings, save for addresses and the amount of logging.
    fn server(&self, layout: &Layout, replica: usize) -> Command {
        let me = &layout.members[replica];
        let members: Vec<String> = (1..)
            .zip(&layout.members)
            .map(|(number, member)| format!("{number}={}/{}", member.peers, member.clients))
            .collect();
        let mut command = Command::new(&self.program);
        command
            .args(["server", "--cell", "bench", "--bootstrap"])
            .args(["--replica", &(replica + 1).to_string()])
            .arg("--data")
            .arg(layout.data(replica))
            .args(["--clients-listen", &me.clients, "--peers-listen", &me.peers])
            .args(["--members", &members.join(",")])
            .args(["--log-level", "warn"])
            // Even a SIGKILL of this process leaves no replica behind.
            .args(["--exit-with-parent", &std::process::id().to_string()]);
        command
    }

    fn status(&self, address: &str) -> Result<ReplicaStatus> {
        read_status(&self.ask(address)?, address)
    }
}

fn read_status(answer: &Value, address: &str) -> Result<ReplicaStatus> {
    let replica = replica_at(answer, address)?;
    // Replicas that follow the leader of one term follow one leader.
    let leader = answer["leader"].as_u64().and_then(|_| replica["term"].as_u64());
    Ok(ReplicaStatus {
        leads: replica["role"] == "leader",
        leader: leader.map(|term| format!("of term {term}")),
        applied: replica["applied_index"].as_u64().context("bramah status names no applied index")?,
    })
}

/// What is said of the replica at `address`, if it is up.
pub(super) fn replica_at<'a>(answer: &'a Value, address: &str) -> Result<&'a Value> {
    let mut replicas = answer["replicas"].as_array().into_iter().flatten();
    let found = replicas.find(|replica| replica["address"] == address && replica["up"] == true);
    found.with_context(|| format!("bramah status says nothing of {address}: {answer}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_is_read() {
        let answer = json!({ "leader": 2, "replicas": [
            { "address": "a:1", "up": false, "error": "gone" },
            { "address": "b:2", "up": true, "role": "leader", "term": 3, "applied_index": 12 },
        ]});
        let leader = Some("of term 3".to_owned());
        assert_eq!(read_status(&answer, "b:2").unwrap(), ReplicaStatus { leads: true, leader, applied: 12 });
        assert!(read_status(&answer, "a:1").is_err(), "it is down");
        assert!(read_status(&answer, "c:3").is_err(), "it is not there");
    }

    #[test]
    fn a_term_without_a_leader_is_none() {
        let answer = json!({ "leader": null, "replicas": [
            { "address": "a:1", "up": true, "role": "candidate", "term": 3, "applied_index": 12 },
        ]});
        let status = read_status(&answer, "a:1").unwrap();
        assert_eq!(status, ReplicaStatus { leads: false, leader: None, applied: 12 });
    }
}
