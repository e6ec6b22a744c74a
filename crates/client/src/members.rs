//! Changing who the replicas of a cell are.

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::transport::{Tcp, Transport, channel};
use bramah_wire::v1;
use bramah_wire::v1::change_members_request::Change as Wire;
use tonic::{Code, Status};

use crate::builder::{ClientBuilder, check_address, check_deadline};
use crate::client::Client;
use crate::error::{Error, with_causes};
use crate::link::{self, TIMEOUTS};
use crate::status::Member;

/// How much longer than the cell this side waits: for the answer to come back.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// Where a replica is, as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddresses {
    /// The replica's number.
    pub replica: u64,
    /// Where the other replicas reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// A change of a cell's members. Asked for again, one that was made is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberChange {
    /// A new replica learns from now on, and does not vote yet. Its number must be new to the cell.
    Add(MemberAddresses),
    /// These learners vote once they have caught up.
    Promote(Vec<u64>),
    /// These voters learn only.
    Demote(Vec<u64>),
    /// These members leave for good.
    Remove(Vec<u64>),
    /// One member's part goes to another one, with its vote if it has one; then the old one leaves.
    Replace {
        /// The one that leaves.
        old: u64,
        /// The one that comes instead.
        new: u64,
        /// Where the new one is, if it is to be added first: for peers, for clients.
        addresses: Option<(String, String)>,
    },
    /// A member is reached somewhere else.
    SetAddress(MemberAddresses),
    /// Exactly these members vote.
    Voters(Vec<u64>),
}

impl Client {
    /// Has the cell of which a replica is at `address` change its members, and returns them as they are then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AlreadyExists`], [`Error::OutOfRange`] and [`Error::InvalidArgument`] if the change
    /// can't be made; [`Error::Unavailable`], [`Error::Overloaded`] and [`Error::DeadlineExceeded`] if it can't be
    /// made now.
    pub async fn change_members(
        address: &str,
        change: MemberChange,
        deadline: Duration,
    ) -> Result<Vec<Member>, Error> {
        Self::change_members_over(Arc::new(Tcp), address, change, deadline).await
    }

    /// As [`Client::change_members`], with connections made by `transport`.
    ///
    /// # Errors
    /// As [`Client::change_members`].
    pub async fn change_members_over(
        transport: Arc<dyn Transport>,
        address: &str,
        change: MemberChange,
        deadline: Duration,
    ) -> Result<Vec<Member>, Error> {
        Self::builder().transport(transport).deadline(deadline).change_members(address, change).await
    }
}

impl ClientBuilder {
    /// As [`Client::change_members`], with the deadline, token and transport that are set here.
    ///
    /// # Errors
    /// As [`Client::change_members`]; [`Error::Unauthenticated`] and [`Error::PermissionDenied`] for a token that is
    /// not good enough.
    pub async fn change_members(&self, address: &str, change: MemberChange) -> Result<Vec<Member>, Error> {
        let deadline = self.deadline;
        check_address(address)?;
        check_deadline(deadline)?;
        let connected =
            tokio::time::timeout(deadline, channel(self.transport.clone(), address, TIMEOUTS)).await;
        let channel = connected
            .map_err(|_| unavailable(format!("{address}: no connection in time"), false))?
            .map_err(|error| unavailable(format!("{address}: {}", with_causes(&error)), false))?;
        let request = v1::ChangeMembersRequest {
            deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1),
            change: Some(wire(change)),
        };
        let request = self.token.sign(request).await.map_err(|message| Error::InvalidArgument { message })?;
        let mut client = link::client(channel);
        let answer = tokio::time::timeout(deadline + ANSWER_MARGIN, client.change_members(request)).await;
        let reply = answer
            .map_err(|_| lost(address, "no answer in time"))?
            .map_err(|status| failed(address, &status))?
            .into_inner();
        match reply.failure {
            Some(failure) => Err(Error::from_failure(failure, false)),
            None => Ok(reply.members.into_iter().map(Member::from).collect()),
        }
    }
}

fn wire(change: MemberChange) -> Wire {
    let numbers = |replicas| v1::ReplicaNumbers { replicas };
    match change {
        MemberChange::Add(member) => Wire::Add(addresses(member)),
        MemberChange::Promote(ids) => Wire::Promote(numbers(ids)),
        MemberChange::Demote(ids) => Wire::Demote(numbers(ids)),
        MemberChange::Remove(ids) => Wire::Remove(numbers(ids)),
        MemberChange::SetAddress(member) => Wire::SetAddress(addresses(member)),
        MemberChange::Voters(ids) => Wire::Voters(numbers(ids)),
        MemberChange::Replace { old, new, addresses } => {
            let (peer_address, client_address) = addresses.unwrap_or_default();
            let new = v1::MemberAddresses { replica: new, peer_address, client_address };
            Wire::Replace(v1::ReplaceMember { old, new: Some(new) })
        }
    }
}

fn addresses(member: MemberAddresses) -> v1::MemberAddresses {
    let MemberAddresses { replica, peer_address, client_address } = member;
    v1::MemberAddresses { replica, peer_address, client_address }
}

fn unavailable(message: String, may_have_been_done: bool) -> Error {
    Error::Unavailable { message, may_have_been_done, retry_after: Duration::ZERO }
}

fn lost(address: &str, why: &str) -> Error {
    let message = format!("{address}: {why}; the change may have been made: look, or ask for it again");
    Error::DeadlineExceeded { message, may_have_been_done: true }
}

fn failed(address: &str, status: &Status) -> Error {
    let text = link::describe(status);
    match status.code() {
        Code::Unauthenticated => Error::Unauthenticated { message: format!("{address}: {text}") },
        Code::PermissionDenied => Error::PermissionDenied { message: format!("{address}: {text}") },
        Code::Unimplemented => unavailable(format!("{address}: {text}"), false),
        _ => lost(address, &text),
    }
}
