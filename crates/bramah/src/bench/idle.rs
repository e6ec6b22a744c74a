//! Sessions that are held and do nothing: what replicas spend on keeping them.

use std::time::{Duration, Instant};

use bramah_client::{Client, ReplicaStatus, Route, Watch};
use serde_json::json;

use super::unavailable;
use crate::cli::{BenchArgs, Shared};
use crate::command::connect::status_of_all;
use crate::output::{Failure, Printer};

/// The file that each session watches, so that it is not ended as idle.
const WATCHED: &str = "/bench/idle";
/// How often progress is told.
const PROGRESS: usize = 1_000;

/// Holds `--clients` sessions, each with a connection and a watch of its own, and tells what the replicas spend meanwhile.
pub(super) async fn run(shared: &Shared, args: &BenchArgs) -> Result<(), Failure> {
    let before = replicas(shared).await?;
    let held = open_all(shared, args.clients).await?;
    tokio::time::sleep(Duration::from_secs_f64(args.warmup)).await;
    let (begun, idle) = (Instant::now(), replicas(shared).await?);
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let after = replicas(shared).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let sessions = after.iter().map(|replica| replica.sessions).max().unwrap_or(0);
    let each: Vec<_> = before
        .iter()
        .zip(idle.iter().zip(&after))
        .map(|(before, (idle, after))| {
            json!({
                "replica": after.replica,
                "role": after.role,
                "memory_bytes_before": before.memory_bytes,
                "memory_bytes": after.memory_bytes,
                "cpu_share": after.cpu_us.saturating_sub(idle.cpu_us) as f64 / 1e6 / seconds,
            })
        })
        .collect();
    let text = |one: &serde_json::Value| {
        format!(
            "  replica {} ({}): {:.1} MiB, {:.1} before; {:.1} % of a core",
            one["replica"],
            one["role"].as_str().unwrap_or_default(),
            mebibytes(&one["memory_bytes"]),
            mebibytes(&one["memory_bytes_before"]),
            one["cpu_share"].as_f64().unwrap_or_default() * 100.0
        )
    };
    let lines: Vec<_> = each.iter().map(text).collect();
    let lost = held.iter().filter(|(client, _)| client.session().is_none_or(|session| !session.connected));
    let lost = lost.count();
    let title =
        format!("{sessions} sessions held for {seconds:.0} s, {lost} without a connection at the end");
    let answer = json!({ "sessions": sessions, "disconnected": lost, "seconds": seconds, "replicas": each });
    Printer { json: shared.is_json() }.answer(format!("{title}\n{}", lines.join("\n")), answer)
}

fn mebibytes(bytes: &serde_json::Value) -> f64 {
    bytes.as_f64().unwrap_or_default() / f64::from(1 << 20)
}

/// In the order of their numbers.
async fn replicas(shared: &Shared) -> Result<Vec<ReplicaStatus>, Failure> {
    let replies = status_of_all(&shared.addresses, false, shared.timeout).await;
    let replies: Result<Vec<_>, _> = replies.into_iter().map(|(_, reply)| reply).collect();
    let mut replicas = replies.map_err(|error| unavailable(error.to_string()))?;
    replicas.sort_by_key(|replica| replica.replica);
    Ok(replicas)
}

async fn open_all(shared: &Shared, count: usize) -> Result<Vec<(Client, Watch)>, Failure> {
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let builder = Client::builder().addresses(&shared.addresses[..]).name("bramah bench");
        let route = Route::Fixed(index % shared.addresses.len());
        let client = builder.route(route).deadline(shared.timeout).connect().await?;
        let watch = client.watch(WATCHED).await?;
        held.push((client, watch));
        if held.len() % PROGRESS == 0 {
            eprintln!("{} of {count} sessions", held.len());
        }
    }
    Ok(held)
}
