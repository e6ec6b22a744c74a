//! When sessions end: the leader's monotonic clock, never replicated. A new leader gives every session its
//! full lease again (Chubby §2.8, spec S-2, S-5).

use std::collections::HashMap;
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{Command, ExpireSession, Identity, Request, SessionId, State};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cell::Cell;
use crate::leadership::Leadership;

/// How often the leader looks for leases that ran out.
const TICK: Duration = Duration::from_millis(500);

/// Sessions ended in one step, so that a mass expiry doesn't fill the queue.
const EXPIRIES_A_TICK: usize = 1_000;

/// How often it is said that one session's lease is over.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The leases that this replica has given since it leads.
#[derive(Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    term: u64,
    ends: HashMap<SessionId, Lease>,
}

enum Lease {
    Until(Instant),
    /// Its end was proposed then: no extension any more, or a client might be told of a lease that it lost.
    Ending {
        proposed: Instant,
        logged: Instant,
    },
}

impl Lease {
    /// Its end is proposed now. True if that is worth a line in the log: while the disk is full it is proposed in vain
    /// again and again.
    fn end(&mut self, now: Instant) -> bool {
        let before = match self {
            Lease::Ending { logged, .. } => Some(*logged).filter(|logged| now < *logged + LOG_EVERY),
            Lease::Until(_) => None,
        };
        *self = Lease::Ending { proposed: now, logged: before.unwrap_or(now) };
        before.is_none()
    }
}

/// What became of leases that were to be extended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    /// Those that are over.
    pub(crate) lapsed: Vec<SessionId>,
    /// The shortest of the others, in milliseconds; 0 if there are none.
    pub(crate) granted_ms: u32,
}

impl Leases {
    /// Extends the leases of sessions whose clients were heard, at a leader that has just proved that it
    /// leads in `term`.
    pub(crate) fn extend(&self, term: u64, sessions: &[SessionId], state: &State) -> Extended {
        let mut table = self.table.lock();
        if table.term != term {
            *table = Table { term, ends: HashMap::new() };
        }
        let now = Instant::now();
        let mut lapsed = Vec::new();
        let mut shortest = None;
        for &id in sessions {
            let length = state.session(id).map(|session| session.lease_ms);
            match (length, table.ends.get(&id)) {
                (None, _) | (_, Some(Lease::Ending { .. })) => lapsed.push(id),
                (Some(length), _) => {
                    let end = now + Duration::from_millis(length.into());
                    table.ends.insert(id, Lease::Until(end));
                    shortest = Some(shortest.map_or(length, |shortest: u32| shortest.min(length)));
                }
            }
        }
        Extended { lapsed, granted_ms: shortest.unwrap_or(0) }
    }

    /// The sessions whose lease is over; sessions that have none yet get one in full.
    fn overdue(&self, term: u64, state: &State) -> Vec<SessionId> {
        let mut table = self.table.lock();
        if table.term != term {
            *table = Table { term, ends: HashMap::new() };
        }
        let now = Instant::now();
        table.ends.retain(|id, _| state.session(*id).is_some());
        let mut overdue = Vec::new();
        for (id, session) in state.sessions() {
            let length = Duration::from_millis(session.lease_ms.into());
            let anew = if planted::is(Bug::LeaseNotRestarted) { Duration::ZERO } else { length };
            let lease = table.ends.entry(id).or_insert(Lease::Until(now + anew));
            let over = match lease {
                Lease::Until(end) => *end <= now,
                // The proposal was lost: propose again.
                Lease::Ending { proposed, .. } => *proposed + TICK * 4 <= now,
            };
            if over && overdue.len() < EXPIRIES_A_TICK && !planted::is(Bug::SessionNeverEnds) {
                if lease.end(now) {
                    tracing::info!(session = id.0, term, "a session's lease ran out");
                }
                overdue.push(id);
            }
        }
        overdue
    }
}

/// Proposes the end of sessions whose lease ran out, while this replica leads.
pub(crate) async fn expire_sessions(cell: Cell, leadership: watch::Receiver<Leadership>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (here, term) = {
            let leadership = leadership.borrow();
            (leadership.here, leadership.term)
        };
        if !here && !planted::is(Bug::ExpiryByDeposedLeader) {
            continue;
        }
        let view = cell.view();
        for session in cell.leases().overdue(term, &view) {
            let command = Command::ExpireSession(ExpireSession { session, term });
            let request = Request { identity: Identity::Anonymous, command };
            let deadline = Instant::now() + TICK * 4;
            if let Err(error) = cell.propose_detached(&request, deadline) {
                tracing::error!(%error, session = session.0, "a session's end can't be encoded");
            }
        }
    }
}
