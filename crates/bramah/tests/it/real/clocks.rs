//! Wall clocks that are wrong and jump. The cell measures time by clocks that don't.

use std::time::Duration;

use super::cell::{Plan, RealCell};
use super::load::Load;

const DAY: i64 = 86_400;
const PLAN: Plan = Plan { replicas: 3, disks: super::disks::Kind::Folder, delays: false, faults: true };

/// Years apart, and then jumping to and fro: nobody is elected for that, and no session ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_and_jumping_clocks_disturb_nobody() {
    let Some(mut cell) = RealCell::start(PLAN).await else { return };
    for (replica, days) in [(1, 3_650), (2, -3_650), (3, 1)] {
        cell.kill(replica);
        cell.set_clock(replica, days * DAY);
        cell.spawn(replica);
    }
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    let term = cell.term(leader).await;
    for round in 0..20 {
        for replica in 1..=cell.count() {
            let days = [-9_000, 40, 0, 9_000][(round + replica) % 4];
            cell.set_clock(replica, days * DAY);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    load.progresses(200).await;
    assert_eq!((cell.leader().await, cell.term(leader).await), (leader, term), "somebody minded");
    assert_eq!(load.sessions_lost(), 0, "sessions have ended");
    show_that_they_jumped(&mut cell);
    cell.finish(load).await;
}

/// Spec S-6 and leases: leaders that change while the clocks jump.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_with_other_clocks_lose_no_session() {
    let Some(mut cell) = RealCell::start(PLAN).await else { return };
    let load = Load::start(&cell).await;
    for days in [9_000, -9_000, 400] {
        let leader = cell.leader().await;
        cell.others(leader).iter().for_each(|other| cell.set_clock(*other, days * DAY));
        cell.kill(leader);
        load.progresses(150).await;
        cell.spawn(leader);
        load.progresses(50).await;
    }
    assert_eq!(load.sessions_lost(), 0, "sessions have ended");
    cell.finish(load).await;
}

/// What a replica logs bears the time of its wall clock.
fn show_that_they_jumped(cell: &mut RealCell) {
    for replica in 1..=cell.count() {
        cell.set_clock(replica, 36_500 * DAY);
        cell.stop(replica);
        let log = cell.log(replica);
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with("21"), "it is the twenty-second century by its clock, but: {last}");
        cell.spawn(replica);
    }
}
