//! The half of the peers' network that answers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::MAX_DEADLINE;
use bramah_wire::transport::{self, Listener};
use bramah_wire::v1::introduce_reply::Standing as WireStanding;
use bramah_wire::v1::peer_server::{Peer as PeerApi, PeerServer};
use bramah_wire::v1::readmit_request::Phase;
use bramah_wire::v1::{
    ChangeReply, ChangeRequest, DifferReply, DifferRequest, DigestReply, DigestRequest, ForwardReply,
    ForwardRequest, HealthReply, HealthRequest, IntroduceReply, IntroduceRequest, PeerMessage, ReadmitReply,
    ReadmitRequest, SnapshotChunk, SnapshotOffsetReply, SnapshotOffsetRequest,
};
use futures_util::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};

use super::forward::answer_forwards;
use super::{MAX_MESSAGE_BYTES, PeerNetwork, decode, encode, internal};
use crate::admission::{Admission, waits_to_enter};
use crate::cell::CellRaft;
use crate::changes::{Changes, Standing, refusal};
use crate::comparison::Comparison;
use crate::consensus::{ReplicaId, TypeConfig};
use crate::disk::{self, Disk};
use crate::health::Health;
use crate::leadership::LastHeard;
use crate::log::{Log, Space};
use crate::membership::Change;
use crate::router::Router;
use crate::snapshot_store::{SnapshotFile, SnapshotStore};

/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How often it is looked whether a full disk keeps answers back.
const SHORTAGE_TICK: Duration = Duration::from_millis(500);

/// What other replicas may ask of this one.
pub(crate) struct PeerService {
    pub(crate) cell: String,
    pub(crate) cell_id: u64,
    pub(crate) raft: CellRaft,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Log,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) router: Router,
    pub(crate) heard: Arc<LastHeard>,
    pub(crate) network: PeerNetwork,
    pub(crate) admission: Arc<Admission>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) comparison: Arc<Comparison>,
    pub(crate) health: Arc<Health>,
    pub(crate) replica: ReplicaId,
}

/// Answers peers until `stop` turns true.
pub(crate) async fn serve(
    service: PeerService,
    listener: Box<dyn Listener>,
    max_connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let service = PeerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let served = tonic::transport::Server::builder()
        // A peer whose host vanished would keep its place for ever.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(transport::incoming(listener, max_connections), async move {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the peers' port is no longer served");
    }
}

impl PeerService {
    fn check(&self, cell_id: u64) -> Result<(), Status> {
        check_cell(self.cell_id, cell_id)
    }

    fn check_message(&self, message: &PeerMessage) -> Result<(), Status> {
        self.check(message.cell_id)?;
        check_replica(self.replica, message.to)
    }

    /// Whether the caller may be elected as far as this replica is concerned.
    fn check_candidate(&self, rpc: &VoteRequest<TypeConfig>) -> Result<(), Status> {
        self.admission.check_voting()?;
        let candidate = rpc.vote.leader_id().node_id;
        match self.changes.standing(candidate) {
            Standing::Removed => {
                Err(Status::permission_denied(format!("replica {candidate} was removed from the cell")))
            }
            _ => Ok(()),
        }
    }
}

/// A wrong address must not make one replica count for two.
fn check_replica(ours: ReplicaId, to: ReplicaId) -> Result<(), Status> {
    if to == 0 || to == ours {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this is replica {ours}, and the caller wants replica {to}: check the members' addresses"
    )))
}

fn check_cell(ours: u64, theirs: u64) -> Result<(), Status> {
    if ours == theirs {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this replica belongs to cell {ours:016x}, the caller to {theirs:016x}: check the addresses in the \
         caller's list of members, and that all members were bootstrapped with the same list"
    )))
}

/// Entries that would not fit are refused before the engine sees them: what it has taken it must keep, and
/// the space that is left is for elections (spec G-8).
fn check_space(log: &Log, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
    match shortage(log) {
        Some(shortage) if !rpc.entries.is_empty() => Err(shortage),
        _ => Ok(()),
    }
}

fn shortage(log: &Log) -> Option<Status> {
    match log.space() {
        Space::Enough => None,
        Space::Short { free, needed } => {
            let message = format!("the disk has {free} bytes free and needs {needed}");
            Some(Status::resource_exhausted(message))
        }
    }
}

