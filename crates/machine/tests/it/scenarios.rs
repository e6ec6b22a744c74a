//! What the paper tells of sessions, handles, locks and permissions, step by step.

use std::collections::BTreeMap;

use bramah_machine::{
    AclNames, Acquire, Answer, Change, CloseHandles, Command, Creation, DeleteTree, EndSession, Event,
    ExpireSession, Guard, HandleId, Identity, Increment, Mode, Moment, NodeKind, OnHandle, OpenNode,
    OpenSession, Outcome, Path, Principal, Quota, Refusal, Release, Request, RevokeHandle, Sequencer,
    SessionId, SetAcl, SetContents, SetQuota, SetSequencer, State, Txn, TxnOperation, Usage, Verb,
};

use crate::snapshot::snapshot_of;

const ALL: Mode = Mode { read: true, write: true, change_acl: true };
const WRITE: Mode = Mode { read: true, write: true, change_acl: false };
const READ: Mode = Mode { read: true, write: false, change_acl: false };

struct Cell {
    state: State,
    moment: Moment,
    events: Vec<Event>,
    /// Each session's last number.
    numbers: BTreeMap<SessionId, u64>,
}

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn node(text: &str, mode: Mode, lock_delay_ms: u32) -> Command {
    Command::OpenNode(OpenNode { path: path(text), mode, create: None, lock_delay_ms, within: None })
}

fn ephemeral(text: &str, kind: NodeKind) -> Command {
    let contents = Default::default();
    let create = Some(Creation { must: false, kind, ephemeral: true, contents, acl: None, parents: false });
    Command::OpenNode(OpenNode { path: path(text), mode: ALL, create, lock_delay_ms: 0, within: None })
}

fn set(text: &str, contents: &'static str) -> Command {
    let contents = contents.into();
    Command::SetContents(SetContents { path: path(text), contents, if_generation: None, parents: true })
}

fn add_one(text: &str) -> Increment {
    Increment { path: path(text), delta: 1, create: true, floor: None, ceiling: None }
}

fn set_acl(text: &str, read: &str, write: &str) -> Command {
    let names = AclNames { read: read.into(), write: write.into(), change_acl: "".into() };
    Command::SetAcl(SetAcl { path: path(text), names, if_generation: None })
}

fn on(handle: HandleId, contents: &'static str) -> Command {
    let verb = Verb::SetContents { contents: contents.into(), if_generation: None };
    Command::OnHandle(OnHandle { handle, verb })
}

fn close(handle: HandleId) -> Command {
    Command::CloseHandles(CloseHandles { handles: vec![handle] })
}

fn fenced(sequencer: &Sequencer) -> Command {
    let guards = vec![Guard::Held(sequencer.clone())];
    let then = vec![TxnOperation::Increment(add_one("/done"))];
    Command::Txn(Txn { guards, then, otherwise: Vec::new() })
}

fn known(name: &str) -> Principal {
    Principal::named(name).unwrap()
}

fn handle_of(outcome: Outcome) -> HandleId {
    match outcome {
        Ok(Answer::NodeOpened { handle, .. }) => handle,
        other => panic!("no handle was opened: {other:?}"),
    }
}

fn holds(state: &State, session: SessionId, handle: HandleId) -> bool {
    state.sequencer_of(state.handle(session, handle).unwrap()).is_some()
}

impl Cell {
    fn new() -> Cell {
        let moment = Moment { time_ms: 1_000_000, term: 1 };
        Cell { state: State::new(), moment, events: Vec::new(), numbers: BTreeMap::new() }
    }

    fn apply(&mut self, identity: Identity, command: Command) -> Outcome {
        self.events.clear();
        let outcome = self.state.apply(Request { identity, command }, self.moment, &mut self.events);
        self.state.check_invariants().unwrap();
        outcome
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.apply(Identity::Anonymous, command)
    }

