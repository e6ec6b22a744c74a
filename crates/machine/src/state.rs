//! The state of a cell: what it is, how a command changes it, how it is read.

use std::cell::Cell;
use std::ops::Bound;

use crate::acl::{Principal, Right};
use crate::handle::Handles;
use crate::keys::Keys;
use crate::lock::Locks;
use crate::session::Sessions;
use crate::tree::Tree;
use crate::{
    Answer, Batch, BatchError, Command, CreateDirectory, Delete, DirectoryEntry, Event, FileContents,
    Identity, Increment, MAX_DELETED, Node, Outcome, Path, Quota, Refusal, Request, ResetCounter, Session,
    SessionId, SetAcl, SetContents, SetQuota, Stat, Usage,
};

/// Everything that a cell's replicas agree on.
///
/// A clone is a pointer copy that stays as it is: a frozen view for reads and snapshots. While a view is
/// held, a change copies the few map nodes on its way; otherwise it works in place.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) tree: Tree,
    pub(crate) sessions: Sessions,
    pub(crate) handles: Handles,
    pub(crate) locks: Locks,
    pub(crate) keys: Keys,
    /// The keys under which sessions were opened.
    pub(crate) nonces: Keys,
    /// The cell's time: the latest that a leader stamped, so it never goes back.
    pub(crate) time_ms: u64,
    /// The highest term among the entries applied.
    pub(crate) highest_term: u64,
}

/// What the log entry that holds a command says of when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The leader's time, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The leader's term.
    pub term: u64,
}

/// Who sends a command, as the state knows it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    session: Option<SessionId>,
    pub(crate) principal: Principal,
    /// How many nodes below others the command may still delete: one bound for all operations of a transaction.
    pub(crate) may_delete: Cell<usize>,
}

impl Caller {
    fn new(session: Option<SessionId>, principal: Principal) -> Caller {
        Caller { session, principal, may_delete: Cell::new(MAX_DELETED) }
    }

    fn sessionless(principal: Principal) -> Caller {
        Caller::new(None, principal)
    }

    fn session(&self) -> Result<SessionId, Refusal> {
        self.session
            .ok_or_else(|| Refusal::invalid("handles and locks belong to a session; open one for this"))
    }
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// The state of a cell in which nothing has happened: the root directory alone.
    pub fn new() -> State {
        State {
            tree: Tree::new(),
            sessions: Sessions::default(),
            handles: Handles::default(),
            locks: Locks::default(),
            keys: Keys::of_callers(),
            nonces: Keys::of_openings(),
            time_ms: 0,
            highest_term: 0,
        }
    }

