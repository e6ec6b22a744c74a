//! Random commands over a tree so small that they meet each other all the time.

use bramah_machine::{
    AclNames, Acquire, Answer, BatchBuilder, CancelAcquire, CloseHandles, Command, Comparison,
    CreateDirectory, Creation, Delete, DeleteTree, EndSession, Event, Guard, HandleId, Identity, Increment,
    Mode, Moment, NodeKind, OnHandle, OpenNode, OpenSession, Outcome, Path, Principal, Quota, Release,
    Request, ResetCounter, RevokeHandle, Sequencer, SessionId, SetAcl, SetContents, SetQuota, SetSequencer,
    State, Txn, TxnOperation, Verb,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Time and term of everything that these tests apply, unless time is what they are about.
pub(crate) const NOW: Moment = Moment { time_ms: 1_000_000, term: 1 };

pub(crate) fn paths() -> impl Strategy<Value = Path> {
    vec(prop_oneof!["a", "b", "c!"], 0..4)
        .prop_map(|names| Path::parse(&format!("/{}", names.join("/"))).unwrap())
}

fn generations() -> impl Strategy<Value = Option<u64>> {
    option::weighted(0.3, 0..4_u64)
}

fn numbers() -> impl Strategy<Value = i64> {
    prop_oneof![10 => -3..4_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => any::<i64>()]
}

fn bounds() -> impl Strategy<Value = Option<i64>> {
    option::weighted(0.3, -3..4_i64)
}

/// A command that changes the tree.
pub(crate) fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (paths(), vec(any::<u8>(), 0..40), generations(), any::<bool>()).prop_map(
            |(path, contents, if_generation, parents)| {
                Command::SetContents(SetContents { path, contents: contents.into(), if_generation, parents })
            }
        ),
        2 => (paths(), any::<bool>())
            .prop_map(|(path, parents)| Command::CreateDirectory(CreateDirectory { path, parents })),
        3 => (paths(), generations())
            .prop_map(|(path, if_generation)| Command::Delete(Delete { path, if_generation })),
        3 => (paths(), numbers(), any::<bool>(), bounds(), bounds()).prop_map(
            |(path, delta, create, floor, ceiling)| {
                Command::Increment(Increment { path, delta, create, floor, ceiling })
            }
        ),
        1 => (paths(), numbers(), option::weighted(0.5, numbers()), any::<bool>()).prop_map(
            |(path, value, expect, create)| Command::ResetCounter(ResetCounter { path, value, expect, create })
        ),
    ]
}

fn handles() -> impl Strategy<Value = HandleId> {
    (0..8_u64).prop_map(HandleId)
}

fn acls() -> impl Strategy<Value = AclNames> {
    let name = || prop_oneof![5 => Just(""), 1 => Just("a"), 1 => Just("gone")];
    (name(), name(), name()).prop_map(|(read, write, change_acl)| AclNames {
        read: read.into(),
        write: write.into(),
        change_acl: change_acl.into(),
    })
}

fn creations() -> impl Strategy<Value = Creation> {
    let kind = prop_oneof![Just(NodeKind::File), Just(NodeKind::Directory), Just(NodeKind::Counter)];
    (any::<bool>(), kind, any::<bool>(), option::weighted(0.2, acls()), any::<bool>()).prop_map(
        |(must, kind, ephemeral, acl, parents)| Creation {
            must,
            kind,
            ephemeral,
            contents: bytes::Bytes::new(),
            acl,
            parents,
        },
    )
}

fn operations() -> impl Strategy<Value = Vec<TxnOperation>> {
    let one = commands().prop_map(|command| match command {
        Command::SetContents(command) => TxnOperation::SetContents(command),
        Command::CreateDirectory(command) => TxnOperation::CreateDirectory(command),
        Command::Delete(Delete { path, if_generation: None }) => {
            TxnOperation::DeleteTree(DeleteTree { path })
        }
        Command::Delete(command) => TxnOperation::Delete(command),
        Command::Increment(command) => TxnOperation::Increment(command),
        Command::ResetCounter(command) => TxnOperation::ResetCounter(command),
        other => unreachable!("{other:?} changes no node"),
    });
    vec(one, 0..4)
}

fn guards() -> impl Strategy<Value = Vec<Guard>> {
    let comparison = prop_oneof![
        Just(Comparison::Less),
        Just(Comparison::AtMost),
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::AtLeast),
        Just(Comparison::Greater),
    ];
    let guard = prop_oneof![
        paths().prop_map(Guard::Exists),
        paths().prop_map(Guard::Absent),
        (paths(), 0..3_u64).prop_map(|(path, generation)| Guard::Generation(path, generation)),
        (paths(), comparison, -3..4_i64)
            .prop_map(|(path, comparison, value)| Guard::Counter(path, comparison, value)),
    ];
    vec(guard, 0..3)
}

/// A command that changes the tree, many nodes at once included.
pub(crate) fn tree_commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => commands(),
        1 => paths().prop_map(|path| Command::DeleteTree(DeleteTree { path })),
        3 => (guards(), operations(), operations())
            .prop_map(|(guards, then, otherwise)| Command::Txn(Txn { guards, then, otherwise })),
    ]
}

