//! How a replica that begins with an empty folder comes to take part in its cell: founding it with others, joining
//! it, or being repaired from it (spec G-4, G-7).
//!
//! Such a replica may have forgotten what it voted for and which entries it said it had: an empty folder looks the
//! same whether it is a first one or another one was lost. So it follows nobody and votes for nobody until it is
//! clear that nobody counts on what it may have forgotten. A marker in its folder keeps it so across restarts
//! ([`Entrance`]).
//!
//! **Replacing.** It asks to be taken out of the cell, then to be taken in again, and follows nobody before the first
//! and votes for nobody before the second is done. Why this is safe:
//! - Taking it out needs a majority of the old members without its help. If it had promised its vote in a later
//!   term, or had helped to commit an entry that the leader lacks, then some member of that majority knows, and
//!   refuses the leader.
//! - The leader forgets how far it had been, so that nobody sees its log go backwards. From then on it listens to
//!   that leader and later ones only: an earlier one, cut off, could still count it together with old answers.
//! - Until it is taken in again its voice counts for nothing, and then it is a new member like any other.
//!
//! **Joining.** Its number must be that of a learner. The leader forgets how far an earlier learner of that number had
//! been, and it follows this leader and later ones. It never voted under that number, or was made a learner by a
//! majority that does not count on its votes.
//!
//! **Founding.** All members of a new cell begin with the same entry, and the first majority elects a leader. A
//! replica may take part in that if the cell has not lived before this start of it: only then has it forgotten nothing.
//! - If any other member says that it has voted or has entries, the cell lives. The replica was late, or has lost its
//!   folder: it cannot tell, so it is replaced, which is right for both.
//! - If all others have said, since it started, that they are new, then the cell has not lived before: it would have
//!   needed a majority, and each majority has another member than this one (or this one alone is the cell). What they
//!   said stays true when they vote a moment later: the question is what was before this start.
//! - If some don't answer, the others that are new, with it, must be a majority, and it waits for
//!   [`Tuning::founding_wait`](crate::Tuning) whether the silent ones come. Here is the doubt that is left: if this
//!   replica has lost its folder, *every* member that the cell has ever lived with does not answer for so long, *and*
//!   others that never took part in anything make up a majority with it, a second cell begins. To rule that out a new
//!   cell could begin only with all its members up. `--bootstrap` left out after the first start rules it out, too.
//! - If one belongs to a cell of another number, which was made from another list of members, no cell is founded.
//! - A replica that is to found a cell alone has nobody to ask. It listens for a while: if its cell has grown
//!   since, and its folder was lost, a leader or candidate calls.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bramah_wire::v1::introduce_reply::Standing as WireStanding;
use bramah_wire::v1::readmit_request::Phase;
use bramah_wire::v1::{IntroduceReply, IntroduceRequest, ReadmitReply, ReadmitRequest};
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::VoteOf;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::cell::{Cell, CellRaft};
use crate::changes::{CATCH_UP_LIMIT, CHANGE_LIMIT};
use crate::consensus::{ReplicaId, TypeConfig};
use crate::data_folder::Entrance;
use crate::disk;
use crate::peers::PeerNetwork;

/// The pause after all members were asked in vain.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause between rounds of asking whether others are new.
const FOUNDING_PAUSE: Duration = Duration::from_millis(50);

/// A replica that founds a cell alone listens for so many election timeouts whether the cell lives.
const ELECTIONS_OF_SILENCE: u32 = 3;

/// How long a member may take to say who it is.
const INTRODUCE_LIMIT: Duration = Duration::from_millis(500);

/// How often it is said that the others don't answer as they should.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What a replica takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All: it remembers all that it ever said.
    Full,
    /// Nothing: others may still count on what it forgot.
    None(Entrance),
    /// It follows leaders from this term and number on, and does not vote.
    Following { term: u64, leader: ReplicaId },
}

