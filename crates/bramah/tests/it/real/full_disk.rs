//! Disks that get full: writes are refused clearly, everything else goes on, and once there is space again so do they, by
//! themselves.

use bramah_client::Client;

use super::cell::{Plan, RealCell, eventually};
use super::disks::Kind;
use super::load::{Load, counter};
use crate::support::{assert_fails, json, stderr};

/// Room for the log that is kept behind a snapshot (32 MiB), and for what is written until it is noticed that the
/// next one is due.
const PLAN: Plan = Plan { replicas: 3, disks: Kind::Memory(128), delays: false, faults: false };
/// A write from each session at once takes less than a log of small segments keeps back for elections, 256 KiB.
const FILE_BYTES: usize = 32 << 10;

/// Spec G-8: with a full disk a cell refuses writes and says what to do, answers reads, survives a restart, and
/// takes writes again once there is space. Nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_whose_disk_is_full_refuses_writes_until_there_is_space() {
    let Some(mut cell) = RealCell::start(Plan { replicas: 1, ..PLAN }).await else { return };
    let load = Load::with_files_of(&cell, FILE_BYTES).await;
    let reader = cell.client().await;

    cell.disks[0].fill();
    load.is_refused().await;
    check_refusal(&cell);
    check_reads(&cell, &reader).await;

    cell.kill(1);
    cell.spawn(1);
    check_reads(&cell, &reader).await;
    load.is_refused().await;
    check_refusal(&cell);

    cell.disks[0].empty();
    load.progresses(200).await;
    let output = cell.run(&["set", "/real/allowed", "text"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_fails(&cell.run(&["get", "/real/refused"]), 1, &["/real/refused"]);
    // Of what was under way when the replica was killed, and then refused, nobody can say more.
    assert!(load.uncertain() <= load.writers(), "a call whose session lives has an outcome");
    cell.finish(load).await;
}

/// Spec G-8: a follower whose disk is full disturbs nobody, and is brought up to date when it has space, by then
/// with a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_disturbs_nobody() {
    let Some(cell) = RealCell::start(PLAN).await else { return };
    let leader = cell.leader().await;
    let follower = cell.others(leader)[0];
    let load = Load::with_files_of(&cell, 6 * FILE_BYTES).await;

    cell.disks[follower - 1].fill();
    eventually("the leader's log no longer reaches back to the follower's", async || {
        let (leader, follower) = (cell.status(leader, false).await, cell.status(follower, false).await);
        leader.zip(follower).is_some_and(|(leader, follower)| leader.purged_index > follower.last_log_index)
    })
    .await;
    assert_eq!(load.no_space(), 0, "the others have space");
    let status = cell.status(follower, false).await.expect("it answers");
    assert_eq!(status.role, "follower", "it hears the leader all the while");

    cell.disks[follower - 1].empty();
    cell.finish(load).await;
}

/// Spec G-8: a leader whose disk is full hands over to a replica with space, and writes go on; killed and started
/// with a disk that is still full, it follows once there is space. Nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_hands_over_and_loses_nothing() {
    let Some(mut cell) = RealCell::start(PLAN).await else { return };
    let leader = cell.leader().await;
    let reader = cell.client().await;
    let load = Load::with_files_of(&cell, FILE_BYTES).await;

    cell.disks[leader - 1].fill();
    let successor = cell.leader_of(&cell.others(leader)).await;
    load.progresses(200).await;
    check_reads(&cell, &reader).await;

    cell.kill(leader);
    load.progresses(200).await;
    cell.spawn(leader);
    eventually("it starts in spite of its disk", async || cell.status(leader, false).await.is_some()).await;
    load.progresses(200).await;
    let status = cell.status(successor, false).await.expect("it answers");
    assert_eq!(status.role, "leader", "leadership does not wander");

    cell.disks[leader - 1].empty();
    assert_eq!(load.uncertain(), 0, "a call whose session lives has an outcome");
    cell.finish(load).await;
}

/// A command that writes is refused, certainly not done, and says what has to be done.
fn check_refusal(cell: &RealCell) {
    let refused = cell.run(&["set", "/real/refused", "text"]);
    assert_fails(&refused, 1, &["no space", "bytes free", "free some"]);
    let refused = cell.run(&["--json", "set", "/real/refused", "text"]);
    let error: serde_json::Value = serde_json::from_str(&stderr(&refused)).expect("an object on one line");
    assert_eq!(error["error"]["code"], "no_space", "{error}");
    assert_eq!(error["error"]["may_have_been_done"], false, "{error}");
}

/// Everything but writing goes on.
async fn check_reads(cell: &RealCell, reader: &Client) {
    let value = reader.counter(counter(0)).get().await.expect("reads go on");
    assert!(value > 0, "it was counted before");
    let names = reader.list("/real").await.expect("reads go on");
    assert!(!names.is_empty());
    let status = json(&cell.run(&["--json", "status"]));
    assert!(status["leader"].is_u64(), "{status}");
}
