//! Three real processes under load, whose leaders are killed again and again at random moments.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramah::demo::cell::LocalCell;
use bramah::demo::load::{Load, Promised};
use bramah_client::{Client, Route};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::BRAMAH;

const LEADER_KILLS: usize = 20;
const WORKERS: u64 = 32;
const COUNTERS: u64 = 8;
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Spec K-2, G-1, S-6: every acknowledged increment counts exactly once, whichever replica dies and when.
#[tokio::test]
async fn counters_are_exact_after_twenty_killed_leaders() {
    let seed = rand::random();
    println!("kills at moments of seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cell = LocalCell::start(Path::new(BRAMAH), false).await.expect("a cell");
    let mut clients = Vec::new();
    for index in 0..3 {
        clients.push(client(&cell.addresses(), index).await);
    }
    let load = Load::new(u64::MAX, COUNTERS);
    load.open_gate(u64::MAX);
    let working = Arc::clone(&load).run(&clients, WORKERS);
    let (worked, ()) = tokio::join!(working, async {
        for _ in 0..LEADER_KILLS {
            storm(&mut cell, &load, &mut random).await;
        }
        load.end();
    });
    worked.expect("every worker got an answer to every call");
    for client in clients {
        client.close().await;
    }
    check(&mut cell, &load.promised()).await;
}

/// Kills the leader, sometimes another replica too, and brings back whoever is gone.
async fn storm(cell: &mut LocalCell, load: &Load, random: &mut SmallRng) {
    let mut pause = |longest: u64| tokio::time::sleep(Duration::from_millis(random.random_range(0..longest)));
    let before = load.acknowledged();
    pause(600).await;
    let leader = cell.wait_for_leader().await.expect("a leader");
    cell.kill(leader).expect("our child");
    pause(700).await;
    let mut gone = vec![leader];
    if random.random_ratio(1, 4) {
        // Without a majority nothing may be acknowledged, and nothing may be lost either.
        let other = leader % 3 + 1;
        cell.kill(other).expect("our child");
        gone.push(other);
    }
    for replica in gone {
        cell.restart(replica).await.expect("it comes back");
    }
    while load.acknowledged() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads every counter through every replica and compares all state.
async fn check(cell: &mut LocalCell, promised: &[Promised]) {
    let total: u64 = promised.iter().map(|counter| counter.acknowledged).sum();
    assert!(total > 1_000, "{total} increments are no load");
    for address in cell.addresses() {
        let client = client(&[address], 0).await;
        for counter in promised {
            let value = client.counter(&counter.path).get().await.expect("it exists");
            let (acknowledged, unknown) = (counter.acknowledged, counter.unknown);
            assert_eq!(unknown, 0, "a session's calls are answered as long as the session lives");
            assert_eq!(value, acknowledged as i64, "{} at replica {client:?}", counter.path);
        }
        client.close().await;
    }
    let digests = cell.digests().await.expect("all come to rest");
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the replicas differ: {digests:?}");
}

async fn client(addresses: &[String], index: usize) -> Client {
    let builder = Client::builder().addresses(addresses).route(Route::Fixed(index)).deadline(CALL_LIMIT);
    builder.connect().await.expect("a session")
}
