//! Handles: opened, used, closed, poisoned, and gone with their session (spec H-1, H-3 to H-6).

use std::future::IntoFuture;
use std::time::Duration;

use bramah_client::{Client, Error, LockMode};
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation as Op;
use tokio::time::{sleep, timeout};

use crate::fake::{Act, Cell, failure};

async fn connected() -> (Cell, Client) {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    (cell, client)
}

fn closes(cell: &Cell) -> Vec<Vec<u64>> {
    let state = cell.state();
    let closes = state.world.done.iter().filter_map(|(_, _, operation)| match operation {
        Op::CloseHandles(close) => Some(close.handles.clone()),
        _ => None,
    });
    closes.collect()
}

/// Spec H-1: opening says whether it made the node; a directory handle opens what is below it.
#[tokio::test(start_paused = true)]
async fn a_handle_is_opened_and_used() {
    let (cell, client) = connected().await;
    assert!(matches!(client.open("/f").await.unwrap_err(), Error::NotFound { .. }));
    let handle = client.open("/f").write().create().contents("one").await.unwrap();
    assert!(handle.created() && handle.path() == "/f" && handle.session() == 1);
    assert_eq!(handle.contents().await.unwrap().contents, "one");
    handle.set_contents("two").await.unwrap();
    assert!(!client.open("/f").create().await.unwrap().created());
    let error = client.open("/f").create_new().await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }));
    let below = handle.open("g").create().await.unwrap();
    assert_eq!(below.path(), "/f/g");
    let opened = cell.state().world.done.iter().rev().find_map(|(_, _, operation)| match operation {
        Op::OpenNode(open) => Some(open.clone()),
        _ => None,
    });
    assert_eq!(opened.unwrap().within, handle.number());
}

/// Spec H-4: closing never fails and waits for the cell; dropped handles are closed in bulk.
#[tokio::test(start_paused = true)]
async fn handles_are_closed_in_bulk() {
    let (cell, client) = connected().await;
    let mut handles = Vec::new();
    for index in 0..100 {
        handles.push(client.open(format!("/f{index}")).create().await.unwrap());
    }
    handles.pop().unwrap().close().await;
    assert_eq!((closes(&cell).len(), cell.state().world.handles.len()), (1, 99));
    drop(handles);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((closes(&cell).len(), cell.state().world.handles.len()), (2, 0));
}

/// Spec H-4: closing waits no longer than the deadline, and goes on by itself.
#[tokio::test(start_paused = true)]
async fn closing_never_fails() {
    let (cell, client) = connected().await;
    let client = client.with_deadline(Duration::from_secs(2)).unwrap();
    let handle = client.open("/f").create().await.unwrap();
    cell.kill(1);
    cell.kill(2);
    handle.close().await;
    sleep(Duration::from_secs(5)).await;
    cell.start_replica(2).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cell.state().world.handles.len(), 0);
}

/// Spec H-5: a close whose answer was lost comes again under its number, and a handle opened since has another
/// one: no late copy closes it.
#[tokio::test(start_paused = true)]
async fn a_close_that_comes_twice_closes_once() {
    let (cell, client) = connected().await;
    let handle = client.open("/f").create().await.unwrap();
    let first = handle.number();
    cell.behave(1, |replica| replica.acts.push_back(Act::DoAndBreak));
    handle.close().await;
    let again = client.open("/f").create().await.unwrap();
    assert_ne!(again.number(), first);
    again.contents().await.unwrap();
    assert_eq!(closes(&cell), [[first]], "done once");
    let state = cell.state();
    let close = state.seen.iter().filter(|seen| seen.numbers.contains(&2)).count();
    assert_eq!(close, 2, "and sent twice under the same number");
}

/// A handle whose opener gave up, or whose answer came after the deadline, is closed.
#[tokio::test(start_paused = true)]
async fn a_handle_that_nobody_has_is_closed() {
    let (cell, client) = connected().await;
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_secs(3))));
    let opening = timeout(Duration::from_secs(1), client.open("/f").create().into_future()).await;
    assert!(opening.is_err(), "given up");
    assert_eq!(cell.state().world.handles.len(), 1);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cell.state().world.handles.len(), 0);

    let hasty = client.with_deadline(Duration::from_secs(1)).unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_secs(3))));
    let error = hasty.open("/f").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: true, .. }), "{error:?}");
    assert_eq!(cell.state().world.handles.len(), 1);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cell.state().world.handles.len(), 0);
}

