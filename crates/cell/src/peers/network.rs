//! The half of the peers' network that asks: one connection for the log, one for heartbeats and votes, one
//! for snapshots, so that none waits behind another.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::transport::{self, Timeouts, Transport};
use bramah_wire::v1::peer_client::PeerClient;
use bramah_wire::v1::{PeerMessage, SnapshotChunk, SnapshotOffsetRequest};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{OptionalSend, network::Backoff};
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::transport::Channel;

use super::{MAX_MESSAGE_BYTES, SNAPSHOT_CHUNK_BYTES, encode};
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::disk::{self, Disk};
use crate::roster::Roster;
use crate::snapshot_store::SnapshotFile;

/// How long a replica that can't be reached is left alone.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a whole snapshot may take on its way before it is begun again where it stopped.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);

/// A peer that is silent for 2 s is gone: what was sent to it is sent again on a new connection.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    keep_alive_interval: Duration::from_secs(1),
    keep_alive_timeout: Duration::from_secs(2),
};

/// Makes a connection to each member.
#[derive(Clone)]
pub(crate) struct PeerNetwork {
    pub(crate) cell_id: u64,
    pub(crate) transport: Arc<dyn Transport>,
    /// Holds the snapshots that are sent.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) roster: Roster,
}

impl PeerNetwork {
    /// A connection that is made at the first call and again after it broke.
    pub(crate) fn client(&self, address: &str) -> Result<PeerClient<Channel>, Status> {
        client(&self.transport, address)
    }
}

/// A connection that is made at the first call and again after it broke.
pub(crate) fn client(transport: &Arc<dyn Transport>, address: &str) -> Result<PeerClient<Channel>, Status> {
    let channel = transport::channel_lazy(Arc::clone(transport), address, TIMEOUTS)
        .map_err(|error| Status::unavailable(format!("{address}: {error}")))?;
    Ok(PeerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = Peer;

    async fn new_client(&mut self, target: ReplicaId, node: &Member) -> Peer {
        let address = self.roster.peer_address(target, node);
        let client = self.client(&address);
        Peer { network: self.clone(), target, node: node.clone(), address, client, acknowledged: None }
    }
}

/// One connection to one member.
pub(crate) struct Peer {
    network: PeerNetwork,
    target: ReplicaId,
    node: Member,
    /// Where `client` connects to.
    address: String,
    /// An error if the member's address can't be one.
    client: Result<PeerClient<Channel>, Status>,
    /// The newest entry that it said it has.
    acknowledged: Option<u64>,
}

/// The calls of `peer.proto` that carry one body each way.
enum Ask {
    Heartbeat,
    Vote,
    PreVote,
    TransferLeader,
}

impl Peer {
    /// The connection to where the member is now: the engine goes on with one `Peer` when an address changes.
    fn client(&mut self) -> Result<&mut PeerClient<Channel>, Status> {
        let address = self.network.roster.peer_address(self.target, &self.node);
        if address != self.address {
            self.client = self.network.client(&address);
            self.address = address;
        }
        self.client.as_mut().map_err(|status| status.clone())
    }

    fn failed(&self) {
        self.network.roster.failed(self.target, &self.address);
    }

    async fn ask<R: DeserializeOwned>(
        &mut self,
        what: Ask,
        body: Result<Bytes, io::Error>,
        option: &RPCOption,
    ) -> Result<R, RPCError<TypeConfig>> {
        let (cell_id, to) = (self.network.cell_id, self.target);
        let mut request =
            tonic::Request::new(PeerMessage { cell_id, body: body.map_err(|e| network(&e))?, to });
        request.set_timeout(option.soft_ttl());
        let client = self.client().map_err(|status| unreachable(&status))?;
        let answer = async {
            match what {
                Ask::Heartbeat => client.heartbeat(request).await,
                Ask::Vote => client.vote(request).await,
                Ask::PreVote => client.pre_vote(request).await,
                Ask::TransferLeader => client.transfer_leader(request).await,
            }
        };
        let answered = tokio::time::timeout(option.soft_ttl(), answer)
            .await
            .map_err(|elapsed| RPCError::Unreachable(Unreachable::new(&elapsed)))
            .and_then(|answered| answered.map_err(|status| unreachable(&status)));
        match &answered {
            Ok(_) => self.network.roster.answered(self.target),
            Err(_) => self.failed(),
        }
        decode(&answered?.into_inner().body).map_err(|e| network(&e))
    }
}

/// Remembers what a member said it has, and says so when it has it no more: the majority that an entry was
/// acknowledged by is then one less, until the member got it again.
fn note_answer(member: ReplicaId, acknowledged: &mut Option<u64>, answer: &StreamAppendResult<TypeConfig>) {
    match answer {
        Ok(Some(has)) => *acknowledged = (*acknowledged).max(Some(has.index)),
        Err(StreamAppendError::Conflict(lacks)) if Some(lacks.index) <= *acknowledged => {
            tracing::error!(
                member,
                acknowledged = *acknowledged,
                lacks = lacks.index,
                "a member lost log entries that it had acknowledged, and gets them again; look at its disk: \
                 it was damaged, or forgets what it was told to sync"
            );
            *acknowledged = None;
        }
        _ => {}
    }
}

fn network(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

fn unreachable(status: &Status) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(status))
}

