//! Handles and locks, and the streams that own them.

use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::handle_state::Place;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{
    acquire, alone, delete, failure, handle, nonce, open_file, open_for_reading, place, release, set, three,
};

fn write(handle: u64) -> Operation {
    let set = v1::SetContents { contents: "new".into(), ..v1::SetContents::default() };
    Operation::OnHandle(v1::OnHandle { handle, verb: Some(v1::on_handle::Verb::SetContents(set)) })
}

fn look(handle: u64, verb: v1::read_on_handle::Verb) -> Operation {
    Operation::ReadOnHandle(v1::ReadOnHandle { handle, verb: Some(verb) })
}

fn contents(handle: u64) -> Operation {
    look(handle, v1::read_on_handle::Verb::Contents(v1::GetContents::default()))
}

fn sequencer(handle: u64) -> Operation {
    look(handle, v1::read_on_handle::Verb::Sequencer(v1::GetSequencer {}))
}

/// Spec H-2: a handle is its session's alone, and one that nobody was given is nobody's; without a session there is
/// none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_foreign_handles_are_unknown() {
    let alone = alone().await;
    let ((mut ann, _), (mut ben, _)) = (alone.new_session().await, alone.new_session().await);
    let handle = ann.open(1, "/f").await;
    let uses = |handle| {
        [write(handle), contents(handle), sequencer(handle), acquire(handle, false), release(handle)]
    };
    for (number, what) in (1..).zip(uses(handle)) {
        let refused = ben.refused(number, what).await;
        assert_eq!(refused.code(), Code::UnknownHandle, "{refused:?}");
    }
    for (number, what) in (2..).zip([handle + 1, u64::MAX, 0].into_iter().flat_map(uses)) {
        assert_eq!(ann.refused(number, what).await.code(), Code::UnknownHandle);
    }
    for what in uses(handle).into_iter().chain([open_file("/f")]) {
        let outcome = alone.single("", what).await;
        let (code, refused) = failure(&outcome);
        assert_eq!(code, Code::InvalidArgument);
        assert!(refused.message.contains("session"), "{}", refused.message);
    }
    assert!(
        matches!(ann.done(100, write(handle)).await, Outcome::Written(_)),
        "it works for its own session"
    );
}

/// Spec H-2, L-1: a handle is good for what it was opened for, and locking takes the right to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_is_good_for_what_it_was_opened_for() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    stream.open(1, "/f").await;
    let reading = handle(&stream.done(2, open_for_reading("/f")).await);
    for (number, what) in [(3, write(reading)), (4, acquire(reading, false)), (5, acquire(reading, true))] {
        assert_eq!(stream.refused(number, what).await.code(), Code::HandleLacksRight);
    }
    assert!(matches!(stream.done(6, contents(reading)).await, Outcome::Contents(_)));
    let Operation::OpenNode(open) = open_for_reading("/f") else { unreachable!() };
    let writing =
        v1::OpenNode { mode: Some(v1::Mode { write: true, ..v1::Mode::default() }), ..open.clone() };
    let writing = handle(&stream.done(7, Operation::OpenNode(writing)).await);
    assert_eq!(stream.refused(8, contents(writing)).await.code(), Code::HandleLacksRight);
    assert_eq!(place(&stream.done(9, acquire(writing, false)).await), Place::Holding);
    assert!(
        matches!(stream.done(10, sequencer(writing)).await, Outcome::Sequencer(_)),
        "a holder need not read"
    );
    let nothing = v1::OpenNode { mode: None, ..open };
    assert_eq!(stream.refused(11, Operation::OpenNode(nothing)).await.code(), Code::InvalidArgument);
}

/// Spec H-3, H-5: a handle on a node that was deleted says so, though the name exists again; a closed one is unknown,
/// whatever comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_handles_are_refused() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let old = stream.open(1, "/f").await;
    stream.done(2, delete("/f")).await;
    let new = stream.open(3, "/f").await;
    for (number, what) in [(4, write(old)), (5, contents(old)), (6, acquire(old, true)), (7, sequencer(old))]
    {
        assert_eq!(stream.refused(number, what).await.code(), Code::NodeDeleted);
    }
    let close = Operation::CloseHandles(v1::CloseHandles { handles: vec![new, old, 12_345] });
    assert!(matches!(stream.done(8, close.clone()).await, Outcome::Done(_)));
    assert!(matches!(stream.done(9, close).await, Outcome::Done(_)), "spec H-4: closing never fails");
    assert_eq!(handle(&stream.done(3, open_file("/f")).await), new, "the late copy gets the first answer");
    for (number, what) in [(10, write(new)), (11, contents(new))] {
        assert_eq!(stream.refused(number, what).await.code(), Code::UnknownHandle, "and opens nothing");
    }
}

