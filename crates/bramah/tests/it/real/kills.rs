//! `kill -9`.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::cell::{Plan, RealCell};
use super::load::Load;
use super::tool::say;

const LEADER_KILLS: usize = 20;

/// Spec K-2, G-1, S-6: every acknowledged increment counts exactly once, whichever replica dies and when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_killed_leaders_lose_and_double_nothing() {
    let seed = rand::random();
    say(&format!("kills at moments of seed {seed}"));
    let mut random = SmallRng::seed_from_u64(seed);
    let Some(mut cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let mut pause = |longest: u64| tokio::time::sleep(Duration::from_millis(random.random_range(0..longest)));
    for kill in 0..LEADER_KILLS {
        pause(300).await;
        let leader = cell.leader().await;
        cell.kill(leader);
        pause(500).await;
        // Without a majority nothing may be acknowledged, and nothing may be lost either.
        let other = leader % cell.count() + 1;
        if kill % 4 == 0 {
            cell.kill(other);
            cell.spawn(other);
        }
        cell.spawn(leader);
        load.progresses(10).await;
    }
    cell.finish(load).await;
}

/// Spec G-1: a cell goes on without a follower, waits without both, and goes on when one is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_followers_come_back() {
    let Some(mut cell) = RealCell::start(Plan::default()).await else { return };
    let load = Load::start(&cell).await;
    let leader = cell.leader().await;
    let [one, other] = cell.others(leader)[..] else { panic!("three replicas have two followers") };
    cell.kill(one);
    load.progresses(200).await;
    cell.kill(other);
    load.is_silent_for(Duration::from_millis(500)).await;
    cell.spawn(one);
    load.progresses(200).await;
    cell.spawn(other);
    cell.finish(load).await;
}
