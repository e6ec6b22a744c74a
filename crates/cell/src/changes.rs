//! Changing the members: the leader's half. One change at a time; each is made of steps that the log keeps, and is
//! finished by the next leader, or by asking again, if the leader dies between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant as _, Membership, RaftMetrics, ReadPolicy};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

use crate::cell::CellRaft;
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::leadership::most_advanced;
use crate::machine_store::Machine;
use crate::membership::{Change, ChangeError, MAX_MEMBERS, MAX_VOTERS};
use crate::roster::Roster;

mod readmission;

/// How long a majority may take to confirm a change of the members.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// How long a round of catching up may take; the next goes on where it stopped.
pub(crate) const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

/// How far behind the leader a replica may be when it begins to vote, in log entries: few, because a majority
/// may have to wait for them.
const CLOSE_ENTRIES: u64 = 1_000;

/// A member that has not answered the leader for so long counts as silent.
const SILENT: Duration = Duration::from_secs(1);

/// How long another voter may take to take leadership over.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);

/// How long a try of a change waits for its turn, and for a learner that had caught up a moment ago.
pub(crate) const TURN_LIMIT: Duration = Duration::from_millis(500);

/// Between looks at what the engine tells.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

type Ids = BTreeSet<ReplicaId>;
type Changed = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// What a replica is to the cell, as this replica has applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Stranger,
    Learner,
    Voter,
    /// For good.
    Removed,
}

/// One change that is asked for, of one step or more.
struct Making {
    deadline: Instant,
    /// A step was made, or may have been.
    begun: AtomicBool,
}

impl Making {
    fn until(deadline: Instant) -> Self {
        Self { deadline, begun: AtomicBool::new(false) }
    }

    /// What is known of one step. The next leader knows whether one that this one has lost was made.
    fn note<T>(&self, step: Result<T, ChangeError>) -> Result<T, ChangeError> {
        if !matches!(step, Err(ChangeError::Refused { .. })) {
            self.begun.store(true, Ordering::Relaxed);
        }
        step
    }
}

/// Makes changes of the members while this replica leads.
pub(crate) struct Changes {
    raft: CellRaft,
    machine: Arc<Machine>,
    roster: Roster,
    replica: ReplicaId,
    one: Mutex<()>,
}

impl Changes {
    pub(crate) fn new(raft: CellRaft, machine: Arc<Machine>, roster: Roster, replica: ReplicaId) -> Self {
        Self { raft, machine, roster, replica, one: Mutex::new(()) }
    }

    /// Where a member, or one that is being taken in again, is reached by its peers.
    pub(crate) fn address_of(&self, id: ReplicaId) -> Result<String, Status> {
        let known = self.membership().map_err(refusal)?.get_node(&id).cloned();
        let lost = || self.away(id).or_else(|| self.roster.configured(id));
        let member = known.or_else(lost).ok_or_else(|| no_member(id))?;
        Ok(self.roster.peer_address(id, &member))
    }

    /// One that a leader was about to begin anew.
    fn away(&self, id: ReplicaId) -> Option<Member> {
        self.machine.view().away.get(&id).cloned()
    }

    /// Where the members are reached by their peers, as far as this replica knows.
    pub(crate) fn peers(&self) -> Vec<String> {
        self.roster.agreed()
    }

    /// What a replica is to the cell, as this replica has applied it; only "removed" stays true.
    pub(crate) fn standing(&self, id: ReplicaId) -> Standing {
        let view = self.machine.view();
        let membership = view.membership.membership();
        match membership.get_node(&id) {
            _ if view.removed.contains(&id) => Standing::Removed,
            None => Standing::Stranger,
            Some(member) if member.is_leaving() => Standing::Removed,
            Some(_) if membership.voter_ids().any(|voter| voter == id) => Standing::Voter,
            Some(_) => Standing::Learner,
        }
    }

    /// Makes a change, as leader.
    ///
    /// # Errors
    /// [`ChangeError::NotLeader`] also if this replica has handed leadership over because the change removes it: the
    /// new leader is to be asked for the same.
    pub(crate) async fn make(&self, change: &Change, deadline: Instant) -> Result<(), ChangeError> {
        if let Change::Replace { old, new, .. } = change
            && old == new
        {
            return Err(ChangeError::SameReplica { id: *old });
        }
        let making = Making::until(deadline);
        let made = self.make_all(change, &making).await;
        made.map_err(|error| if making.begun.into_inner() { error.in_part() } else { error })
    }

