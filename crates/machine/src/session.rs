//! Sessions, and how a retry is told from a new command (spec S-1, S-6).

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::acl::Principal;
use crate::planted::{self, Bug};
use crate::{Answer, Outcome, Refusal, SECRET_BYTES};

/// The most sessions a cell has.
pub const MAX_SESSIONS: usize = 100_000;
/// The most unconfirmed answers that are kept for one session.
pub const MAX_KEPT_PER_SESSION: u32 = 4096;
/// The most unconfirmed answers that are kept for all sessions together; one to a transaction counts as the answers to
/// its operations, and the last one that is let in may go past this.
pub const MAX_KEPT_ANSWERS: usize = 1_000_000;
/// How far a command's number may be ahead of the confirmed one. Reads take numbers too and leave no answer,
/// so this is far more than [`MAX_KEPT_PER_SESSION`].
pub const MAX_NUMBERS_AHEAD: u64 = 1_000_000;

/// How many numbers confirmed at once are tried one by one.
const FEW_NUMBERS: u64 = 8;

/// Names a session in its cell; never used again after the session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Who sent a command, and which of the sender's commands it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// Nobody in particular: a retry can't be recognised, so nothing retries such a command.
    Anonymous,
    /// A session's command. Its answer is kept until the client confirms it.
    Session {
        /// The session.
        session: SessionId,
        /// The command's number; each of a session's commands has its own, counted up from 1.
        number: u64,
        /// The client has the answers to all its commands up to this number.
        confirmed: u64,
    },
    /// A sessionless caller's key (1 to 128 bytes). Its answer is kept for
    /// [`KEY_RETENTION_MS`](crate::KEY_RETENTION_MS). All callers share one space of keys, so a front that
    /// makes keys of its own gives them a prefix that its callers can't choose. The keys of
    /// [`OpenSession`](crate::OpenSession) are a space of their own, and are kept for
    /// [`SESSION_NONCE_RETENTION_MS`](crate::SESSION_NONCE_RETENTION_MS).
    Key(Vec<u8>),
    /// A sessionless caller that proved who it is; with a key as above, if it has one.
    Known {
        /// Who it is.
        principal: Principal,
        /// Its key.
        key: Option<Vec<u8>>,
    },
}

impl Identity {
    /// A sessionless caller, who may be nobody in particular.
    pub fn sessionless(principal: Principal, key: Option<Vec<u8>>) -> Identity {
        match key {
            _ if principal != Principal::anonymous() => Identity::Known { principal, key },
            Some(key) => Identity::Key(key),
            None => Identity::Anonymous,
        }
    }
}

/// A session as every replica knows it. When its lease ends is the leader's business alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Length of the lease in milliseconds.
    pub lease_ms: u32,
    /// Who the client says it is.
    pub client: Arc<str>,
    /// What whoever takes it up again must know: not to be told to anybody.
    pub secret: [u8; SECRET_BYTES],
    /// When it was opened, by the cell's time.
    pub opened_ms: u64,
    /// The client has the answers to all its commands up to this number.
    pub confirmed: u64,
    /// Who opened it: its handles are opened, and its commands are done, in this name (spec A-2).
    pub principal: Principal,
    /// How many handles it has.
    pub handles: u64,
    /// How many answers are kept for it.
    pub(crate) kept: u32,
    /// No answer is kept for a number above this. Spares the common case, a new number, the look-up.
    pub(crate) highest: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Session");
        shown.field("lease_ms", &self.lease_ms).field("client", &self.client);
        shown.field("opened_ms", &self.opened_ms).field("confirmed", &self.confirmed);
        shown.field("principal", &self.principal).field("handles", &self.handles);
        shown.field("kept", &self.kept).field("highest", &self.highest);
        // Not the secret.
        shown.finish_non_exhaustive()
    }
}

impl Session {
    /// The highest number among its commands that are known to have been done, or refused.
    pub fn highest(&self) -> u64 {
        self.highest.max(self.confirmed)
    }
}

/// All sessions, and the answers kept for them.
///
/// The answers of all sessions stand in one map: a map of its own for each of 100,000 sessions would spend
/// kilobytes on most of them for a single answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) sessions: OrdMap<SessionId, Session>,
    pub(crate) answers: OrdMap<(SessionId, u64), Outcome>,
    /// How many these are, parts of transactions counted.
    pub(crate) parts: usize,
    /// How many sessions were ever opened; the last one's name.
    pub(crate) opened: u64,
}

