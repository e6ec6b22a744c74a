//! Who leads, as this replica knows it: one small value that the rest of the cell follows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cell::CellRaft;
use crate::consensus::{Member, ReplicaId, TypeConfig};

/// Who leads in which term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term this replica has heard of.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<(ReplicaId, Member)>,
    /// The leader is this replica.
    pub here: bool,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: &'static str,
    /// Leaders this replica has seen since it started.
    pub elections: u64,
}

/// When this replica last heard of a leader. The engine goes on naming a leader that died until another is
/// elected; without a majority that is for ever.
pub(crate) struct LastHeard {
    since: Instant,
    heard_ms: AtomicU64,
}

impl Default for LastHeard {
    fn default() -> Self {
        Self { since: Instant::now(), heard_ms: AtomicU64::new(0) }
    }
}

impl LastHeard {
    /// A leader spoke.
    pub(crate) fn now(&self) {
        self.heard_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)))
    }
}

/// Republishes what openraft says of the leader whenever it changes, until openraft stops. A leader that was
/// not heard of for twice `lease` is none; nor is this replica one whose majority was silent for one `lease`:
/// before that nobody else can be elected, as the others promised (thesis §6.4.1).
pub(crate) async fn follow(
    raft: CellRaft,
    heard: Arc<LastHeard>,
    lease: Duration,
    publish: watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    let mut seen = (0, 0);
    loop {
        let now = seen_now(&raft, &heard, lease);
        publish.send_if_modified(|published| {
            let mut elections = published.elections;
            if let Some((id, _)) = &now.leader
                && seen != (now.term, *id)
            {
                seen = (now.term, *id);
                elections += 1;
            }
            let now = Leadership { elections, ..now };
            let changed = *published != now;
            *published = now;
            changed
        });
        let changed = tokio::time::timeout(lease / 8, metrics.changed()).await;
        if let Ok(Err(_)) = changed {
            publish.send_modify(|published| {
                published.leader = None;
                published.here = false;
                published.role = role(ServerState::Shutdown);
            });
            return;
        }
    }
}

/// What the engine says now, less what it can't know: that the leader it names is silent, or that its own
/// majority is (spec G-6).
fn seen_now(raft: &CellRaft, heard: &LastHeard, lease: Duration) -> Leadership {
    let acked = raft.metrics().borrow_watched().last_quorum_acked;
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let alone = metrics.membership_config.membership().voter_ids().all(|voter| voter == metrics.id);
    let alive = |id: &ReplicaId| match *id == metrics.id {
        // Alone it is its own majority, which it never has to ask.
        true => alone || acked.is_none_or(|acked| acked.elapsed() < lease),
        false => heard.ago() < lease * 2,
    };
    let leader = metrics.current_leader.filter(alive).and_then(|id| {
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some((id, member.clone()))
    });
    let here =
        metrics.state == ServerState::Leader && leader.as_ref().is_some_and(|(id, _)| *id == metrics.id);
    // The engine knows no word for a leader that leads no more: it would look as if two replicas led.
    let state =
        if metrics.state == ServerState::Leader && !here { ServerState::Follower } else { metrics.state };
    Leadership { term: metrics.vote.leader_id().term, leader, here, role: role(state), elections: 0 }
}

/// The voter among these, other than the leader itself, whose log has most of what the leader's has.
pub(crate) fn most_advanced(
    metrics: &RaftMetrics<TypeConfig>,
    among: &BTreeSet<ReplicaId>,
) -> Option<ReplicaId> {
    let replication = metrics.replication.as_ref()?;
    let matched = |id: &ReplicaId| replication.get(id).cloned().flatten().map(|log_id| log_id.index);
    let voters = metrics.membership_config.membership().voter_ids();
    voters.filter(|id| *id != metrics.id && among.contains(id)).max_by_key(matched)
}

fn role(state: ServerState) -> &'static str {
    match state {
        ServerState::Leader => "leader",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Learner => "learner",
        ServerState::Shutdown => "stopped",
    }
}