    async fn make_all(&self, change: &Change, making: &Making) -> Result<(), ChangeError> {
        self.check_leads().await?;
        tracing::info!(?change, "changing the members");
        self.prepare(change, making).await?;
        let _one = self.begin().await?;
        match change {
            Change::Add { id, member } => self.add(*id, member, making).await,
            Change::Promote { ids } => {
                let voters = &self.voters()? | ids;
                self.set_voters(voters, making).await
            }
            Change::Demote { ids } => {
                self.check_members(ids)?;
                let voters = &self.voters()? - ids;
                self.set_voters(voters, making).await
            }
            Change::Remove { ids } => self.remove(ids, &self.voters()? - ids, making).await,
            Change::Replace { old, new, .. } => self.replace(*old, *new, making).await,
            Change::SetAddress { id, member } => self.set_address(*id, member, making).await,
            Change::Voters { ids } => self.set_voters(ids.clone(), making).await,
        }
    }

    /// Adds who is to be added first, and waits until the new voters have caught up. Others may change the members
    /// meanwhile: a replica that begins anew needs that to catch up.
    async fn prepare(&self, change: &Change, making: &Making) -> Result<(), ChangeError> {
        let new = match change {
            Change::Promote { ids } | Change::Voters { ids } => ids.clone(),
            Change::Replace { old, new, member } => {
                self.prepare_place(*old, *new, member.as_ref(), making).await?
            }
            _ => return Ok(()),
        };
        self.check_members(&new)?;
        let voting: Ids =
            self.raft.server_metrics().borrow_watched().membership_config.membership().voter_ids().collect();
        for id in &new - &voting {
            // What is left is for saying that it has not.
            let answer = (making.deadline.saturating_duration_since(Instant::now()) / 4).min(TURN_LIMIT);
            self.catch_up(id, making.deadline - answer).await?;
        }
        Ok(())
    }

    /// Adds the one that is to come, and says whether it will vote. One that learns only is replaced by one that learns
    /// only.
    async fn prepare_place(
        &self,
        old: ReplicaId,
        new: ReplicaId,
        member: Option<&Member>,
        making: &Making,
    ) -> Result<Ids, ChangeError> {
        let known = (self.standing(old), self.standing(new));
        match (known, member) {
            ((Standing::Removed, Standing::Stranger), _) => return Err(ChangeError::Removed { id: old }),
            ((Standing::Stranger, _), _) => return Err(ChangeError::Unknown { id: old }),
            // It is done already.
            ((Standing::Removed, _), _) | (_, None) => {}
            (_, Some(member)) => {
                let _one = self.begin().await?;
                self.add(new, member, making).await?;
            }
        }
        Ok(if known.0 == Standing::Voter { Ids::from([new]) } else { Ids::new() })
    }

    /// Finishes what an earlier leader has left half-done, as [`Changes::has_leftovers`] says.
    pub(crate) async fn finish_leftovers(&self) -> Result<(), ChangeError> {
        let _one = self.begin().await?;
        let membership = self.membership()?;
        let leaving = membership.nodes().filter(|(_, member)| member.is_leaving()).map(|(id, _)| *id);
        let (leaving, away): (Ids, _) = (leaving.collect(), self.machine.view().away);
        if !away.is_empty() {
            tracing::info!(?away, "adding members again that an earlier leader was about to begin anew");
            let again = ChangeMembers::AddNodes((*away).clone());
            self.change(again, Instant::now() + CHANGE_LIMIT).await?;
        }
        if !leaving.is_empty() {
            tracing::info!(?leaving, "finishing a change of the members that an earlier leader began");
            let gone = ChangeMembers::RemoveNodes(leaving);
            self.change(gone, Instant::now() + CHANGE_LIMIT).await?;
        }
        Ok(())
    }

    /// Whether something is left half-done, or is being done.
    pub(crate) fn has_leftovers(&self) -> bool {
        let Ok(membership) = self.membership() else { return false };
        let leaves = membership.nodes().any(|(_, member)| member.is_leaving());
        membership.get_joint_config().len() > 1 || leaves || !self.machine.view().away.is_empty()
    }

