//! Looks after the members at each replica: where they are, what a change has left half-done, and whether this replica
//! is still one of them (spec G-7).

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::admission::is_removed;
use crate::cell::Cell;
use crate::membership::ChangeError;

/// How often it is looked whether something is left to do.
const TICK: Duration = Duration::from_millis(250);

/// A replica without a leader for so long asks whether it was removed, again and again.
const LONELY: Duration = Duration::from_secs(1);

/// Does so for as long as it is polled.
pub(crate) async fn keep(cell: Cell) {
    let mut metrics = cell.raft().server_metrics();
    let mut lonely_since = None;
    // Apart: it may take long, and who the members are must be known meanwhile.
    let mut finishing = JoinSet::new();
    loop {
        {
            let metrics = metrics.borrow_watched();
            cell.network().roster.agree(metrics.membership_config.membership().nodes());
        }
        cell.publish_members();
        if let Ok(Err(_)) = timeout(TICK, metrics.changed()).await {
            return;
        }
        let leadership = cell.leadership().borrow().clone();
        if leadership.leader.is_some() {
            lonely_since = None;
            while finishing.try_join_next().is_some() {}
            if leadership.here && finishing.is_empty() && cell.changes().has_leftovers() {
                finishing.spawn(finish_leftovers(cell.clone()));
            }
            continue;
        }
        let since = *lonely_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= LONELY && cell.admission().is_full() {
            lonely_since = Some(Instant::now());
            if is_removed(&cell, cell.network()).await {
                let (replica, name) = (cell.replica(), cell.name());
                return cell.retire(format!("replica {replica} was removed from the cell {name} for good"));
            }
        }
    }
}

async fn finish_leftovers(cell: Cell) {
    match cell.changes().finish_leftovers().await {
        Ok(()) | Err(ChangeError::UnderWay | ChangeError::NotLeader) => {}
        Err(error) => tracing::warn!(%error, "a change of the members is left half-done for now"),
    }
}