/// A command about handles, locks, ACLs, quotas; or a transaction.
pub(crate) fn lock_commands() -> impl Strategy<Value = Command> {
    let mode = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(read, write, change_acl)| Mode {
        read,
        write,
        change_acl,
    });
    let sequencer = option::weighted(0.5, (paths(), 1..6_u64, 0..4_u64, any::<bool>())).prop_map(|parts| {
        parts.map(|(path, instance, generation, shared)| Sequencer { path, instance, generation, shared })
    });
    let quota = (option::weighted(0.5, 0..6_u64), option::weighted(0.5, 0..60_u64))
        .prop_map(|(nodes, bytes)| Quota { nodes, bytes });
    prop_oneof![
        6 => (paths(), mode, option::weighted(0.7, creations()), prop_oneof![Just(0), Just(5_000_u32)]).prop_map(
            |(path, mode, create, lock_delay_ms)| {
                Command::OpenNode(OpenNode { path, mode, create, lock_delay_ms, within: None })
            }
        ),
        2 => vec(handles(), 0..3).prop_map(|handles| Command::CloseHandles(CloseHandles { handles })),
        6 => (handles(), any::<bool>(), any::<bool>())
            .prop_map(|(handle, shared, wait)| Command::Acquire(Acquire { handle, shared, wait })),
        1 => handles().prop_map(|handle| Command::CancelAcquire(CancelAcquire { handle })),
        3 => handles().prop_map(|handle| Command::Release(Release { handle })),
        1 => (handles(), sequencer)
            .prop_map(|(handle, sequencer)| Command::SetSequencer(SetSequencer { handle, sequencer })),
        1 => (handles(), generations()).prop_map(|(handle, if_generation)| {
            Command::OnHandle(OnHandle { handle, verb: Verb::Delete { if_generation } })
        }),
        1 => (handles(), vec(any::<u8>(), 0..30)).prop_map(|(handle, contents)| {
            let verb = Verb::SetContents { contents: contents.into(), if_generation: None };
            Command::OnHandle(OnHandle { handle, verb })
        }),
        1 => (paths(), acls())
            .prop_map(|(path, names)| Command::SetAcl(SetAcl { path, names, if_generation: None })),
        1 => (paths(), quota).prop_map(|(path, quota)| Command::SetQuota(SetQuota { path, quota })),
        1 => Just(Command::PassTime),
        1 => (0..4_u64, handles()).prop_map(|(session, handle)| {
            Command::RevokeHandle(RevokeHandle { session: SessionId(session), handle })
        }),
    ]
}

/// A request of any kind, from few senders with few numbers and keys, so that many are copies.
pub(crate) fn requests() -> impl Strategy<Value = Request> {
    let identity = prop_oneof![
        1 => Just(Identity::Anonymous),
        4 => (0..4_u64, 0..12_u64, 0..6_u64).prop_map(|(session, number, confirmed)| Identity::Session {
            session: SessionId(session),
            number,
            confirmed,
        }),
        2 => vec(0..3_u8, 0..3).prop_map(Identity::Key),
        1 => option::weighted(0.5, vec(0..3_u8, 0..3)).prop_map(|key| Identity::Known {
            principal: Principal::named("ann").unwrap(),
            key,
        }),
    ];
    let command = prop_oneof![
        12 => tree_commands(),
        12 => lock_commands(),
        2 => (900..2_000_u32, "[a-z]{0,8}").prop_map(|(lease_ms, client)| {
            Command::OpenSession(OpenSession { lease_ms, client, secret: [7; 16] })
        }),
        1 => (0..4_u64).prop_map(|session| Command::EndSession(EndSession { session: SessionId(session) })),
    ];
    (identity, command).prop_map(|(identity, command)| Request { identity, command })
}

/// Batches of requests; the times may go back, and jump past the life of a key.
pub(crate) fn batches() -> impl Strategy<Value = Vec<(u64, Vec<Request>)>> {
    vec((0..2_000_000_u64, vec(requests(), 0..12)), 0..8)
}

pub(crate) fn encode(time_ms: u64, requests: &[Request]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for request in requests {
        builder.push_encoded(&request.encode().unwrap()).unwrap();
    }
    builder.finish(time_ms).to_vec()
}

/// Applies encoded batches as a replica does.
pub(crate) fn apply_all(state: &mut State, batches: &[(u64, Vec<Request>)]) -> (Vec<Outcome>, Vec<Event>) {
    let mut events = Vec::new();
    let mut outcomes = Vec::new();
    for (time_ms, requests) in batches {
        outcomes.extend(state.apply_batch(&encode(*time_ms, requests), 1, &mut events).unwrap());
    }
    (outcomes, events)
}

pub(crate) fn open_session(state: &mut State) -> SessionId {
    let command =
        Command::OpenSession(OpenSession { lease_ms: 12_000, client: "test".to_owned(), secret: [7; 16] });
    let request = Request { identity: Identity::Anonymous, command };
    match state.apply(request, NOW, &mut Vec::new()) {
        Ok(Answer::SessionOpened { session, .. }) => session,
        other => panic!("no session was opened: {other:?}"),
    }
}
