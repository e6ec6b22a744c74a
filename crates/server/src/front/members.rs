//! Changes of the members, between what travels and what the cell knows.

use std::collections::BTreeSet;
use std::time::Duration;

use bramah_cell::{Cell, Change, ChangeError, Member, ReplicaId};
use bramah_machine::{Path, Principal, Refusal, Right};
use bramah_wire::v1;
use bramah_wire::v1::change_members_request::Change as Wire;
use bramah_wire::v1::failure::Code;

use tokio::time::Instant;

use super::translate;

/// How long the answer waits until this replica sees the change.
const SEEN_LIMIT: Duration = Duration::from_millis(500);

/// Most numbers in one change.
const MOST: usize = 64;

/// Refuses a principal that may not change the ACL of `/`: who the members are is a matter of the whole cell.
pub(super) async fn permit(cell: &Cell, principal: &Principal, deadline: Instant) -> Result<(), v1::Failure> {
    // What this replica has not heard of yet may forbid it. Without a leader there is no change either.
    cell.barrier(Vec::new(), deadline).await.map_err(|error| translate::undone(&error))?;
    let root = Path::root();
    let refusal = cell.read(|state| {
        let node = state.node(&root)?;
        let acl = node.acl.of(Right::ChangeAcl).to_owned();
        let may = state.may(principal, &node.acl, Right::ChangeAcl);
        let (path, principal) = (root.clone(), principal.clone());
        (!may).then_some(Refusal::NotPermitted { path, right: Right::ChangeAcl, principal, acl })
    });
    refusal.map_or(Ok(()), |refusal| Err(translate::refused(&refusal)))
}

/// Has a change made, wherever the leader is.
pub(super) async fn change(cell: &Cell, request: v1::ChangeMembersRequest) -> Result<(), v1::Failure> {
    let deadline = translate::deadline(request.deadline_ms);
    let change = translated(request.change)?;
    cell.change_members(change, deadline).await.map_err(|error| failed(&error))?;
    // So that the answer shows it; a replica that was itself removed never gets there.
    let _ = cell.barrier(Vec::new(), deadline.min(Instant::now() + SEEN_LIMIT)).await;
    Ok(())
}

pub(super) fn translated(change: Option<Wire>) -> Result<Change, v1::Failure> {
    let change = change.ok_or_else(|| {
        translate::invalid(
            "the request has no change that this version knows; is the client newer than the cell?",
        )
    })?;
    Ok(match change {
        Wire::Add(new) => Change::Add { id: new.replica, member: member(new) },
        Wire::Promote(them) => Change::Promote { ids: ids(them)? },
        Wire::Demote(them) => Change::Demote { ids: ids(them)? },
        Wire::Remove(them) => Change::Remove { ids: ids(them)? },
        Wire::Voters(them) => Change::Voters { ids: ids(them)? },
        Wire::SetAddress(moved) => Change::SetAddress { id: moved.replica, member: member(moved) },
        Wire::Replace(v1::ReplaceMember { old, new }) => {
            let new =
                new.ok_or_else(|| translate::invalid("the request does not say which replica is to come"))?;
            let known = new.peer_address.is_empty() && new.client_address.is_empty();
            Change::Replace { old, new: new.replica, member: (!known).then(|| member(new)) }
        }
    })
}

fn member(addresses: v1::MemberAddresses) -> Member {
    Member { peer_address: addresses.peer_address, client_address: addresses.client_address }
}

fn ids(them: v1::ReplicaNumbers) -> Result<BTreeSet<ReplicaId>, v1::Failure> {
    match them.replicas.len() {
        0 => Err(translate::invalid("the change names no replica")),
        1..=MOST => Ok(them.replicas.into_iter().collect()),
        _ => Err(translate::invalid("the change names more than 64 replicas")),
    }
}

/// The one table from what went wrong with a change to codes.
fn failed(error: &ChangeError) -> v1::Failure {
    let may_have_been_done = error.may_have_been_done();
    let (code, retry_after_ms) = match error.cause() {
        ChangeError::NotLeader | ChangeError::NoLeader { .. } | ChangeError::Stopping => {
            (Code::Unavailable, 50)
        }
        ChangeError::UnderWay => (Code::Overloaded, 500),
        ChangeError::NotCaughtUp { .. } => (Code::DeadlineExceeded, 1_000),
        ChangeError::Deadline { .. } => (Code::DeadlineExceeded, 0),
        ChangeError::NoLiveMajority { .. } => (Code::Unavailable, 1_000),
        // The codes below say that certainly nothing was done.
        _ if may_have_been_done => (Code::Internal, 0),
        ChangeError::Unknown { .. } => (Code::NotFound, 0),
        ChangeError::Removed { .. } | ChangeError::Exists { .. } | ChangeError::AddressTaken { .. } => {
            (Code::AlreadyExists, 0)
        }
        ChangeError::TooMany => (Code::OutOfRange, 0),
        ChangeError::BadAddress { .. }
        | ChangeError::NoVoterLeft
        | ChangeError::Zero
        | ChangeError::SameReplica { .. } => (Code::InvalidArgument, 0),
        _ => (Code::Internal, 0),
    };
    v1::Failure { may_have_been_done, retry_after_ms, ..translate::failure(code, error.to_string()) }
}