/// What this replica takes part in, as the peers' service asks before it hands anything to the engine.
pub(crate) struct Admission {
    part: Mutex<Part>,
    /// It had voted, or had log entries, when it was started.
    experienced: bool,
    /// Other founders that have answered, since this replica started, that they are new.
    new: Mutex<BTreeSet<ReplicaId>>,
    heard_founder: Notify,
    /// A leader or candidate of this cell has called while it was founding.
    called: AtomicBool,
    waits_for: Mutex<String>,
    /// See [`ReadmitRequest`]; 0 while nothing is asked for.
    attempt: AtomicU64,
}

impl Admission {
    /// `entrance`: what the data folder's marker says; `experienced`: what the log says.
    pub(crate) fn new(entrance: Option<Entrance>, experienced: bool) -> Self {
        Self {
            experienced,
            part: Mutex::new(entrance.map_or(Part::Full, Part::None)),
            new: Mutex::default(),
            heard_founder: Notify::new(),
            called: AtomicBool::new(false),
            waits_for: Mutex::default(),
            attempt: AtomicU64::new(0),
        }
    }

    /// Whether the replica takes part in all.
    pub(crate) fn is_full(&self) -> bool {
        *self.part.lock() == Part::Full
    }

    /// Whether this replica has ever voted, or has more in its log than every new cell begins with.
    pub(crate) fn has_taken_part(&self, raft: &CellRaft) -> bool {
        // The engine's metrics say nothing of the past until it runs.
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        self.experienced
            || metrics.vote.leader_id().term > 0
            || metrics.last_log_index.is_some_and(|last| last > 0)
    }

    /// Whether it may still found a new cell, as far as it knows.
    pub(crate) fn is_founding(&self) -> bool {
        *self.part.lock() == Part::None(Entrance::Founding)
    }

    /// Another founder has answered that it is new.
    fn note_new(&self, replica: ReplicaId) {
        self.new.lock().insert(replica);
    }

    /// Another founder has asked: it runs, and is worth asking at once. What it says of itself in a question counts
    /// for nothing, because a network may deliver a copy of it long after.
    pub(crate) fn heard_a_founder(&self) {
        self.heard_founder.notify_one();
    }

