//! How a replica that lost its data folder is repaired from the others (spec G-4).
//!
//! Such a replica has forgotten what it voted for and which entries it said it had, so it must not simply begin
//! again under its old number. It asks to be taken out of the cell, then to be taken in again, and follows
//! nobody before the first and votes for nobody before the second is done. A marker in its data folder keeps it
//! so across restarts ([`DataFolder::open_to_replace`](crate::data_folder::DataFolder::open_to_replace)).
//!
//! Why this is safe:
//! - Taking it out needs a majority of the old members without its help. If it had promised its vote in a later
//!   term, or had helped to commit an entry that the leader lacks, then some member of that majority knows, and
//!   refuses the leader.
//! - The leader forgets how far it had been, so that nobody sees its log go backwards. From then on it listens to
//!   that leader and later ones only: an earlier one, cut off, could still count it together with old answers.
//! - Until it is taken in again its voice counts for nothing, and then it is a new member like any other.

use std::collections::BTreeSet;
use std::time::Duration;

use bramah_wire::v1::readmit_request::Phase;
use bramah_wire::v1::{ReadmitReply, ReadmitRequest};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::type_config::alias::VoteOf;
use openraft::{ChangeMembers, RaftMetrics};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::cell::{Cell, CellRaft};
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::disk;
use crate::peers::PeerNetwork;

/// How long a majority may take to confirm a change of the members.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// How long a round of catching up may take; the next goes on where it stopped.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// How far behind the leader a replica may be when it begins to vote, in log entries: few, because a majority
/// may have to wait for them.
const CLOSE_ENTRIES: u64 = 1_000;

/// The pause after all members were asked in vain.
const PAUSE: Duration = Duration::from_millis(200);

/// How often it is said that the others don't answer as they should.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What a replica takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All: it remembers all that it ever said.
    Full,
    /// Nothing: others may still count on what it forgot.
    None,
    /// It follows leaders from this term and number on, and does not vote.
    Following { term: u64, leader: ReplicaId },
}

/// What this replica takes part in, as the peers' service asks before it hands anything to the engine.
pub(crate) struct Readmission {
    part: Mutex<Part>,
}

impl Readmission {
    /// `replacing`: the data folder has the marker.
    pub(crate) fn new(replacing: bool) -> Self {
        Self { part: Mutex::new(if replacing { Part::None } else { Part::Full }) }
    }

    pub(crate) fn replacing(&self) -> bool {
        *self.part.lock() != Part::Full
    }

    /// Refuses to vote, or to stand for election, until this replica is a full member again.
    pub(crate) fn check_voting(&self) -> Result<(), Status> {
        match self.replacing() {
            true => Err(Status::unavailable("this replica is being replaced and does not vote")),
            false => Ok(()),
        }
    }

    /// Refuses all leaders while one of them may remember what this replica forgot.
    pub(crate) fn check_following(&self) -> Result<(), Status> {
        match *self.part.lock() {
            Part::None => Err(Status::unavailable("this replica is being replaced and does not follow yet")),
            _ => Ok(()),
        }
    }

    /// Refuses a leader that is older than the one that took this replica out of the cell.
    pub(crate) fn check_leader(&self, vote: &VoteOf<TypeConfig>) -> Result<(), Status> {
        self.check_following()?;
        let theirs = (vote.leader_id().term, vote.leader_id().node_id);
        match *self.part.lock() {
            Part::Following { term, leader } if theirs < (term, leader) => {
                Err(Status::unavailable("this replica is being replaced and follows a later leader"))
            }
            _ => Ok(()),
        }
    }

    /// For the status: what is missing; empty when nothing is.
    pub(crate) fn trouble(&self) -> &'static str {
        match *self.part.lock() {
            Part::Full => "",
            Part::None => "being replaced: waits for a leader, which needs a majority without this replica",
            Part::Following { .. } => "being replaced: catches up with the leader, then votes again",
        }
    }

    fn set(&self, part: Part) {
        *self.part.lock() = part;
    }
}

/// Has this replica taken out and taken in again by whoever leads, for as long as it is polled.
pub(crate) async fn be_readmitted(cell: Cell, network: PeerNetwork) {
    tracing::warn!("this replica is being replaced: it does not vote until the others have repaired it");
    let ReadmitReply { term, leader } = ask_all(&cell, &network, Phase::Leave).await;
    cell.readmission().set(Part::Following { term, leader });
    tracing::info!(term, leader, "the leader begins this replica anew: catching up");
    ask_all(&cell, &network, Phase::Join).await;
    while let Err(error) = remove_marker(&cell).await {
        tracing::error!(%error, "this replica is repaired but can't note it, and goes on without voting");
        sleep(LOG_EVERY).await;
    }
    cell.readmission().set(Part::Full);
    cell.raft().runtime_config().elect(true);
    tracing::info!("this replica is repaired: it is a full member again");
}

