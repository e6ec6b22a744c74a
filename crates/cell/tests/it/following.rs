//! Watches at the replicas of a cell: they resume anywhere, after anything.

use bramah_cell::{Begun, Cell, Follower, Interest, Kinds, Tuning};
use bramah_machine::{Change, SessionId, State};
use tokio::time::{Instant, timeout};

use crate::trio::{LIMIT, Trio, add, path, small};

/// Follows the counter after a revision, at a replica that hands events out.
fn follow(cell: &Cell, after: u64) -> (Follower, Begun) {
    tokio::spawn(cell.dispatch_events());
    let follower = cell.follow(SessionId(1));
    let after = (after > 0).then_some(after);
    let interest =
        Interest { number: 1, path: path("/hits"), subtree: false, kinds: Kinds::COUNTER_CHANGED, after };
    let begun = follower.watch(interest).expect("there is room");
    (follower, begun)
}

/// The counter's values up to one, and the revision up to which all was told.
async fn values(follower: &mut Follower, last: i64) -> (Vec<i64>, u64) {
    let mut values = Vec::new();
    loop {
        let told = timeout(LIMIT, follower.next(7)).await.expect("it is told in time");
        assert!(told.lagged.is_empty(), "{told:?}");
        for delivery in told.events {
            if let Change::CounterChanged { value } = delivery.event.change {
                values.push(value);
            }
        }
        if values.last() == Some(&last) {
            return (values, told.revision);
        }
    }
}

/// Spec E-2, E-3: a client that goes from replica to replica, while leaders die and replicas start again, is told of each
/// change once, in order, and whoever reads then sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_at_any_replica() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "first", 1).await.expect("it is added");
    let (mut follower, begun) = follow(trio.cell(1), 1);
    assert_eq!(begun, Begun { revision: 1, gap: false });
    let mut told_to = 1;
    for round in 1..=6_i64 {
        let writer = trio.leader_id().await;
        for i in 0..20 {
            add(trio.cell(writer), &format!("{round}/{i}"), 1).await.expect("it is added");
        }
        let (values, revision) = values(&mut follower, round * 20 + 1).await;
        assert_eq!(values, Vec::from_iter(told_to + 1..=round * 20 + 1));
        told_to = round * 20 + 1;
        drop(follower);
        // All of these are missed, and then not.
        let down = if round % 2 == 0 { trio.leader_id().await } else { trio.follower_id().await };
        trio.kill(down).await;
        trio.start_replica(down).await.expect("a folder of this cell");
        let begun;
        (follower, begun) = follow(trio.cell(1 + round as u64 % 3), revision);
        assert_eq!(begun, Begun { revision, gap: false }, "replay fills the history again");
    }
}

/// Spec E-3: a replica that was brought up by a snapshot says that it does not know what happened before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_snapshot_there_is_a_gap() {
    let mut trio = Trio::start(Tuning { events_kept: 50, ..small() }).await;
    for i in 0..60 {
        add(trio.cell(1), &format!("{i}"), 1).await.expect("it is added");
    }
    // Answers come from the leader, which may be ahead of this one.
    trio.cell(1).barrier(Vec::new(), Instant::now() + LIMIT).await.expect("it catches up");
    let newest = trio.cell(1).read(State::revision);
    let (_, begun) = follow(trio.cell(1), 2);
    assert_eq!(begun, Begun { revision: newest, gap: true });
    let (mut follower, begun) = follow(trio.cell(1), newest - 50);
    assert_eq!(begun, Begun { revision: newest - 50, gap: false });
    assert_eq!(values(&mut follower, 60).await.0, Vec::from_iter(11..=60));
    assert_eq!(follower.seen(), newest);
    trio.stop(2).await;
}
