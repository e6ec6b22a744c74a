//! `bramah status`: every replica of the cell in one table.

use std::time::Duration;

use bramah_client::{Error, ReplicaStatus};
use serde_json::{Value, json};

use super::connect::status_of_all;
use super::table;
use crate::bench::report::with_separators;
use crate::cli::{Shared, StatusArgs};
use crate::output::{Exit, Failure, Printer};

/// Asks every replica and shows what they say; one that does not answer is shown as such.
pub async fn run(shared: &Shared, args: StatusArgs) -> Result<(), Failure> {
    // A replica that is up answers at once; one that hangs must not take the whole time of the others.
    let timeout = shared.timeout.min(Duration::from_secs(5));
    let mut replies = status_of_all(&shared.addresses, args.digest, timeout).await;
    // A default address at which nobody listens is no member that is down.
    let known = member_addresses(&replies);
    if !known.is_empty() {
        replies.retain(|(address, reply)| reply.is_ok() || known.contains(address));
    }
    replies.sort_by_key(|(_, reply)| reply.as_ref().map_or(u64::MAX, |status| status.replica));
    let Some(best) =
        replies.iter().filter_map(|(_, reply)| reply.as_ref().ok()).max_by_key(|status| status.applied_index)
    else {
        return Err(nobody(&shared.addresses, &replies));
    };
    let committed = best.committed_index.max(best.applied_index);
    let text = text(&replies, best, committed, args.digest);
    Printer { json: shared.is_json() }.answer(text, as_json(&replies, best, committed))
}

fn member_addresses(replies: &[(String, Result<ReplicaStatus, Error>)]) -> Vec<String> {
    let statuses = replies.iter().filter_map(|(_, reply)| reply.as_ref().ok());
    statuses.flat_map(|status| status.members.iter().map(|member| member.client_address.clone())).collect()
}

fn nobody(addresses: &[String], replies: &[(String, Result<ReplicaStatus, Error>)]) -> Failure {
    let reason =
        replies.iter().find_map(|(_, reply)| reply.as_ref().err()).map(|error| format!(" ({error})"));
    Failure {
        exit: Exit::Unavailable,
        code: "unavailable".into(),
        message: format!("no replica answers at {}{}", addresses.join(", "), reason.unwrap_or_default()),
        next: Some("start one with `bramah dev`, or name the cell's replicas with --addresses".into()),
    }
}

fn text(
    replies: &[(String, Result<ReplicaStatus, Error>)],
    best: &ReplicaStatus,
    committed: u64,
    digest: bool,
) -> String {
    let mut table = table::new([
        "replica",
        "address",
        "role",
        "term",
        "log",
        "applied",
        "lag",
        "snapshot",
        "log disk",
        "snapshot disk",
        "memory",
        "up",
        "state",
    ]);
    for (address, reply) in replies {
        match reply {
            Ok(status) => table.add_row(row(address, status, committed, digest)),
            Err(error) => {
                let mut row = vec!["?".to_owned(), address.clone(), "down".to_owned()];
                row.resize(12, String::new());
                row.push(first_line(&error.to_string()));
                table.add_row(row)
            }
        };
    }
    let leader = match best.leader.as_ref().filter(|leader| leader.replica != 0) {
        Some(leader) => format!("leader is replica {}", leader.replica),
        None => "there is no leader now".into(),
    };
    let counted = format!(
        "{} nodes, {} sessions, revision {}",
        with_separators(best.nodes),
        best.sessions,
        with_separators(best.revision)
    );
    format!("cell {}: {leader}; {counted}\n{}", best.cell, table.trim_fmt())
}

fn row(address: &str, status: &ReplicaStatus, committed: u64, digest: bool) -> Vec<String> {
    let mut trouble = if status.trouble.is_empty() { "well".to_owned() } else { status.trouble.clone() };
    if let (true, Some(sum)) = (digest, status.digest) {
        trouble = format!("{trouble}; digest {sum:016x} at {}", status.digest_index);
    }
    vec![
        status.replica.to_string(),
        address.to_owned(),
        status.role.clone(),
        status.leader.as_ref().map_or(0, |leader| leader.term).to_string(),
        status.last_log_index.to_string(),
        status.applied_index.to_string(),
        committed.saturating_sub(status.applied_index).to_string(),
        status.snapshot_index.to_string(),
        bytes(status.log_bytes),
        bytes(status.snapshot_bytes),
        bytes(status.memory_bytes),
        duration(Duration::from_millis(status.uptime_ms)),
        trouble,
    ]
}

fn as_json(
    replies: &[(String, Result<ReplicaStatus, Error>)],
    best: &ReplicaStatus,
    committed: u64,
) -> Value {
    let replicas: Vec<Value> = replies
        .iter()
        .map(|(address, reply)| match reply {
            Ok(status) => json!({
                "address": address,
                "up": true,
                "replica": status.replica,
                "version": status.version,
                "role": status.role,
                "term": status.leader.as_ref().map(|leader| leader.term),
                "last_log_index": status.last_log_index,
                "committed_index": status.committed_index,
                "applied_index": status.applied_index,
                "lag": committed.saturating_sub(status.applied_index),
                "snapshot_index": status.snapshot_index,
                "purged_index": status.purged_index,
                "log_bytes": status.log_bytes,
                "snapshot_bytes": status.snapshot_bytes,
                "disk_free_bytes": status.disk_free_bytes,
                "memory_bytes": status.memory_bytes,
                "uptime_ms": status.uptime_ms,
                "cpu_us": status.cpu_us,
                "elections": status.elections,
                "trouble": status.trouble,
                "digest": status.digest.map(|digest| format!("{digest:016x}")),
                "digest_index": status.digest.map(|_| status.digest_index),
            }),
            Err(error) => json!({ "address": address, "up": false, "error": error.to_string() }),
        })
        .collect();
    json!({
        "cell": best.cell,
        "leader": best.leader.as_ref().map(|leader| leader.replica).filter(|replica| *replica != 0),
        "revision": best.revision,
        "nodes": best.nodes,
        "sessions": best.sessions,
        "replicas": replicas,
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A size as people read it.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// A length of time as people read it: its two largest units.
fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(duration(Duration::from_secs(59)), "59s");
        assert_eq!(duration(Duration::from_secs(3_661)), "1h 1m");
        assert_eq!(duration(Duration::from_secs(90_000)), "1d 1h");
    }
}
