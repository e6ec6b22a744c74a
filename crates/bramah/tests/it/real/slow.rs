//! Networks that delay, lose, reorder and break, and thin lines.

use std::time::{Duration, Instant};

use super::cell::{Plan, RealCell};
use super::load::Load;
use super::network::CLIENTS;

/// What a thin line carries a second: less than the heartbeats and the load.
const KILOBITS: u32 = 120;
/// How long each of these lasts.
const WHILE: Duration = Duration::from_secs(4);

/// Late, in another order than sent over other connections, and over connections that break now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_reordering_and_resets_lose_nothing() {
    let Some(cell) = RealCell::start(Plan { delays: true, ..Plan::default() }).await else { return };
    let load = Load::start(&cell).await;
    let quick = time_to_ask(&cell).await;
    cell.network.delay(Duration::from_millis(10), Duration::from_millis(25), 5);
    let slow = time_to_ask(&cell).await;
    assert!(slow > quick + Duration::from_millis(15), "{quick:?} became {slow:?}: nothing is delayed");
    tokio::time::sleep(WHILE).await;
    load.progresses(100).await;
    assert!(cell.network.heal() > 0, "the delay has met nothing");
    cell.finish(load).await;
}

/// The time a connection and an answer take.
async fn time_to_ask(cell: &RealCell) -> Duration {
    let began = Instant::now();
    while cell.status(1, false).await.is_none() {}
    began.elapsed()
}

/// Three of a hundred packets are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_packets_lose_nothing() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    cell.network.lose(cell.count(), 3);
    tokio::time::sleep(WHILE).await;
    load.progresses(50).await;
    assert!(cell.network.heal() > 0, "nothing was lost");
    cell.finish(load).await;
}

/// One replica, with the clients that are at it, has a thin line: neither they nor the others are forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_thin_line_stops_nobody() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    cell.network.slow(cell.others(leader)[0], cell.count(), KILOBITS);
    tokio::time::sleep(WHILE).await;
    load.progresses(200).await;
    assert!(cell.network.heal() > 0, "the line was never too thin");
    cell.finish(load).await;
}

/// The leader itself has one: whoever leads then, the cell goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_thin_line_is_survived() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    cell.network.slow(leader, cell.count(), KILOBITS);
    tokio::time::sleep(WHILE).await;
    load.progresses(50).await;
    assert!(cell.network.heal() > 0, "the line was never too thin");
    cell.finish(load).await;
}

/// Clients that can send to a replica and hear nothing of it go elsewhere; what they asked is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_a_replica_does_not_answer_go_elsewhere() {
    let Some(cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    cell.network.cut_one_way(leader, CLIENTS);
    assert!(cell.status(leader, false).await.is_none(), "it is heard");
    let waited = load.progresses(200).await;
    assert!(waited < Duration::from_secs(15), "the others' clients waited {waited:?}");
    tokio::time::sleep(WHILE).await;
    assert!(cell.network.heal() > 0, "the cut has stopped nothing");
    cell.finish(load).await;
}
