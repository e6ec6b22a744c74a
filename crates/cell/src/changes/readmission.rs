//! What replicas with empty folders ask the leader for (see [`crate::admission`]): to be begun anew, to be taken out of the
//! members, and to be taken in again.

use std::collections::BTreeMap;

use bramah_wire::v1::ReadmitReply;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use tonic::Status;

use super::{CATCH_UP_LIMIT, CHANGE_LIMIT, Changes, Ids, Standing, no_member, refusal};
use crate::consensus::{Member, ReplicaId};
use crate::membership::MAX_VOTERS;

/// `waits` says, when it is a request's turn, whether the replica still waits for it: one that was left behind must not take
/// out a replica that was taken in since.
impl Changes {
    /// Takes a replica out, whether it votes or not, and keeps it as a learner that has nothing. May be asked again.
    pub(crate) async fn take_out(
        &self,
        id: ReplicaId,
        waits: impl Future<Output = Result<(), Status>>,
    ) -> Result<ReadmitReply, Status> {
        let _one = self.begin().await.map_err(refusal)?;
        waits.await?;
        let known = self.membership().map_err(refusal)?.get_node(&id).cloned();
        let member = match (self.standing(id), known) {
            (Standing::Removed, _) => return Err(removed(id)),
            (_, Some(member)) => member,
            // An earlier try may have ended before it was a learner again.
            (_, None) => self.away(id).or_else(|| self.roster.configured(id)).ok_or_else(|| no_member(id))?,
        };
        tracing::info!(replica = id, "taking a replica out that lost its data");
        let gone = || Ids::from([id]);
        let deadline = Instant::now() + CHANGE_LIMIT;
        let voters = ChangeMembers::RemoveVoters(gone());
        self.engine_change(voters, false, deadline).await.map_err(refusal)?;
        self.begin_anew(id, member).await
    }

    /// Begins a learner anew that has nothing. May be asked again.
    pub(crate) async fn begin_learner(
        &self,
        id: ReplicaId,
        waits: impl Future<Output = Result<(), Status>>,
    ) -> Result<ReadmitReply, Status> {
        let _one = self.begin().await.map_err(refusal)?;
        waits.await?;
        let known = self.membership().map_err(refusal)?.get_node(&id).cloned();
        // An earlier try may have ended before it was a learner again.
        match (self.standing(id), known.or_else(|| self.away(id))) {
            (Standing::Removed, _) => Err(removed(id)),
            (Standing::Voter, _) => Err(Status::already_exists(format!(
                "replica {id} votes already, but this one's folder is empty: was it lost? Then start it with --replace"
            ))),
            (_, Some(member)) => self.begin_anew(id, member).await,
            (_, None) => Err(no_member(id)),
        }
    }

    /// Removing a member makes the engine forget how far it was. That a majority confirms it proves that this
    /// replica leads.
    async fn begin_anew(&self, id: ReplicaId, member: Member) -> Result<ReadmitReply, Status> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        let gone = ChangeMembers::RemoveNodes(Ids::from([id]));
        self.engine_change(gone, false, deadline).await.map_err(refusal)?;
        let again = ChangeMembers::AddNodes(BTreeMap::from([(id, member)]));
        let done = self.engine_change(again, true, deadline).await.map_err(refusal)?;
        let leader = done.log_id.committed_leader_id();
        Ok(ReadmitReply { term: leader.term, leader: leader.node_id })
    }

    /// Lets a replica that was taken out vote again, once it has caught up; it goes on as a learner if others have all
    /// the votes that a cell may have. May be asked again.
    pub(crate) async fn take_in(
        &self,
        id: ReplicaId,
        waits: impl Future<Output = Result<(), Status>>,
    ) -> Result<ReadmitReply, Status> {
        self.check_leads().await.map_err(refusal)?;
        match self.standing(id) {
            Standing::Removed => return Err(removed(id)),
            Standing::Stranger => return Err(no_member(id)),
            Standing::Learner | Standing::Voter => {}
        }
        tracing::info!(replica = id, "letting a replica vote again once it has caught up");
        self.catch_up(id, Instant::now() + CATCH_UP_LIMIT).await.map_err(refusal)?;
        let _one = self.begin().await.map_err(refusal)?;
        waits.await?;
        self.check_members(&Ids::from([id])).map_err(refusal)?;
        let others = &self.voters().map_err(refusal)? - &Ids::from([id]);
        if others.len() >= MAX_VOTERS {
            tracing::warn!(
                replica = id,
                voters = others.len(),
                "as many vote as may: it goes on as a learner"
            );
        } else {
            let voters = ChangeMembers::AddVoterIds(Ids::from([id]));
            self.change(voters, Instant::now() + CHANGE_LIMIT).await.map_err(refusal)?;
        }
        let vote = self.raft.server_metrics().borrow_watched().vote;
        Ok(ReadmitReply { term: vote.leader_id().term, leader: vote.leader_id().node_id })
    }
}

fn removed(id: ReplicaId) -> Status {
    Status::permission_denied(format!("replica {id} was removed from the cell for good"))
}