    fn named(&mut self, name: &str, command: Command) -> Outcome {
        self.apply(Identity::sessionless(known(name), None), command)
    }

    fn open_session(&mut self, principal: Principal) -> SessionId {
        let open = OpenSession { lease_ms: 12_000, client: String::new(), secret: [9; 16] };
        match self.apply(Identity::sessionless(principal, None), Command::OpenSession(open)) {
            Ok(Answer::SessionOpened { session, .. }) => session,
            other => panic!("no session was opened: {other:?}"),
        }
    }

    fn session(&mut self) -> SessionId {
        self.open_session(Principal::anonymous())
    }

    fn by(&mut self, session: SessionId, command: Command) -> Outcome {
        let number = self.numbers.get(&session).copied().unwrap_or(0) + 1;
        self.numbers.insert(session, number);
        self.apply(Identity::Session { session, number, confirmed: number - 1 }, command)
    }

    fn open(&mut self, session: SessionId, text: &str, lock_delay_ms: u32) -> HandleId {
        handle_of(self.by(session, node(text, ALL, lock_delay_ms)))
    }

    fn acquire(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::Acquire(Acquire { handle, shared: false, wait: true }))
    }

    fn sequencer(&self, session: SessionId, handle: HandleId) -> Sequencer {
        self.state.sequencer_of(self.state.handle(session, handle).unwrap()).unwrap()
    }

    fn expire(&mut self, session: SessionId, term: u64) -> Outcome {
        self.run(Command::ExpireSession(ExpireSession { session, term }))
    }

    fn pass(&mut self, ms: u64) {
        self.moment.time_ms += ms;
        self.run(Command::PassTime).unwrap();
    }
}

/// Spec L-4, L-5 (Chubby §2.4): a holder stalls, its session dies, another gets the lock after the lock-delay. What the
/// zombie still sends carries a sequencer that nobody takes any more, and its own session says that it is over.
#[test]
fn a_zombie_s_sequencer_is_refused() {
    let mut cell = Cell::new();
    cell.run(set("/l", "")).unwrap();
    let (zombie, next, server) = (cell.session(), cell.session(), cell.session());
    let (hz, hn) = (cell.open(zombie, "/l", 10_000), cell.open(next, "/l", 10_000));
    let tied = cell.open(server, "/l", 0);
    cell.acquire(zombie, hz).unwrap();
    cell.acquire(next, hn).unwrap();
    let old = cell.sequencer(zombie, hz);
    let tie = SetSequencer { handle: tied, sequencer: Some(old.clone()) };
    cell.by(server, Command::SetSequencer(tie)).unwrap();
    cell.by(server, on(tied, "in time")).unwrap();
    cell.run(fenced(&old)).unwrap();
    cell.expire(zombie, 1).unwrap();
    let refused = Refusal::SequencerInvalid { sequencer: old.clone() };
    assert_eq!(cell.state.check_sequencer(&old), Err(refused.clone()), "while nobody has it");
    cell.pass(9_999);
    assert!(!holds(&cell.state, next, hn));
    cell.pass(1);
    assert!(holds(&cell.state, next, hn));
    assert_eq!(cell.state.check_sequencer(&old), Err(refused.clone()), "while another has it");
    assert_eq!(cell.by(server, on(tied, "late")), Err(refused));
    assert_eq!(cell.run(fenced(&old)), Ok(Answer::Txn { held: false, answers: Vec::new() }));
    assert_eq!(cell.by(zombie, on(hz, "late")), Err(Refusal::SessionExpired { session: zombie }));
    let new = cell.sequencer(next, hn);
    assert!(new.instance == old.instance && new.generation > old.generation);
    cell.run(fenced(&new)).unwrap();
    assert_eq!(cell.state.get_counter(&path("/done")).unwrap().0, 2);
}

/// Spec L-5: a lock-delay lasts at most a minute.
#[test]
fn a_lock_delay_is_bounded() {
    let mut cell = Cell::new();
    let session = cell.session();
    cell.open(session, "/", 60_000);
    assert!(matches!(cell.by(session, node("/", ALL, 61_000)), Err(Refusal::InvalidArgument { .. })));
}

