//! What clients send, from arbitrary bytes: an answer or an error, never a panic.

use bramah_fuzz::{fuzz, within_bytes};
use bramah_machine::{
    AclNames, Creation, HandleId, Identity, Mode, Moment, NodeKind, OpenNode, OpenSession, Outcome, Path,
    Principal, Request, SessionId, State, decode_outcomes,
};
use bramah_wire::v1;
use prost::Message;

use super::caller::Door;
use super::members;
use super::pinned::Pinned;
use super::translate::{self, Caller, Work};
use crate::principals::{TokenError, TokenKey};

/// serde reserves up to 1 MiB for the items that a list claims.
const LISTS_BYTES: usize = 1 << 20;

/// What the state that is looked at, and the longest refusal, take.
const STATE_BYTES: usize = 192 << 10;

const SESSION: SessionId = SessionId(1);

fn in_proportion(bytes: &[u8]) -> usize {
    STATE_BYTES + 256 * bytes.len()
}

/// The first byte says which message the rest is.
#[test]
fn requests() {
    fuzz!("requests", |bytes| {
        let Some((kind, body)) = bytes.split_first() else { return };
        within_bytes(in_proportion(body), || match kind % 3 {
            0 => drop(v1::CallRequest::decode(body).map(single_call)),
            1 => drop(v1::SessionRequest::decode(body).map(session)),
            _ => drop(v1::ChangeMembersRequest::decode(body).map(change_of_members)),
        });
    });
}

fn single_call(call: v1::CallRequest) {
    translate::deadline(call.deadline_ms);
    let principal = Principal::named("ann").expect("a name");
    work(call.operation, translate::caller_identity(principal, &call.idempotency_key));
}

fn session(request: v1::SessionRequest) {
    if let Some(open) = request.open {
        work(None, translate::session_identity(Principal::anonymous(), &open.nonce));
    }
    for watch in &request.watches {
        if let Err(failure) = translate::interest(watch, "berlin") {
            assert!(!failure.message.is_empty() && !failure.may_have_been_done);
        }
    }
    for (call, number) in request.calls.into_iter().zip(1..) {
        translate::deadline(call.deadline_ms);
        work(call.operation, Identity::Session { session: SESSION, number, confirmed: 0 });
    }
}

/// A session with a handle on a file.
fn small_state() -> State {
    let mut state = State::new();
    let mut done = |identity, command: bramah_machine::Command| {
        let moment = Moment { time_ms: 1, term: 1 };
        state.apply(Request { identity, command }, moment, &mut Vec::new()).expect("it is done");
    };
    let open = OpenSession { lease_ms: 12_000, client: "fuzz".to_owned(), secret: [7; 16] };
    done(Identity::Anonymous, bramah_machine::Command::OpenSession(open));
    let creation = Creation {
        must: true,
        kind: NodeKind::File,
        ephemeral: false,
        contents: "x".into(),
        acl: None,
        parents: false,
    };
    let open = OpenNode {
        path: Path::parse("/f").expect("a name"),
        mode: Mode { read: true, write: true, change_acl: true },
        create: Some(creation),
        lock_delay_ms: 0,
        within: None,
    };
    done(
        Identity::Session { session: SESSION, number: 1_000_000, confirmed: 0 },
        bramah_machine::Command::OpenNode(open),
    );
    let names = AclNames { read: "nobody".into(), ..AclNames::default() };
    let path = Path::parse("/f").expect("a name");
    let hide = bramah_machine::SetAcl { path, names, if_generation: None };
    done(Identity::Anonymous, bramah_machine::Command::SetAcl(hide));
    assert!(state.handle(SESSION, HandleId(1)).is_some());
    state
}

