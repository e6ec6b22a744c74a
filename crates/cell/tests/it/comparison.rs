//! A replica whose state differs from the others' is found and stops; others are never stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bramah_cell::{Cell, FolderError, ReplicaId, StartError, Tuning};
use bramah_machine::{BatchBuilder, Identity};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::repair::{keep_adding, repaired, replace, write_much};
use crate::trio::{LIMIT, Trio, add, hits, increment, small};

fn often(interval_ms: u64) -> Tuning {
    Tuning { digest_interval: Duration::from_millis(interval_ms), ..Tuning::default() }
}

/// Adds to the counter at this replica alone.
fn make_differ(cell: &Cell, delta: i64) {
    cell.alter_state(|state| {
        let mut batch = BatchBuilder::new();
        let request = increment(Identity::Anonymous, delta).encode().expect("it is small");
        batch.push_encoded(&request).expect("it is small");
        let batch = batch.finish(state.time_ms());
        state.apply_batch(&batch, state.highest_term(), &mut Vec::new()).expect("it is a batch");
    });
}

/// Writers at each running replica but one.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<i64>>,
}

impl Load {
    fn on(trio: &Trio, not_at: ReplicaId) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let at = trio.running().filter(|id| *id != not_at);
        let writers = at.map(|id| tokio::spawn(keep_adding(trio.cell(id).clone(), stop.clone()))).collect();
        Load { stop, writers }
    }

    async fn end(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for writer in self.writers {
            total += writer.await.expect("the others go on");
        }
        total
    }
}

/// It has stopped itself, says why, and does not start again; the others are well.
async fn assert_convicted(trio: &mut Trio, wrong: ReplicaId) {
    tokio::time::timeout(LIMIT, trio.cell(wrong).failed()).await.expect("it is found and stops itself");
    let trouble = trio.cell(wrong).status().trouble;
    let data = trio.data(wrong).display().to_string();
    for said in [&format!("the state of replica {wrong} is wrong"), "2 of the 3", &data, "--replace"] {
        assert!(trouble.contains(said), "{trouble:?} lacks {said:?}");
    }
    trio.kill(wrong).await;
    for replace in [false, true] {
        let started = trio.start_replica_with(wrong, |config| config.replace = replace).await;
        let error = started.expect_err("its state is wrong");
        assert!(matches!(error, StartError::Folder(FolderError::Differs { .. })), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&data) && text.contains("Move the folder away") && text.contains("--replace"),
            "{text}"
        );
    }
    for id in trio.running() {
        assert_eq!(trio.cell(id).status().trouble, "", "replica {id}");
    }
}

async fn is_found_and_repaired(trio: &mut Trio, wrong: ReplicaId) {
    add(trio.cell(wrong), "before", 1).await.expect("it is added");
    let load = Load::on(trio, wrong);
    make_differ(trio.cell(wrong), 1_000);
    assert_convicted(trio, wrong).await;
    std::fs::rename(trio.data(wrong), trio.folder.path().join("away")).expect("it is nobody's now");
    replace(trio, wrong).await;
    repaired(trio, wrong).await;
    let total = 1 + load.end().await;
    assert_eq!(hits(trio.cell(wrong)).await, total);
    let digests = trio.digests().await;
    assert!(digests.len() == 3 && digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

/// Spec G-9: a follower whose state differs is found while the cell works, stops, does not start again, and is
/// repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_differs_stops() {
    let mut trio = Trio::start(often(200)).await;
    let wrong = trio.follower_id().await;
    is_found_and_repaired(&mut trio, wrong).await;
}

/// Spec G-9: a leader whose state differs finds that out from the others, and stops; another one leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_differs_stops() {
    let mut trio = Trio::start(often(200)).await;
    let wrong = trio.leader_id().await;
    is_found_and_repaired(&mut trio, wrong).await;
}

/// Spec G-9: in a cell that rests, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_stops_in_a_cell_that_rests() {
    let mut trio = Trio::start(often(100)).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    let wrong = trio.follower_id().await;
    trio.digests().await;
    make_differ(trio.cell(wrong), 1);
    // What was compared already is not compared again: the next entry is what counts.
    add(trio.cell(1), "after", 1).await.expect("it is added");
    assert_convicted(&mut trio, wrong).await;
}

/// Spec G-9: without a majority of equal states nobody can be told to be wrong, and nobody is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_is_stopped() {
    let mut trio = Trio::start(often(50)).await;
    let away = trio.follower_id().await;
    trio.kill(away).await;
    let other = trio.follower_id().await;
    make_differ(trio.cell(other), 1);
    for i in 0..20 {
        add(trio.cell(other), &format!("one to one {i}"), 1).await.expect("two are a majority");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trio.start_replica(away).await.expect("its folder is whole");
    // Different from both before it could tell who is right.
    make_differ(trio.cell(away), 2);
    for i in 0..20 {
        add(trio.cell(other), &format!("all differ {i}"), 1).await.expect("three are a majority");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for id in 1..=3 {
        assert_eq!(trio.cell(id).status().trouble, "", "replica {id}");
    }
}

/// Spec G-9: replicas whose states are equal are never stopped, whoever leads, dies, restarts or gets a snapshot; and
/// all the while one that differed would have been found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_replicas_are_never_stopped() {
    let mut trio = Trio::start(Tuning { digest_interval: Duration::from_millis(30), ..small() }).await;
    let mut written = 0;
    for round in 0..4 {
        let ends = match round % 2 {
            0 => trio.leader_id().await,
            _ => trio.follower_id().await,
        };
        trio.kill(ends).await;
        let goes_on = trio.running().next().expect("two run");
        write_much(trio.cell(goes_on)).await;
        add(trio.cell(goes_on), &format!("round {round}"), 1).await.expect("two are a majority");
        written += 1;
        trio.start_replica(ends).await.expect("its folder is whole");
        assert_eq!(hits(trio.cell(ends)).await, written);
        for id in 1..=3 {
            assert_eq!(trio.cell(id).status().trouble, "", "replica {id} in round {round}");
        }
    }
    assert!(trio.cell(1).status().snapshot_index > 0, "snapshots came and went");
    let wrong = trio.follower_id().await;
    make_differ(trio.cell(wrong), 1);
    let deadline = Instant::now() + LIMIT;
    let leader = trio.leader_id().await;
    while trio.cell(wrong).status().trouble.is_empty() {
        assert!(Instant::now() < deadline, "it is not found");
        add(trio.cell(leader), &format!("{:?}", deadline - Instant::now()), 1)
            .await
            .expect("a majority runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_convicted(&mut trio, wrong).await;
}
