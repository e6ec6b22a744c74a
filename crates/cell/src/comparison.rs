//! Whether all replicas have the same state. At intervals the leader has every member compute the digest of its state
//! right after one and the same entry; a replica whose digest differs from that of a majority stops itself (spec G-9).
//!
//! The entry is one a little ahead, so that all are asked before they apply it; in a cell that rests it is the last one.
//! A replica that was past it already has no digest of it, and is compared the next time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bramah_machine::State;
use bramah_wire::v1::{DifferRequest, DigestRequest};
use futures_util::FutureExt;
use futures_util::future::{join_all, try_join};
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::cell::Cell;
use crate::consensus::{Member, ReplicaId};
use crate::disk::{self, Disk};
use crate::log::REPLACE_OPTION;
use crate::machine_store::Machine;
use crate::status::Digest;

/// The entry that is chosen is about so far ahead, by how many came in the time before.
const AHEAD: Duration = Duration::from_millis(500);

/// How long the leader waits for the entry: when the load has ceased meanwhile, it may not come for long.
const OWN_WAIT: Duration = Duration::from_secs(5);

/// How long the others may take to get to the entry, and then as long again for the digest.
const WAIT: Duration = Duration::from_secs(30);

/// Digests of different versions of the state's encoding, or of what commands do, are not compared: while a cell is
/// updated one replica after the other both are at work. It grows with each such change.
const DIGEST_VERSION: u32 = 1;

/// How long a replica may take to hear that it differs.
const TELL_LIMIT: Duration = Duration::from_secs(5);

/// Holds on to the state when a certain entry is applied: a pointer's copy.
#[derive(Default)]
pub(crate) struct Freezer(Mutex<Option<Wanted>>);

struct Wanted {
    index: u64,
    frozen: oneshot::Sender<State>,
}

impl Freezer {
    /// Gives back the state after the entry `index`, when it comes. `state` is that after the entry `applied`.
    pub(crate) fn want(&self, index: u64, applied: u64, state: &State) -> oneshot::Receiver<State> {
        let (frozen, when_applied) = oneshot::channel();
        *self.0.lock() = Some(Wanted { index, frozen });
        self.applied(applied, state);
        when_applied
    }

    /// `state` is that after the entry `index`.
    pub(crate) fn applied(&self, index: u64, state: &State) {
        // One that was jumped over is dropped, which tells whoever waits.
        if let Some(wanted) = self.0.lock().take_if(|wanted| wanted.index <= index)
            && wanted.index == index
        {
            let _ = wanted.frozen.send(state.clone());
        }
    }
}

/// A replica's part in comparing.
pub(crate) struct Comparison {
    machine: Arc<Machine>,
    disk: Arc<dyn Disk>,
    /// One digest at a time.
    computing: tokio::sync::Mutex<()>,
    /// The newest digest that was told.
    told: Mutex<Option<Digest>>,
    accused: watch::Sender<Option<DifferRequest>>,
}

impl Comparison {
    pub(crate) fn new(machine: Arc<Machine>, disk: Arc<dyn Disk>) -> Self {
        let (computing, told) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { machine, disk, computing, told, accused: watch::Sender::default() }
    }

    /// What another replica asks for, if it computes digests as this one does.
    pub(crate) async fn digest_for(&self, request: &DigestRequest) -> io::Result<Option<u64>> {
        match request.version == DIGEST_VERSION {
            true => {
                self.digest_at(request.index, Duration::from_millis(request.wait_ms.into()).min(WAIT)).await
            }
            false => Ok(None),
        }
    }

    /// The digest of the state right after the entry `index`; `None` if this replica is past it, or does not get
    /// there within `wait`, or computes another one.
    async fn digest_at(&self, index: u64, wait: Duration) -> io::Result<Option<u64>> {
        let Ok(Ok(state)) = timeout(wait, self.machine.state_at(index)).await else { return Ok(None) };
        let Ok(_one) = self.computing.try_lock() else { return Ok(None) };
        let digest = disk::run(&self.disk, move || Ok(state.digest())).await?;
        *self.told.lock() = Some(Digest { index, digest });
        Ok(Some(digest))
    }

    /// Takes up what a leader says of this replica's digest. False if it is not the one that was told.
    pub(crate) fn accuse(&self, accusation: DifferRequest) -> bool {
        let said = Digest { index: accusation.index, digest: accusation.digest };
        let holds = *self.told.lock() == Some(said) && accusation.majority != said.digest;
        if holds {
            self.accused.send_replace(Some(accusation));
        }
        holds
    }
}

