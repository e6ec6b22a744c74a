//! Random commands over a tree so small that they meet each other all the time.

use bramah_machine::{
    Answer, BatchBuilder, Command, CreateDirectory, Delete, EndSession, Event, Identity, Increment, Moment,
    OpenSession, Outcome, Path, Request, ResetCounter, SessionId, SetContents, State,
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
    ];
    let command = prop_oneof![
        12 => commands(),
        2 => (900..2_000_u32, "[a-z]{0,8}").prop_map(|(lease_ms, client)| {
            Command::OpenSession(OpenSession { lease_ms, client })
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
    let command = Command::OpenSession(OpenSession { lease_ms: 12_000, client: "test".to_owned() });
    let request = Request { identity: Identity::Anonymous, command };
    match state.apply(request, NOW, &mut Vec::new()) {
        Ok(Answer::SessionOpened { session, .. }) => session,
        other => panic!("no session was opened: {other:?}"),
    }
}