fn decode<R: DeserializeOwned>(body: &[u8]) -> io::Result<R> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Ask::Heartbeat, encode(&rpc), &option).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (cell_id, to) = (self.network.cell_id, self.target);
        let outbound = input.filter_map(move |rpc| {
            // Entries were encoded once before they were appended here, so this can't fail for their shape;
            // should it fail all the same, the stream falls silent and is begun again.
            let message = encode(&rpc).map(|body| PeerMessage { cell_id, body, to }).ok();
            std::future::ready(message)
        });
        Box::pin(async move {
            let opened = match self.client() {
                Ok(client) => match tokio::time::timeout(option.soft_ttl(), client.append(outbound)).await {
                    Ok(opened) => opened.map_err(|status| unreachable(&status)),
                    Err(elapsed) => Err(RPCError::Unreachable(Unreachable::new(&elapsed))),
                },
                // Such as a member that is leaving, which has no address any more.
                Err(status) => Err(unreachable(&status)),
            };
            let inbound = match opened {
                Ok(response) => response.into_inner(),
                Err(error) => {
                    self.failed();
                    // The engine's own pause comes only once a connection asks for the first message.
                    tokio::time::sleep(RETRY_PAUSE).await;
                    return Err(error);
                }
            };
            let (target, roster, acknowledged) = (self.target, &self.network.roster, &mut self.acknowledged);
            let answers = inbound.map(move |message| match message {
                Ok(message) => {
                    roster.answered(target);
                    decode(&message.body)
                        .inspect(|answer| note_answer(target, acknowledged, answer))
                        .map_err(|e| network(&e))
                }
                Err(status) => Err(unreachable(&status)),
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Ask::Vote, encode(&rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Ask::PreVote, encode(&rpc), &option).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Ask::TransferLeader, encode(&rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(SNAPSHOT_DEADLINE, self.send_snapshot(vote, snapshot.snapshot)) => match sent {
                Ok(sent) => sent.map_err(|status| StreamingError::Unreachable(Unreachable::new(&status))),
                Err(elapsed) => Err(StreamingError::Unreachable(Unreachable::new(&elapsed))),
            },
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        // A replica that comes back should be found at once: connecting in vain to a port nobody listens
        // on is cheap.
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}

impl Peer {
    async fn send_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<TypeConfig>, Status> {
        let (cell_id, to, disk) = (self.network.cell_id, self.target, Arc::clone(&self.network.disk));
        let client = self.client()?;
        let vote = encode(&vote).map_err(super::internal)?;
        let meta = encode(file.meta()).map_err(super::internal)?;
        let mut question = tonic::Request::new(SnapshotOffsetRequest {
            cell_id,
            meta: meta.clone(),
            length: file.length(),
            checksum: file.checksum(),
            to,
        });
        question.set_timeout(Duration::from_secs(10));
        let offset = client.snapshot_offset(question).await?.into_inner().offset;
        let chunks = chunks(cell_id, disk, to, vote, meta, file, offset);
        let reply = client.snapshot(chunks).await?.into_inner();
        super::decode(&reply.body)
    }
}

/// The file from `offset` to its end. The first chunk is sent even if it is empty: it carries the vote.
fn chunks(
    cell_id: u64,
    disk: Arc<dyn Disk>,
    to: ReplicaId,
    vote: Bytes,
    meta: Bytes,
    file: SnapshotFile,
    offset: u64,
) -> impl Stream<Item = SnapshotChunk> + Send {
    futures_util::stream::unfold((Some((vote, meta)), offset), move |(head, offset)| {
        let (disk, file) = (Arc::clone(&disk), file.clone());
        async move {
            let (length, checksum) = (file.length(), file.checksum());
            let path = file.path().to_owned();
            let data = disk::run(&disk, move || file.read_at(offset, SNAPSHOT_CHUNK_BYTES)).await;
            let data = data
                .inspect_err(|error| tracing::error!(%error, offset, path = %path.display(), "a snapshot can't be read"))
                .ok()?;
            if data.is_empty() && head.is_none() {
                return None;
            }
            let (vote, meta) = head.unwrap_or_default();
            let next = offset + data.len() as u64;
            let chunk =
                SnapshotChunk { cell_id, vote, meta, offset, length, checksum, data: Bytes::from(data), to };
            Some((chunk, (None, next)))
        }
    })
}