/// Spec H-4: poison makes running calls fail and those to come, and leaves the handle open.
#[tokio::test(start_paused = true)]
async fn a_poisoned_handle_fails_and_stays_open() {
    let (cell, client) = connected().await;
    let handle = client.open("/f").write().create().await.unwrap();
    let lock = client.open("/l").write().create().await.unwrap();
    lock.acquire(LockMode::Exclusive).await.unwrap();
    cell.act(|world| {
        world.stranger_locks("/held");
    });
    let waiting = client.open("/held").write().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::Ignore));
    let (read, waited, ()) = tokio::join!(handle.contents(), waiting.acquire(LockMode::Exclusive), async {
        sleep(Duration::from_millis(100)).await;
        handle.poison();
        waiting.poison();
        lock.poison();
    });
    for error in [read.unwrap_err(), waited.unwrap_err(), handle.set_contents("x").await.unwrap_err()] {
        assert!(matches!(error, Error::Poisoned { .. }) && !error.may_have_been_done(), "{error:?}");
    }
    assert!(matches!(lock.release().await.unwrap_err(), Error::Poisoned { .. }));
    assert_eq!(cell.state().world.handles.len(), 4, "none is closed");
    let (number, held) = (handle.number(), lock.number());
    handle.close().await;
    assert!(!cell.state().world.handles.contains_key(&number));
    assert_eq!(cell.state().world.standing(1)[0].handle, held, "and a lock stays held");
}

/// Spec H-6: once the session expired its handles fail for ever, also when there is a new one; no call of theirs goes to it.
#[tokio::test(start_paused = true)]
async fn an_expired_session_s_handles_fail_for_ever() {
    let (cell, client) = connected().await;
    let handle = client.open("/f").write().create().await.unwrap();
    let other = client.open("/g").write().create().await.unwrap();
    cell.expire_sessions();
    let error = handle.set_contents("x").await.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: false, .. }), "{error:?}");
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1, "there is a new session");
    assert_eq!(client.session().unwrap().session, 2);
    for error in [
        handle.contents().await.unwrap_err(),
        other.contents().await.unwrap_err(),
        other.acquire(LockMode::Exclusive).await.unwrap_err(),
        other.open("below").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::SessionExpired { .. }), "{error:?}");
    }
    drop((handle, other));
    sleep(Duration::from_secs(1)).await;
    let state = cell.state();
    let done = state.world.done.iter().filter(|(session, ..)| *session == 2);
    let done: Vec<_> = done.map(|(_, _, operation)| operation).collect();
    assert!(matches!(done[..], [Op::Increment(_)]), "{done:?}");
}

/// Spec H-6: the calls that a handle had under way when the session expired fail too, none is moved.
#[tokio::test(start_paused = true)]
async fn calls_under_way_are_not_moved_to_another_session() {
    let (cell, client) = connected().await;
    let handle = client.open("/f").write().create().await.unwrap();
    cell.kill(1);
    cell.kill(2);
    let breaking = async {
        sleep(Duration::from_secs(1)).await;
        cell.expire_sessions();
        cell.start_replica(1).await;
    };
    let counter = client.counter("/c");
    let (written, counted, ()) = tokio::join!(handle.set_contents("x"), counter.increment(1), breaking);
    let error = written.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: false, .. }), "{error:?}");
    assert_eq!(counted.unwrap(), 1);
}

/// Spec H-3: a handle is of one instance of its node.
#[tokio::test(start_paused = true)]
async fn a_deleted_node_s_handle_stays_dead() {
    let (cell, client) = connected().await;
    let handle = client.open("/f").write().create().await.unwrap();
    cell.act(|world| {
        world.delete("/f");
        world.set("/f", "another");
    });
    assert!(matches!(handle.contents().await.unwrap_err(), Error::NodeDeleted { .. }));
}

/// All that the cell can refuse has an error of its own.
#[tokio::test(start_paused = true)]
async fn refusals_have_names() {
    let (cell, client) = connected().await;
    use bramah_client::Code as Name;
    for (code, name) in [
        (Code::PermissionDenied, Name::PermissionDenied),
        (Code::Unauthenticated, Name::Unauthenticated),
        (Code::UnknownHandle, Name::UnknownHandle),
        (Code::NodeDeleted, Name::NodeDeleted),
        (Code::HandleLacksRight, Name::HandleLacksRight),
        (Code::LockHeld, Name::LockHeld),
        (Code::LockInUse, Name::LockInUse),
        (Code::LockNotHeld, Name::LockNotHeld),
        (Code::SequencerInvalid, Name::SequencerInvalid),
        (Code::TooMany, Name::TooMany),
        (Code::QuotaExceeded, Name::QuotaExceeded),
        (Code::RevisionGone, Name::RevisionGone),
    ] {
        cell.behave(1, |replica| replica.acts.push_back(Act::Refuse(failure(code, "said the cell"))));
        let error = client.counter("/c").increment(1).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (name, "said the cell"));
        assert!(!error.may_have_been_done());
    }
    let part = bramah_wire::v1::Failure { part: Some(3), ..failure(Code::NotFound, "no /x") };
    cell.behave(1, |replica| replica.acts.push_back(Act::Refuse(part)));
    let error = client.txn().commit().await.unwrap_err();
    assert!(
        matches!(&error, Error::InTransaction { part: 3, error } if error.code() == Name::NotFound),
        "{error:?}"
    );
    assert_eq!((error.code(), error.to_string().as_str()), (Name::NotFound, "no /x"));
}
