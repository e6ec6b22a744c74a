//! Instances come and go, and the proxy itself stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bramah_proxy::{PolicyKind, Settings, Stopped, Upstreams};
use http::Request;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::*;

/// Spec F-2: instances come and go under load, and no request fails; each has time to end what is under way.
#[tokio::test]
async fn f_2_no_request_fails_because_an_instance_came_or_left() {
    let settings = Settings { policy: PolicyKind::RoundRobin, workers: 2, ..Settings::default() };
    let mut servers = vec![Server::named("a").await, Server::named("a").await];
    let addresses = |servers: &[Server]| servers.iter().map(|server| server.address).collect::<Vec<_>>();
    let running = Running::start(settings, &addresses(&servers)).await;
    let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
        let mut client = running.client().await;
        load.spawn(async move {
            while !ends.load(SeqCst) {
                let answer = if number % 2 == 0 {
                    client.get("/").await
                } else {
                    // One that is not sent twice.
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
                    client.answer().await
                };
                assert_eq!(answer.status, 200, "{answer:?}");
                answered.fetch_add(1, SeqCst);
            }
        });
    }
    for _ in 0..20 {
        servers.push(Server::named("a").await);
        running.tell(&addresses(&servers));
        let leaving = servers.remove(0);
        running.tell(&addresses(&servers));
        let id = leaving.address.to_string();
        until("it is told", || running.figures().instances.iter().all(|one| one.id != id)).await;
        // Those that it had then are under way for less than this; an instance that leaves waits for them.
        tokio::time::sleep(Duration::from_millis(50)).await;
        leaving.kill().await;
    }
    ends.store(true, SeqCst);
    within(load.join_all()).await;
    assert!(answered.load(SeqCst) > 100);
    assert_eq!(running.figures().answers[4], 0);
}

/// Spec F-2: instances join, leave in order, and die without a word while the registry is told late or not at all; no request
/// fails that can be sent again.
#[tokio::test]
async fn f_2_a_storm_of_joins_leaves_and_deaths_fails_nothing() {
    let seed = rand::random::<u64>();
    println!("the storm's seed is {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let settings = Settings { workers: 2, ..Settings::default() };
    let mut servers = Vec::new();
    for _ in 0..5 {
        servers.push(Server::named("a").await);
    }
    let addresses = |servers: &[Server]| servers.iter().map(|server| server.address).collect::<Vec<_>>();
    let running = Running::start(settings, &addresses(&servers)).await;
    let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
        let mut client = running.client().await;
        load.spawn(async move {
            while !ends.load(SeqCst) {
                let answer = client.get("/").await;
                assert_eq!(answer.status, 200, "{answer:?}");
                answered.fetch_add(1, SeqCst);
            }
        });
    }
    let pause = |random: &mut StdRng, longest| {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..longest)))
    };
    for _ in 0..40 {
        let place = random.random_range(0..servers.len());
        match random.random_range(0..3) {
            0 if servers.len() < 8 => servers.push(Server::named("a").await),
            1 if servers.len() > 3 => {
                let leaving = servers.swap_remove(place);
                running.tell(&addresses(&servers));
                tokio::time::sleep(Duration::from_millis(50)).await;
                leaving.kill().await;
            }
            2 if servers.len() > 3 => {
                servers.swap_remove(place).kill().await;
                // Its session has not expired yet, or the cell is away.
                pause(&mut random, 300).await;
            }
            _ => {}
        }
        running.tell(&addresses(&servers));
        pause(&mut random, 60).await;
    }
    ends.store(true, SeqCst);
    within(load.join_all()).await;
    assert!(answered.load(SeqCst) > 100);
    assert_eq!(running.figures().retries_denied, 0, "a retry within the budget would have saved them");
}