    /// Alone, as a leader that has just proved to be one, and with no joint membership left behind.
    async fn begin(&self) -> Result<MutexGuard<'_, ()>, ChangeError> {
        let one = timeout(TURN_LIMIT, self.one.lock()).await.map_err(|_| ChangeError::UnderWay)?;
        self.check_leads().await?;
        if self.membership()?.get_joint_config().len() > 1 {
            let leave = ChangeMembers::AddVoterIds(Ids::new());
            self.change(leave, Instant::now() + CHANGE_LIMIT).await?;
        }
        Ok(one)
    }

    /// What an old leader believes of the members is worth nothing.
    pub(crate) async fn check_leads(&self) -> Result<(), ChangeError> {
        // The engine would find out too, but shouts about it.
        {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(metrics.id) {
                return Err(ChangeError::NotLeader);
            }
        }
        let proof = timeout(CHANGE_LIMIT, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        let (read_log_id, _) = proof.ok().and_then(Result::ok).ok_or(ChangeError::NotLeader)?;
        let index = read_log_id.index();
        let mut applied = self.machine.applied_index();
        let applied = applied.wait_for(|applied| *applied >= index);
        match timeout(CHANGE_LIMIT, applied).await.map(|applied| applied.map(drop)) {
            Ok(Ok(())) => self.see_members().await,
            Ok(Err(_)) => Err(ChangeError::Stopping),
            Err(_) => Err(ChangeError::Refused {
                why: format!(
                    "the leader has not applied entry {index}, which is committed, in {CHANGE_LIMIT:?}"
                ),
            }),
        }
    }

    /// What the engine tells of a membership that is committed comes a moment after it.
    async fn see_members(&self) -> Result<(), ChangeError> {
        let until = Instant::now() + TURN_LIMIT;
        while let Err(under_way) = self.membership() {
            if Instant::now() >= until {
                return Err(under_way);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// The members, if a majority has confirmed them.
    fn membership(&self) -> Result<Membership<ReplicaId, Member>, ChangeError> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.log_id() == metrics.committed_membership_config.log_id() {
            true => Ok(metrics.membership_config.membership().clone()),
            false => Err(ChangeError::UnderWay),
        }
    }

    fn voters(&self) -> Result<Ids, ChangeError> {
        Ok(self.membership()?.voter_ids().collect())
    }

    fn check_members(&self, ids: &Ids) -> Result<(), ChangeError> {
        ids.iter().try_for_each(|id| match self.standing(*id) {
            Standing::Removed => Err(ChangeError::Removed { id: *id }),
            Standing::Stranger => Err(ChangeError::Unknown { id: *id }),
            Standing::Learner | Standing::Voter => Ok(()),
        })
    }

    async fn add(&self, id: ReplicaId, member: &Member, making: &Making) -> Result<(), ChangeError> {
        let membership = self.membership()?;
        match (self.standing(id), membership.get_node(&id)) {
            _ if id == 0 => return Err(ChangeError::Zero),
            (Standing::Removed, _) => return Err(ChangeError::Removed { id }),
            (_, Some(known)) if known == member => return Ok(()),
            (_, Some(known)) => return Err(ChangeError::Exists { id, member: known.clone() }),
            _ => check_addresses(&membership, id, member)?,
        }
        if membership.nodes().count() >= MAX_MEMBERS {
            return Err(ChangeError::TooMany);
        }
        self.step(ChangeMembers::AddNodes(BTreeMap::from([(id, member.clone())])), making).await.map(drop)
    }

    async fn set_address(&self, id: ReplicaId, member: &Member, making: &Making) -> Result<(), ChangeError> {
        self.check_members(&Ids::from([id]))?;
        let membership = self.membership()?;
        check_addresses(&membership, id, member)?;
        if membership.get_node(&id) == Some(member) {
            return Ok(());
        }
        self.step(ChangeMembers::SetNodes(BTreeMap::from([(id, member.clone())])), making).await.map(drop)
    }

    async fn replace(&self, old: ReplicaId, new: ReplicaId, making: &Making) -> Result<(), ChangeError> {
        self.check_members(&Ids::from([new]))?;
        let mut voters = self.voters()?;
        if voters.remove(&old) {
            voters.insert(new);
        }
        self.remove(&Ids::from([old]), voters, making).await
    }

    /// Takes members out for good, after the vote went to `voters`.
    async fn remove(&self, ids: &Ids, voters: Ids, making: &Making) -> Result<(), ChangeError> {
        let left: Ids = ids.iter().copied().filter(|id| self.standing(*id) != Standing::Removed).collect();
        self.check_members(&left)?;
        self.set_voters(voters, making).await?;
        let leaving: Ids = {
            let membership = self.membership()?;
            ids.iter().copied().filter(|id| membership.get_node(id).is_some()).collect()
        };
        if leaving.contains(&self.replica) {
            return self.hand_over(&self.voters()?).await;
        }
        if leaving.is_empty() {
            return Ok(());
        }
        // A voter without addresses would count in every majority, and never answer again.
        let voting = &leaving & &self.voters()?;
        if !voting.is_empty() {
            return Err(ChangeError::Refused { why: format!("{voting:?} still vote") });
        }
        // Without addresses it is known for one that leaves for good: one that is replaced keeps them to its end.
        let nowhere = leaving.iter().map(|id| (*id, Member::default())).collect();
        self.step(ChangeMembers::SetNodes(nowhere), making).await?;
        self.step(ChangeMembers::RemoveNodes(leaving), making).await.map(drop)
    }

    /// Exactly these vote. By joint consensus, so that at each moment both majorities agree (thesis §4.3).
    async fn set_voters(&self, voters: Ids, making: &Making) -> Result<(), ChangeError> {
        let now = self.voters()?;
        if voters.is_empty() {
            return Err(ChangeError::NoVoterLeft);
        }
        if voters.len() > MAX_VOTERS {
            return Err(ChangeError::TooMany);
        }
        self.check_members(&voters)?;
        if voters == now {
            return Ok(());
        }
        self.check_live(&voters).await?;
        for id in &voters - &now {
            self.catch_up(id, making.deadline.min(Instant::now() + TURN_LIMIT)).await?;
        }
        let staying = &voters & &now;
        if !voters.contains(&self.replica) && !staying.is_empty() {
            return self.hand_over(&staying).await;
        }
        let gone = !voters.contains(&self.replica);
        self.step(ChangeMembers::ReplaceAllVoters(voters.clone()), making).await?;
        if gone { self.hand_over(&voters).await } else { Ok(()) }
    }

    /// The leader goes on only if a majority of the new voters answers it. A new leader has not heard all of them yet.
    async fn check_live(&self, voters: &Ids) -> Result<(), ChangeError> {
        let until = Instant::now() + TURN_LIMIT;
        loop {
            let silent = self.silent(voters);
            if (voters.len() - silent.len()) * 2 > voters.len() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(ChangeError::NoLiveMajority { voters: voters.len(), silent });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Those of them that have not answered this leader lately.
    pub(crate) fn silent(&self, ids: &Ids) -> Ids {
        let heard = self.raft.metrics().borrow_watched().heartbeat.clone().unwrap_or_default();
        let lives = |id: &ReplicaId| {
            *id == self.replica
                || heard.get(id).and_then(|at| at.as_ref()).is_some_and(|at| at.elapsed() < SILENT)
        };
        ids.iter().copied().filter(|id| !lives(id)).collect()
    }

    /// Waits until a learner is so close that the voters need not wait for it.
    async fn catch_up(&self, id: ReplicaId, deadline: Instant) -> Result<(), ChangeError> {
        let added =
            self.raft.server_metrics().borrow_watched().membership_config.log_id().map_or(0, |id| id.index);
        let wait = self.raft.wait(None);
        let is_settled =
            |now: &RaftMetrics<TypeConfig>| now.replication.is_none() || is_close(now, id, added);
        let close = wait.metrics(is_settled, "a replica catches up");
        match timeout_at(deadline, close).await {
            Ok(Ok(seen)) if seen.replication.is_some() => Ok(()),
            Ok(_) => Err(ChangeError::NotLeader),
            Err(_) => {
                let now = self.raft.metrics().borrow_watched().clone();
                let behind = now.last_log_index.unwrap_or(0).saturating_sub(matched(&now, id));
                Err(ChangeError::NotCaughtUp { id, behind })
            }
        }
    }

    /// Lets the most advanced of these lead; it is to go on with the change.
    async fn hand_over(&self, to: &Ids) -> Result<(), ChangeError> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let live = to - &self.silent(to);
        if let Some(successor) = most_advanced(&metrics, &live) {
            tracing::info!(successor, "this replica leads, and leaves the voters: handing leadership over");
            let _ = self.raft.trigger().transfer_leader(successor).await;
            let other =
                |now: &RaftMetrics<TypeConfig>| now.current_leader.is_some_and(|id| id != self.replica);
            let _ = self.raft.wait(Some(HANDOVER_LIMIT)).metrics(other, "leadership is handed over").await;
        }
        Err(ChangeError::NotLeader)
    }

    async fn step(
        &self,
        change: ChangeMembers<ReplicaId, Member>,
        making: &Making,
    ) -> Result<ClientWriteResponse<TypeConfig>, ChangeError> {
        making.note(self.change(change, making.deadline).await)
    }

    /// One change of the engine's. It goes on if the caller gives up: a joint membership is not left lightly.
    async fn change(
        &self,
        change: ChangeMembers<ReplicaId, Member>,
        deadline: Instant,
    ) -> Result<ClientWriteResponse<TypeConfig>, ChangeError> {
        self.engine_change(change, true, deadline).await
    }

    async fn engine_change(
        &self,
        change: ChangeMembers<ReplicaId, Member>,
        retain: bool,
        deadline: Instant,
    ) -> Result<ClientWriteResponse<TypeConfig>, ChangeError> {
        let (raft, began) = (self.raft.clone(), Instant::now());
        let changing = tokio::spawn(async move { raft.change_membership(change, retain).await });
        match timeout_at(deadline, changing).await {
            Ok(Ok(changed)) => settled(changed),
            Ok(Err(_)) => Err(ChangeError::Stopping),
            Err(_) => Err(ChangeError::Deadline { waited: began.elapsed() }),
        }
    }
}

fn settled(changed: Changed) -> Result<ClientWriteResponse<TypeConfig>, ChangeError> {
    let refused = |error: &dyn std::fmt::Display| ChangeError::Refused { why: error.to_string() };
    match changed {
        Ok(response) => Ok(response),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_),
        ))) => Err(ChangeError::UnderWay),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(refused(&error)),
        // The next leader knows whether it was made, and makes it if not.
        Err(RaftError::APIError(_)) => Err(ChangeError::NotLeader),
        Err(RaftError::Fatal(_)) => Err(ChangeError::Stopping),
    }
}

