//! How a replica sees itself and its cell.

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::transport::{Tcp, Transport, channel};
use bramah_wire::v1;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::builder::{ClientBuilder, check_address, check_deadline};
use crate::client::Client;
use crate::error::{Error, with_causes};
use crate::link::{self, TIMEOUTS};
use crate::token::Token;

/// What a replica says of itself and its cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// The cell's name.
    pub cell: String,
    /// The cell's number, made at its bootstrap.
    pub cell_id: u64,
    /// The version of the replica's program.
    pub version: String,
    /// The replica's number.
    pub replica: u64,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// The leader it knows of.
    pub leader: Option<Leader>,
    /// The newest entry in its log.
    pub last_log_index: u64,
    /// The newest entry that it knows to be on a majority.
    pub committed_index: u64,
    /// The newest entry that its state holds.
    pub applied_index: u64,
    /// The newest entry that its snapshot holds.
    pub snapshot_index: u64,
    /// The newest entry that is gone from its log.
    pub purged_index: u64,
    /// The revision of its state.
    pub revision: u64,
    /// Nodes in its state.
    pub nodes: u64,
    /// Sessions in its state.
    pub sessions: u64,
    /// Bytes of its log on disk.
    pub log_bytes: u64,
    /// Bytes of its snapshots on disk.
    pub snapshot_bytes: u64,
    /// Bytes that are free on its disk.
    pub disk_free_bytes: u64,
    /// Resident memory of its process, in bytes.
    pub memory_bytes: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// The cell's replicas.
    pub members: Vec<Member>,
    /// Empty when the replica is well; else what is wrong.
    pub trouble: String,
    /// Elections it has seen since it started.
    pub elections: u64,
    /// XXH3-64 of its state, when asked for.
    pub digest: Option<u64>,
    /// The entry up to which the digest's state goes.
    pub digest_index: u64,
    /// CPU time of its process, in microseconds.
    pub cpu_us: u64,
}

/// The leader that a replica knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Leader {
    /// Its number.
    pub replica: u64,
    /// The term it leads.
    pub term: u64,
    /// Where clients reach it.
    pub address: String,
}

/// A replica of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// Its number.
    pub replica: u64,
    /// Where clients reach it.
    pub client_address: String,
    /// Where the other replicas reach it.
    pub peer_address: String,
    /// Whether it votes; otherwise it learns.
    pub voter: bool,
}

impl From<v1::StatusReply> for ReplicaStatus {
    fn from(reply: v1::StatusReply) -> Self {
        let leader = reply.leader.filter(|leader| leader.replica != 0);
        Self {
            cell: reply.cell,
            cell_id: reply.cell_id,
            version: reply.version,
            replica: reply.replica,
            role: reply.role,
            leader: leader.map(|v1::Leader { replica, term, address }| Leader { replica, term, address }),
            last_log_index: reply.last_log_index,
            committed_index: reply.committed_index,
            applied_index: reply.applied_index,
            snapshot_index: reply.snapshot_index,
            purged_index: reply.purged_index,
            revision: reply.revision,
            nodes: reply.nodes,
            sessions: reply.sessions,
            log_bytes: reply.log_bytes,
            snapshot_bytes: reply.snapshot_bytes,
            disk_free_bytes: reply.disk_free_bytes,
            memory_bytes: reply.memory_bytes,
            uptime_ms: reply.uptime_ms,
            members: reply.members.into_iter().map(Member::from).collect(),
            trouble: reply.trouble,
            elections: reply.elections,
            digest: reply.digest,
            digest_index: reply.digest_index,
            cpu_us: reply.cpu_us,
        }
    }
}

impl From<v1::Member> for Member {
    fn from(member: v1::Member) -> Self {
        let v1::Member { replica, client_address, peer_address, voter } = member;
        Self { replica, client_address, peer_address, voter }
    }
}

impl Client {
    /// How the replica that the session is at sees itself and its cell.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while there is no connection, [`Error::DeadlineExceeded`] without an answer.
    pub async fn status(&self) -> Result<ReplicaStatus, Error> {
        let (address, channel) = {
            let view = self.shared.view.lock();
            (view.address.clone(), view.channel.clone())
        };
        let Some(channel) = channel else {
            let message = "the client has no connection now: ask a replica by its address".into();
            return Err(Error::Unavailable {
                message,
                may_have_been_done: false,
                retry_after: Duration::ZERO,
            });
        };
        let request = v1::StatusRequest { digest: false };
        let token = &self.shared.token;
        bounded(&address, self.deadline(), async { ask(&address, channel, token, request).await }).await
    }

    /// How the replica at `address` (`host:port`) sees itself and its cell, without a session; with
    /// `digest` also the digest of its state, which takes it a while.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers there, [`Error::DeadlineExceeded`] without an answer in time.
    pub async fn status_of(address: &str, digest: bool, deadline: Duration) -> Result<ReplicaStatus, Error> {
        Self::status_over(Arc::new(Tcp), address, digest, deadline).await
    }

    /// As [`Client::status_of`], with connections made by `transport`.
    ///
    /// # Errors
    /// As [`Client::status_of`].
    pub async fn status_over(
        transport: Arc<dyn Transport>,
        address: &str,
        digest: bool,
        deadline: Duration,
    ) -> Result<ReplicaStatus, Error> {
        Self::builder().transport(transport).deadline(deadline).status_of(address, digest).await
    }
}

impl ClientBuilder {
    /// As [`Client::status_of`], with the deadline, token and transport that are set here.
    ///
    /// # Errors
    /// As [`Client::status_of`]; [`Error::Unauthenticated`] and [`Error::PermissionDenied`] for a token that is not good.
    pub async fn status_of(&self, address: &str, digest: bool) -> Result<ReplicaStatus, Error> {
        check_address(address)?;
        check_deadline(self.deadline)?;
        let asking = async {
            let channel = channel(self.transport.clone(), address, TIMEOUTS)
                .await
                .map_err(|error| unavailable(format!("{address}: {}", with_causes(&error))))?;
            ask(address, channel, &self.token, v1::StatusRequest { digest }).await
        };
        bounded(address, self.deadline, asking).await
    }
}

async fn bounded<T>(
    address: &str,
    deadline: Duration,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| {
        let seconds = deadline.as_secs_f64();
        let message =
            format!("{address} did not tell its status within {seconds} s: is it stopped or cut off?");
        Err(Error::DeadlineExceeded { message, may_have_been_done: false })
    })
}

async fn ask(
    address: &str,
    channel: Channel,
    token: &Token,
    request: v1::StatusRequest,
) -> Result<ReplicaStatus, Error> {
    let request = token.sign(request).await.map_err(|message| Error::InvalidArgument { message })?;
    let reply = link::client(channel).status(request).await;
    reply.map(|reply| reply.into_inner().into()).map_err(|status| failed(address, &status))
}

fn failed(address: &str, status: &Status) -> Error {
    let message = format!("{address}: {}", link::describe(status));
    match status.code() {
        Code::Unauthenticated => Error::Unauthenticated { message },
        Code::PermissionDenied => Error::PermissionDenied { message },
        Code::DeadlineExceeded => Error::DeadlineExceeded { message, may_have_been_done: false },
        _ => unavailable(message),
    }
}

fn unavailable(message: String) -> Error {
    Error::Unavailable { message, may_have_been_done: false, retry_after: Duration::ZERO }
}