/// What is taken is a command that every replica can decode and apply, or can be looked at.
fn work(operation: Option<v1::Operation>, identity: Identity) {
    let mut state = small_state();
    match translate::work(operation, "berlin") {
        Err(failure) => assert!(!failure.message.is_empty() && !failure.may_have_been_done),
        Ok(Work::Read(read)) => {
            let caller = Caller { principal: Principal::anonymous(), session: Some(SESSION) };
            drop(translate::read(&state, &Pinned::default(), &caller, &read).encode_to_vec());
        }
        Ok(Work::Write(command)) => {
            let request = Request { identity, command };
            let encoded = request.encode().expect("it is short");
            assert_eq!(Request::decode(&encoded).as_ref(), Ok(&request));
            let mut events = Vec::new();
            let outcome = state.apply(request, Moment { time_ms: 1, term: 1 }, &mut events);
            told(&state, &events);
            sent(outcome);
        }
    }
}

fn told(state: &State, events: &[bramah_machine::Event]) {
    for event in events {
        translate::place(state, &event.change).map(|place| place.encode_to_vec());
        let sent = translate::event(event, vec![1]).expect("nothing here closes a handle unasked");
        assert!(sent.revision > 0 && sent.kind() != v1::event::Kind::Unspecified);
    }
}

fn sent(outcome: Outcome) {
    let sent = translate::outcome(outcome, true);
    assert_eq!(v1::Outcome::decode(&*sent.encode_to_vec()).as_ref(), Ok(&sent));
}

fn change_of_members(request: v1::ChangeMembersRequest) {
    if let Err(failure) = members::translated(request.change) {
        assert!(!failure.message.is_empty() && !failure.may_have_been_done);
    }
}

/// What another replica says became of a command.
#[test]
fn outcomes() {
    fuzz!("outcomes", |bytes| {
        within_bytes(LISTS_BYTES + in_proportion(bytes), || {
            let Ok(outcomes) = decode_outcomes(bytes) else { return };
            outcomes.into_iter().for_each(sent);
        });
    });
}

/// A token, as it is and rightly signed (spec A-2).
#[test]
fn tokens() {
    let key = TokenKey::new(&[7; 32]).expect("long enough");
    fuzz!("tokens", |bytes| {
        within_bytes(in_proportion(bytes), || {
            if let Ok(value) = tonic::metadata::MetadataValue::try_from(bytes) {
                let door = Door::new(Some(key.clone()), bramah_cell::WallClock::from_fn(|| 1_000));
                let mut metadata = tonic::metadata::MetadataMap::new();
                metadata.insert("authorization", value);
                // Whoever has not got the key can't find a token that is good.
                let refused = door.principal(&metadata).expect_err("nobody signed it");
                assert!(!refused.message.is_empty());
            }
            match key.verify(&key.signed(bytes), 1) {
                Ok(principal) => {
                    let expires = u64::from_be_bytes(bytes[1..9].try_into().expect("it has a head"));
                    let again = key.create(principal.name(), (expires > 0).then_some(expires));
                    assert_eq!(again, Ok(key.signed(bytes)));
                }
                Err(error) => assert_ne!(error, TokenError::WrongKey),
            }
        });
    });
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_a_message_with_each_operation() {
    let taken = |corpus: &[u8]| {
        let session = v1::SessionRequest::decode(&corpus[1..]).expect("it is whole");
        let watches = session.watches.iter().filter(|watch| translate::interest(watch, "berlin").is_ok());
        let calls = session.calls.iter();
        let calls = calls.filter(|call| translate::work(call.operation.clone(), "berlin").is_ok());
        (calls.count(), watches.count())
    };
    let first = taken(include_bytes!("../../__fuzz__/requests/corpus/session"));
    assert_eq!(first, (9, 0), "all but that for another cell, and the unknown one");
    let locks = taken(include_bytes!("../../__fuzz__/requests/corpus/session-locks"));
    assert_eq!(locks, (26, 2), "all but the watch without a number");
    let corpus = include_bytes!("../../__fuzz__/requests/corpus/members-replace");
    let change = v1::ChangeMembersRequest::decode(&corpus[1..]).expect("it is whole");
    assert!(members::translated(change.change).is_ok());
}
