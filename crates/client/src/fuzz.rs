//! What a cell says, from arbitrary bytes, and addresses of any text: an error, never a panic.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bramah_fuzz::{fuzz, within_bytes};
use bramah_wire::transport::{Listener, Stream, Transport, channel};
use bramah_wire::v1;
use bramah_wire::v1::outcome::Outcome;
use futures_util::future::BoxFuture;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::addresses::Addresses;
use crate::budget::RetryBudget;
use crate::builder::{IntoAddresses, check_address};
use crate::calls::{Call, Calls, Lasting, Reply};
use crate::error::Error;
use crate::files::Stat;
use crate::grip::{Grip, Place};
use crate::handles::Handles;
use crate::link::TIMEOUTS;
use crate::status::{Member, ReplicaStatus};
use crate::watch::Inbox;
use crate::watches::{Interest, Watches};

const ALLOWED: Duration = Duration::from_secs(10);
/// Calls that wait for an answer.
const CALLS: usize = 4;

/// The first byte says which message the rest is.
#[test]
fn replies() {
    fuzz!("replies", |bytes| {
        let Some((kind, body)) = bytes.split_first() else { return };
        within_bytes((64 << 10) + 256 * body.len(), || match kind % 4 {
            0 => drop(v1::SessionReply::decode(body).map(session)),
            1 => drop(v1::CallReply::decode(body).map(|reply| outcome(reply.outcome))),
            2 => drop(v1::StatusReply::decode(body).map(|reply| format!("{:?}", ReplicaStatus::from(reply)))),
            _ => drop(v1::ChangeMembersReply::decode(body).map(members)),
        });
    });
}

fn session(reply: v1::SessionReply) {
    let mut addresses = Addresses::new(vec!["a:1".into()], 0);
    addresses.members(reply.members.iter().map(|member| &*member.client_address));
    if let Some(leader) = &reply.leader {
        addresses.settle(&leader.address);
    }
    assert!(!addresses.current().is_empty() && addresses.len() <= 65);
    addresses.advance();
    reply.ended.into_iter().for_each(failure);
    handles(reply.handles);
    watches(reply.events, reply.watches, reply.revision);
    answers(reply.answers);
}

/// Whatever is said of handles: nobody wants a lock, so none is kept.
fn handles(states: Vec<v1::HandleState>) {
    let table = Handles::default();
    table.session_is(1);
    for state in states.iter().take(CALLS) {
        table.open(&Arc::new(Grip::new(1, state.handle, "/f".into(), 1)));
    }
    for (grip, _) in table.told(states) {
        assert!(!matches!(grip.now().place, Place::Holding { .. }));
    }
}

/// Whatever is told to watches, what waits for their readers is bounded.
fn watches(events: Vec<v1::Event>, states: Vec<v1::WatchState>, revision: u64) {
    let (mut watches, now) = (Watches::default(), Instant::now());
    let inboxes: Vec<_> = (1..=3)
        .map(|number| {
            let inbox = Arc::new(Inbox::new(2));
            watches.begin(number, Interest::default(), inbox.clone());
            inbox
        })
        .collect();
    watches.next_batch();
    watches.replied(events.clone(), states, revision, now);
    watches.connection_lost();
    watches.next_batch();
    watches.replied(events, Vec::new(), revision, now);
    assert!(inboxes.iter().all(|inbox| inbox.len() <= 2));
}

/// Each call ends once, whatever is answered how often.
fn answers(answers: Vec<v1::Answer>) {
    let now = Instant::now();
    let (mut budget, mut random) = (RetryBudget::new(now), StdRng::seed_from_u64(1));
    let mut calls = Calls::default();
    let mut waiting: Vec<_> = (0..CALLS).map(|_| submit(&mut calls, now)).collect();
    assert_eq!(calls.next_batch(now, 4096, 1 << 20).len(), CALLS);
    for answer in &answers {
        outcome(answer.outcome.clone());
    }
    calls.answered(answers, now, &mut budget, &mut random);
    calls.tick(now + ALLOWED, || "trouble".into());
    assert!(calls.is_empty() && waiting.iter_mut().all(|answer| answer.try_recv().is_ok()));
}

fn submit(calls: &mut Calls, now: Instant) -> oneshot::Receiver<crate::calls::Answer> {
    let (reply, answer) = oneshot::channel();
    let increment = v1::Increment { path: "/c".into(), delta: 1, ..Default::default() };
    let operation = v1::Operation { operation: Some(v1::operation::Operation::Increment(increment)) };
    let (deadline, allowed) = (now + ALLOWED, ALLOWED);
    let (grip, session, lasting, reply) = (None, None, Lasting::No, Reply::Caller(reply));
    calls.submit(Call {
        operation,
        size: 20,
        has_effect: true,
        deadline,
        allowed,
        grip,
        session,
        lasting,
        reply,
    });
    answer
}

fn outcome(outcome: Option<v1::Outcome>) {
    match outcome.and_then(|outcome| outcome.outcome) {
        Some(Outcome::Failure(told)) => failure(told),
        Some(Outcome::Stat(stat)) => drop(format!("{:?}", Stat::from(stat))),
        Some(Outcome::Directory(page)) => {
            page.entries
                .into_iter()
                .filter_map(crate::files::entry)
                .for_each(|entry| drop(format!("{entry:?}")));
        }
        _ => {}
    }
}

fn failure(told: v1::Failure) {
    let message = told.message.clone();
    let error = Error::from_failure(told, true);
    assert_eq!(error.to_string(), message);
    let _ = (error.code(), error.is_retryable(), error.may_have_been_done());
}

fn members(reply: v1::ChangeMembersReply) {
    reply.failure.into_iter().for_each(failure);
    reply.members.into_iter().map(Member::from).for_each(|member| drop(format!("{member:?}")));
}

/// What is taken for an address can be dialled, or it is an error to do so.
#[test]
fn addresses() {
    fuzz!("addresses", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let list = within_bytes(1024 + 64 * bytes.len(), || (&*text).into_addresses());
        for address in list {
            assert!(!address.is_empty() && !address.contains(','));
            match check_address(&address) {
                Ok(()) => dial(&address),
                Err(error) => assert!(error.to_string().contains("host:port"), "{error}"),
            }
        }
    });
}

/// Up to where the network would begin.
fn dial(address: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(channel(Arc::new(Nowhere), address, TIMEOUTS)).expect_err("there is nobody");
}

struct Nowhere;

impl Transport for Nowhere {
    fn connect(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }

    fn listen(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::AddrNotAvailable.into())))
    }
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_replies_that_can_be_read() {
    let corpus = include_bytes!("../__fuzz__/replies/corpus/session");
    let reply = v1::SessionReply::decode(&corpus[1..]).expect("it is whole");
    assert_eq!((reply.answers.len(), reply.members.len()), (9, 2));
    let directory = reply.answers.into_iter().filter_map(|answer| answer.outcome?.outcome).nth(5);
    assert!(matches!(directory, Some(Outcome::Directory(page)) if page.entries.len() == 2 && page.more));
    let corpus = include_bytes!("../__fuzz__/replies/corpus/status");
    let status = ReplicaStatus::from(v1::StatusReply::decode(&corpus[1..]).expect("it is whole"));
    assert_eq!((status.cell.as_str(), status.members.len()), ("berlin", 1));
}