/// Spec L-5: of several holders that died the longest lock-delay counts, and those who live hold on.
#[test]
fn the_longest_lock_delay_counts() {
    let mut cell = Cell::new();
    cell.run(set("/l", "")).unwrap();
    let sessions = [0; 4].map(|_| cell.session());
    let [a, b, c, d] = sessions;
    let delays = [(a, 5_000), (b, 30_000), (c, 0), (d, 0)];
    let [ha, hb, hc, hd] = delays.map(|(session, delay)| cell.open(session, "/l", delay));
    for (session, handle) in [(a, ha), (b, hb), (c, hc)] {
        cell.by(session, Command::Acquire(Acquire { handle, shared: true, wait: true })).unwrap();
    }
    cell.expire(b, 1).unwrap();
    cell.expire(a, 1).unwrap();
    cell.by(d, Command::Acquire(Acquire { handle: hd, shared: true, wait: true })).unwrap();
    assert!(holds(&cell.state, c, hc) && !holds(&cell.state, d, hd));
    cell.by(c, Command::Release(Release { handle: hc })).unwrap();
    cell.pass(29_999);
    assert!(!holds(&cell.state, d, hd));
    cell.pass(1);
    assert!(holds(&cell.state, d, hd));
}

/// Spec N-4: what is ephemeral goes with the last session that had it open, in one step; an ephemeral directory
/// once it is empty, too, whoever empties it.
#[test]
fn what_is_ephemeral_goes_with_its_last_session() {
    let mut cell = Cell::new();
    let (a, b) = (cell.session(), cell.session());
    for session in [a, b] {
        cell.by(session, ephemeral("/f", NodeKind::File)).unwrap();
    }
    cell.expire(a, 1).unwrap();
    assert!(cell.state.node(&path("/f")).is_some(), "b has it open");
    cell.by(b, ephemeral("/d", NodeKind::Directory)).unwrap();
    cell.run(set("/d/permanent", "x")).unwrap();
    cell.expire(b, 1).unwrap();
    assert_eq!((cell.state.node(&path("/f")), cell.state.handle_count()), (None, 0));
    assert_eq!(Vec::from_iter(cell.events.iter().map(|event| &event.change)), [&Change::Deleted]);
    assert!(cell.state.node(&path("/d")).is_some(), "there is something in it");
    let delete = bramah_machine::Delete { path: path("/d/permanent"), if_generation: None };
    cell.run(Command::Delete(delete)).unwrap();
    assert_eq!(cell.state.node_count(), 1, "it went with what was in it");
}

/// Spec H-1: a name relative to a directory's handle is of that directory, or of none.
#[test]
fn opens_within_a_directory() {
    let mut cell = Cell::new();
    cell.run(set("/d/e/f", "x")).unwrap();
    let (a, b) = (cell.session(), cell.session());
    let directory = cell.open(a, "/d", 0);
    let within = |text, within| {
        let within = Some(within);
        Command::OpenNode(OpenNode { path: path(text), mode: READ, create: None, lock_delay_ms: 0, within })
    };
    cell.by(a, within("/d/e/f", directory)).unwrap();
    for text in ["/d", "/", "/dd"] {
        assert!(
            matches!(cell.by(a, within(text, directory)), Err(Refusal::InvalidArgument { .. })),
            "{text}"
        );
    }
    let foreign = Refusal::UnknownHandle { session: b, handle: directory };
    assert_eq!(cell.by(b, within("/d/e/f", directory)), Err(foreign));
    cell.run(Command::DeleteTree(DeleteTree { path: path("/d") })).unwrap();
    cell.run(set("/d/e/f", "another")).unwrap();
    let deleted = Refusal::NodeDeleted { path: path("/d"), handle: directory };
    assert_eq!(cell.by(a, within("/d/e/f", directory)), Err(deleted));
}

