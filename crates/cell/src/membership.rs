//! Changing who the members are, as the cell's face offers it (spec G-7, B-4). Any replica takes a change; the leader
//! does it. Each change can be asked for again: what is done already stays done.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::time::Duration;

use bramah_wire::v1::{ChangeReply, ChangeRequest};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use crate::cell::Cell;
use crate::changes::TURN_LIMIT;
use crate::consensus::{Member, ReplicaId};

/// The most members that vote: more make every write wait for more disks.
pub const MAX_VOTERS: usize = 7;

/// The most members in all.
pub const MAX_MEMBERS: usize = 9;

/// The pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(25);

/// A replica that knows no leader for so long gives a change back: another replica may know one.
const LEADERLESS: Duration = Duration::from_secs(2);

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A new replica, under a number that was never used, learns from now on. It does not vote yet.
    Add {
        /// Its number.
        id: ReplicaId,
        /// Where it is.
        member: Member,
    },
    /// These learners vote, as soon as they have caught up.
    Promote {
        /// Their numbers.
        ids: BTreeSet<ReplicaId>,
    },
    /// These voters only learn.
    Demote {
        /// Their numbers.
        ids: BTreeSet<ReplicaId>,
    },
    /// These members leave, and their numbers are never used again.
    Remove {
        /// Their numbers.
        ids: BTreeSet<ReplicaId>,
    },
    /// One member's part goes to another one, its vote in one step if it has one; then the old one leaves.
    Replace {
        /// The one that leaves.
        old: ReplicaId,
        /// The one that comes instead.
        new: ReplicaId,
        /// Where the new one is, if it is to be added first.
        member: Option<Member>,
    },
    /// A member is reached somewhere else.
    SetAddress {
        /// Its number.
        id: ReplicaId,
        /// Where it is from now on.
        member: Member,
    },
    /// Exactly these members vote, by one joint change; the other ones learn.
    Voters {
        /// Their numbers.
        ids: BTreeSet<ReplicaId>,
    },
}

/// Why a change of the members was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChangeError {
    /// Asked of a replica that does not lead. Nothing was done.
    #[error("this replica does not lead")]
    NotLeader,
    /// No leader was found in time.
    #[error(
        "unavailable: no leader among the members {members} took the change within {waited:?}; a majority of them must run and reach each other"
    )]
    NoLeader {
        /// How long it was waited for one.
        waited: Duration,
        /// The members and their addresses.
        members: String,
    },
    /// Another change is being made.
    #[error("another change of the members is under way; try again when it is done")]
    UnderWay,
    /// A replica that is to vote is too far behind.
    #[error(
        "replica {id} has not caught up ({behind} log entries behind) and can't vote yet: see that it runs and reaches the others, then try again"
    )]
    NotCaughtUp {
        /// The replica.
        id: ReplicaId,
        /// How far it is behind the leader.
        behind: u64,
    },
    /// The voters that would be left are not alive.
    #[error(
        "refused: of the {voters} voters that there would be, {silent:?} don't answer, and the others are no majority; start those first, or remove them first"
    )]
    NoLiveMajority {
        /// Voters there would be.
        voters: usize,
        /// Those of them that don't answer the leader.
        silent: BTreeSet<ReplicaId>,
    },
    /// There is no such member.
    #[error("replica {id} is no member of the cell; `bramah member ls` shows those that are")]
    Unknown {
        /// The replica.
        id: ReplicaId,
    },
    /// The number was used before.
    #[error("replica {id} was removed from the cell, and a number is never used twice; choose another one")]
    Removed {
        /// The replica.
        id: ReplicaId,
    },
    /// There is such a member, somewhere else.
    #[error(
        "replica {id} is a member already, at other addresses ({member}); change these with `bramah member set-address`"
    )]
    Exists {
        /// The replica.
        id: ReplicaId,
        /// Where it is.
        member: Member,
    },
    /// Another member has the address.
    #[error("{address} is the address of replica {id}; each member needs addresses of its own")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        id: ReplicaId,
    },
    /// An address is missing or can't be one.
    #[error("{address:?} can't be a member's address; write HOST:PORT, as others reach it")]
    BadAddress {
        /// The address.
        address: String,
    },
    /// Nobody would be left.
    #[error("refused: no voter would be left")]
    NoVoterLeft,
    /// More than a cell can have.
    #[error(
        "refused: a cell has at most {MAX_VOTERS} voters and {MAX_MEMBERS} members in all; remove others first"
    )]
    TooMany,
    /// A replica's number must be greater than 0.
    #[error("0 is no replica's number; they begin with 1")]
    Zero,
    /// The deadline passed while the change was being made.
    #[error(
        "the deadline passed after {waited:?}, and the change may have been made in part; ask for the same change again to finish it"
    )]
    Deadline {
        /// How long it was waited.
        waited: Duration,
    },
    /// The leader can't make it now.
    #[error("the change was not made: {why}")]
    Refused {
        /// What the engine says.
        why: String,
    },
    /// This replica is stopping or has failed.
    #[error("this replica is stopping; use another one")]
    Stopping,
    /// A replica was to take its own place.
    #[error(
        "replica {id} can't replace itself; if it has lost its data folder, start it with --replace, otherwise choose a new number"
    )]
    SameReplica {
        /// The replica.
        id: ReplicaId,
    },
    /// A part of the change was made, or may have been, before something was in the way.
    #[error("the change may have been made in part; ask for the same change again to finish it. Then: {why}")]
    // Inside another one it would let a message nest for ever: it travels beside the error.
    #[serde(skip)]
    InPart {
        /// What was in the way.
        why: Box<ChangeError>,
    },
}

