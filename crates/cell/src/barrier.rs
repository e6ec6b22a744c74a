//! The way of a read: one read index for all that wait (Raft thesis §6.4), asked of the leader if this
//! replica isn't it. The same proof of leadership extends the leases of sessions that were heard.

use std::sync::Arc;
use std::time::Duration;

use bramah_machine::SessionId;
use bramah_machine::planted::{self, Bug};
use openraft::ReadPolicy;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cell::CellRaft;
use crate::error::ProposeError;
use crate::leadership::Leadership;
use crate::leases::{Extended, Leases};
use crate::machine_store::Machine;
use crate::peers::{Forwarders, Lane};
use crate::roster::Roster;
use crate::router::BarrierPlace;

/// Barriers on their way at once; the requests that come meanwhile share the next one.
const IN_FLIGHT: usize = 2;

/// How long one try may take before the leader is looked for again.
const TRY_LIMIT: Duration = Duration::from_secs(2);

/// How long a refused try waits before the next.
const PAUSE: Duration = Duration::from_millis(10);

/// What a passed barrier tells.
#[derive(Clone, Debug, Default)]
pub struct Barrier {
    /// State at this index or later holds everything that was acknowledged before the barrier was asked for.
    pub index: u64,
    /// Of the sessions asked about: those that are over.
    pub lapsed: Vec<SessionId>,
    /// Each of the others has a lease now that lasts at least this long, in milliseconds counted from when the barrier
    /// was asked for, and at least as long as the session's own `lease_ms`: tell the greater (spec S-2). 0 if there are
    /// no others.
    pub granted_ms: u32,
}

/// Asks for a barrier.
pub(crate) struct BarrierRequest {
    pub(crate) sessions_alive: Vec<SessionId>,
    pub(crate) forwarded: bool,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) done: oneshot::Sender<Result<Barrier, ProposeError>>,
    /// Set by the router when it takes the request.
    pub(crate) _place: Option<BarrierPlace>,
}

/// The one task that passes barriers.
#[derive(Clone)]
pub(crate) struct Barriers {
    pub(crate) raft: CellRaft,
    pub(crate) machine: Arc<Machine>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) forwarders: Forwarders,
    pub(crate) leases: Arc<Leases>,
    pub(crate) roster: Roster,
}

impl Barriers {
    /// Runs until nobody can ask any more.
    pub(crate) async fn run(self, mut asked: mpsc::UnboundedReceiver<BarrierRequest>) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut requests = Vec::new();
        while asked.recv_many(&mut requests, 4_096).await > 0 {
            let Ok(place) = Arc::clone(&in_flight).acquire_owned().await else { return };
            tokio::task::yield_now().await;
            while let Ok(request) = asked.try_recv() {
                requests.push(request);
            }
            let barriers = self.clone();
            let requests = std::mem::take(&mut requests);
            tokio::spawn(async move {
                barriers.pass(requests).await;
                drop(place);
            });
        }
    }

    /// Tries until the barrier is passed or everybody's deadline is.
    async fn pass(mut self, mut requests: Vec<BarrierRequest>) {
        loop {
            let leadership = self.leadership.borrow_and_update().clone();
            requests = self.give_up(requests, &leadership);
            if requests.is_empty() {
                return;
            }
            if let Ok(barrier) = self.try_once(&requests, leadership).await {
                return answer(requests, &barrier);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_once(
        &self,
        requests: &[BarrierRequest],
        leadership: Leadership,
    ) -> Result<Barrier, ProposeError> {
        let last = requests.iter().map(|r| r.deadline).max().unwrap_or_else(Instant::now);
        let limit = last.min(Instant::now() + TRY_LIMIT);
        let sessions: Vec<SessionId> =
            requests.iter().flat_map(|r| r.sessions_alive.iter().copied()).collect();
        let attempt = async {
            if planted::is(Bug::StaleRead) && sessions.is_empty() {
                return Ok(Barrier::default());
            }
            if leadership.here {
                let keep_alives = requests.iter().filter(|request| !request.sessions_alive.is_empty());
                let oldest = keep_alives.map(|request| request.asked).min();
                self.pass_here(leadership.term, sessions, oldest).await
            } else if let Some((id, member)) = leadership.leader {
                let barrier = self.forwarders.to(id, &member, Lane::Barriers).barrier(sessions).await?;
                self.wait_applied(barrier.index).await;
                Ok(barrier)
            } else {
                Err(ProposeError::NotLeader)
            }
        };
        let mut leader = self.leadership.clone();
        tokio::select! {
            passed = tokio::time::timeout_at(limit, attempt) => passed.unwrap_or(Err(ProposeError::NotLeader)),
            // A frozen leader never answers; its successor does.
            _ = leader.changed() => Err(ProposeError::NotLeader),
        }
    }

    async fn pass_here(
        &self,
        term: u64,
        sessions: Vec<SessionId>,
        oldest: Option<Instant>,
    ) -> Result<Barrier, ProposeError> {
        let index = match planted::is(Bug::DeposedLeaderRead) {
            true => 0,
            false => self.read_index().await?,
        };
        self.wait_applied(index).await;
        let extended = match oldest {
            None => Extended::default(),
            Some(asked) => self.machine.read(|state| self.leases.extend(term, &sessions, asked, state)),
        };
        Ok(Barrier { index, lapsed: extended.lapsed, granted_ms: extended.granted_ms })
    }

    async fn read_index(&self) -> Result<u64, ProposeError> {
        let proved = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        Ok(proved.map_err(|_| ProposeError::NotLeader)?.0.index())
    }

    async fn wait_applied(&self, index: u64) {
        // An error means that the machine is gone, and this task with it.
        let _ = self.machine.applied_index().wait_for(|applied| *applied >= index).await;
    }

    /// Answers those who can't wait longer, and, unless this replica leads, those that came from another
    /// one: it looks for the leader itself.
    fn give_up(&self, requests: Vec<BarrierRequest>, leadership: &Leadership) -> Vec<BarrierRequest> {
        let now = Instant::now();
        let mut left = Vec::with_capacity(requests.len());
        for request in requests {
            if request.forwarded && !leadership.here {
                let _ = request.done.send(Err(ProposeError::NotLeader));
            } else if request.done.is_closed() {
                // The caller has given up.
                drop(request);
            } else if request.deadline <= now {
                let members = self.roster.describe();
                let _ =
                    request.done.send(Err(ProposeError::NoLeader { waited: now - request.asked, members }));
            } else {
                left.push(request);
            }
        }
        left
    }
}

fn answer(requests: Vec<BarrierRequest>, barrier: &Barrier) {
    for request in requests {
        let lapsed = match barrier.lapsed.is_empty() {
            true => Vec::new(),
            false => {
                request.sessions_alive.iter().filter(|id| barrier.lapsed.contains(id)).copied().collect()
            }
        };
        let _ = request.done.send(Ok(Barrier { lapsed, ..*barrier }));
    }
}
