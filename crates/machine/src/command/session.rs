//! `OpenSession`, `EndSession`, `ExpireSession`: a session's existence is replicated (spec S-1).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::acl::Principal;
use crate::lock::Leaving;
use crate::{Answer, Event, HandleId, Outcome, Refusal, Session, SessionId, State};

/// The shortest lease, in milliseconds.
pub const MIN_LEASE_MS: u32 = 1_000;
/// The longest lease, in milliseconds.
pub const MAX_LEASE_MS: u32 = 60_000;
/// The most bytes a client's name for itself has.
pub const MAX_CLIENT_BYTES: usize = 256;
/// How many bytes a session's secret has.
pub const SECRET_BYTES: usize = 16;

/// Starts a session. Its identity is a key, so that a retry finds the session that the first try made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Length of the lease in milliseconds (spec S-2), [`MIN_LEASE_MS`] to [`MAX_LEASE_MS`].
    pub lease_ms: u32,
    /// Who the client says it is, for people who look at the list of sessions; at most
    /// [`MAX_CLIENT_BYTES`].
    pub client: String,
    /// What whoever takes the session up again must know; random.
    pub secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("OpenSession");
        // Not the secret.
        shown.field("lease_ms", &self.lease_ms).field("client", &self.client).finish_non_exhaustive()
    }
}

/// Ends a session because its client said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSession {
    /// The session.
    pub session: SessionId,
}

/// Ends a session whose lease ran out at the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireSession {
    /// The session.
    pub session: SessionId,
    /// The term of the leader that saw the lease end. It is refused when a newer leader has spoken since.
    pub term: u64,
}

impl OpenSession {
    pub(crate) fn apply(self, state: &mut State, principal: &Principal) -> Outcome {
        self.check()?;
        let session = Session {
            lease_ms: self.lease_ms,
            client: self.client.into(),
            secret: self.secret,
            principal: principal.clone(),
            opened_ms: state.time_ms,
            ..Session::default()
        };
        let session = state.sessions.open(session)?;
        Ok(Answer::SessionOpened { session, lease_ms: self.lease_ms })
    }

    fn check(&self) -> Result<(), Refusal> {
        if !(MIN_LEASE_MS..=MAX_LEASE_MS).contains(&self.lease_ms) {
            let why = format!("a lease lasts {MIN_LEASE_MS} to {MAX_LEASE_MS} ms, not {}", self.lease_ms);
            return Err(Refusal::invalid(why));
        }
        if self.client.len() > MAX_CLIENT_BYTES {
            let why =
                format!("a client's name has at most {MAX_CLIENT_BYTES} bytes, not {}", self.client.len());
            return Err(Refusal::invalid(why));
        }
        Ok(())
    }
}

impl EndSession {
    pub(crate) fn apply(self, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        state.end_session(self.session, Leaving::InOrder, events)?;
        Ok(Answer::SessionEnded)
    }
}

impl ExpireSession {
    pub(crate) fn apply(self, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        if self.term < state.highest_term {
            return Err(Refusal::Deposed {
                session: self.session,
                term: self.term,
                newer: state.highest_term,
            });
        }
        state.end_session(self.session, Leaving::Taken, events)?;
        Ok(Answer::SessionEnded)
    }
}