/// Spec H-2: a handle is good for what it was opened for, and for nothing else, whatever the ACLs say now.
#[test]
fn a_handle_is_good_for_its_mode() {
    let mut cell = Cell::new();
    cell.run(set("/f", "x")).unwrap();
    let session = cell.session();
    let (reader, writer) =
        (handle_of(cell.by(session, node("/f", READ, 0))), handle_of(cell.by(session, node("/f", WRITE, 0))));
    let lacks = |right| Err(Refusal::HandleLacksRight { path: path("/f"), right });
    assert_eq!(cell.by(session, on(reader, "y")), lacks(bramah_machine::Right::Write));
    assert_eq!(cell.acquire(session, reader), lacks(bramah_machine::Right::Write));
    cell.by(session, on(writer, "y")).unwrap();
    let names = AclNames::default();
    let verb = Verb::SetAcl { names, if_generation: None };
    let outcome = cell.by(session, Command::OnHandle(OnHandle { handle: writer, verb }));
    assert_eq!(outcome, lacks(bramah_machine::Right::ChangeAcl));
    let through = |handle, right| cell.state.through_handle(session, handle, right).is_ok();
    assert!(through(reader, bramah_machine::Right::Read) && through(writer, bramah_machine::Right::Read));
    assert!(matches!(cell.by(session, node("/f", Mode::default(), 0)), Err(Refusal::InvalidArgument { .. })));
}

/// Spec H-5: a late copy of a close, or of an open, changes nothing of the handles opened since; not even after the
/// state went through a snapshot and another leader leads.
#[test]
fn late_copies_close_and_open_nothing() {
    let mut cell = Cell::new();
    cell.run(set("/f", "x")).unwrap();
    let session = cell.session();
    let first = cell.open(session, "/f", 0);
    cell.by(session, close(first)).unwrap();
    let number = cell.numbers[&session];
    let second = cell.open(session, "/f", 0);
    assert_ne!(first, second);
    for restarted in [false, true] {
        if restarted {
            cell.state = State::read_snapshot(&mut snapshot_of(&cell.state).as_slice()).unwrap();
            cell.moment.term += 1;
        }
        for (number, command) in [(number - 1, node("/f", ALL, 0)), (number, close(first))] {
            let late = Identity::Session { session, number, confirmed: 0 };
            assert!(matches!(cell.apply(late, command), Err(Refusal::StaleDuplicate { .. })));
        }
        assert_eq!(Vec::from_iter(cell.state.handles_of(session).map(|(id, _)| id)), [second]);
    }
    let unknown = Refusal::UnknownHandle { session, handle: first };
    assert_eq!(cell.by(session, on(first, "late")), Err(unknown));
    cell.by(session, on(second, "y")).unwrap();
}

/// Spec H-6, S-1: once a session is over, whatever it sends fails in the same way, and changes nothing.
#[test]
fn an_expired_session_can_do_nothing() {
    let mut cell = Cell::new();
    cell.run(set("/f", "x")).unwrap();
    let session = cell.session();
    let handle = cell.open(session, "/f", 0);
    cell.expire(session, 1).unwrap();
    let before = cell.state.digest();
    let over = Err(Refusal::SessionExpired { session });
    let commands = [
        on(handle, "late"),
        set("/f", "late"),
        close(handle),
        node("/f", ALL, 0),
        Command::Acquire(Acquire { handle, shared: false, wait: true }),
        Command::Release(Release { handle }),
        Command::EndSession(EndSession { session }),
    ];
    for command in commands {
        assert_eq!(cell.by(session, command), over);
    }
    assert_eq!(cell.state.digest(), before);
    assert_eq!(
        cell.state.through_handle(session, handle, bramah_machine::Right::Read).map(drop),
        over.map(drop)
    );
}