/// Spec F-2: one that left gets nothing more, and connections to it are closed; what is under way there ends there.
#[tokio::test]
async fn f_2_who_left_gets_nothing_more() {
    let slow = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("slow")
    })
    .await;
    let running = Running::start(Settings::default(), &[slow.address]).await;
    let mut client = running.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", || running.figures().requests_now == 1).await;
    let next = Server::named("next").await;
    running.tell(&[next.address]);
    until("it is told", || running.figures().instances[0].address == next.address.to_string()).await;
    assert_eq!(client.answer().await.body, "slow");
    for _ in 0..5 {
        assert_eq!(client.get("/").await.body, "next");
    }
    assert_eq!(slow.connections(), 1);
}

/// Spec F-2: an instance whose address changes keeps its name.
#[tokio::test]
async fn f_2_an_instance_that_moves_is_followed() {
    let (one, other) = (Server::named("one").await, Server::named("other").await);
    let running = Running::start(Settings::default(), &[]).await;
    for server in [&one, &other] {
        running
            .instances
            .send_replace(Arc::new(Upstreams { instances: vec![upstream("a", server.address)] }));
        let address = server.address.to_string();
        until("it is told", || running.figures().instances.iter().any(|one| one.address == address)).await;
        let body = running.client().await.get("/").await.body;
        assert_eq!(body, if server.address == one.address { "one" } else { "other" });
    }
}

/// Spec F-2: when nobody tells of instances any more, it goes on with what it knew last.
#[tokio::test]
async fn f_2_without_news_it_goes_on() {
    let server = Server::named("a").await;
    let Running { proxy, instances } = Running::start(Settings::default(), &[server.address]).await;
    drop(instances);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(Client::connect(proxy.address()).await.get("/").await.body, "a");
}

/// Spec F-2: told to stop, it finishes what is under way, says so to clients of either version, and takes nothing more.
#[tokio::test]
async fn f_2_stopping_finishes_what_is_under_way() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("a")
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let (mut busy, mut idle) = (running.client().await, running.client().await);
    assert_eq!(idle.get("/").await.status, 200);
    let mut h2 = http2(running.address()).await;
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let request = Request::get("http://a/").body(full("")).expect("a request");
    let answer = tokio::spawn(async move { h2.send_request(request).await });
    until("both are under way", || running.figures().requests_now == 2).await;
    let address = running.address();
    let stopping = tokio::spawn(running.proxy.stop(Duration::from_secs(30)));
    assert_eq!(idle.rest().await.0, "", "an idle connection is closed");
    let last = busy.answer().await;
    assert_eq!((last.status, header(&last.head, "connection")), (200, Some("close")));
    assert!(busy.rest().await.1);
    let answer = within(answer).await.expect("no panic").expect("an answer");
    assert_eq!(read(answer).await, "a");
    assert_eq!(within(stopping).await.expect("no panic"), Stopped::Drained);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// Spec F-2: told to stop, it answers also those whose connection is there and whose request is on the way.
#[tokio::test]
async fn f_2_stopping_answers_what_is_on_the_way() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut clients = vec![running.client().await, running.client().await];
    until("both are there", || running.figures().connections_now == 2).await;
    let stopping = tokio::spawn(running.proxy.stop(Duration::from_secs(30)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(within(stopping).await.expect("no panic"), Stopped::Drained);
}

/// Spec F-2: what doesn't end in time is broken off, and counted.
#[tokio::test]
async fn f_2_stopping_has_a_limit() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        text("a")
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = running.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", || running.figures().requests_now == 1).await;
    let stopped = within(running.proxy.stop(Duration::from_millis(100))).await;
    assert_eq!(stopped, Stopped::BrokenOff { connections: 1 });
    assert_eq!(client.rest().await.0, "");
}

/// Spec F-2: workers share a port, and each serves.
#[tokio::test]
async fn f_2_workers_share_the_port() {
    let server = Server::named("a").await;
    let running = Running::start(Settings { workers: 3, ..Settings::default() }, &[server.address]).await;
    for _ in 0..30 {
        assert_eq!(running.client().await.get("/").await.body, "a");
    }
    assert!(server.connections() <= 3, "each worker has a pool of its own");
    assert_eq!(running.figures().requests, 30);
}