impl State {
    /// Ends a session: its locks go to those who wait, or their lock-delay begins; its handles are closed; what is
    /// ephemeral and nobody else has open goes.
    fn end_session(
        &mut self,
        id: SessionId,
        leaving: Leaving,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        self.session(id).ok_or(Refusal::SessionExpired { session: id })?;
        // First: else one handle would hand the lock to another that is about to go, too.
        self.leave_queues(id, events);
        let handles: Vec<HandleId> = self.handles.of(id).map(|(handle, _)| handle).collect();
        for handle in handles {
            self.close_handle((id, handle), leaving, events);
        }
        self.sessions.end(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::testing::*;

    fn end(session: SessionId) -> Command {
        Command::EndSession(EndSession { session })
    }

    fn expire(session: SessionId, term: u64) -> Command {
        Command::ExpireSession(ExpireSession { session, term })
    }

    /// Spec S-1: a session is there before its first command, and its name is never given again.
    #[test]
    fn opens_and_ends() {
        let mut cell = Cell::new();
        let first = cell.open_session();
        let session = cell.state.session(first).unwrap();
        assert_eq!((session.lease_ms, &*session.client, session.opened_ms), (12_000, "test", 1_000_000));
        assert_eq!(cell.run(end(first)), Ok(Answer::SessionEnded));
        assert_eq!(cell.refused(end(first)), Refusal::SessionExpired { session: first });
        let second = cell.open_session();
        assert!(second > first);
        assert_eq!(Vec::from_iter(cell.state.sessions().map(|(id, _)| id)), [second]);
    }

    /// Spec S-6: opening twice with one key makes one session.
    #[test]
    fn a_retried_open_finds_the_session_of_the_first_try() {
        let mut cell = Cell::new();
        let first = cell.apply(key("nonce"), open_session(5_000));
        assert!(matches!(first, Ok(Answer::SessionOpened { lease_ms: 5_000, .. })));
        assert_eq!(cell.apply(key("nonce"), open_session(5_000)), first);
        assert_ne!(cell.apply(key("other"), open_session(5_000)), first);
        assert_eq!(cell.state.session_count(), 2);
    }

    #[test]
    fn refuses_impossible_leases_and_endless_names() {
        let mut cell = Cell::new();
        for lease_ms in [0, MIN_LEASE_MS - 1, MAX_LEASE_MS + 1, u32::MAX] {
            assert!(matches!(cell.refused(open_session(lease_ms)), Refusal::InvalidArgument { .. }));
        }
        for lease_ms in [MIN_LEASE_MS, MAX_LEASE_MS] {
            cell.run(open_session(lease_ms)).unwrap();
        }
        let named = |bytes| {
            Command::OpenSession(OpenSession { lease_ms: 12_000, client: "x".repeat(bytes), secret: [7; 16] })
        };
        assert!(matches!(cell.refused(named(MAX_CLIENT_BYTES + 1)), Refusal::InvalidArgument { .. }));
        cell.run(named(MAX_CLIENT_BYTES)).unwrap();
    }

    /// Spec S-8: a leader that has been replaced can't expire a session.
    #[test]
    fn only_the_newest_leader_expires_sessions() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        cell.moment.term = 3;
        cell.run(create_directory("/a")).unwrap();
        assert_eq!(cell.refused(expire(session, 2)), Refusal::Deposed { session, term: 2, newer: 3 });
        // An entry of an older term, should one arrive late, makes the state forget no newer one.
        cell.moment.term = 2;
        assert_eq!(cell.refused(expire(session, 2)), Refusal::Deposed { session, term: 2, newer: 3 });
        assert_eq!(cell.run(expire(session, 3)), Ok(Answer::SessionEnded));
        assert_eq!(cell.refused(expire(session, 3)), Refusal::SessionExpired { session });
    }

    #[test]
    fn a_session_ends_itself_and_no_other() {
        let mut cell = Cell::new();
        let (mine, other) = (cell.open_session(), cell.open_session());
        for command in [end(other), expire(mine, 1), open_session(12_000)] {
            let refusal = cell.apply(numbered(mine, 1, 0), command).unwrap_err();
            assert!(matches!(refusal, Refusal::InvalidArgument { .. }));
        }
        assert!(matches!(cell.apply(key("k"), expire(mine, 1)), Err(Refusal::InvalidArgument { .. })));
        cell.apply(numbered(mine, 1, 0), increment("/n", 1)).unwrap();
        assert_eq!(cell.apply(numbered(mine, 2, 0), end(mine)), Ok(Answer::SessionEnded));
        assert_eq!(cell.state.kept_answer_count(), 0);
        let refusal = Refusal::SessionExpired { session: mine };
        assert_eq!(cell.apply(numbered(mine, 2, 0), end(mine)), Err(refusal));
        assert_eq!(cell.state.session_count(), 1);
    }
}