    /// Applies the payload of one log entry: all its requests, in order. Answers one outcome a request and
    /// adds an event for each node changed.
    ///
    /// An error means that the bytes are not a batch of this version. Nothing was applied then, and the
    /// replica must stop: going on without the entry would make it differ from the others.
    pub fn apply_batch(
        &mut self,
        encoded: &[u8],
        term: u64,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Outcome>, BatchError> {
        Ok(self.apply_decoded(Batch::decode(encoded)?, term, events))
    }

    /// Applies a batch that was decoded before.
    pub fn apply_decoded(&mut self, batch: Batch, term: u64, events: &mut Vec<Event>) -> Vec<Outcome> {
        let moment = Moment { time_ms: batch.time_ms, term };
        let seen = events.len();
        let mut outcomes = Vec::with_capacity(batch.requests.len());
        for request in batch.requests {
            outcomes.push(self.apply(request, moment, events));
        }
        if cfg!(debug_assertions) {
            self.assert_invariants_after(&events[seen..]);
        }
        outcomes
    }

    /// Applies one request.
    pub fn apply(&mut self, request: Request, moment: Moment, events: &mut Vec<Event>) -> Outcome {
        self.time_ms = self.time_ms.max(moment.time_ms);
        self.highest_term = self.highest_term.max(moment.term);
        self.keys.clear_expired(self.time_ms);
        self.nonces.clear_expired(self.time_ms);
        self.tree.revisions.begin();
        self.end_lock_delays(events);
        check_sender(&request)?;
        match request.identity {
            Identity::Anonymous => {
                self.perform(request.command, &Caller::sessionless(Principal::anonymous()), events)
            }
            Identity::Session { session, number, confirmed } => {
                self.perform_numbered(session, number, confirmed, request.command, events)
            }
            Identity::Key(key) => {
                self.perform_keyed(key, request.command, &Caller::sessionless(Principal::anonymous()), events)
            }
            Identity::Known { principal, key: None } => {
                self.perform(request.command, &Caller::sessionless(principal), events)
            }
            Identity::Known { principal, key: Some(key) } => {
                self.perform_keyed(key, request.command, &Caller::sessionless(principal), events)
            }
        }
    }

    /// Does a session's command unless it is a copy of one already done (spec S-6). A refusal for lack of room is
    /// not kept, so that the same number succeeds once there is room.
    fn perform_numbered(
        &mut self,
        session: SessionId,
        number: u64,
        confirmed: u64,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Outcome {
        if let Some(outcome) = self.sessions.admit(session, number, confirmed)? {
            return outcome;
        }
        let caller = Caller::new(Some(session), self.principal_of(session)?);
        let outcome = self.perform(command, &caller, events);
        if !is_overload(&outcome) {
            self.sessions.keep_answer(session, number, &outcome);
        }
        outcome
    }

    /// Does a keyed command unless it is a copy of one already done (spec S-6). A refusal for lack of room is
    /// not kept, so that the same key succeeds once there is room.
    fn perform_keyed(
        &mut self,
        key: Vec<u8>,
        command: Command,
        caller: &Caller,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let (now_ms, opens) = (self.time_ms, matches!(command, Command::OpenSession(_)));
        if let Some(outcome) = self.keys_for(opens).admit(&key, now_ms)? {
            return outcome;
        }
        let outcome = self.perform(command, caller, events);
        if !is_overload(&outcome) {
            self.keys_for(opens).keep_answer(key, now_ms, outcome.clone());
        }
        outcome
    }

    /// The table of a keyed command: openings of sessions have their own, so that keys can't keep sessions out.
    fn keys_for(&mut self, opens: bool) -> &mut Keys {
        if opens { &mut self.nonces } else { &mut self.keys }
    }

    fn perform(&mut self, command: Command, caller: &Caller, events: &mut Vec<Event>) -> Outcome {
        match command {
            Command::Txn(command) => command.apply(self, caller, events),
            command => self.carry_out(command, caller, events),
        }
    }

    /// Does any command but a transaction.
    pub(crate) fn carry_out(
        &mut self,
        command: Command,
        caller: &Caller,
        events: &mut Vec<Event>,
    ) -> Outcome {
        self.permit_command(&command, &caller.principal)?;
        match command {
            Command::OpenSession(command) => command.apply(self, &caller.principal),
            Command::EndSession(command) => command.apply(self, events),
            Command::ExpireSession(command) => command.apply(self, events),
            Command::SetContents(command) => command.apply(&mut self.tree, events),
            Command::CreateDirectory(command) => command.apply(&mut self.tree, events),
            Command::Delete(command) => command.apply(self, events),
            Command::DeleteTree(command) => command.apply(self, caller, events),
            Command::Increment(command) => command.apply(&mut self.tree, events),
            Command::ResetCounter(command) => command.apply(&mut self.tree, events),
            Command::SetAcl(command) => command.apply(self, events),
            Command::SetQuota(command) => command.apply(self),
            Command::OpenNode(command) => command.apply(self, caller.session()?, events),
            Command::CloseHandles(command) => command.apply(self, caller.session()?, events),
            Command::RevokeHandle(command) => command.apply(self, events),
            Command::Acquire(command) => command.apply(self, caller.session()?, events),
            Command::CancelAcquire(command) => command.apply(self, caller.session()?, events),
            Command::Release(command) => command.apply(self, caller.session()?, events),
            Command::SetSequencer(command) => command.apply(self, caller.session()?),
            Command::OnHandle(command) => command.apply(self, caller.session()?, events),
            Command::PassTime => Ok(Answer::Done),
            Command::Txn(_) => Err(Refusal::invalid("a transaction holds no transactions")),
        }
    }

    /// The one place that decides whether a command that names a node is allowed (spec A-2). What goes through a
    /// handle was decided when that was opened.
    fn permit_command(&self, command: &Command, principal: &Principal) -> Result<(), Refusal> {
        match command {
            Command::SetContents(SetContents { path, .. })
            | Command::Increment(Increment { path, .. })
            | Command::ResetCounter(ResetCounter { path, .. })
            | Command::CreateDirectory(CreateDirectory { path, .. }) => self.permit_writing(principal, path),
            Command::Delete(Delete { path, .. }) => self.permit(principal, path, Right::Write),
            Command::SetAcl(SetAcl { path, .. }) | Command::SetQuota(SetQuota { path, .. }) => {
                self.permit(principal, path, Right::ChangeAcl)
            }
            _ => Ok(()),
        }
    }

    /// A node that is there must be the principal's to write; else the directory in which it, or its first missing
    /// ancestor, would be made.
    fn permit_writing(&self, principal: &Principal, path: &Path) -> Result<(), Refusal> {
        self.permit_nearest(principal, path, Right::Write)
    }

    /// Who opened a session.
    pub fn principal_of(&self, session: SessionId) -> Result<Principal, Refusal> {
        let found = self.session(session).ok_or(Refusal::SessionExpired { session })?;
        Ok(found.principal.clone())
    }

    /// The number of commands that told an event. Sessions coming and going don't count.
    pub fn revision(&self) -> u64 {
        self.tree.revisions.newest
    }

    /// The cell's time in milliseconds since the Unix epoch, as the leaders stamped it.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The highest term among the entries applied.
    pub fn highest_term(&self) -> u64 {
        self.highest_term
    }

    /// How many nodes there are, the root included.
    pub fn node_count(&self) -> usize {
        self.tree.nodes.len()
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.sessions.len()
    }

    /// How many answers are kept for sessions that have not confirmed them. One to a transaction is one here, and as
    /// many as its operations for [`MAX_KEPT_ANSWERS`](crate::MAX_KEPT_ANSWERS).
    pub fn kept_answer_count(&self) -> usize {
        self.sessions.answers.len()
    }

    /// How many idempotency keys of callers are remembered.
    pub fn key_count(&self) -> usize {
        self.keys.kept.len()
    }

    /// How many keys are remembered under which sessions were opened.
    pub fn session_nonce_count(&self) -> usize {
        self.nonces.kept.len()
    }

    /// A session, if it is still there.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.sessions.get(&id)
    }

    /// All sessions, oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// The sessions that were opened after this one, oldest first.
    pub fn sessions_after(&self, after: SessionId) -> impl Iterator<Item = (SessionId, &Session)> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        self.sessions.sessions.range(range).map(|(id, session)| (*id, session))
    }