    /// The request for which this replica waits.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempt.load(Ordering::Relaxed)
    }

    /// Refuses to vote, or to stand for election, until this replica is a full member.
    pub(crate) fn check_voting(&self) -> Result<(), Status> {
        self.note_call();
        match self.is_full() {
            true => Ok(()),
            false => Err(Status::unavailable("this replica has not entered its cell yet and does not vote")),
        }
    }

    /// Refuses all leaders while one of them may remember what this replica forgot.
    pub(crate) fn check_following(&self) -> Result<(), Status> {
        self.note_call();
        match *self.part.lock() {
            Part::None(_) => {
                Err(Status::unavailable("this replica has not entered its cell yet and does not follow"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a leader that is older than the one that has let this replica begin.
    pub(crate) fn check_leader(&self, vote: &VoteOf<TypeConfig>) -> Result<(), Status> {
        self.check_following()?;
        let theirs = (vote.leader_id().term, vote.leader_id().node_id);
        match *self.part.lock() {
            Part::Following { term, leader } if theirs < (term, leader) => {
                Err(Status::unavailable("this replica has begun anew and follows a later leader"))
            }
            _ => Ok(()),
        }
    }

    fn note_call(&self) {
        if self.is_founding() {
            self.called.store(true, Ordering::Relaxed);
        }
    }

    /// For the status: what is missing; empty when nothing is.
    pub(crate) fn trouble(&self) -> String {
        let waits_for = self.waits_for.lock();
        match *self.part.lock() {
            Part::Full => String::new(),
            Part::None(Entrance::Founding) => {
                format!("new: asks the others whether the cell is new, too{waits_for}")
            }
            Part::None(Entrance::Joining) => format!("joining: waits to be added{waits_for}"),
            Part::None(Entrance::Replacing) => format!(
                "being replaced: waits for a leader, which needs a majority without this replica{waits_for}"
            ),
            Part::Following { .. } => "being replaced or joining: catches up with the leader".to_owned(),
        }
    }

    fn set(&self, part: Part) {
        *self.part.lock() = part;
    }
}

/// Why nobody let this replica in.
enum Refused {
    /// The cell has removed it for good.
    Removed(String),
    /// It is no member of any kind, so it can't be given a vote.
    Unknown,
}

/// Brings this replica to take part in all, for as long as it is polled.
pub(crate) async fn enter(cell: Cell, network: PeerNetwork, entrance: Entrance) {
    let entered = match entrance {
        Entrance::Founding if found(&cell, &network).await => Ok(()),
        Entrance::Joining => join(&cell, &network).await,
        Entrance::Founding | Entrance::Replacing => be_replaced(&cell, &network).await,
    };
    match entered {
        Ok(()) => {}
        Err(Refused::Removed(why)) => return cell.retire(why),
        // Nobody gives up on an unknown replica but those who ask again.
        Err(Refused::Unknown) => return,
    }
    while let Err(error) = remove_marker(&cell).await {
        tracing::error!(%error, "this replica has entered its cell but can't note it, and goes on without voting");
        sleep(LOG_EVERY).await;
    }
    cell.admission().set(Part::Full);
    cell.raft().runtime_config().elect(true);
    tracing::info!(?entrance, "this replica takes part in its cell from now on");
}

async fn remove_marker(cell: &Cell) -> std::io::Result<()> {
    let owner = cell.clone();
    disk::run(cell.disk(), move || owner.folder().entered()).await
}

/// Whether the cell is new, and this replica may found it; otherwise it lives already.
async fn found(cell: &Cell, network: &PeerNetwork) -> bool {
    let others: Vec<_> =
        cell.configured_members().iter().filter(|(id, _)| *id != cell.replica()).cloned().collect();
    let members = others.len() + 1;
    let majority = members / 2 + 1;
    let mut since = None;
    if others.is_empty() {
        return is_alone(cell).await;
    }
    let mut logged = None;
    loop {
        // It was let in by a leader before it was started again.
        if cell.has_taken_part() {
            return false;
        }
        let asked = others
            .iter()
            .map(|(id, member)| async move { (*id, introduce(cell, network, &member.peer_address).await) });
        let answers = join_all(asked).await;
        for (id, _) in answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|reply| reply.new)) {
            cell.admission().note_new(*id);
        }
        let new = cell.admission().new.lock().clone();
        let lives = |(id, answer): &(ReplicaId, Result<IntroduceReply, Status>)| {
            !new.contains(id) && says_that_it_lives(answer)
        };
        if let Some((id, _)) = answers.iter().find(|answer| lives(answer)) {
            tracing::warn!(
                member = id,
                "the cell lives already: this replica is taken in like one that lost its data"
            );
            return false;
        }
        let foreign =
            answers.iter().find_map(|(id, answer)| Some((id, answer.as_ref().err().filter(is_foreign)?)));
        if let Some((member, status)) = foreign {
            *cell.admission().waits_for.lock() = format!(" (replica {member} says: {})", status.message());
            if logged.is_none_or(|at: Instant| at.elapsed() >= LOG_EVERY) {
                logged = Some(Instant::now());
                tracing::error!(
                    member,
                    answer = status.message(),
                    "no cell is founded while a member belongs to another one. If the cell lived before under another list of \
                     members, move this replica's folder away and start it with --replace; else correct the list"
                );
            }
            sleep(FOUNDING_PAUSE).await;
            continue;
        }
        if new.len() == others.len() {
            return true;
        }
        let silent: Vec<_> = others.iter().filter(|(id, _)| !new.contains(id)).map(|(id, _)| *id).collect();
        *cell.admission().waits_for.lock() = format!(" (no answer yet from {silent:?})");
        if new.len() + 1 >= majority {
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            if waited >= cell.tuning().founding_wait {
                tracing::warn!(
                    ?silent,
                    ?waited,
                    "founding the cell with a majority: the others don't answer"
                );
                return true;
            }
        }
        let _ = timeout(FOUNDING_PAUSE, cell.admission().heard_founder.notified()).await;
    }
}

/// Whether a cell that was to begin with this replica alone has not grown since, and the folder was not lost: then
/// somebody would call.
async fn is_alone(cell: &Cell) -> bool {
    sleep(cell.tuning().election_max * ELECTIONS_OF_SILENCE).await;
    let called = cell.admission().called.load(Ordering::Relaxed);
    if called {
        tracing::error!(
            "other members of this cell call: it lives, and this replica's folder was lost. It takes part in nothing; \
             move the folder away, and start it with --replace and --join"
        );
    }
    !called
}

/// It belongs to another cell, or to this one under another number.
fn is_foreign(status: &&Status) -> bool {
    status.code() == Code::FailedPrecondition
}

fn says_that_it_lives(answer: &Result<IntroduceReply, Status>) -> bool {
    match answer {
        Ok(reply) => !reply.new && !reply.knows_nothing,
        // An older version, which knows nothing of founding.
        Err(status) => status.code() == Code::Unimplemented,
    }
}

/// Whether the replica at `address` is this one and waits for this very request. Another one may be a copy of one that
/// was done long ago; taking out a replica that votes would leave it out for ever.
pub(crate) async fn waits_to_enter(
    network: &PeerNetwork,
    cell: &str,
    id: ReplicaId,
    address: &str,
    attempt: u64,
) -> Result<(), Status> {
    let request =
        IntroduceRequest { cell: cell.to_owned(), cell_id: network.cell_id, replica: 0, new: false };
    let mut client = network.client(address)?;
    let answer = timeout(INTRODUCE_LIMIT, client.introduce(request)).await;
    let silent = |_| Status::unavailable(format!("replica {id} does not answer at {address}"));
    let reply = answer.map_err(silent)??.into_inner();
    match reply.replica == id && reply.entering {
        true if reply.attempt == attempt => Ok(()),
        true => Err(Status::aborted(format!("replica {id} does not wait for this request any more"))),
        false => Err(Status::failed_precondition(format!(
            "the replica at {address} is {} and takes part already: it is not taken out",
            reply.replica
        ))),
    }
}

/// Asks the replica at `address` who it is.
pub(crate) async fn introduce(
    cell: &Cell,
    network: &PeerNetwork,
    address: &str,
) -> Result<IntroduceReply, Status> {
    let request = IntroduceRequest {
        cell: cell.name().to_owned(),
        cell_id: network.cell_id,
        replica: cell.replica(),
        new: cell.admission().is_founding() && !cell.has_taken_part(),
    };
    let mut client = network.client(address)?;
    let answer = timeout(INTRODUCE_LIMIT, client.introduce(request)).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}

/// Whether any other member knows that this replica was removed.
pub(crate) async fn is_removed(cell: &Cell, network: &PeerNetwork) -> bool {
    let others = network.roster.others(cell.replica());
    let answers = join_all(others.iter().map(|address| introduce(cell, network, address))).await;
    answers.into_iter().flatten().any(|reply| reply.standing() == WireStanding::Removed)
}

/// Has this replica taken out and taken in again by whoever leads.
async fn be_replaced(cell: &Cell, network: &PeerNetwork) -> Result<(), Refused> {
    tracing::warn!("this replica is being replaced: it does not vote until the others have repaired it");
    cell.admission().set(Part::None(Entrance::Replacing));
    loop {
        let ReadmitReply { term, leader } = ask_all(cell, network, Phase::Leave).await?;
        cell.admission().set(Part::Following { term, leader });
        tracing::info!(term, leader, "the leader begins this replica anew: catching up");
        match ask_all(cell, network, Phase::Join).await {
            // The leader that took it out died before it was a learner again.
            Err(Refused::Unknown) => cell.admission().set(Part::None(Entrance::Replacing)),
            joined => return joined.map(drop),
        }
    }
}

/// Waits until this replica is a learner, and follows the leader that says so.
async fn join(cell: &Cell, network: &PeerNetwork) -> Result<(), Refused> {
    // It was let in before it was started again: until then it follows nobody, and nothing is in its log.
    if cell.has_taken_part() {
        return Ok(());
    }
    tracing::info!(replica = cell.replica(), "joining: waits to be added with `bramah member add`");
    let mut begun = None;
    loop {
        // A leader that let it in may reach it late, and make it a voter: then none lets it in again, nor needs to.
        let followed = async {
            match begun {
                Some((term, leader)) => follows(cell, term, leader).await,
                None => std::future::pending().await,
            }
        };
        let ReadmitReply { term, leader } = tokio::select! {
            () = followed => return Ok(()),
            reply = ask_all(cell, network, Phase::Begin) => reply?,
        };
        begun = Some((term, leader));
        cell.admission().set(Part::Following { term, leader });
        // That leader may have died since, and this replica may have been removed.
        if timeout(LOG_EVERY, follows(cell, term, leader)).await.is_ok() {
            return Ok(());
        }
    }
}

/// Waits until this replica follows this leader or a later one. Once that is on the disk no older leader is followed,
/// with the marker or without.
async fn follows(cell: &Cell, term: u64, leader: ReplicaId) {
    let mut metrics = cell.raft().server_metrics();
    loop {
        let vote = metrics.borrow_watched().vote;
        if vote.is_committed() && (vote.leader_id().term, vote.leader_id().node_id) >= (term, leader) {
            return;
        }
        if metrics.changed().await.is_err() {
            // The engine has stopped: nothing is left to enter.
            std::future::pending::<()>().await;
        }
    }
}

/// Asks the other members in turn until one, the leader, has done it.
async fn ask_all(cell: &Cell, network: &PeerNetwork, phase: Phase) -> Result<ReadmitReply, Refused> {
    let mut logged = Instant::now();
    loop {
        let mut answers = Vec::new();
        for address in network.roster.others(cell.replica()) {
            match ask(cell, network, &address, phase).await {
                Ok(reply) => return Ok(reply),
                Err(status) if status.code() == Code::PermissionDenied => {
                    return Err(Refused::Removed(status.message().to_owned()));
                }
                Err(status) if phase == Phase::Join && status.code() == Code::NotFound => {
                    return Err(Refused::Unknown);
                }
                Err(status) => answers.push(format!("{address}: {}", status.message())),
            }
        }
        learn_addresses(cell, network).await;
        let answers = answers.join("; ");
        *cell.admission().waits_for.lock() = format!(" ({answers})");
        if logged.elapsed() >= LOG_EVERY {
            logged = Instant::now();
            tracing::warn!(?phase, answers, "no member could help this replica yet");
        }
        sleep(PAUSE).await;
    }
}

/// Whoever answers may know members that this replica's settings don't name.
async fn learn_addresses(cell: &Cell, network: &PeerNetwork) {
    let known = network.roster.others(cell.replica());
    let answers = join_all(known.iter().map(|address| introduce(cell, network, address))).await;
    for reply in answers.into_iter().flatten() {
        network.roster.heard(reply.peers);
    }
}

async fn ask(
    cell: &Cell,
    network: &PeerNetwork,
    address: &str,
    phase: Phase,
) -> Result<ReadmitReply, Status> {
    let attempt = rand::random::<u64>().max(1);
    cell.admission().attempt.store(attempt, Ordering::Relaxed);
    let (cell_id, replica) = (network.cell_id, cell.replica());
    let request = ReadmitRequest { cell_id, replica, phase: phase.into(), attempt };
    // The member needs less, unless it hangs.
    let limit = CHANGE_LIMIT * 4 + CATCH_UP_LIMIT;
    let mut client = network.client(address)?;
    let answer = timeout(limit, client.readmit(request)).await;
    // Whatever comes of it later comes too late.
    cell.admission().attempt.store(0, Ordering::Relaxed);
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}