async fn remove_marker(cell: &Cell) -> std::io::Result<()> {
    let owner = cell.clone();
    disk::run(cell.disk(), move || owner.folder().replaced()).await
}

/// Asks the other members in turn until one, the leader, has done it.
async fn ask_all(cell: &Cell, network: &PeerNetwork, phase: Phase) -> ReadmitReply {
    let mut logged = Instant::now();
    loop {
        let mut answers = Vec::new();
        for (id, member) in cell.configured_members().iter().filter(|(id, _)| *id != cell.replica()) {
            match ask(cell, network, member, phase).await {
                Ok(reply) => return reply,
                Err(status) => answers.push(format!("{id}: {}", status.message())),
            }
        }
        if logged.elapsed() >= LOG_EVERY {
            logged = Instant::now();
            tracing::warn!(?phase, answers = answers.join("; "), "no member could help this replica yet");
        }
        sleep(PAUSE).await;
    }
}

async fn ask(
    cell: &Cell,
    network: &PeerNetwork,
    member: &Member,
    phase: Phase,
) -> Result<ReadmitReply, Status> {
    let request = ReadmitRequest { cell_id: network.cell_id, replica: cell.replica(), phase: phase.into() };
    // The member needs less, unless it hangs.
    let limit = CHANGE_LIMIT * 3 + CATCH_UP_LIMIT;
    let mut client = network.client(member)?;
    let answer = timeout(limit, client.readmit(request)).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}

/// The leader's half: takes a replica out of the cell, whether it votes or not. May be asked again.
pub(crate) async fn take_out(raft: &CellRaft, replica: ReplicaId) -> Result<ReadmitReply, Status> {
    check_leads(raft)?;
    tracing::info!(replica, "taking a replica out that lost its data");
    let gone = BTreeSet::from([replica]);
    change(raft, ChangeMembers::RemoveVoters(gone.clone())).await?;
    // For one that did not vote. For one that is gone already this changes nothing, but that a majority confirms
    // it proves that this replica leads: what an old leader believes of the members is worth nothing.
    let done = change(raft, ChangeMembers::RemoveNodes(gone)).await?;
    let leader = done.log_id.committed_leader_id();
    Ok(ReadmitReply { term: leader.term, leader: leader.node_id })
}

/// The leader's half: takes a replica in again, once it has caught up. May be asked again.
pub(crate) async fn take_in(
    raft: &CellRaft,
    replica: ReplicaId,
    member: Member,
) -> Result<ReadmitReply, Status> {
    check_leads(raft)?;
    tracing::info!(replica, "taking a replica in again once it has caught up");
    let added = limited(raft.add_learner(replica, member, false)).await?;
    let seen = raft
        .wait(Some(CATCH_UP_LIMIT))
        .metrics(
            |now| now.replication.is_none() || is_close(now, replica, added.log_id.index),
            "a replica catches up",
        )
        .await
        .map_err(|error| Status::deadline_exceeded(format!("catching up takes longer: {error}")))?;
    if seen.replication.is_none() {
        return Err(Status::unavailable("leadership was lost meanwhile"));
    }
    let done = change(raft, ChangeMembers::AddVoterIds(BTreeSet::from([replica]))).await?;
    let leader = done.log_id.committed_leader_id();
    Ok(ReadmitReply { term: leader.term, leader: leader.node_id })
}

/// Whether it has the entry with which it was added, and nearly all that came since.
fn is_close(metrics: &RaftMetrics<TypeConfig>, replica: ReplicaId, added: u64) -> bool {
    let replication = metrics.replication.as_ref();
    let matched = replication.and_then(|all| all.get(&replica)?.as_ref()).map_or(0, |log_id| log_id.index);
    matched >= added && metrics.last_log_index.unwrap_or(0).saturating_sub(matched) <= CLOSE_ENTRIES
}

/// The engine would find out too, but shouts about it.
fn check_leads(raft: &CellRaft) -> Result<(), Status> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    if metrics.current_leader == Some(metrics.id) { Ok(()) } else { Err(not_leading(metrics.current_leader)) }
}

fn not_leading(leader: Option<ReplicaId>) -> Status {
    let leader = leader.map_or("and knows nobody who does".to_owned(), |id| format!("replica {id} does"));
    Status::failed_precondition(format!("it does not lead, {leader}"))
}

type Changed = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

async fn change(
    raft: &CellRaft,
    change: ChangeMembers<ReplicaId, Member>,
) -> Result<ClientWriteResponse<TypeConfig>, Status> {
    limited(raft.change_membership(change, false)).await
}

async fn limited(change: impl Future<Output = Changed>) -> Result<ClientWriteResponse<TypeConfig>, Status> {
    match timeout(CHANGE_LIMIT, change).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(not_leading(forward.leader_id))
        }
        // Such as another change that is under way: it is asked again.
        Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
        Err(_) => Err(Status::deadline_exceeded("no majority has confirmed the change of members")),
    }
}