    /// What a directory may hold; without limits unless one was set (spec N-10).
    pub fn quota(&self, directory: &Path) -> Result<Quota, Refusal> {
        self.tree.directory_node(directory)?;
        Ok(self.tree.quotas.table.get(directory).map_or_else(Quota::default, |(quota, _)| *quota))
    }

    /// How much is in a directory, all below it included. Looks at all that is below one without a quota: ask a
    /// view, and not the applying thread.
    pub fn usage(&self, directory: &Path) -> Result<Usage, Refusal> {
        self.tree.directory_node(directory)?;
        Ok(self.tree.usage(directory))
    }

    /// All nodes, in the order of their paths.
    pub fn nodes(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.tree.nodes.iter().map(|(path, node)| (path, &**node))
    }

    /// A node, if it is there.
    pub fn node(&self, path: &Path) -> Option<&Node> {
        self.tree.nodes.get(path).map(|node| &**node)
    }

    /// Reads a file whole. The contents are shared, not copied.
    pub fn get_contents(&self, path: &Path) -> Result<FileContents, Refusal> {
        self.tree.contents(path)
    }

    /// What is known of a node besides its contents.
    pub fn stat(&self, path: &Path) -> Result<Stat, Refusal> {
        self.tree.find(path).map(|node| node.stat())
    }

    /// A counter's value, and the revision that last changed it.
    pub fn get_counter(&self, path: &Path) -> Result<(i64, u64), Refusal> {
        self.tree.counter(path)
    }

    /// At most `limit` nodes of a directory in name order, those after the name `after` if it is given, and
    /// whether there are more.
    pub fn read_directory(
        &self,
        path: &Path,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<DirectoryEntry>, bool), Refusal> {
        self.tree.directory(path, after, limit)
    }
}

fn is_overload(outcome: &Outcome) -> bool {
    matches!(outcome, Err(refusal) if refusal.is_overload())
}

/// Refuses commands about sessions from those who may not send them.
fn check_sender(request: &Request) -> Result<(), Refusal> {
    let refused = match (&request.command, &request.identity) {
        (Command::OpenSession(_), Identity::Session { .. }) => "a session can't open another one; use a key",
        (Command::EndSession(end), Identity::Session { session, .. }) if end.session != *session => {
            "a session can end only itself"
        }
        (
            Command::ExpireSession(_) | Command::RevokeHandle(_) | Command::PassTime,
            Identity::Session { .. } | Identity::Key(_) | Identity::Known { .. },
        ) => "only the leader sends this, and it does so in nobody's name",
        _ => return Ok(()),
    };
    Err(Refusal::invalid(refused))
}
