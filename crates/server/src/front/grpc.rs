//! gRPC for clients: the session's stream, and single calls without a session.

use std::pin::Pin;
use std::time::Duration;

use bramah_cell::{Cell, WallClock};
use bramah_machine::{Principal, Request};
use bramah_wire::limits::{MAX_MESSAGE_BYTES, MAX_REPLY_BYTES};
use bramah_wire::transport::{self, Listener};
use bramah_wire::v1;
use bramah_wire::v1::bramah_server::{Bramah, BramahServer};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tonic::{Response, Status, Streaming};

use super::caller::Door;
use super::members;
use super::pinned::Pinned;
use super::session;
use super::translate::{self, Caller, Work};
use super::walks::Walks;
use crate::principals::TokenKey;
use crate::process;

/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The longest idempotency key of a caller's; the machine's own limit, less the prefix.
const MAX_KEY_BYTES: usize = 120;

/// How clients are served.
pub(crate) struct Manner {
    /// The most connections at once.
    pub(crate) max_connections: usize,
    /// What tokens are signed with; without it everybody is anonymous.
    pub(crate) token_key: Option<TokenKey>,
    /// By which tokens end.
    pub(crate) clock: WallClock,
}

/// Serves clients until `stopping` is done, then until the calls under way are answered.
pub(crate) async fn serve(
    cell: Cell,
    listener: Box<dyn Listener>,
    manner: Manner,
    stopping: impl Future<Output = ()> + Send + 'static,
) {
    let stop = watch::Sender::new(false);
    let door = Door::new(manner.token_key, manner.clock);
    let (pinned, walks) = (Pinned::default(), Walks::default());
    let front = Front { cell, door, pinned, walks, stop: stop.subscribe() };
    let service = BramahServer::new(front)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_REPLY_BYTES);
    let incoming = transport::incoming(listener, manner.max_connections);
    let stopping = async move {
        stopping.await;
        // Streams would otherwise hold the server open for ever.
        stop.send_replace(true);
    };
    let server = tonic::transport::Server::builder()
        // A client whose host vanished would keep its place for ever.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service);
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping).await {
        tracing::error!(%error, "the clients' port is no longer served");
    }
}

struct Front {
    cell: Cell,
    door: Door,
    pinned: Pinned,
    walks: Walks,
    stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Bramah for Front {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionReply, Status>> + Send>>;

    async fn session(
        &self,
        request: tonic::Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let principal = self.door.principal(request.metadata());
        let host = session::Host {
            cell: self.cell.clone(),
            pinned: self.pinned.clone(),
            walks: self.walks.clone(),
            stop: self.stop.clone(),
        };
        let stream = session::serve(host, principal, request.into_inner()).await?;
        Ok(Response::new(stream.boxed()))
    }

    async fn call(
        &self,
        request: tonic::Request<v1::CallRequest>,
    ) -> Result<Response<v1::CallReply>, Status> {
        let outcome = match self.door.principal(request.metadata()) {
            Ok(principal) => self.answer(principal, request.into_inner()).await,
            Err(failure) => Err(failure),
        };
        let outcome = outcome.unwrap_or_else(translate::failed);
        Ok(Response::new(v1::CallReply { outcome: Some(outcome) }))
    }

    async fn status(
        &self,
        request: tonic::Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        let mut reply = status(&self.cell);
        if request.into_inner().digest {
            let digest = self.cell.digest().await.map_err(|error| Status::unavailable(error.to_string()))?;
            reply.digest = Some(digest.digest);
            reply.digest_index = digest.index;
        }
        Ok(Response::new(reply))
    }

    async fn change_members(
        &self,
        request: tonic::Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        let principal = self.door.principal(request.metadata());
        let failure = self.change_members_as(principal, request.into_inner()).await.err();
        Ok(Response::new(v1::ChangeMembersReply { failure, members: session::members(&self.cell) }))
    }
}

impl Front {
    /// Where callers are not told apart, everybody may.
    async fn change_members_as(
        &self,
        principal: Result<Principal, v1::Failure>,
        request: v1::ChangeMembersRequest,
    ) -> Result<(), v1::Failure> {
        let principal = principal?;
        if self.door.knows_callers() {
            members::permit(&self.cell, &principal, translate::deadline(request.deadline_ms)).await?;
        }
        members::change(&self.cell, request).await
    }

    async fn answer(&self, principal: Principal, call: v1::CallRequest) -> Result<v1::Outcome, v1::Failure> {
        if call.idempotency_key.len() > MAX_KEY_BYTES {
            return Err(translate::invalid("an idempotency key has at most 120 bytes"));
        }
        let deadline = translate::deadline(call.deadline_ms);
        match translate::work(call.operation, self.cell.name())? {
            Work::Read(read) => {
                self.cell.barrier(Vec::new(), deadline).await.map_err(|error| translate::undone(&error))?;
                let caller = Caller { principal, session: None };
                if read.is_long() {
                    return Ok(self.walks.read(&self.cell, self.pinned.clone(), caller, read).await);
                }
                Ok(translate::read(&self.cell.view(), &self.pinned, &caller, &read))
            }
            Work::Write(command) => {
                let identity = translate::caller_identity(principal, &call.idempotency_key);
                let outcome = self.cell.propose(&Request { identity, command }, deadline).await;
                outcome
                    .map(|outcome| translate::outcome(outcome, false))
                    .map_err(|error| translate::undone(&error))
            }
        }
    }
}

fn status(cell: &Cell) -> v1::StatusReply {
    let status = cell.status();
    v1::StatusReply {
        cell: status.cell,
        cell_id: status.cell_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replica: status.replica,
        role: status.leadership.role.to_owned(),
        leader: Some(session::leader(cell)),
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        purged_index: status.purged_index,
        revision: status.revision,
        nodes: status.nodes,
        sessions: status.sessions,
        log_bytes: status.log_bytes,
        snapshot_bytes: status.snapshot_bytes,
        disk_free_bytes: status.disk_free_bytes,
        memory_bytes: process::resident_bytes(),
        uptime_ms: status.uptime.as_millis() as u64,
        members: session::members(cell),
        trouble: status.trouble,
        elections: status.leadership.elections,
        digest: None,
        digest_index: 0,
        cpu_us: process::cpu_time().as_micros() as u64,
    }
}