/// Waits until it is shown that this replica's state is wrong, and stops it.
pub(crate) async fn obey(cell: Cell) {
    let mut accused = cell.comparison().accused.subscribe();
    let Ok(accusation) = accused.wait_for(Option::is_some).await.map(|accusation| *accusation) else {
        return;
    };
    let DifferRequest { index, digest, majority, agree, answered, .. } = accusation.unwrap_or_default();
    let (replica, folder) = (cell.replica(), cell.folder().path().display());
    let why = format!(
        "the state of replica {replica} is wrong: after log entry {index} its digest is {digest:016x}, but {agree} of the \
         {answered} replicas compared have {majority:016x}. Move the data folder {folder} away, start the replica again \
         with {REPLACE_OPTION} to have it repaired from the others, and keep the folder for whoever looks for the cause"
    );
    cell.convict(index, why);
}

/// Has the states compared while this replica leads, for as long as it is polled.
pub(crate) async fn compare(cell: Cell) {
    let interval = cell.tuning().digest_interval;
    if interval.is_zero() {
        return;
    }
    let mut compared = None;
    loop {
        sleep(interval).await;
        let before = last_log_index(&cell);
        sleep(AHEAD.min(interval)).await;
        let last = last_log_index(&cell);
        let index = last + last.saturating_sub(before);
        if cell.leadership().borrow().here && compared != Some(index) {
            let digests = collect(&cell, index).await;
            if judge(&cell, index, &digests).await {
                compared = Some(index);
            }
        }
    }
}

fn last_log_index(cell: &Cell) -> u64 {
    cell.raft().metrics().borrow_watched().last_log_index.unwrap_or(0)
}

async fn collect(cell: &Cell, index: u64) -> BTreeMap<ReplicaId, u64> {
    let others = members(cell).into_iter().filter(|(id, _)| *id != cell.replica());
    let asked = others.map(|(id, member)| async move { (id, ask(cell, id, &member, index).await) });
    let own = async { cell.comparison().digest_at(index, OWN_WAIT).await.transpose().ok_or(()) };
    // Without an own digest the others need not be waited for.
    let Ok((own, others)) = try_join(own, join_all(asked).map(Ok)).await else { return BTreeMap::new() };
    let mut digests = BTreeMap::new();
    match own {
        Ok(own) => drop(digests.insert(cell.replica(), own)),
        Err(error) => tracing::warn!(%error, "the digest of this replica's state could not be computed"),
    }
    for (id, answer) in others {
        match answer {
            Ok(answer) => digests.extend(answer.map(|digest| (id, digest))),
            Err(status) => tracing::debug!(replica = id, %status, "a replica's state is not compared"),
        }
    }
    digests
}

fn members(cell: &Cell) -> BTreeMap<ReplicaId, Member> {
    let view = cell.machine().view();
    let nodes = view.membership.membership().nodes();
    nodes.filter(|(_, member)| !member.is_leaving()).map(|(id, member)| (*id, member.clone())).collect()
}

async fn ask(cell: &Cell, id: ReplicaId, member: &Member, index: u64) -> Result<Option<u64>, Status> {
    let network = cell.network();
    let mut client = network.client(&network.roster.peer_address(id, member))?;
    let wait_ms = WAIT.as_millis() as u32;
    let request = DigestRequest { cell_id: network.cell_id, to: id, index, wait_ms, version: DIGEST_VERSION };
    let answer = timeout(WAIT * 2, client.digest(request)).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner().digest)
}

/// Tells those that differ from a majority. Gives back whether all members were compared.
async fn judge(cell: &Cell, index: u64, digests: &BTreeMap<ReplicaId, u64>) -> bool {
    let members = members(cell);
    let is_whole = members.keys().all(|id| digests.contains_key(id));
    let voters = cell.raft().metrics().borrow_watched().membership_config.membership().voter_ids().collect();
    match verdict(digests, &voters) {
        Verdict::Same => {
            tracing::debug!(index, replicas = ?digests.keys(), "these replicas have the same state");
            is_whole
        }
        Verdict::Unclear => {
            tracing::error!(
                index,
                ?digests,
                "THE REPLICAS' STATES DIFFER, and no majority of the voters agrees: none can be told to be \
                 right, and all go on. Compare them with `bramah status --digest`, and restore the cell from what you trust"
            );
            false
        }
        Verdict::Differ { majority, agree, wrong } => {
            tracing::error!(
                index,
                ?digests,
                ?wrong,
                "the state of these replicas is wrong: they are told to stop"
            );
            let accused =
                wrong.into_iter().filter_map(|id| Some((id, members.get(&id)?, *digests.get(&id)?)));
            join_all(accused.map(|(id, member, digest)| {
                let (agree, answered) = (agree as u32, digests.len() as u32);
                let cell_id = cell.network().cell_id;
                let message = DifferRequest { cell_id, to: id, index, digest, majority, agree, answered };
                tell(cell, id, member, message)
            }))
            .await;
            false
        }
    }
}

