//! The power is cut: what is not on the disk is gone.

use super::cell::{Plan, RealCell};
use super::disks::Kind;
use super::load::Load;
use super::network::Host;

/// Room for the log that is kept behind a snapshot (32 MiB), two snapshots, and the pieces made ahead.
const PLAN: Plan = Plan { replicas: 3, disks: Kind::Image(192), delays: false, faults: false };

/// Cuts the power of these replicas at once, while they work, and brings them back.
fn cut_power(cell: &mut RealCell, replicas: &[Host]) {
    replicas.iter().for_each(|replica| cell.disks[replica - 1].cut_power());
    for replica in replicas {
        // Its disk's errors may have ended it meanwhile.
        if cell.is_running(*replica) {
            cell.kill(*replica);
        } else {
            cell.wait(*replica);
        }
        cell.disks[replica - 1].restore_power();
    }
    replicas.iter().for_each(|replica| cell.spawn(*replica));
}

/// Spec G-1: the leader's and a follower's power, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_one_replica_loses_nothing() {
    let Some(mut cell) = RealCell::start(PLAN).await else { return };
    let load = Load::start(&cell).await;
    for leads in [true, false, true] {
        load.progresses(150).await;
        let leader = cell.leader().await;
        let replica = if leads { leader } else { cell.others(leader)[0] };
        cut_power(&mut cell, &[replica]);
        load.progresses(150).await;
    }
    cell.finish(load).await;
}

/// Spec G-1: all at once. Every acknowledged increment is on the disks of a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_all_replicas_loses_nothing() {
    let Some(mut cell) = RealCell::start(PLAN).await else { return };
    let load = Load::start(&cell).await;
    for _ in 0..5 {
        load.progresses(150).await;
        cut_power(&mut cell, &[1, 2, 3]);
        cell.leader().await;
    }
    load.progresses(150).await;
    cell.finish(load).await;
}
