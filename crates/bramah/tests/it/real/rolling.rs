//! Rolling restarts: each replica is stopped as an operator stops it, and started again, while clients work.

use std::time::Duration;

use super::cell::{Plan, RealCell};
use super::load::Load;
use super::tool::say;

/// Longer than a stop may take with calls under way: the setting's default is 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Spec G-12, S-6: every stop exits 0 in time with calls under way, and no call is lost, doubled or left unanswered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_lose_nothing() {
    let Some(mut cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let mut stops = Vec::new();
    for _ in 0..2 {
        for replica in 1..=cell.count() {
            load.progresses(100).await;
            stops.push(cell.stop(replica));
            load.progresses(50).await;
            cell.spawn(replica);
            cell.leader().await;
        }
    }
    say(&format!("stops took {stops:?}"));
    assert!(stops.iter().all(|stop| *stop < STOP_LIMIT), "{stops:?}");
    assert_eq!(load.uncertain(), 0, "a call whose session lives has an outcome");
    cell.finish(load).await;
}

/// Spec G-12: all at once, with calls under way that nobody can finish; the cell comes back with everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_is_stopped_as_a_whole_comes_back() {
    let Some(mut cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    for _ in 0..2 {
        let stops = cell.stop_all();
        say(&format!("stops took {stops:?}"));
        assert!(stops.iter().all(|stop| *stop < STOP_LIMIT), "{stops:?}");
        (1..=cell.count()).for_each(|replica| cell.spawn(replica));
        load.progresses(100).await;
    }
    cell.finish(load).await;
}