impl Sessions {
    /// Starts a session and names it.
    pub(crate) fn open(&mut self, session: Session) -> Result<SessionId, Refusal> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(Refusal::TooManySessions { sessions: self.sessions.len() as u64 });
        }
        self.opened += 1;
        let id = SessionId(self.opened);
        self.sessions.insert(id, session);
        Ok(id)
    }

    pub(crate) fn count_handles(&mut self, id: SessionId, change: i64) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.handles = session.handles.saturating_add_signed(change);
        }
    }

    /// Ends a session and forgets its answers.
    pub(crate) fn end(&mut self, id: SessionId) -> Result<(), Refusal> {
        if self.sessions.remove(&id).is_none() {
            return Err(Refusal::SessionExpired { session: id });
        }
        self.forget_answers(id, 0, u64::MAX);
        Ok(())
    }

    /// Decides whether a numbered command is to be done: `None` says yes, `Some` gives the answer that its
    /// first copy got.
    pub(crate) fn admit(
        &mut self,
        id: SessionId,
        number: u64,
        confirmed: u64,
    ) -> Result<Option<Outcome>, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::SessionExpired { session: id })?;
        if number == 0 {
            return Err(Refusal::invalid("a session's commands are numbered from 1, so 0 is no number"));
        }
        if confirmed > session.confirmed {
            let from = std::mem::replace(&mut session.confirmed, confirmed) + 1;
            if session.kept > 0 {
                let forgotten = self.forget_answers(id, from, confirmed);
                self.session_mut(id)?.kept -= forgotten;
            }
        }
        self.look_up(id, number)
    }

    fn look_up(&self, id: SessionId, number: u64) -> Result<Option<Outcome>, Refusal> {
        let session = self.sessions.get(&id).ok_or(Refusal::SessionExpired { session: id })?;
        let confirmed = session.confirmed;
        if number <= confirmed {
            return Err(Refusal::StaleDuplicate { session: id, number, confirmed });
        }
        if number <= session.highest
            && !planted::is(Bug::NoDedup)
            && let Some(outcome) = self.answers.get(&(id, number))
        {
            return Ok(Some(outcome.clone()));
        }
        if session.kept >= MAX_KEPT_PER_SESSION || number - confirmed > MAX_NUMBERS_AHEAD {
            return Err(Refusal::TooManyUnconfirmed { session: id, number, confirmed });
        }
        if self.parts >= MAX_KEPT_ANSWERS {
            return Err(Refusal::TooManyAnswers { kept: self.parts as u64 });
        }
        Ok(None)
    }

    /// Keeps the answer to a command that was admitted, unless the command ended the session.
    pub(crate) fn keep_answer(&mut self, id: SessionId, number: u64, outcome: &Outcome) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.highest = session.highest.max(number);
        let old = self.answers.insert((id, number), outcome.clone());
        session.kept += u32::from(old.is_none());
        self.parts += parts(outcome);
        self.parts -= old.as_ref().map_or(0, parts);
    }

    /// What a snapshot without them would do: see [`planted`].
    pub(crate) fn forget_all_answers(&mut self) {
        (self.answers, self.parts) = (OrdMap::new(), 0);
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                (session.kept, session.highest) = (0, 0);
            }
        }
    }

    fn session_mut(&mut self, id: SessionId) -> Result<&mut Session, Refusal> {
        self.sessions.get_mut(&id).ok_or(Refusal::SessionExpired { session: id })
    }

    /// Drops the answers that a session has in a range of numbers and says how many there were.
    fn forget_answers(&mut self, id: SessionId, from: u64, up_to: u64) -> u32 {
        // Most often a command confirms one or two numbers: trying each is cheaper than looking for the next.
        let mut forgotten = 0;
        if up_to - from < FEW_NUMBERS {
            for number in from..=up_to {
                forgotten += u32::from(self.forget_answer((id, number)));
            }
            return forgotten;
        }
        let found: Vec<_> = self.answers.range((id, from)..=(id, up_to)).map(|(&key, _)| key).collect();
        for key in found {
            forgotten += u32::from(self.forget_answer(key));
        }
        forgotten
    }

    fn forget_answer(&mut self, key: (SessionId, u64)) -> bool {
        let old = self.answers.remove(&key);
        self.parts -= old.as_ref().map_or(0, parts);
        old.is_some()
    }
}