/// Spec S-5, L-2, L-6: who holds, who waits and in which order, which lock-delays run, what is ephemeral: a new leader
/// finds it all in the state, however it got that, and goes on with it.
#[test]
fn a_new_leader_finds_all_in_the_state() {
    let mut cell = Cell::new();
    cell.run(set("/l", "")).unwrap();
    cell.run(set("/m", "")).unwrap();
    let [a, b, c] = [0; 3].map(|_| cell.session());
    let [ha, hb, hc] = [a, b, c].map(|session| cell.open(session, "/l", 0));
    for (session, handle) in [(a, ha), (b, hb), (c, hc)] {
        cell.acquire(session, handle).unwrap();
    }
    cell.by(c, ephemeral("/e", NodeKind::File)).unwrap();
    let dead = cell.session();
    let hd = cell.open(dead, "/m", 7_000);
    cell.acquire(dead, hd).unwrap();
    cell.expire(dead, 1).unwrap();
    let held = cell.sequencer(a, ha);

    cell.state = State::read_snapshot(&mut snapshot_of(&cell.state).as_slice()).unwrap();
    cell.moment = Moment { time_ms: cell.moment.time_ms - 500, term: 2 };
    assert_eq!(cell.state.session(a).unwrap().secret, [9; 16]);
    assert_eq!(cell.state.check_sequencer(&held), Ok(()));
    let end = cell.state.next_lock_delay_ms().unwrap();
    assert_eq!(end, 1_007_000, "a leader whose clock is behind makes it no shorter");
    cell.by(a, Command::Release(Release { handle: ha })).unwrap();
    assert!(holds(&cell.state, b, hb) && !holds(&cell.state, c, hc));
    cell.expire(b, 2).unwrap();
    assert!(holds(&cell.state, c, hc));
    assert!(cell.state.node(&path("/e")).is_some());
    cell.expire(c, 2).unwrap();
    assert!(cell.state.node(&path("/e")).is_none());
}

/// Spec S-8: what a deposed leader says of a lease has no effect, on the session or on its locks.
#[test]
fn a_deposed_leader_ends_nothing() {
    let mut cell = Cell::new();
    cell.run(set("/l", "")).unwrap();
    let session = cell.session();
    let handle = cell.open(session, "/l", 0);
    cell.acquire(session, handle).unwrap();
    cell.moment.term = 4;
    cell.by(session, on(handle, "still here")).unwrap();
    let before = cell.state.digest();
    for term in [0, 1, 3] {
        assert_eq!(cell.expire(session, term), Err(Refusal::Deposed { session, term, newer: 4 }));
    }
    assert_eq!(cell.state.digest(), before);
    assert!(holds(&cell.state, session, handle));
    let by_client = cell.by(session, Command::ExpireSession(ExpireSession { session, term: 4 }));
    assert!(matches!(by_client, Err(Refusal::InvalidArgument { .. })), "only a leader expires");
    cell.expire(session, 4).unwrap();
}

/// A cell in which only ann may read /secret, and only she may write /mine.
fn guarded() -> Cell {
    let mut cell = Cell::new();
    for command in [
        set("/acl/ann", "ann"),
        set("/secret/f", "x"),
        set("/mine/f", "x"),
        set("/mine/theirs", "x"),
        set_acl("/secret", "ann", ""),
        set_acl("/secret/f", "ann", ""),
        set_acl("/mine", "", "ann"),
        set_acl("/mine/f", "", "ann"),
    ] {
        cell.run(command).unwrap();
    }
    cell
}

