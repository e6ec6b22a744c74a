//! Networks that come apart.

use std::time::Duration;

use super::cell::{Plan, RealCell, eventually};
use super::load::Load;

/// Spec G-1, G-2, G-6: a leader that none of the others reaches, while clients do, answers nothing; the others elect
/// another, which it follows afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_serves_nobody() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    for _ in 0..2 {
        let leader = cell.leader().await;
        let others = cell.others(leader);
        cell.network.isolate(leader, cell.count());
        let next = cell.leader_of(&others).await;
        load.progresses(200).await;
        eventually("the isolated leader has stepped down", async || {
            let status = cell.status(leader, false).await;
            status.is_some_and(|status| status.role != "leader")
        })
        .await;
        assert_ne!(next, leader);
        assert!(cell.network.heal() > 0, "the partition has stopped nothing");
        load.progresses(100).await;
        cell.leader().await;
    }
    cell.finish(load).await;
}

/// Spec G-1, G-2: five replicas part into two with the leader and three without: only the three serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_minority_serves_nobody() {
    let Some(cell) = RealCell::start(Plan { replicas: 5, ..Plan::default() }).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    let (with_it, others) =
        cell.others(leader).split_first().map(|(one, rest)| (*one, rest.to_vec())).expect("four");
    for other in &others {
        cell.network.cut(leader, *other);
        cell.network.cut(with_it, *other);
    }
    let next = cell.leader_of(&others).await;
    load.progresses(200).await;
    for cut_off in [leader, with_it] {
        let status = cell.status(cut_off, false).await.expect("clients reach it");
        assert!(status.leader.is_none_or(|leader| leader.replica as usize != next), "it hears the others");
        assert_ne!(status.role, "leader", "replica {cut_off} leads without a majority");
    }
    assert!(cell.network.heal() > 0, "the partition has stopped nothing");
    load.progresses(100).await;
    cell.finish(load).await;
}

/// Spec G-6: a follower that was cut off and comes back finds the same leader in the same term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_follower_deposes_nobody() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    let follower = cell.others(leader)[0];
    let term = cell.term(leader).await;
    cell.network.isolate(follower, cell.count());
    load.progresses(300).await;
    // Many times as long as a follower waits for its leader.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cell.network.heal() > 0, "the partition has stopped nothing");
    load.progresses(300).await;
    assert_eq!((cell.leader().await, cell.term(leader).await), (leader, term), "the leader was deposed");
    cell.finish(load).await;
}

/// Spec G-1: when nobody reaches anybody nothing is acknowledged; afterwards all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_in_pieces_waits() {
    wait_in_pieces(Plan::default()).await;
}

/// The same over the forwarder, also where there is something better: it has to do elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_in_pieces_waits_over_the_forwarder() {
    wait_in_pieces(Plan { delays: true, ..Plan::default() }).await;
}

async fn wait_in_pieces(plan: Plan) {
    let Some(cell) = RealCell::start(plan).await else { return };
    let load = Load::start(&cell).await;
    (1..=cell.count()).for_each(|replica| cell.network.isolate(replica, cell.count()));
    load.is_silent_for(Duration::from_millis(500)).await;
    assert!(cell.network.heal() > 0, "the partition has stopped nothing");
    load.progresses(200).await;
    cell.finish(load).await;
}

/// A leader that is heard but doesn't hear, and then one that hears but isn't heard: both lead to another leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_one_way_is_replaced() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    for deaf in [true, false] {
        let leader = cell.leader().await;
        for other in cell.others(leader) {
            let (from, to) = if deaf { (other, leader) } else { (leader, other) };
            cell.network.cut_one_way(from, to);
        }
        let next = cell.leader_of(&cell.others(leader)).await;
        assert_ne!(next, leader, "deaf: {deaf}");
        load.progresses(100).await;
        assert!(cell.network.heal() > 0, "the cut has stopped nothing");
        cell.leader().await;
    }
    cell.finish(load).await;
}

/// A follower that the leader doesn't hear, or that doesn't hear the leader, while the third replica connects both:
/// the cell goes on all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_one_way_stops_nobody() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    for to_leader in [true, false] {
        let leader = cell.leader().await;
        let follower = cell.others(leader)[0];
        let (from, to) = if to_leader { (follower, leader) } else { (leader, follower) };
        cell.network.cut_one_way(from, to);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        load.progresses(100).await;
        assert!(cell.network.heal() > 0, "the cut has stopped nothing");
        load.progresses(100).await;
    }
    cell.finish(load).await;
}

/// Links that come and go faster than anybody gets used to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_links_lose_nothing() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let mut stopped = 0;
    for round in 0..16 {
        cell.network.isolate(round % cell.count() + 1, cell.count());
        tokio::time::sleep(Duration::from_millis(100 + 40 * (round as u64 % 5))).await;
        stopped += cell.network.heal();
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert!(stopped > 0, "the flapping has stopped nothing");
    cell.finish(load).await;
}
