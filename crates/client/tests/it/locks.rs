//! Locks: taken, waited for, given back, lost (spec H-4, L-1, L-2, L-6).

use std::time::Duration;

use bramah_client::{Client, Error, LockMode, LockStatus, LostReason};
use bramah_wire::v1::handle_state::Place;
use bramah_wire::v1::operation::Operation as Op;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{Act, Cell, Open};

async fn connected() -> (Cell, Client) {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    (cell, client)
}

fn standing(cell: &Cell) -> usize {
    cell.state().world.standing(1).len()
}

fn count(cell: &Cell, which: impl Fn(&Op) -> bool) -> usize {
    cell.state().world.done.iter().filter(|(_, _, operation)| which(operation)).count()
}

/// Spec L-1, L-4: a lock is taken and given back; its sequencer says which it was.
#[tokio::test(start_paused = true)]
async fn a_lock_is_a_guard() {
    let (cell, client) = connected().await;
    let lock = client.lock("/l").contents("mine").await.unwrap();
    assert!(lock.is_held());
    let sequencer = lock.sequencer().clone();
    assert_eq!(sequencer.to_string(), "/l#x1.1");
    assert_eq!(lock.handle().get_sequencer().await.unwrap(), sequencer);
    assert!(matches!(client.lock("/l").try_().await.unwrap_err(), Error::LockHeld { .. }));
    let start = Instant::now();
    let error = client.lock("/l").within(Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, Error::LockHeld { .. }) && start.elapsed() >= Duration::from_secs(3));
    lock.release().await.unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!((standing(&cell), cell.state().world.handles.len()), (0, 0), "nobody waits any more");
    let (one, two) = (client.lock("/l").shared().await.unwrap(), client.lock("/l").shared().await.unwrap());
    assert_eq!(one.sequencer(), two.sequencer());
    drop(one);
    sleep(Duration::from_millis(10)).await;
    assert!(two.is_held());
}

/// Spec L-2: waiting may take far longer than a call's deadline, over a change of connection too, and asks once.
#[tokio::test(start_paused = true)]
async fn a_wait_is_as_long_as_it_takes() {
    let (cell, client) = connected().await;
    let mut holder = 0;
    cell.act(|world| holder = world.stranger_locks("/l"));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("/l").await }
    });
    sleep(Duration::from_secs(300)).await;
    cell.network.cut("replica-1:1");
    sleep(Duration::from_secs(300)).await;
    assert!(!waiting.is_finished());
    assert_eq!(count(&cell, |operation| matches!(operation, Op::Acquire(_))), 1);
    cell.act(|world| world.close(holder));
    let lock = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(lock.sequencer().generation, 2);
}

/// Spec L-2: the lock was given while there was no connection: the cell says so on the next one.
#[tokio::test(start_paused = true)]
async fn a_grant_between_two_connections_is_told() {
    let (cell, client) = connected().await;
    let mut holder = 0;
    cell.act(|world| holder = world.stranger_locks("/l"));
    let waiting = tokio::spawn(async move { client.lock("/l").await });
    sleep(Duration::from_millis(10)).await;
    cell.kill(1);
    cell.kill(2);
    sleep(Duration::from_secs(1)).await;
    cell.act(|world| world.close(holder));
    cell.start_replica(2).await;
    let lock = timeout(Duration::from_secs(2), waiting).await.unwrap().unwrap().unwrap();
    assert!(lock.is_held());
    assert_eq!(count(&cell, |operation| matches!(operation, Op::Acquire(_))), 1);
}

/// Spec H-4: a running acquire is cancelled by itself: it leaves the queue, the handle stays.
#[tokio::test(start_paused = true)]
async fn a_wait_can_be_cancelled() {
    let (cell, client) = connected().await;
    let mut holder = 0;
    cell.act(|world| holder = world.stranger_locks("/l"));
    let handle = client.open("/l").write().await.unwrap();
    let waited = timeout(Duration::from_secs(100), handle.acquire(LockMode::Exclusive)).await;
    assert!(waited.is_err());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        (standing(&cell), count(&cell, |operation| matches!(operation, Op::CancelAcquire(_)))),
        (0, 1)
    );
    assert_eq!(handle.acquire_within(LockMode::Exclusive, Duration::from_secs(1)).await.unwrap(), None);
    assert_eq!(handle.try_acquire(LockMode::Exclusive).await.unwrap(), None);
    cell.act(|world| world.close(holder));
    let sequencer = handle.acquire(LockMode::Exclusive).await.unwrap();
    assert_eq!(sequencer.generation, 2, "nothing of it was given to those who had gone");
    assert!(matches!(handle.acquire(LockMode::Shared).await.unwrap_err(), Error::LockInUse { .. }));
    handle.release().await.unwrap();
    assert!(matches!(handle.release().await.unwrap_err(), Error::LockNotHeld { .. }));
}