/// Spec A-2: one place decides, also of what is not there, of the parts of a transaction, and of whole subtrees.
#[test]
fn no_way_past_the_acls() {
    let mut cell = guarded();
    let refused = |outcome: Outcome| match outcome {
        Err(Refusal::TxnRefused { why, .. }) => matches!(*why, Refusal::NotPermitted { .. }),
        Err(refusal) => matches!(refusal, Refusal::NotPermitted { .. }),
        Ok(_) => false,
    };
    for (text, eve) in [
        ("/secret", false),
        ("/secret/f", false),
        ("/secret/none/at/all", false),
        ("/mine/f", true),
        ("/x", true),
    ] {
        assert_eq!(cell.state.permit_reading(&known("eve"), &path(text)).is_ok(), eve, "{text}");
        assert_eq!(cell.state.permit_reading(&known("ann"), &path(text)), Ok(()), "{text}");
        let look = |guard| Command::Txn(Txn { guards: vec![guard], then: Vec::new(), otherwise: Vec::new() });
        for guard in [Guard::Exists(path(text)), Guard::Absent(path(text)), Guard::Generation(path(text), 0)]
        {
            assert_eq!(refused(cell.named("eve", look(guard.clone()))), !eve, "{text}");
            cell.named("ann", look(guard)).unwrap();
        }
    }
    let write = |then| Command::Txn(Txn { guards: Vec::new(), then: vec![then], otherwise: Vec::new() });
    let eves =
        SetContents { path: path("/mine/f"), contents: "".into(), if_generation: None, parents: false };
    assert!(refused(cell.named("eve", write(TxnOperation::SetContents(eves)))));
    assert!(refused(cell.named("eve", write(TxnOperation::Increment(add_one("/mine/n"))))));
    let tree = |text| DeleteTree { path: path(text) };
    assert!(refused(cell.named("eve", write(TxnOperation::DeleteTree(tree("/mine"))))));
    cell.run(set_acl("/mine", "", "")).unwrap();
    assert!(refused(cell.named("eve", Command::DeleteTree(tree("/mine")))), "one of its nodes is not hers");
    assert!(cell.state.node(&path("/mine/theirs")).is_some(), "so nothing went");
    cell.named("ann", Command::DeleteTree(tree("/mine"))).unwrap();
}

/// Spec: a session does what its opener may, whoever sends its commands; and no ACL asks nothing.
#[test]
fn a_session_has_its_opener_s_rights() {
    let mut cell = guarded();
    let (ann, eve) = (cell.open_session(known("ann")), cell.open_session(known("eve")));
    assert_eq!(cell.state.principal_of(ann), Ok(known("ann")));
    cell.by(ann, set("/mine/f", "y")).unwrap();
    assert!(matches!(cell.by(eve, set("/mine/f", "z")), Err(Refusal::NotPermitted { .. })));
    assert!(matches!(cell.by(eve, node("/secret/f", READ, 0)), Err(Refusal::NotPermitted { .. })));
    assert!(cell.state.uses_acls());
    for text in ["/secret", "/mine"] {
        cell.named("ann", Command::DeleteTree(DeleteTree { path: path(text) })).unwrap();
    }
    assert!(!cell.state.uses_acls());
}

/// Spec A-3: an ACL that changes, by its names or by its file, is seen in the events; then the handles that it no
/// longer allows are found, closed, and their sessions told.
#[test]
fn handles_are_revoked() {
    let mut cell = guarded();
    let (ann, eve) = (cell.open_session(known("ann")), cell.open_session(known("eve")));
    let first = handle_of(cell.by(ann, node("/mine/f", WRITE, 0)));
    let second = handle_of(cell.by(ann, node("/mine/f", READ, 0)));
    let third = handle_of(cell.by(eve, node("/mine/theirs", WRITE, 0)));
    cell.acquire(ann, first).unwrap();
    cell.run(set("/mine/theirs", "y")).unwrap();
    assert!(!cell.events.iter().any(Event::changes_acls));
    assert_eq!(cell.state.handles_not_allowed(None).count(), 0);
    cell.run(set("/acl/ann", "bob")).unwrap();
    assert!(cell.events.iter().any(Event::changes_acls));
    assert_eq!(Vec::from_iter(cell.state.handles_not_allowed(None)), [(ann, first)]);
    cell.run(set_acl("/mine/theirs", "", "none")).unwrap();
    assert!(cell.events.iter().any(Event::changes_acls));
    assert_eq!(Vec::from_iter(cell.state.handles_not_allowed(None)), [(ann, first), (eve, third)]);
    assert_eq!(Vec::from_iter(cell.state.handles_not_allowed(Some((ann, first)))), [(eve, third)]);
    let revoke = |session, handle| Command::RevokeHandle(RevokeHandle { session, handle });
    cell.run(revoke(ann, first)).unwrap();
    let changes: Vec<Change> = cell.events.iter().map(|event| event.change.clone()).collect();
    let told = |change: fn(SessionId, HandleId) -> Change| change(ann, first);
    let released = told(|session, handle| Change::LockReleased { session, handle });
    let closed = told(|session, handle| Change::HandleClosed { session, handle });
    assert_eq!(changes, [released, closed]);
    cell.run(revoke(ann, second)).unwrap();
    assert!(cell.events.is_empty() && cell.state.handle(ann, second).is_some(), "it is allowed");
}

