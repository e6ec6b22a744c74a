//! The client's locks and recipes at a cell of three: what they promise, by the real thing.

use std::time::Duration;

use bramah_client::{Client, Error, Guard, Route, TxnOp};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{self, Alone, LIMIT};

/// One cell of three after another: many at once would only wait for the machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// A cell, with a client at each of its replicas.
pub(crate) struct Cell {
    pub(crate) clients: Vec<Client>,
    pub(crate) replicas: Vec<Alone>,
    _turn: MutexGuard<'static, ()>,
}

pub(crate) async fn cell() -> Cell {
    let _turn = TURN.lock().await;
    let mut replicas = in_time(raw::three()).await;
    let addresses: Vec<_> =
        replicas.iter_mut().map(|replica| replica.server.client_address().to_string()).collect();
    let mut clients = Vec::new();
    for index in 0..addresses.len() {
        let builder =
            Client::builder().addresses(addresses.clone()).route(Route::Fixed(index)).deadline(LIMIT);
        clients.push(builder.connect().await.expect("a cell of three has a leader in time"));
    }
    Cell { clients, replicas, _turn }
}

pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// Waits until so many wait for the lock at `path`.
async fn waiters(client: &Client, path: &str, count: u64) {
    let mut watch = client.watch(path).kinds([bramah_client::EventKind::LockWanted]).await.unwrap();
    loop {
        let locks = client.list_locks(path, "", 1).await.unwrap().locks;
        if locks.iter().any(|lock| lock.waiter_count >= count) {
            return;
        }
        // A read elsewhere may be older than the wait: then it is told.
        watch.next().await.unwrap();
    }
}

/// Spec L-1, L-4, L-7: one holds a lock, is told that it is wanted, also by one who came before it asked, and hands it on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_wanted_and_handed_on() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let first = clients[0].lock("/ls/test/l").await.unwrap();
        let second = clients[1].clone();
        let second = tokio::spawn(async move { second.lock("/ls/local/l").await.unwrap() });
        waiters(&clients[0], "/l", 1).await;
        let mut wanted = first.wanted().await.unwrap();
        wanted.next().await.unwrap();
        let third = clients[2].clone();
        let third = tokio::spawn(async move { third.lock("/l").await.unwrap() });
        wanted.next().await.unwrap();
        let old = first.sequencer().clone();
        first.release().await.unwrap();
        let second = second.await.unwrap();
        assert_eq!((second.sequencer().path.as_str(), second.sequencer().generation), ("/l", 2));
        assert!(matches!(clients[2].check_sequencer(&old).await, Err(Error::SequencerInvalid { .. })));
        clients[0].check_sequencer(second.sequencer()).await.unwrap();
        second.release().await.unwrap();
        assert_eq!(third.await.unwrap().sequencer().generation, 3);
    })
    .await;
}

/// At most one leads, terms grow, and all can see who, by whichever name of the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_leader() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let mut observer = clients[2].election("/ls/local/e").observe().await.unwrap();
        assert_eq!(observer.next().await.unwrap(), None);
        let first = clients[0].election("/e").campaign("zero").await.unwrap();
        assert_eq!(observer.next().await.unwrap().unwrap().value, "zero");
        let second = clients[1].clone();
        let second =
            tokio::spawn(async move { second.election("/ls/test/e").campaign("one").await.unwrap() });
        waiters(&clients[0], "/e", 1).await;
        let term = first.term();
        first.resign().await.unwrap();
        let second = second.await.unwrap();
        assert!(second.term() > term);
        while observer.next().await.unwrap().is_none_or(|leader| leader.value != "one") {}
        drop(second);
        assert_eq!(observer.next().await.unwrap(), None);
    })
    .await;
}

/// No more than its number have a semaphore's permits at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_semaphore_lets_so_many_in() {
    let cell = cell().await;
    let clients = &cell.clients;
    let mut tasks = JoinSet::new();
    for worker in 0..6 {
        let client = clients[worker % 3].clone();
        tasks.spawn(async move {
            let semaphore = client.semaphore("/s", 2).unwrap();
            let inside = client.counter("/inside");
            for _ in 0..4 {
                let permit = semaphore.acquire().await.unwrap();
                assert!(inside.increment(1).await.unwrap() <= 2);
                inside.increment(-1).await.unwrap();
                permit.release().await.unwrap();
            }
        });
    }
    in_time(tasks.join_all()).await;
}

/// A barrier's parties begin together and end together, round after round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_is_passed_together() {
    const PARTIES: i64 = 5;
    let cell = cell().await;
    let clients = &cell.clients;
    for round in 1..=4 {
        let mut tasks = JoinSet::new();
        for party in 0..5 {
            let client = clients[party % 3].clone();
            tasks.spawn(async move {
                let (begun, ended) = (client.counter("/begun"), client.counter("/ended"));
                begun.increment(1).await.unwrap();
                let entered = client.barrier("/bar", 5).enter().await.unwrap();
                assert_eq!(begun.get().await.unwrap(), round * PARTIES);
                ended.increment(1).await.unwrap();
                entered.leave().await.unwrap();
                assert_eq!(ended.get().await.unwrap(), round * PARTIES);
            });
        }
        in_time(tasks.join_all()).await;
    }
    assert!(matches!(clients[0].stat("/bar/round").await, Err(Error::NotFound { .. })), "nothing is left");
}

/// A barrier waits for all, also if the one before it was complete: the mark that stays is of its round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_waits_for_all() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        clients[0].barrier("/bar", 1).enter().await.unwrap().leave().await.unwrap();
        let mut early = tokio::spawn({
            let client = clients[0].clone();
            async move { client.barrier("/bar", 2).enter().await.unwrap() }
        });
        // What is no word that all are there: it lets nobody through.
        let set = TxnOp::reset_counter("/bar/complete", 1);
        clients[1].txn().when([Guard::exists("/bar/complete")]).then([set]).commit().await.unwrap();
        assert!(timeout(Duration::from_millis(500), &mut early).await.is_err(), "one is missing");
        let late = clients[2].barrier("/bar", 2).enter().await.unwrap();
        let (early, late) = (early.await.unwrap().leave(), late.leave());
        let (early, late) = tokio::join!(early, late);
        early.and(late).unwrap();
    })
    .await;
}

/// A latch counts down once for each, and wakes who waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_latch_opens_at_zero() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let latch = clients[0].latch("/latch");
        assert!(latch.create(3).await.unwrap());
        assert!(!latch.create(3).await.unwrap());
        let waiting = tokio::spawn({
            let client = clients[1].clone();
            async move { client.latch("/latch").wait().await }
        });
        for left in [2, 1, 0, 0] {
            assert!(left == 0 || !waiting.is_finished());
            assert_eq!(latch.count_down().await.unwrap(), left);
        }
        waiting.await.unwrap().unwrap();
    })
    .await;
}

/// Each item of a queue is taken once, and each taker sees them in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_gives_each_item_once() {
    let cell = cell().await;
    let clients = &cell.clients;
    let mut takers = JoinSet::new();
    for client in clients.clone() {
        takers.spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..5 {
                numbers.push(client.queue("/q").take().await.unwrap().number);
            }
            numbers
        });
    }
    for item in 0..15 {
        in_time(clients[item % 3].queue("/q").put(format!("{item}"))).await.unwrap();
    }
    let taken = in_time(takers.join_all()).await;
    assert!(taken.iter().all(|numbers| numbers.is_sorted()), "{taken:?}");
    let mut all: Vec<_> = taken.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=15).collect::<Vec<_>>());
    assert_eq!(in_time(clients[0].queue("/q").try_take()).await.unwrap(), None);
}