/// Spec H-4: the lock was given while the wait was being cancelled: it is given back at once.
#[tokio::test(start_paused = true)]
async fn a_lock_that_came_too_late_is_given_back() {
    let (cell, client) = connected().await;
    let mut holder = 0;
    cell.act(|world| holder = world.stranger_locks("/l"));
    let handle = client.open("/l").write().await.unwrap();
    let acquiring = handle.acquire(LockMode::Exclusive);
    let _ = timeout(Duration::from_secs(1), acquiring).await.unwrap_err();
    // The cancelling is on its way, and the lock is given before it comes.
    cell.act(|world| world.close(holder));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(standing(&cell), 0);
    assert_eq!(handle.acquire(LockMode::Exclusive).await.unwrap().generation, 3);
}

/// Spec H-4: given up before there was an answer, over a broken connection: nothing is left behind in the cell.
#[tokio::test(start_paused = true)]
async fn an_acquire_without_an_answer_leaves_nothing_behind() {
    let (cell, client) = connected().await;
    let handle = client.open("/l").write().create().await.unwrap();
    cell.behave(1, |replica| {
        replica.acts.push_back(Act::DoAndBreak);
        replica.opens.push_back(Open::AcceptLate(Duration::from_millis(500)));
    });
    cell.kill(2);
    let acquiring = handle.acquire(LockMode::Exclusive);
    let gone = timeout(Duration::from_millis(100), acquiring).await;
    assert!(gone.is_err());
    assert_eq!(standing(&cell), 1, "it was given");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(standing(&cell), 0);
    assert_eq!(handle.acquire(LockMode::Exclusive).await.unwrap().generation, 2);
}

/// A release goes on without its caller, and is done once.
#[tokio::test(start_paused = true)]
async fn a_release_is_done_whoever_waits_for_it() {
    let (cell, client) = connected().await;
    let hasty = client.with_deadline(Duration::from_secs(1)).unwrap();
    let lock = hasty.lock("/l").await.unwrap();
    let held = hasty.open("/l").write().await.unwrap();
    cell.kill(1);
    cell.kill(2);
    let error = lock.release().await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: true, .. }), "{error:?}");
    assert_eq!(standing(&cell), 1);
    cell.start_replica(2).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(standing(&cell), 0);
    held.acquire(LockMode::Exclusive).await.unwrap();
}

/// Spec L-6: a lock is lost when its node is deleted or its handle closed, and the guard says so at once.
#[tokio::test(start_paused = true)]
async fn a_guard_tells_that_its_lock_is_lost() {
    let (cell, client) = connected().await;
    let deleted = client.lock("/d").await.unwrap();
    cell.act(|world| world.delete("/d"));
    assert_eq!(timeout(Duration::from_secs(1), deleted.lost()).await.unwrap(), LostReason::NodeDeleted);
    assert!(matches!(deleted.release().await.unwrap_err(), Error::NodeDeleted { .. }));
    let revoked = client.lock("/r").await.unwrap();
    assert!(timeout(Duration::from_secs(1), revoked.lost()).await.is_err(), "not yet");
    cell.act(|world| world.revoke(revoked.handle().number()));
    assert_eq!(timeout(Duration::from_secs(1), revoked.lost()).await.unwrap(), LostReason::HandleClosed);
    assert_eq!(revoked.status(), LockStatus::Lost(LostReason::HandleClosed));
    assert!(matches!(revoked.handle().contents().await.unwrap_err(), Error::UnknownHandle { .. }));
}

/// Spec L-6: the same while there was no connection: the cell doesn't name the handle on the next one, and is asked.
#[tokio::test(start_paused = true)]
async fn a_lock_that_was_lost_between_two_connections_is_noticed() {
    let (cell, client) = connected().await;
    let (lost, kept) = (client.lock("/d").await.unwrap(), client.lock("/k").await.unwrap());
    cell.act(|world| {
        world.stranger_locks("/w");
    });
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("/w").await.unwrap_err() }
    });
    sleep(Duration::from_millis(10)).await;
    cell.kill(1);
    cell.kill(2);
    cell.state().mute = true;
    cell.act(|world| {
        world.delete("/d");
        world.delete("/w");
    });
    cell.start_replica(2).await;
    cell.unmute();
    assert_eq!(timeout(Duration::from_secs(4), lost.lost()).await.unwrap(), LostReason::NodeDeleted);
    assert!(kept.is_held());
    assert!(matches!(
        timeout(Duration::from_secs(4), waiting).await.unwrap().unwrap(),
        Error::NodeDeleted { .. }
    ));
    assert_eq!(cell.state().world.state(kept.handle().number()).place(), Place::Holding);
}

/// Spec L-1: a lock needs the right to write, and no other; who wants to read, too, says so. It has one name.
#[tokio::test(start_paused = true)]
async fn a_lock_is_opened_to_write() {
    let (cell, client) = connected().await;
    let lock = client.lock("/ls/fake/l").await.unwrap();
    assert_eq!((lock.sequencer().path.as_str(), lock.handle().path()), ("/l", "/l"));
    client.lock("/m").read().await.unwrap();
    let state = cell.state();
    let modes = state.world.done.iter().filter_map(|(_, _, operation)| match operation {
        Op::OpenNode(open) => open.mode.map(|mode| (mode.read, mode.write)),
        _ => None,
    });
    assert_eq!(modes.collect::<Vec<_>>(), [(false, true), (true, true)]);
}
