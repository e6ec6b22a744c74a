//! Whether this replica's disk is fit for a leader's, and what a leader does whose disk is not: it hands over to a
//! replica whose disk is (spec G-8).
//!
//! Only if voters that are well are a majority without it: else the new leader would wait for the same disk. A replica
//! hands over once in a while at most, and one that was slow a moment ago does not count as well, so that leadership
//! does not wander.

use std::collections::BTreeSet;
use std::time::Duration;

use bramah_wire::v1::HealthRequest;
use futures_util::future::join_all;
use openraft::Membership;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::cell::Cell;
use crate::consensus::{Member, ReplicaId};
use crate::leadership::most_advanced;
use crate::log::{Log, Space};

/// How often a replica looks at its own disk.
const TICK: Duration = Duration::from_millis(100);

/// A replica whose disk was slow so lately is not well.
const RECOVERY: Duration = Duration::from_secs(10);

/// The pause after a replica has handed over for its disk.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);

/// The pause after nobody was found to hand over to.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// How long another replica may take to say how it is.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// How a replica's disk is.
pub(crate) struct Health {
    log: Log,
    /// Zero: no disk is ever slow.
    slow_disk: Duration,
    slow_at: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new(log: Log, slow_disk: Duration) -> Self {
        Self { log, slow_disk, slow_at: Mutex::default() }
    }

    /// What is wrong with the disk now.
    fn ailment(&self) -> Option<String> {
        if let Space::Short { free, needed } = self.log.space() {
            return Some(format!("the disk is full: it has {free} bytes free and needs {needed}"));
        }
        let waited = self.log.longest_wait();
        if self.slow_disk.is_zero() || waited < self.slow_disk {
            return None;
        }
        *self.slow_at.lock() = Some(Instant::now());
        Some(format!("the disk is slow: the log has waited for it for {waited:?}"))
    }

    /// What speaks against leading here: what is wrong now, or was a moment ago.
    pub(crate) fn report(&self) -> Option<String> {
        let lately = || self.slow_at.lock().filter(|at| at.elapsed() < RECOVERY);
        self.ailment().or_else(|| lately().map(|at| format!("the disk was slow {:?} ago", at.elapsed())))
    }
}

/// Looks at this replica's disk, and hands over if it leads and the disk is not fit for that; for as long as it is
/// polled.
pub(crate) async fn watch(cell: Cell) {
    let mut rest_until = Instant::now();
    loop {
        sleep(TICK).await;
        let ailment = cell.health().ailment();
        if let Some(ailment) = ailment.filter(|_| leads(&cell) && rest_until <= Instant::now()) {
            rest_until = Instant::now() + hand_over(&cell, &ailment).await;
        }
    }
}

fn leads(cell: &Cell) -> bool {
    cell.leadership().borrow().here
}

/// Gives back how long to rest before it may be done again.
async fn hand_over(cell: &Cell, ailment: &str) -> Duration {
    let membership = cell.raft().metrics().borrow_watched().membership_config.membership().clone();
    let well = well(cell, &membership).await;
    let metrics = cell.raft().metrics().borrow_watched().clone();
    match most_advanced(&metrics, &well) {
        Some(successor) if is_majority(&membership, &well) && leads(cell) => {
            tracing::warn!(
                ailment,
                successor,
                "this leader's disk is not fit for it: handing leadership over"
            );
            cell.hand_over_to(successor).await;
            HAND_OVER_PAUSE
        }
        _ => {
            tracing::debug!(ailment, ?well, "no majority of voters is better off: this replica leads on");
            ASK_PAUSE
        }
    }
}

/// The other voters that say that they are well.
async fn well(cell: &Cell, membership: &Membership<ReplicaId, Member>) -> BTreeSet<ReplicaId> {
    let others = membership.voter_ids().filter(|id| *id != cell.replica());
    let others = others.filter_map(|id| Some((id, membership.get_node(&id)?)));
    let asked = others.map(|(id, member)| async move {
        let answer = timeout(ASK_LIMIT, ask(cell, id, member)).await;
        matches!(answer, Ok(Ok(ailment)) if ailment.is_empty()).then_some(id)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn ask(cell: &Cell, id: ReplicaId, member: &Member) -> Result<String, Status> {
    let network = cell.network();
    let mut client = network.client(&network.roster.peer_address(id, member))?;
    let reply = client.health(HealthRequest { cell_id: network.cell_id, to: id }).await?;
    Ok(reply.into_inner().ailment)
}

/// While the members change, of both sets.
fn is_majority(membership: &Membership<ReplicaId, Member>, of: &BTreeSet<ReplicaId>) -> bool {
    let sets = membership.get_joint_config();
    sets.iter().all(|voters| voters.intersection(of).count() * 2 > voters.len())
}