async fn tell(cell: &Cell, id: ReplicaId, member: &Member, accusation: DifferRequest) {
    if id == cell.replica() {
        cell.comparison().accuse(accusation);
        return;
    }
    let telling = async {
        let mut client = cell.network().client(&cell.network().roster.peer_address(id, member))?;
        client.differ(accusation).await
    };
    if let Ok(Err(status)) = timeout(TELL_LIMIT, telling).await {
        tracing::error!(replica = id, %status, "a replica whose state is wrong could not be told, and will be next time");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// They differ, and it can't be said who is right.
    Unclear,
    Differ {
        majority: u64,
        agree: usize,
        wrong: Vec<ReplicaId>,
    },
}

/// Who differs from a majority of the voters. Learners convict nobody: they may all come from one wrong snapshot.
fn verdict(digests: &BTreeMap<ReplicaId, u64>, voters: &BTreeSet<ReplicaId>) -> Verdict {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (id, digest) in digests {
        *counts.entry(*digest).or_default() += usize::from(voters.contains(id));
    }
    match counts.iter().max_by_key(|(_, agree)| **agree) {
        _ if counts.len() < 2 => Verdict::Same,
        Some((majority, agree)) if agree * 2 > voters.len() => {
            let wrong = digests.iter().filter(|(_, digest)| *digest != majority).map(|(id, _)| *id);
            Verdict::Differ { majority: *majority, agree: *agree, wrong: wrong.collect() }
        }
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All answer, and vote.
    fn of(digests: &[u64]) -> Verdict {
        among(digests, digests.len() as u64)
    }

    /// The first of the replicas 1 to `voters` and perhaps some learners answer.
    fn among(digests: &[u64], voters: u64) -> Verdict {
        verdict(&(1..).zip(digests.iter().copied()).collect(), &(1..=voters).collect())
    }

    /// Spec G-9: neither a few who answered nor learners show who is wrong.
    #[test]
    fn less_than_a_majority_of_voters_convicts_nobody() {
        assert_eq!(among(&[7, 7, 8], 5), Verdict::Unclear);
        assert_eq!(among(&[7, 7, 7, 8], 5), Verdict::Differ { majority: 7, agree: 3, wrong: vec![4] });
        assert_eq!(among(&[7, 8, 8], 1), Verdict::Differ { majority: 7, agree: 1, wrong: vec![2, 3] });
        assert_eq!(
            among(&[7, 7, 9, 9, 9], 3),
            Verdict::Differ { majority: 7, agree: 2, wrong: vec![3, 4, 5] }
        );
        assert_eq!(among(&[7, 8, 8, 8], 2), Verdict::Unclear);
    }

    /// Spec G-9: a majority shows who is wrong.
    #[test]
    fn a_majority_convicts() {
        assert_eq!(of(&[]), Verdict::Same);
        assert_eq!(of(&[7]), Verdict::Same);
        assert_eq!(of(&[7, 7, 7]), Verdict::Same);
        assert_eq!(of(&[7, 8, 7]), Verdict::Differ { majority: 7, agree: 2, wrong: vec![2] });
        assert_eq!(of(&[9, 8, 8, 8, 7]), Verdict::Differ { majority: 8, agree: 3, wrong: vec![1, 5] });
        for unclear in [&[7, 8][..], &[7, 8, 9], &[7, 7, 8, 8], &[7, 7, 8, 8, 9]] {
            assert_eq!(of(unclear), Verdict::Unclear, "{unclear:?}");
        }
    }

    /// Spec G-9: the state is that after exactly the entry that was asked for, or none.
    #[test]
    fn the_freezer_takes_one_moment() {
        let (freezer, state) = (Freezer::default(), State::default());
        assert!(freezer.want(5, 6, &state).try_recv().is_err(), "it was past that");
        freezer.want(5, 5, &state).try_recv().expect("it was just there");
        let mut waits = freezer.want(7, 5, &state);
        freezer.applied(6, &state);
        assert_eq!(waits.try_recv().err(), Some(oneshot::error::TryRecvError::Empty));
        freezer.applied(7, &state);
        waits.try_recv().expect("it came there");
        let mut jumped = freezer.want(9, 7, &state);
        freezer.applied(12, &state);
        assert_eq!(jumped.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
    }
}