/// Passes answers on until a full disk keeps them back. The leader purges no log that it believes to be under
/// way (openraft's `try_purge_log`): if it waited for them, its own disk would get full next.
fn end_when_short<T: Send>(
    answers: impl Stream<Item = Result<T, Status>> + Send + Unpin,
    log: Log,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let mut tick = tokio::time::interval(SHORTAGE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    futures_util::stream::unfold(Some((answers, tick, true)), move |state| {
        let log = log.clone();
        async move {
            let (mut answers, mut tick, mut answered) = state?;
            loop {
                tokio::select! {
                    answer = answers.next() => return Some((answer?, Some((answers, tick, true)))),
                    _ = tick.tick() => {
                        if let Some(shortage) = shortage(&log).filter(|_| !answered) {
                            return Some((Err(shortage), None));
                        }
                        answered = false;
                    }
                }
            }
        }
    })
}

fn reply(cell_id: u64, body: &impl Serialize) -> Result<Response<PeerMessage>, Status> {
    Ok(Response::new(PeerMessage { cell_id, body: encode(body).map_err(internal)?, to: 0 }))
}

#[tonic::async_trait]
impl PeerApi for PeerService {
    type AppendStream = Replies<PeerMessage>;
    type ForwardStream = Replies<ForwardReply>;

    async fn append(
        &self,
        request: Request<Streaming<PeerMessage>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.admission.check_following()?;
        let (cell_id, replica) = (self.cell_id, self.replica);
        let (heard, admission) = (Arc::clone(&self.heard), Arc::clone(&self.admission));
        let log = self.log.clone();
        let (refuse, refusal) = oneshot::channel();
        let mut refuse = Some(refuse);
        let requests = request
            .into_inner()
            .map(move |message| {
                let message = message?;
                check_cell(cell_id, message.cell_id)?;
                check_replica(replica, message.to)?;
                let rpc: AppendEntriesRequest<TypeConfig> = decode(&message.body)?;
                admission.check_leader(&rpc.vote)?;
                heard.now();
                check_space(&log, &rpc)?;
                Ok(rpc)
            })
            // A message that can't be taken ends the stream: the leader begins another one.
            .take_while(move |rpc: &Result<_, Status>| {
                let Err(status) = rpc else { return std::future::ready(true) };
                match status.code() {
                    // Ten times a second while the disk is full, which the log says once.
                    Code::ResourceExhausted => {
                        tracing::debug!(%status, "a peer's stream of log entries ends")
                    }
                    _ => tracing::warn!(%status, "a peer's stream of log entries ends"),
                }
                if let Some(refuse) = refuse.take() {
                    let _ = refuse.send(status.clone());
                }
                std::future::ready(false)
            })
            .filter_map(|rpc| std::future::ready(rpc.ok()));
        let answers = self.raft.stream_append(requests).map(move |answer| {
            let answer = answer.map_err(internal)?;
            Ok(PeerMessage { cell_id, body: encode(&answer).map_err(internal)?, to: 0 })
        });
        // Told why, the leader knows that nothing is under way here any more.
        let refusal = futures_util::stream::once(refusal);
        let refusal = refusal.filter_map(|refusal| std::future::ready(refusal.ok().map(Err)));
        Ok(Response::new(end_when_short(answers.chain(refusal).boxed(), self.log.clone()).boxed()))
    }

    async fn heartbeat(&self, request: Request<PeerMessage>) -> Result<Response<PeerMessage>, Status> {
        let message = request.into_inner();
        self.check_message(&message)?;
        let rpc: AppendEntriesRequest<TypeConfig> = decode(&message.body)?;
        self.admission.check_leader(&rpc.vote)?;
        self.heard.now();
        let answer = self.raft.append_entries(rpc).await.map_err(internal)?;
        reply(self.cell_id, &answer)
    }

    async fn vote(&self, request: Request<PeerMessage>) -> Result<Response<PeerMessage>, Status> {
        let message = request.into_inner();
        self.check_message(&message)?;
        let rpc = decode(&message.body)?;
        self.check_candidate(&rpc)?;
        let answer = self.raft.vote(rpc).await.map_err(internal)?;
        reply(self.cell_id, &answer)
    }

    async fn pre_vote(&self, request: Request<PeerMessage>) -> Result<Response<PeerMessage>, Status> {
        let message = request.into_inner();
        self.check_message(&message)?;
        let rpc = decode(&message.body)?;
        self.check_candidate(&rpc)?;
        let answer = self.raft.pre_vote(rpc).await.map_err(internal)?;
        reply(self.cell_id, &answer)
    }

    async fn transfer_leader(&self, request: Request<PeerMessage>) -> Result<Response<PeerMessage>, Status> {
        let message = request.into_inner();
        self.check_message(&message)?;
        self.admission.check_voting()?;
        let answer = self.raft.handle_transfer_leader(decode(&message.body)?).await.map_err(internal)?;
        reply(self.cell_id, &answer)
    }

    async fn snapshot_offset(
        &self,
        request: Request<SnapshotOffsetRequest>,
    ) -> Result<Response<SnapshotOffsetReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        check_replica(self.replica, request.to)?;
        self.admission.check_following()?;
        let meta: SnapshotMetaOf<TypeConfig> = decode(&request.meta)?;
        let snapshots = self.snapshots.clone();
        let offset = disk::run(&self.disk, move || {
            snapshots.receive(meta, request.length, request.checksum).map(|receiving| receiving.offset())
        })
        .await
        .map_err(internal)?;
        Ok(Response::new(SnapshotOffsetReply { offset }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<PeerMessage>, Status> {
        let mut chunks = request.into_inner();
        let first =
            chunks.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without chunks"))?;
        self.check(first.cell_id)?;
        check_replica(self.replica, first.to)?;
        let vote: VoteOf<TypeConfig> = decode(&first.vote)?;
        self.admission.check_leader(&vote)?;
        let file = self.receive(first, &mut chunks).await?;
        let snapshot = SnapshotOf::<TypeConfig, SnapshotFile> { meta: file.meta().clone(), snapshot: file };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(internal)?;
        reply(self.cell_id, &answer)
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Ok(Response::new(answer_forwards(self.cell_id, self.router.clone(), request.into_inner()).boxed()))
    }

    async fn readmit(&self, request: Request<ReadmitRequest>) -> Result<Response<ReadmitReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        let (replica, phase) = (request.replica, request.phase());
        if replica == self.replica || replica == 0 {
            return Err(Status::invalid_argument(format!("replica {replica} is no other replica")));
        }
        self.changes.check_leads().await.map_err(refusal)?;
        // Asked at once, and again when it is the request's turn.
        let address = self.changes.address_of(replica)?;
        let waits = || waits_to_enter(&self.network, &self.cell, replica, &address, request.attempt);
        waits().await?;
        let reply = match phase {
            Phase::Leave => self.changes.take_out(replica, waits()).await?,
            Phase::Join => self.changes.take_in(replica, waits()).await?,
            Phase::Begin => self.changes.begin_learner(replica, waits()).await?,
            Phase::Unspecified => return Err(Status::invalid_argument("readmission without a phase")),
        };
        Ok(Response::new(reply))
    }

    async fn introduce(
        &self,
        request: Request<IntroduceRequest>,
    ) -> Result<Response<IntroduceReply>, Status> {
        let request = request.into_inner();
        if request.cell != self.cell {
            let message = format!("this replica belongs to the cell {}, not to {}", self.cell, request.cell);
            return Err(Status::failed_precondition(message));
        }
        if request.cell_id != 0 {
            self.check(request.cell_id)?;
        }
        if request.new && request.replica != self.replica {
            self.admission.heard_a_founder();
        }
        let experienced = self.admission.has_taken_part(&self.raft);
        let fresh = self.admission.is_full() || self.admission.is_founding();
        Ok(Response::new(IntroduceReply {
            cell_id: self.cell_id,
            replica: self.replica,
            new: fresh && !experienced,
            knows_nothing: !fresh && !experienced,
            standing: match self.changes.standing(request.replica) {
                Standing::Stranger => WireStanding::Stranger,
                Standing::Learner => WireStanding::Learner,
                Standing::Voter => WireStanding::Voter,
                Standing::Removed => WireStanding::Removed,
            }
            .into(),
            peers: self.changes.peers(),
            entering: !self.admission.is_full(),
            attempt: self.admission.attempt(),
        }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        let change: Change = decode(&request.change)?;
        let deadline = Instant::now() + Duration::from_millis(request.deadline_ms.into()).min(MAX_DEADLINE);
        let Err(error) = self.changes.make(&change, deadline).await else {
            return Ok(Response::new(ChangeReply::default()));
        };
        let failure = encode(error.cause()).map_err(internal)?;
        Ok(Response::new(ChangeReply { failure, in_part: error.may_have_been_done() }))
    }

    async fn digest(&self, request: Request<DigestRequest>) -> Result<Response<DigestReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        check_replica(self.replica, request.to)?;
        self.admission.check_following()?;
        let digest = self.comparison.digest_for(&request).await.map_err(internal)?;
        Ok(Response::new(DigestReply { digest }))
    }

    async fn differ(&self, request: Request<DifferRequest>) -> Result<Response<DifferReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        check_replica(self.replica, request.to)?;
        match self.comparison.accuse(request) {
            true => Ok(Response::new(DifferReply {})),
            false => Err(Status::failed_precondition("this replica has told no such digest")),
        }
    }

    async fn health(&self, request: Request<HealthRequest>) -> Result<Response<HealthReply>, Status> {
        let request = request.into_inner();
        self.check(request.cell_id)?;
        check_replica(self.replica, request.to)?;
        self.admission.check_voting()?;
        Ok(Response::new(HealthReply { ailment: self.health.report().unwrap_or_default() }))
    }
}

impl PeerService {
    async fn receive(
        &self,
        first: SnapshotChunk,
        chunks: &mut Streaming<SnapshotChunk>,
    ) -> Result<SnapshotFile, Status> {
        let meta: SnapshotMetaOf<TypeConfig> = decode(&first.meta)?;
        let snapshots = self.snapshots.clone();
        let (length, checksum) = (first.length, first.checksum);
        let mut receiving = disk::run(&self.disk, move || snapshots.receive(meta, length, checksum))
            .await
            .map_err(internal)?;
        let mut next = Some(first);
        while let Some(chunk) = next {
            if chunk.offset != receiving.offset() {
                let message =
                    format!("a snapshot's chunk at {}, wanted {}", chunk.offset, receiving.offset());
                return Err(Status::failed_precondition(message));
            }
            receiving = disk::run(&self.disk, move || receiving.append(&chunk.data).map(|()| receiving))
                .await
                .map_err(internal)?;
            next = chunks.message().await?;
        }
        disk::run(&self.disk, move || receiving.finish()).await.map_err(internal)
    }
}
