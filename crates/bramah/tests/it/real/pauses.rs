//! SIGSTOP and SIGCONT: a process that stands still and doesn't know it.

use std::time::Duration;

use super::cell::{Plan, RealCell, eventually};
use super::load::Load;

/// Longer than any election, and than the leader's lease.
const PAUSE: Duration = Duration::from_millis(2_500);

/// Spec G-2, G-6: a leader that stood still while another was elected answers nothing as if it still led, and follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_answers_nothing_stale() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    for _ in 0..2 {
        let leader = cell.leader().await;
        let term = cell.term(leader).await;
        cell.pause(leader).await;
        let next = cell.leader_of(&cell.others(leader)).await;
        tokio::time::sleep(PAUSE).await;
        load.progresses(100).await;
        cell.resume(leader);
        eventually("the old leader knows the new one", async || cell.leader().await != leader).await;
        assert!(next != leader && cell.term(leader).await > term, "nobody else has led meanwhile");
    }
    cell.finish(load).await;
}

/// Spec G-6: a follower that stood still comes back without deposing the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_follower_deposes_nobody() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    let follower = cell.others(leader)[0];
    cell.pause(follower).await;
    assert!(cell.status(follower, false).await.is_none(), "it answers, so it doesn't stand still");
    let term = cell.term(leader).await;
    load.progresses(200).await;
    cell.resume(follower);
    load.progresses(200).await;
    assert_eq!((cell.leader().await, cell.term(leader).await), (leader, term), "the leader was deposed");
    cell.finish(load).await;
}
