//! Disks that answer with errors.

use super::cell::{Plan, RealCell};
use super::disks::Kind;
use super::load::Load;
use super::network::Host;

/// Waits until a replica has stopped itself because of its disk, and said so.
fn ends_by_itself(cell: &mut RealCell, replica: Host) {
    let (status, log) = cell.wait(replica);
    assert_eq!(status.code(), Some(1), "{log}");
    let data = cell.data(replica).display().to_string();
    for text in ["Input/output error", &data, "error: "] {
        assert!(log.contains(text), "{text:?} is not in: {log}");
    }
}

/// Spec G-4, G-8: a replica that can't sync, or can't write, promises nothing more and stops with an error that says
/// which disk it was; the others go on; with another disk and `--replace` it is repaired by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_failing_disk_stops_and_is_repaired() {
    let Some(mut cell) = RealCell::start(Plan { faults: true, ..Plan::default() }).await else { return };
    let load = Load::start(&cell).await;
    for (kind, leads) in [('s', true), ('w', false), ('w', true)] {
        let leader = cell.leader().await;
        let replica = if leads { leader } else { cell.others(leader)[0] };
        cell.break_disk(replica, kind);
        ends_by_itself(&mut cell, replica);
        cell.leader_of(&cell.others(replica)).await;
        load.progresses(150).await;
        cell.replace_disk(replica);
        cell.spawn_with(replica, &["--replace"]);
        cell.leader().await;
        load.progresses(150).await;
    }
    cell.finish(load).await;
}

/// Spec G-4: the same with a disk that is gone for the kernel too, and comes back with what was synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_disk_is_gone_stops() {
    let plan = Plan { disks: Kind::Image(192), ..Plan::default() };
    let Some(mut cell) = RealCell::start(plan).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    cell.disks[leader - 1].cut_power();
    ends_by_itself(&mut cell, leader);
    cell.leader_of(&cell.others(leader)).await;
    load.progresses(150).await;
    cell.disks[leader - 1].restore_power();
    cell.spawn(leader);
    cell.finish(load).await;
}
