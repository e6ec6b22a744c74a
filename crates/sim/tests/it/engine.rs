//! The simulated machines themselves: time, order, loss, and death.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_sim::engine::network::address;
use bramah_sim::engine::{Engine, Pace};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 1_000;

/// Two hosts: the first listens and keeps what it receives, with the times; the second sends numbered lines.
struct Pair {
    engine: Engine,
    received: Arc<Mutex<Vec<u8>>>,
    failed: Arc<Mutex<Option<std::io::ErrorKind>>>,
}

fn pair(seed: u64) -> Pair {
    let mut engine = Engine::new(seed, 5);
    let (server, client) = (engine.add_host("server"), engine.add_host("client"));
    let (received, failed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let (transport, kept) = (engine.transport(server), Arc::clone(&received));
    engine.start(server, async move {
        let mut listener = transport.listen(&address(server, PORT).to_string()).await.expect("a free port");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut buffer = [0; 512];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            kept.lock().extend_from_slice(&buffer[..read]);
        }
    });
    let (transport, error) = (engine.transport(client), Arc::clone(&failed));
    engine.start(client, async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut stream = transport.connect(&address(server, PORT).to_string()).await.expect("it listens");
        for line in 0..100 {
            if let Err(why) = stream.write_all(format!("{line}\n").as_bytes()).await {
                *error.lock() = Some(why.kind());
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    Pair { engine, received, failed }
}

fn lines(received: &Mutex<Vec<u8>>) -> Vec<u32> {
    let text = String::from_utf8(received.lock().clone()).expect("text");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn what_is_lost_comes_again_in_order() {
    let mut pair = pair(1);
    pair.engine.network().set_link(1, 0, |link| (link.loss, link.delay_ms) = (0.3, (1, 50)));
    pair.engine.run_until(60_000);
    assert_eq!(lines(&pair.received), (0..100).collect::<Vec<_>>());
    assert!(pair.engine.network().counts().lost > 3);
}

#[test]
fn a_blocked_link_holds_what_it_gets_until_it_is_healed() {
    let mut pair = pair(2);
    pair.engine.run_until(200);
    let before = lines(&pair.received).len();
    pair.engine.network().set_link(1, 0, |link| link.block(true));
    pair.engine.run_until(5_000);
    assert!(lines(&pair.received).len() <= before + 1, "what was on its way may still arrive");
    pair.engine.network().heal();
    pair.engine.run_until(10_000);
    assert_eq!(lines(&pair.received), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_killed_process_resets_its_connections_and_a_powerless_machine_says_nothing() {
    let mut killed = pair(3);
    killed.engine.run_until(200);
    killed.engine.kill(0);
    killed.engine.run_until(3_000);
    assert!(killed.failed.lock().is_some());

    let mut powerless = pair(3);
    powerless.engine.run_until(200);
    powerless.engine.cut_power(0);
    powerless.engine.run_until(3_000);
    assert_eq!(*powerless.failed.lock(), None);
}

/// Counts seconds by a host's own clock.
fn clock(engine: &mut Engine) -> (usize, Arc<AtomicU64>) {
    let host = engine.add_host("clock");
    let ticks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&ticks);
    engine.start(host, async move {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (host, ticks)
}

#[test]
fn a_clock_goes_at_its_own_rate_and_a_stopped_process_finds_its_timers_late() {
    let mut engine = Engine::new(4, 5);
    let (right, right_ticks) = clock(&mut engine);
    let (fast, fast_ticks) = clock(&mut engine);
    let (stopped, stopped_ticks) = clock(&mut engine);
    engine.run_until(100);
    engine.set_pace(fast, Pace::Rate(1.5));
    engine.set_pace(stopped, Pace::Stopped);
    let before = stopped_ticks.load(Ordering::Relaxed);
    engine.run_until(10_000);
    let near = |ticks: &AtomicU64, expected: u64| ticks.load(Ordering::Relaxed).abs_diff(expected) <= 2;
    assert!(near(&right_ticks, 100), "{right} {right_ticks:?}");
    assert!(near(&fast_ticks, 150), "{fast_ticks:?}");
    assert_eq!(stopped_ticks.load(Ordering::Relaxed), before);
    engine.set_pace(stopped, Pace::Rate(1.0));
    engine.run_until(10_020);
    assert!(near(&stopped_ticks, 100), "all its ticks are overdue and come at once: {stopped_ticks:?}");
}

#[test]
fn one_seed_gives_one_order_of_packets() {
    let run = |seed| {
        let mut pair = pair(seed);
        pair.engine.network().set_link(1, 0, |link| (link.loss, link.delay_ms) = (0.1, (1, 30)));
        pair.engine.run_until(5_000);
        pair.engine.fingerprint()
    };
    assert_eq!(run(9), run(9));
    assert_ne!(run(9), run(10));
}
