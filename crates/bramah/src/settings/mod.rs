//! The settings of a replica: one table, four sources, one typed and checked outcome.

pub mod file;
pub mod page;
pub mod source;
pub mod table;
pub mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub use source::{SettingError, Values};
pub use value::MemberAddresses;

/// Checked settings of one replica.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cell.
    pub cell: String,
    /// This replica's number.
    pub replica: u64,
    /// The data folder.
    pub data: PathBuf,
    /// Where to listen for clients.
    pub clients_listen: String,
    /// Where to listen for the other replicas.
    pub peers_listen: String,
    /// The replicas the cell begins with, this one among them.
    pub members: Vec<MemberAddresses>,
    /// Start a new cell if the folder is empty.
    pub bootstrap: bool,
    /// Peers' addresses of replicas of the cell to join.
    pub join: Vec<String>,
    /// Start again empty, to be repaired from the others.
    pub replace: bool,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Shortest time without a leader before an election.
    pub election_min: Duration,
    /// Longest time without a leader before an election.
    pub election_max: Duration,
    /// How long a leader's log may wait for its disk.
    pub slow_disk: Duration,
    /// Time between two comparisons of the replicas' states.
    pub digest_interval: Duration,
    /// Size of a log file.
    pub log_segment_bytes: u64,
    /// Log between two snapshots.
    pub snapshot_log_bytes: u64,
    /// Client connections at once.
    pub max_connections: u64,
    /// The file with the key that clients' tokens are signed with.
    pub token_key_file: Option<PathBuf>,
    /// Where DNS is served, if it is.
    pub dns_listen: Vec<std::net::SocketAddr>,
    /// What stands behind the cell's name in DNS.
    pub dns_domain: String,
    /// How long answers of DNS may be kept.
    pub dns_ttl: Duration,
    /// Resolvers for other domains.
    pub dns_forward: Vec<std::net::SocketAddr>,
    /// Time for a graceful stop.
    pub stop_timeout: Duration,
    /// Filter of the process's own log.
    pub log_level: String,
    /// Write that log as JSON.
    pub log_json: bool,
    /// Likely mistakes, for people.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Types and checks what was given.
    pub fn from_values(values: Values) -> Result<Self, SettingError> {
        let text = |key| values.require(key).map(|given| given.value);
        let replica = values.parse("replica", value::number)?;
        let join = match values.get("join") {
            Some(_) => values.parse("join", value::addresses)?,
            None => Vec::new(),
        };
        let members = match values.get("members") {
            // Who joins learns the members from the cell.
            None if !join.is_empty() => Vec::new(),
            _ => values.parse("members", value::members)?,
        };
        if members.is_empty() {
            refuse_advertised(&values)?;
        } else if join.is_empty() || members.iter().any(|member| member.id == replica) {
            let own = own_member(replica, &members)?;
            check_advertised(&values, "clients.advertise", &own.clients)?;
            check_advertised(&values, "peers.advertise", &own.peers)?;
        }
        let list = |key| match values.get(key) {
            Some(_) => values.parse(key, value::socket_addresses),
            None => Ok(Vec::new()),
        };
        let settings = Settings {
            cell: text("cell")?,
            replica,
            data: PathBuf::from(text("data")?),
            clients_listen: text("clients.listen")?,
            peers_listen: text("peers.listen")?,
            members,
            bootstrap: values.parse("bootstrap", value::switch)?,
            join,
            replace: values.parse("replace", value::switch)?,
            heartbeat: values.parse("heartbeat", value::duration)?,
            election_min: values.parse("election_min", value::duration)?,
            election_max: values.parse("election_max", value::duration)?,
            slow_disk: values.parse("slow_disk", value::duration)?,
            digest_interval: values.parse("digest_interval", value::duration)?,
            log_segment_bytes: values.parse("log.segment_bytes", value::bytes)?,
            snapshot_log_bytes: values.parse("snapshot.log_bytes", value::bytes)?,
            max_connections: values.parse("max_connections", value::number)?,
            token_key_file: values.get("token_key_file").map(|given| PathBuf::from(given.value)),
            dns_listen: list("dns.listen")?,
            dns_domain: text("dns.domain")?,
            dns_ttl: values.parse("dns.ttl", value::duration)?,
            dns_forward: list("dns.forward")?,
            stop_timeout: values.parse("stop_timeout", value::duration)?,
            log_level: text("log_level")?,
            log_json: text("log_format")? == "json",
            warnings: values.warnings,
        };
        settings.checked()
    }

    fn checked(mut self) -> Result<Self, SettingError> {
        self.check_cell()?;
        self.check_members()?;
        self.check_times()?;
        self.check_sizes()?;
        self.check_addresses()?;
        if self.bootstrap && !self.join.is_empty() {
            return Err(SettingError::new(
                "`bootstrap` and `join` are both given: a replica either begins a new cell or joins one",
            ));
        }
        if self.members.len().is_multiple_of(2) && !self.members.is_empty() {
            let (many, fewer) = (self.members.len(), self.members.len() - 1);
            self.warnings.push(format!(
                "{many} members survive no more failures than {fewer}, and each is one more that can fail: use an odd number",
            ));
        }
        Ok(self)
    }

    fn check_cell(&self) -> Result<(), SettingError> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if self.cell.len() > 64 || !self.cell.chars().all(good) || self.cell == "local" {
            return Err(SettingError::new(format!(
                "`cell`: {:?} cannot name a cell; use 1 to 64 of a-z, 0-9, '-' and '.', and not `local`, which is every client's name for its own",
                self.cell
            )));
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), SettingError> {
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for member in &self.members {
            if !ids.insert(member.id) {
                return Err(SettingError::new(format!(
                    "`members` has two replicas {}: give each its own number",
                    member.id
                )));
            }
            for address in [&member.peers, &member.clients] {
                if !addresses.insert(address) {
                    return Err(SettingError::new(format!(
                        "`members` has {address} twice: each replica needs a peers' and a clients' address of its own"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), SettingError> {
        if self.heartbeat < Duration::from_millis(5) {
            return Err(SettingError::new(format!("`heartbeat` is {:?}: at least 5ms", self.heartbeat)));
        }
        if self.election_min < 2 * self.heartbeat {
            return Err(SettingError::new(format!(
                "`election_min` ({:?}) must be at least twice `heartbeat` ({:?}), or one late heartbeat deposes a healthy leader",
                self.election_min, self.heartbeat
            )));
        }
        if self.election_max <= self.election_min {
            return Err(SettingError::new(format!(
                "`election_max` ({:?}) must be longer than `election_min` ({:?}), or followers stand for election all at once",
                self.election_max, self.election_min
            )));
        }
        if self.stop_timeout.is_zero() {
            return Err(SettingError::new(
                "`stop_timeout` is 0s: give the replica some time to hand leadership over, as 10s",
            ));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), SettingError> {
        const MIN_SEGMENT_BYTES: u64 = 1 << 20;
        const MAX_SEGMENT_BYTES: u64 = 1 << 30;
        let segment = self.log_segment_bytes;
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment) || !segment.is_multiple_of(4096) {
            return Err(SettingError::new(format!(
                "`log.segment_bytes` is {segment}: a multiple of 4KiB from 1MiB to 1GiB"
            )));
        }
        if self.snapshot_log_bytes < MIN_SEGMENT_BYTES {
            return Err(SettingError::new(format!(
                "`snapshot.log_bytes` is {}: at least 1MiB",
                self.snapshot_log_bytes
            )));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), SettingError> {
        let same_port = self.clients_listen == self.peers_listen && !self.clients_listen.ends_with(":0");
        if same_port {
            return Err(SettingError::new(format!(
                "`clients.listen` and `peers.listen` are both {}: give the peers a port of their own",
                self.peers_listen
            )));
        }
        Ok(())
    }
}

/// This replica's row in `members`.
fn own_member(replica: u64, members: &[MemberAddresses]) -> Result<&MemberAddresses, SettingError> {
    members.iter().find(|member| member.id == replica).ok_or_else(|| {
        let ids: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
        SettingError::new(format!(
            "`members` has replicas {} but not this one, {replica}: add it, or correct `replica`",
            ids.join(", "),
        ))
    })
}

/// Who joins is reached where `bramah member add` says: there is nothing to compare with.
fn refuse_advertised(values: &Values) -> Result<(), SettingError> {
    match ["clients.advertise", "peers.advertise"].iter().find_map(|key| values.get(key)) {
        Some(given) => Err(source::describe(
            &given,
            "it is compared with `members`, which is not given; `bramah member add` says where a joining replica is",
        )),
        None => Ok(()),
    }
}

/// The advertised address is the one in `members`: a given one must be the same.
fn check_advertised(values: &Values, key: &str, member: &str) -> Result<(), SettingError> {
    let Some(given) = values.get(key) else {
        return Ok(());
    };
    let address = &given.value;
    if !value::is_dialable(address) {
        return Err(source::describe(
            &given,
            &format!("{address} cannot be dialled by others; give the address they reach it by"),
        ));
    }
    if address != member {
        return Err(source::describe(
            &given,
            &format!("{address} is not this replica's address in `members`, {member}: make them one"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