/// Spec L-1, L-2, L-5: what a lock refuses; who waits is told when it holds the lock, and since when others wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_refused_waited_for_and_handed_on() {
    let alone = alone().await;
    let ((mut ann, ann_id), (mut ben, ben_id)) = (alone.new_session().await, alone.new_session().await);
    let Operation::OpenNode(open) = open_file("/f") else { unreachable!() };
    let too_long = v1::OpenNode { lock_delay_ms: 61_000, ..open.clone() };
    assert_eq!(ann.refused(1, Operation::OpenNode(too_long)).await.code(), Code::InvalidArgument);
    let longest = v1::OpenNode { lock_delay_ms: 60_000, ..open };
    let first = handle(&ann.done(2, Operation::OpenNode(longest)).await);
    let second = ben.open(1, "/f").await;
    assert_eq!(ann.refused(3, release(first)).await.code(), Code::LockNotHeld);
    assert_eq!(place(&ann.done(4, acquire(first, false)).await), Place::Holding);
    assert_eq!(ben.refused(2, acquire(second, false)).await.code(), Code::LockHeld);
    assert_eq!(place(&ben.done(3, acquire(second, true)).await), Place::Waiting);
    assert_eq!(ben.refused(4, release(second)).await.code(), Code::LockNotHeld, "it only waits");
    let shared = Operation::Acquire(v1::Acquire { handle: second, shared: true, wait: true });
    assert_eq!(ben.refused(5, shared).await.code(), Code::LockInUse);

    let Outcome::Locks(page) = ben.done(6, Operation::ListLocks(v1::ListLocks::default())).await else {
        panic!()
    };
    let lock = &page.locks[0];
    assert_eq!((lock.path.as_str(), lock.holder_count, lock.waiter_count, page.more), ("/f", 1, 1, false));
    assert_eq!((lock.holders[0].session, lock.holders[0].handle), (ann_id, first));
    assert_eq!((lock.waiters[0].session, lock.waiters[0].handle), (ben_id, second));
    let list = Operation::ListSessions(v1::ListSessions::default());
    let Outcome::Sessions(page) = ben.done(7, list).await else { panic!() };
    let counts: Vec<_> = page.sessions.iter().map(|s| (s.session, s.handles, s.holding, s.waiting)).collect();
    assert_eq!(counts, [(ann_id, 1, 1, 0), (ben_id, 1, 0, 1)]);

    assert!(matches!(ann.done(5, release(first)).await, Outcome::Done(_)));
    ben.until(|told| !told.handles.is_empty()).await;
    let told = ben.told.handles[0];
    assert_eq!((told.handle, told.place(), told.lock_generation), (second, Place::Holding, 2));
    assert!(told.after_call >= 3, "it is newer than the answer that said to wait: {told:?}");
    assert_eq!(
        ann.told.handles.iter().find(|told| told.place() == Place::Holding && told.after_call >= 5),
        None
    );
}

/// Spec L-4: a sequencer is good while the lock is held as it says, and a handle can be tied to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequencer_ends_with_its_lock() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let (lock, data) = (stream.open(1, "/lock").await, stream.open(2, "/data").await);
    assert_eq!(stream.refused(3, sequencer(lock)).await.code(), Code::LockNotHeld);
    stream.done(4, acquire(lock, false)).await;
    let Outcome::Sequencer(held) = stream.done(5, sequencer(lock)).await else { panic!() };
    let check = || Operation::CheckSequencer(v1::CheckSequencer { sequencer: Some(held.clone()) });
    assert!(matches!(alone.single("", check()).await, Outcome::Done(_)));
    let tie = v1::SetSequencer { handle: data, sequencer: Some(held.clone()) };
    assert!(matches!(stream.done(6, Operation::SetSequencer(tie)).await, Outcome::Done(_)));
    assert!(matches!(stream.done(7, write(data)).await, Outcome::Written(_)));
    stream.done(8, release(lock)).await;
    assert_eq!(stream.refused(9, write(data)).await.code(), Code::SequencerInvalid);
    assert_eq!(stream.refused(10, contents(data)).await.code(), Code::SequencerInvalid);
    assert_eq!(failure(&alone.single("", check()).await).0, Code::SequencerInvalid);
}