fn check_addresses(
    membership: &Membership<ReplicaId, Member>,
    id: ReplicaId,
    member: &Member,
) -> Result<(), ChangeError> {
    for address in [&member.peer_address, &member.client_address] {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| {
            port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err()
        }) {
            return Err(ChangeError::BadAddress { address: address.clone() });
        }
        let has = |other: &Member| other.peer_address == *address || other.client_address == *address;
        if let Some((other, _)) = membership.nodes().find(|(other, member)| **other != id && has(member)) {
            return Err(ChangeError::AddressTaken { address: address.clone(), id: *other });
        }
    }
    match member.peer_address == member.client_address {
        true => Err(ChangeError::AddressTaken { address: member.peer_address.clone(), id }),
        false => Ok(()),
    }
}

fn matched(metrics: &RaftMetrics<TypeConfig>, id: ReplicaId) -> u64 {
    let replication = metrics.replication.as_ref();
    replication.and_then(|all| all.get(&id)?.as_ref()).map_or(0, |log_id| log_id.index)
}

/// Whether it has the entry with which it was added, and nearly all that came since.
fn is_close(metrics: &RaftMetrics<TypeConfig>, replica: ReplicaId, added: u64) -> bool {
    let matched = matched(metrics, replica);
    matched >= added && metrics.last_log_index.unwrap_or(0).saturating_sub(matched) <= CLOSE_ENTRIES
}

fn no_member(id: ReplicaId) -> Status {
    Status::not_found(format!(
        "replica {id} is no member of the cell: add it with `bramah member add {id}=PEERS/CLIENTS`"
    ))
}

pub(crate) fn refusal(error: ChangeError) -> Status {
    match error {
        ChangeError::NotLeader => Status::failed_precondition("it does not lead"),
        error => Status::unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
