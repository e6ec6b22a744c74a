//! What clients send, from arbitrary bytes: an answer or an error, never a panic.

use bramah_fuzz::{fuzz, within_bytes};
use bramah_machine::{Identity, Moment, Request, State, decode_outcomes};
use bramah_wire::v1;
use prost::Message;

use super::members;
use super::translate::{self, Work};

/// serde reserves up to 1 MiB for the items that a list claims.
const LISTS_BYTES: usize = 1 << 20;

fn in_proportion(bytes: &[u8]) -> usize {
    (64 << 10) + 256 * bytes.len()
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
    work(call.operation, translate::caller_key(&call.idempotency_key));
}

fn session(request: v1::SessionRequest) {
    if let Some(open) = request.open {
        work(None, translate::session_key(&open.nonce));
    }
    for call in request.calls {
        translate::deadline(call.deadline_ms);
        work(call.operation, Identity::Anonymous);
    }
}

/// What is taken is a command that every replica can decode and apply, or can be looked at.
fn work(operation: Option<v1::Operation>, identity: Identity) {
    let mut state = State::new();
    match translate::work(operation, "berlin") {
        Err(failure) => assert!(!failure.message.is_empty() && !failure.may_have_been_done),
        Ok(Work::Read(read)) => drop(translate::read(&state, &read).encode_to_vec()),
        Ok(Work::Write(command)) => {
            let request = Request { identity, command };
            let encoded = request.encode().expect("it is short");
            assert_eq!(Request::decode(&encoded).as_ref(), Ok(&request));
            let outcome = state.apply(request, Moment { time_ms: 1, term: 1 }, &mut Vec::new());
            drop(translate::outcome(outcome, true).encode_to_vec());
        }
    }
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
            for outcome in outcomes {
                let sent = translate::outcome(outcome, true);
                assert_eq!(v1::Outcome::decode(&*sent.encode_to_vec()).as_ref(), Ok(&sent));
            }
        });
    });
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_a_message_with_each_operation() {
    let corpus = include_bytes!("../../__fuzz__/requests/corpus/session");
    let session = v1::SessionRequest::decode(&corpus[1..]).expect("it is whole");
    let taken =
        session.calls.into_iter().filter(|call| translate::work(call.operation.clone(), "berlin").is_ok());
    assert_eq!(taken.count(), 9, "all but that for another cell, and the unknown one");
    let corpus = include_bytes!("../../__fuzz__/requests/corpus/members-replace");
    let change = v1::ChangeMembersRequest::decode(&corpus[1..]).expect("it is whole");
    assert!(members::translated(change.change).is_ok());
}