/// What operators list: locks by name, sessions by age, a page at a time.
#[test]
fn locks_and_sessions_are_listed_in_pages() {
    let mut cell = Cell::new();
    let (a, b) = (cell.session(), cell.session());
    for text in ["/a/x", "/a/y/z", "/ab", "/b"] {
        cell.run(set(text, "")).unwrap();
        let handle = cell.open(a, text, 0);
        cell.acquire(a, handle).unwrap();
    }
    let listed = |cell: &Cell, top, after: Option<&str>| {
        let after = after.map(path);
        let locks = cell.state.locks_below(&path(top), after.as_ref());
        locks.map(|lock| lock.path.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed(&cell, "/", None), "/ab /b /a/x /a/y/z");
    assert_eq!(listed(&cell, "/", Some("/b")), "/a/x /a/y/z");
    assert_eq!(listed(&cell, "/a", None), "/a/x /a/y/z");
    assert_eq!(listed(&cell, "/a", Some("/a/x")), "/a/y/z");
    assert_eq!(listed(&cell, "/ab", None), "/ab");
    let after = |session| Vec::from_iter(cell.state.sessions_after(session).map(|(id, _)| id));
    assert_eq!((after(SessionId(0)), after(a), after(b)), (vec![a, b], vec![b], vec![]));
    cell.run(Command::EndSession(EndSession { session: a })).unwrap();
    assert_eq!(listed(&cell, "/", None), "");
}

/// Spec N-10: what a directory holds and may hold can be asked; its quota goes with it.
#[test]
fn quotas_are_told() {
    let mut cell = Cell::new();
    cell.run(set("/d/e/f", "12345")).unwrap();
    cell.run(Command::Increment(add_one("/d/n"))).unwrap();
    let quota = Quota { nodes: Some(3), bytes: None };
    cell.run(Command::SetQuota(SetQuota { path: path("/d"), quota })).unwrap();
    assert_eq!(
        (cell.state.quota(&path("/d")), cell.state.quota(&path("/"))),
        (Ok(quota), Ok(Quota::default()))
    );
    for (text, nodes, bytes) in [("/", 4, 13), ("/d", 3, 13), ("/d/e", 1, 5)] {
        assert_eq!(cell.state.usage(&path(text)), Ok(Usage { nodes, bytes }), "{text}");
    }
    assert!(matches!(cell.state.usage(&path("/d/n")), Err(Refusal::WrongKind { .. })));
    assert!(matches!(cell.state.quota(&path("/none")), Err(Refusal::NotFound { .. })));
    assert!(matches!(cell.run(set("/d/g", "")), Err(Refusal::QuotaExceeded { .. })));
    cell.run(Command::DeleteTree(DeleteTree { path: path("/d") })).unwrap();
    cell.run(set("/d/e/f/g/h", "made again")).unwrap();
    assert_eq!(cell.state.quota(&path("/d")), Ok(Quota::default()));
}
