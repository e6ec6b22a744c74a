//! How a replica ends: in good order, as if it had died, or for good because it is removed or wrong; and how it hands
//! leadership over before.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::Cell;
use crate::consensus::ReplicaId;
use crate::data_folder::{DataFolder, FolderError};
use crate::disk;
use crate::leadership;

/// How long a stopping leader waits for another to take over.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);

/// How long calls that are under way may take when this replica stops.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// How long the engine may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl Cell {
    /// Stops and closes the log. Leadership is handed over first if that was not done yet, and what is under way is
    /// finished, wherever the leader is then (spec G-12).
    pub async fn stop(&self) {
        self.hand_over().await;
        self.inner.router.finish(FINISH_LIMIT).await;
        self.inner.stop.send_replace(true);
        self.shut_engine_down().await;
        self.inner.log.close().await;
    }

    /// Ends at once, as if the process had died; only what the disk was already told is still done, so that
    /// the folder can be used again.
    pub async fn kill(&self) {
        self.inner.stop.send_replace(true);
        self.inner.log.close().await;
    }

    /// The cell has removed this replica: it notes so in its folder and stops serving, for good.
    pub(crate) fn retire(&self, why: String) {
        self.end_for_good(why, DataFolder::removed);
    }

    /// This replica's state was wrong after the entry `index`: it notes so in its folder and stops serving.
    pub(crate) fn convict(&self, index: u64, why: String) {
        self.end_for_good(why, move |folder| folder.differs(index));
    }

    fn end_for_good(
        &self,
        why: String,
        note: impl FnOnce(&DataFolder) -> Result<(), FolderError> + Send + 'static,
    ) {
        let cell = self.clone();
        // The task that has found out ends with the others.
        tokio::spawn(async move {
            tracing::error!(why, "this replica serves no longer");
            let _ = cell.inner.retired.set(why);
            cell.inner.stop.send_replace(true);
            let owner = cell.clone();
            let noted = disk::run(cell.disk(), move || note(owner.folder()).map_err(std::io::Error::other));
            // Before the engine stops, which ends the process. A disk that hangs must not keep it alive.
            match tokio::time::timeout(STOP_LIMIT, noted).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the data folder could not be marked: it will start again")
                }
                Err(_) => tracing::error!("the data folder could not be marked within {STOP_LIMIT:?}"),
            }
            cell.shut_engine_down().await;
        });
    }

    /// Ends this replica when its log can't be written any more. The engine would notice with the next entry or vote,
    /// and an idle leader would lead on until then.
    pub(crate) async fn end_with_the_log(self) {
        let why = self.inner.log.broken().await;
        let _ = self.inner.retired.set(format!(
            "the log can't be written any more: {why}. Look at the disk, then start the replica again"
        ));
        self.inner.stop.send_replace(true);
        // The task that has found out ends with the others.
        let cell = self.clone();
        tokio::spawn(async move { cell.shut_engine_down().await });
    }

    async fn shut_engine_down(&self) {
        if tokio::time::timeout(STOP_LIMIT, self.inner.raft.shutdown()).await.is_err() {
            tracing::warn!("the consensus engine did not stop within {STOP_LIMIT:?}");
        }
    }

    /// Resolves when the engine has ended by itself: the disk failed, an entry can't be applied, the cell has
    /// removed this replica, or its state differed from the others'. [`Status::trouble`] says which.
    pub async fn failed(&self) {
        let mut metrics = self.inner.raft.metrics();
        while metrics.borrow_watched().running_state.is_ok() {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks the most advanced other voter to take over, and waits until it leads.
    pub async fn hand_over(&self) {
        // After one that came to nothing the engine proposes nothing more as a leader, so there is no second try.
        if !self.inner.leadership.borrow().here || self.inner.handed_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let voters: BTreeSet<ReplicaId> = metrics.membership_config.membership().voter_ids().collect();
        let live = &voters - &self.inner.changes.silent(&voters);
        // A new leader has not heard of anybody yet.
        let successor =
            leadership::most_advanced(&metrics, &live).or(leadership::most_advanced(&metrics, &voters));
        if let Some(successor) = successor {
            self.hand_over_to(successor).await;
        }
    }

    /// Asks this voter to take over, and waits until it, or another one, leads.
    pub(crate) async fn hand_over_to(&self, successor: ReplicaId) {
        let mut leadership = self.leadership();
        if self.inner.raft.trigger().transfer_leader(successor).await.is_ok() {
            let moved = leadership.wait_for(|now| !now.here && now.leader.is_some());
            let _ = tokio::time::timeout(HANDOVER_LIMIT, moved).await;
        }
    }
}