/// What a kept answer counts for.
pub(crate) fn parts(outcome: &Outcome) -> usize {
    match outcome {
        Ok(Answer::Txn { answers, .. }) => answers.len().max(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Command, EndSession, Path};

    /// Spec S-6, K-2: a copy gets the first answer again, and has no effect; so does a copy of a refused one.
    #[test]
    fn a_copy_gets_the_first_answer_and_has_no_effect() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let first = cell.apply(numbered(session, 1, 0), increment("/n", 5));
        let missing = cell.apply(numbered(session, 2, 0), delete("/d"));
        cell.run(create_directory("/d")).unwrap();
        cell.run(increment("/n", 1)).unwrap();
        let revision = cell.state.revision();
        for _ in 0..3 {
            assert_eq!(cell.apply(numbered(session, 1, 0), increment("/n", 5)), first);
            assert_eq!(cell.apply(numbered(session, 2, 0), delete("/d")), missing);
        }
        assert_eq!((cell.value("/n"), cell.state.revision()), (6, revision));
        assert_eq!(missing, Err(Refusal::NotFound { path: path("/d") }));
    }

    /// Spec S-6: numbers may arrive out of order and with gaps, since reads are numbered too.
    #[test]
    fn takes_numbers_in_any_order_once() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        for number in [7, 3, 9, 3, 1, 7, 9, 1] {
            cell.apply(numbered(session, number, 0), increment("/n", 1)).unwrap();
        }
        assert_eq!((cell.value("/n"), cell.state.kept_answer_count()), (4, 4));
    }

    /// Spec S-6: a confirmed answer is forgotten, and a copy that comes after that is refused, not done.
    #[test]
    fn refuses_a_copy_of_a_confirmed_command() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        for number in 1..=20 {
            cell.apply(numbered(session, number, 0), increment("/n", 1)).unwrap();
        }
        cell.apply(numbered(session, 21, 2), increment("/n", 1)).unwrap();
        assert_eq!(cell.state.kept_answer_count(), 19);
        // An older confirmation takes nothing back.
        for (number, confirmed) in [(1, 2), (2, 0)] {
            let refusal = Refusal::StaleDuplicate { session, number, confirmed: 2 };
            assert_eq!(cell.apply(numbered(session, number, confirmed), increment("/n", 1)), Err(refusal));
        }
        cell.apply(numbered(session, 22, 21), increment("/n", 1)).unwrap();
        assert_eq!((cell.value("/n"), cell.state.kept_answer_count()), (22, 1));
        // A command that confirms itself can't be told from a late copy.
        let refusal = Refusal::StaleDuplicate { session, number: 23, confirmed: u64::MAX };
        assert_eq!(cell.apply(numbered(session, 23, u64::MAX), increment("/n", 1)), Err(refusal));
        assert_eq!((cell.value("/n"), cell.state.kept_answer_count()), (22, 0));
    }

    /// Spec S-6: one session's numbers say nothing of another's.
    #[test]
    fn keeps_sessions_apart() {
        let mut cell = Cell::new();
        let (first, second) = (cell.open_session(), cell.open_session());
        for session in [first, second] {
            for number in 1..=3 {
                cell.apply(numbered(session, number, 0), increment("/n", 1)).unwrap();
            }
        }
        cell.run(Command::EndSession(EndSession { session: first })).unwrap();
        assert_eq!((cell.value("/n"), cell.state.kept_answer_count()), (6, 3));
        let refusal = Refusal::SessionExpired { session: first };
        assert_eq!(cell.apply(numbered(first, 4, 0), increment("/n", 1)), Err(refusal));
        cell.apply(numbered(second, 3, 0), increment("/n", 1)).unwrap();
        assert_eq!(cell.value("/n"), 6);
    }

    #[test]
    fn refuses_numbers_that_can_t_be_and_unknown_sessions() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let outcome = cell.apply(numbered(session, 0, 0), increment("/n", 1));
        assert!(matches!(outcome, Err(Refusal::InvalidArgument { .. })));
        for unknown in [0, session.0 + 1, u64::MAX] {
            let unknown = SessionId(unknown);
            let refusal = Refusal::SessionExpired { session: unknown };
            assert_eq!(cell.apply(numbered(unknown, 1, 0), increment("/n", 1)), Err(refusal));
        }
        assert_eq!(cell.state.node_count(), 1);
    }

    /// A session that never confirms is stopped before it fills memory, and goes on once it confirms.
    #[test]
    fn bounds_the_answers_kept_for_a_session() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let limit = u64::from(MAX_KEPT_PER_SESSION);
        let mut run = |number, confirmed| {
            let request = crate::Request {
                identity: numbered(session, number, confirmed),
                command: increment("/n", 1),
            };
            cell.state.apply(request, cell.moment, &mut cell.events)
        };
        for number in 1..=limit {
            run(number, 0).unwrap();
        }
        let refusal = Refusal::TooManyUnconfirmed { session, number: limit + 1, confirmed: 0 };
        assert_eq!(run(limit + 1, 0), Err(refusal));
        assert_eq!(run(limit, 0), counted(limit as i64, limit), "copies are answered all the same");
        assert_eq!(run(limit + 1, 1), counted(limit as i64 + 1, limit + 1), "the refusal was not remembered");
        cell.state.check_invariants().unwrap();
        assert_eq!(cell.state.kept_answer_count() as u64, limit);
    }

    #[test]
    fn bounds_how_far_numbers_run_ahead() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let furthest = 5 + MAX_NUMBERS_AHEAD;
        for number in [furthest + 1, u64::MAX] {
            let refusal = Refusal::TooManyUnconfirmed { session, number, confirmed: 5 };
            assert_eq!(cell.apply(numbered(session, number, 5), increment("/n", 1)), Err(refusal));
        }
        assert_eq!(cell.apply(numbered(session, furthest, 5), increment("/n", 1)), counted(1, 1));
    }

    #[test]
    fn bounds_the_answers_kept_for_all_sessions() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Session { lease_ms: 12_000, ..Session::default() }).unwrap();
        let other = SessionId(id.0 + 1);
        let answer: Outcome = Err(Refusal::NotFound { path: Path::root() });
        sessions.answers =
            (0..MAX_KEPT_ANSWERS as u64).map(|number| ((other, number), answer.clone())).collect();
        sessions.parts = MAX_KEPT_ANSWERS;
        let refusal = Refusal::TooManyAnswers { kept: MAX_KEPT_ANSWERS as u64 };
        assert!(refusal.is_overload());
        assert_eq!(sessions.admit(id, 1, 0), Err(refusal));
        sessions.forget_answer((other, 0));
        assert_eq!(sessions.admit(id, 1, 0), Ok(None));
    }

    /// A transaction's answer takes the room of its operations' answers, and gives it back.
    #[test]
    fn a_transaction_s_answer_counts_as_its_parts() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let add = |number| {
            let path = path(&format!("/{number}"));
            crate::Increment { path, delta: 1, create: true, floor: None, ceiling: None }
        };
        let then = (0..100).map(|number| crate::TxnOperation::Increment(add(number))).collect();
        let txn = Command::Txn(crate::Txn { guards: Vec::new(), then, otherwise: Vec::new() });
        cell.apply(numbered(session, 1, 0), txn).unwrap();
        cell.apply(numbered(session, 2, 0), increment("/n", 1)).unwrap();
        assert_eq!((cell.state.sessions.parts, cell.state.kept_answer_count()), (101, 2));
        let mut bytes = Vec::new();
        cell.state.write_snapshot(&mut bytes).unwrap();
        assert_eq!(crate::State::read_snapshot(&mut bytes.as_slice()).unwrap().sessions.parts, 101);
        cell.apply(numbered(session, 3, 1), increment("/n", 1)).unwrap();
        assert_eq!(cell.state.sessions.parts, 2);
        cell.run(Command::EndSession(EndSession { session })).unwrap();
        assert_eq!(cell.state.sessions.parts, 0);
    }

    /// A refusal for lack of room is not remembered: once there is room, the same number is done.
    #[test]
    fn an_overload_is_not_remembered() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let full = |state: &mut crate::State, handles| {
            state.sessions.sessions.get_mut(&session).unwrap().handles = handles;
        };
        let open = |cell: &mut Cell| {
            let request = crate::Request {
                identity: numbered(session, 1, 0),
                command: crate::testing::open_node("/", None),
            };
            cell.state.apply(request, cell.moment, &mut cell.events)
        };
        full(&mut cell.state, crate::MAX_HANDLES_PER_SESSION);
        assert!(matches!(open(&mut cell), Err(Refusal::TooManyHandles { .. })));
        full(&mut cell.state, 0);
        let first = open(&mut cell);
        opened(first.clone());
        assert_eq!(open(&mut cell), first, "and that is remembered");
        cell.state.check_invariants().unwrap();
    }

    /// Who reads a log can't take a session up.
    #[test]
    fn a_secret_is_not_shown() {
        let secret = [0xAB; SECRET_BYTES];
        let command = crate::OpenSession { lease_ms: 12_000, client: "me".to_owned(), secret };
        let session = Session { secret, client: "me".into(), ..Session::default() };
        for shown in [format!("{command:?}"), format!("{session:?}")] {
            assert!(shown.contains("\"me\"") && !shown.contains("171"), "{shown}");
        }
    }

    #[test]
    fn bounds_the_sessions() {
        let mut cell = Cell::new();
        for _ in 0..MAX_SESSIONS {
            cell.state.sessions.open(Session::default()).unwrap();
        }
        let refusal = Refusal::TooManySessions { sessions: MAX_SESSIONS as u64 };
        assert_eq!(cell.apply(key("k"), open_session(12_000)), Err(refusal));
        cell.run(Command::EndSession(EndSession { session: SessionId(1) })).unwrap();
        // The refusal was not remembered under the key.
        assert!(cell.apply(key("k"), open_session(12_000)).is_ok());
    }
}