impl ChangeError {
    /// False: certainly nothing was changed by this try.
    pub fn may_have_been_done(&self) -> bool {
        matches!(self, ChangeError::Deadline { .. } | ChangeError::InPart { .. })
    }

    /// The same, after something was changed or may have been.
    pub(crate) fn in_part(self) -> Self {
        match self.may_have_been_done() {
            true => self,
            false => ChangeError::InPart { why: Box::new(self) },
        }
    }

    /// What was in the way, whatever came before it.
    pub fn cause(&self) -> &ChangeError {
        match self {
            ChangeError::InPart { why } => why,
            error => error,
        }
    }

    /// Nothing is wrong with the change: it is worth asking whoever leads next, or again when it is its turn.
    fn is_passing(&self, deadline: Instant) -> bool {
        match self.cause() {
            ChangeError::NotLeader | ChangeError::Stopping => true,
            // With less time left it would end without having had its turn, and not say so.
            ChangeError::UnderWay => Instant::now() + TURN_LIMIT * 2 < deadline,
            _ => false,
        }
    }
}

impl Cell {
    /// Has the leader, wherever it is, change the members. Returns when a majority has confirmed the change; before the
    /// deadline if this replica has known no leader for 2 s.
    ///
    /// # Errors
    /// See [`ChangeError`]; [`ChangeError::may_have_been_done`] says whether something certainly was not done. The
    /// same change may be asked for again in any case.
    pub async fn change_members(&self, change: Change, deadline: Instant) -> Result<(), ChangeError> {
        let asked = Instant::now();
        let (mut begun, mut leader_known) = (false, asked);
        while Instant::now() < deadline && leader_known.elapsed() < LEADERLESS {
            if self.leadership().borrow().leader.is_some() {
                leader_known = Instant::now();
            }
            match timeout_at(deadline, self.try_change(&change, deadline)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.is_passing(deadline) && !self.is_stopping() => {
                    begun |= error.may_have_been_done();
                }
                Ok(Err(error)) => return Err(if begun { error.in_part() } else { error }),
                Err(_) => return Err(ChangeError::Deadline { waited: asked.elapsed() }),
            }
            sleep(PAUSE).await;
        }
        let none =
            ChangeError::NoLeader { waited: asked.elapsed(), members: self.network().roster.describe() };
        Err(if begun { none.in_part() } else { none })
    }

    async fn try_change(&self, change: &Change, deadline: Instant) -> Result<(), ChangeError> {
        let leadership = self.leadership().borrow().clone();
        match leadership.leader {
            _ if self.is_stopping() => Err(ChangeError::Stopping),
            Some(_) if leadership.here => self.changes().make(change, deadline).await,
            Some((id, member)) => self.ask_leader(id, &member, change, deadline).await,
            None => Err(ChangeError::NotLeader),
        }
    }

    async fn ask_leader(
        &self,
        id: ReplicaId,
        member: &Member,
        change: &Change,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let network = self.network();
        let refused = |error: &dyn std::fmt::Display| ChangeError::Refused { why: error.to_string() };
        let left = deadline.saturating_duration_since(Instant::now());
        let request = ChangeRequest {
            cell_id: network.cell_id,
            change: postcard::to_stdvec(change).map_err(|error| refused(&error))?.into(),
            deadline_ms: left.as_millis() as u32,
        };
        let address = network.roster.peer_address(id, member);
        let mut client = network.client(&address).map_err(|status| refused(&status))?;
        match client.change(request).await.map(tonic::Response::into_inner) {
            Ok(ChangeReply { failure, .. }) if failure.is_empty() => Ok(()),
            Ok(ChangeReply { failure, in_part }) => {
                let error = postcard::from_bytes(&failure).unwrap_or_else(|error| refused(&error));
                Err(if in_part { error.in_part() } else { error })
            }
            // The leader is lost: the same change may be asked of the next one.
            Err(status) => {
                network.roster.failed(id, &address);
                tracing::debug!(leader = id, %status, "the leader did not answer a change of members");
                Err(match was_sent(&status) {
                    true => ChangeError::NotLeader.in_part(),
                    false => ChangeError::NotLeader,
                })
            }
        }
    }
}

/// False: there was no connection to send it on.
fn was_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return false;
        }
        cause = error.source();
    }
    true
}
