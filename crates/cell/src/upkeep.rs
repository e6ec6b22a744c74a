//! Keeps the log's space bounded: a snapshot every so many bytes, then a purge of what it covers (spec G-5).

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::LogIdOf;

use crate::cell::Cell;
use crate::consensus::TypeConfig;

/// How often the log's size is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Takes snapshots and purges the log, for as long as it is polled.
pub(crate) async fn bound_the_log(cell: Cell) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked_at = None;
    loop {
        tick.tick().await;
        let (purged, snapshot, applied) = {
            let metrics = cell.raft().metrics();
            let metrics = metrics.borrow_watched();
            let index = |log_id: Option<LogIdOf<TypeConfig>>| log_id.map_or(0, |id| id.index);
            (index(metrics.purged), index(metrics.snapshot), index(metrics.last_applied))
        };
        // One at a time: the next is asked for when the last has come.
        let pending = asked_at.is_some_and(|asked| snapshot < asked);
        let limit = cell.tuning().snapshot_log_bytes.max(cell.machine().snapshot_bytes());
        if !pending && applied > snapshot && cell.log().bytes_since(snapshot) >= limit {
            tracing::info!(applied, log_bytes = cell.log().bytes_on_disk(), "writing a snapshot");
            asked_at = Some(applied);
            if cell.raft().trigger().snapshot().await.is_err() {
                return;
            }
        }
        let upto = purge_point(&cell, purged, snapshot);
        if upto > purged && cell.raft().trigger().purge_log(upto).await.is_err() {
            return;
        }
    }
}

/// The last entry that is in the snapshot and has enough log behind it.
fn purge_point(cell: &Cell, purged: u64, snapshot: u64) -> u64 {
    let keep = cell.tuning().log_keep_bytes;
    let (mut low, mut high) = (purged, snapshot.max(purged));
    while low < high {
        let middle = high - (high - low) / 2;
        match cell.log().bytes_since(middle + 1) >= keep {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}