/// Spec H-6: once the session has expired, whatever it sends is refused for that reason, and nothing of it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_an_expired_session_is_refused() {
    let alone = alone().await;
    let open = v1::OpenSession { nonce: nonce(), lease_ms: 1_000, ..v1::OpenSession::default() };
    let (mut stream, _) = alone.stream(open).await;
    let handle = stream.open(1, "/f").await;
    let deadline = tokio::time::Instant::now() + crate::raw::LIMIT;
    while alone.server.status().sessions > 0 {
        assert!(tokio::time::Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let uses = [write(handle), contents(handle), set("/g", 1), acquire(handle, true), open_file("/h")];
    for (number, what) in (2..).zip(uses) {
        let refused = stream.refused(number, what).await;
        assert_eq!(refused.code(), Code::SessionExpired, "{refused:?}");
    }
    let (_, head) = alone.stream(stream.open.clone()).await;
    assert_eq!(head.ended.expect("it is over").code(), Code::SessionExpired);
    assert_eq!(alone.server.status().nodes, 2, "the root and the file");
}

/// Spec S-3, H-5, L-6: whoever takes a session up again, at another replica, with its secret, is told which of its
/// handles hold or wait, and then what becomes of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_taken_up_elsewhere_with_its_locks() {
    let replicas = three().await;
    let ((mut ann, _), (mut ben, _)) = (replicas[0].new_session().await, replicas[1].new_session().await);
    let (held, wanted, idle) = (ann.open(1, "/a").await, ann.open(2, "/b").await, ann.open(3, "/c").await);
    let theirs = ben.open(1, "/b").await;
    assert_eq!(place(&ben.done(2, acquire(theirs, false)).await), Place::Holding);
    assert_eq!(place(&ann.done(4, acquire(held, false)).await), Place::Holding);
    assert_eq!(place(&ann.done(5, acquire(wanted, true)).await), Place::Waiting);
    let open = ann.open.clone();
    drop(ann);
    for replica in &replicas {
        let (_, head) = replica.stream(open.clone()).await;
        let mut places: Vec<_> = head.handles.iter().map(|told| (told.handle, told.place())).collect();
        places.sort();
        assert_eq!(places, [(held, Place::Holding), (wanted, Place::Waiting)], "not {idle}");
        assert!(head.handles.iter().all(|told| told.after_call >= 5) && !head.all_handles);
    }
    let (mut ann, _) = replicas[2].stream(open).await;
    assert!(matches!(ben.done(3, release(theirs)).await, Outcome::Done(_)));
    let holds = |told: &v1::HandleState| told.handle == wanted && told.place() == Place::Holding;
    ann.until(|told| told.handles.iter().any(holds)).await;
    assert!(matches!(ben.done(4, delete("/a")).await, Outcome::Deleted(_)));
    ann.until(|told| told.handles.iter().any(|told| told.handle == held && told.place() == Place::Lost))
        .await;
    assert!(matches!(ann.done(6, write(wanted)).await, Outcome::Written(_)));
}

/// Spec N-9: a transaction of too many parts is refused whole; one with a bad part names it; another tells all its
/// outcomes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_bounded_and_name_what_was_refused() {
    use v1::txn_operation::Operation as Part;
    let alone = alone().await;
    let part = |path: &str| {
        let create = v1::CreateDirectory { path: path.to_owned(), parents: false };
        v1::TxnOperation { operation: Some(Part::CreateDirectory(create)) }
    };
    let txn = |parts: Vec<v1::TxnOperation>| Operation::Txn(v1::Txn { then: parts, ..v1::Txn::default() });
    let parts = |count: usize| (0..count).map(|i| part(&format!("/d{i}"))).collect::<Vec<_>>();
    let refused = alone.single("", txn(parts(129))).await;
    assert_eq!(failure(&refused).0, Code::InvalidArgument);
    assert!(failure(&refused).1.message.contains("128"));
    let Outcome::Txn(done) = alone.single("", txn(parts(128))).await else { panic!("it is done") };
    assert_eq!((done.held, done.outcomes.len()), (true, 128));
    let refused = alone.single("", txn(vec![part("/x"), part("/no/y")])).await;
    assert_eq!((failure(&refused).0, failure(&refused).1.part), (Code::NotFound, Some(1)));
    assert!(failure(&refused).1.message.contains("operation 1"), "{refused:?}");
    let refused = alone.single("", txn(vec![part("/x"), part("/y"), part("//")])).await;
    assert_eq!((failure(&refused).0, failure(&refused).1.part), (Code::InvalidArgument, Some(2)));
    let missing = Operation::GetStat(v1::GetStat { path: "/x".to_owned() });
    assert_eq!(failure(&alone.single("", missing).await).0, Code::NotFound, "nothing of it was done");
}
