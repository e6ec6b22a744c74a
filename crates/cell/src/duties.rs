//! What the leader proposes in nobody's name: that time has passed, so that lock-delays end (spec L-5), and the end of
//! handles that ACLs don't allow any more (spec A-3). Sessions end in [`leases`](crate::leases).

use std::sync::Arc;
use std::time::Duration;

use bramah_machine::{Command, HandleId, Identity, Request, RevokeHandle, SessionId, State};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cell::Cell;
use crate::disk;
use crate::leadership::Leadership;
use crate::submission::Requests;

/// How often the leader looks whether a lock-delay has begun: a shorter one may last so long.
const TICK: Duration = Duration::from_millis(100);

/// How long the leader waits after what it proposed failed, or changed nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a proposal may take before it is made again.
const LIMIT: Duration = Duration::from_secs(2);

/// Handles closed by one log entry.
const HANDLES_AN_ENTRY: usize = 1_000;

/// The longest rest between two looks at all handles, whatever ACLs change meanwhile.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Waits until this replica leads; answers the term.
async fn led(leadership: &mut watch::Receiver<Leadership>) -> Option<u64> {
    leadership.wait_for(|leadership| leadership.here).await.ok().map(|leadership| leadership.term)
}

fn push(requests: &mut Requests, command: Command) {
    let request = Request { identity: Identity::Anonymous, command };
    if let Err(error) = requests.push(&request) {
        tracing::error!(%error, "a duty of the leader can't be encoded");
    }
}

/// While this replica leads: says that time has passed when a lock-delay is over and nobody else said so.
pub(crate) async fn end_lock_delays(cell: Cell) {
    let mut leadership = cell.leadership();
    let mut last = None;
    while let Some(term) = led(&mut leadership).await {
        let Some(end_ms) = cell.read(State::next_lock_delay_ms) else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let left_ms = end_ms.saturating_sub(cell.time_ms(term));
        if left_ms > 0 {
            tokio::time::sleep(Duration::from_millis(left_ms).min(TICK)).await;
            continue;
        }
        // Many may end at the same time, and one command ends only some.
        let ended = last.replace(end_ms) == Some(end_ms);
        if !pass_time(&cell).await || ended {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn pass_time(cell: &Cell) -> bool {
    let mut requests = Requests::default();
    push(&mut requests, Command::PassTime);
    cell.propose_here(requests, Instant::now() + LIMIT).await.is_ok()
}

/// While this replica leads: after each change of an ACL, and when it begins to lead, closes the handles that are not
/// allowed any more.
pub(crate) async fn close_handles(cell: Cell) {
    let (mut leadership, mut acls) = (cell.leadership(), cell.machine().acl_changes());
    while let Some(term) = led(&mut leadership).await {
        acls.mark_unchanged();
        let began = Instant::now();
        let done = close_those_not_allowed(&cell).await;
        tokio::time::sleep((began.elapsed() * 3).clamp(PAUSE, LONGEST_REST)).await;
        if done {
            tokio::select! {
                changed = acls.changed() => if changed.is_err() { return },
                other = leadership.wait_for(|now| !now.here || now.term != term) => if other.is_err() { return },
            }
        }
    }
}

/// Answers false if not all could be closed.
async fn close_those_not_allowed(cell: &Cell) -> bool {
    let mut after = None;
    loop {
        let Some(found) = not_allowed(cell, after).await else { return false };
        let Some(last) = found.last() else { return true };
        after = Some(*last);
        tracing::info!(handles = found.len(), "an ACL changed: handles are closed that it does not allow");
        let mut requests = Requests::default();
        for (session, handle) in found {
            push(&mut requests, Command::RevokeHandle(RevokeHandle { session, handle }));
        }
        // A refusal says that the handle or its session has ended meanwhile.
        if cell.propose_here(requests, Instant::now() + LIMIT).await.is_err() {
            return false;
        }
    }
}

/// The next such handles, looked for where blocking is allowed: there may be a million, and long ACLs.
async fn not_allowed(
    cell: &Cell,
    after: Option<(SessionId, HandleId)>,
) -> Option<Vec<(SessionId, HandleId)>> {
    let view = cell.view();
    if !view.uses_acls() {
        return Some(Vec::new());
    }
    let look = move || Ok(view.handles_not_allowed(after).take(HANDLES_AN_ENTRY).collect());
    disk::run(&Arc::clone(cell.disk()), look).await.ok()
}
