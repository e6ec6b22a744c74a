//! The demo's workers: each increments counters one after the other, and everything they were told is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bramah_client::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A worker whose increment was refused rests this long before it tries again.
const REST_AFTER_ERROR: Duration = Duration::from_millis(20);
/// Refusals in a row of one increment before a worker gives up: the cell is down for good then.
const MAX_REFUSALS: u32 = 100;

/// What the workers were told, and what holds them back.
pub struct Load {
    began: Instant,
    next: AtomicU64,
    total: u64,
    ended: AtomicBool,
    /// Increments that may be started so far.
    gate: watch::Sender<u64>,
    counters: Vec<Tally>,
    acknowledged: AtomicU64,
    failover: Mutex<Option<Failover>>,
}

/// What is known of one counter.
struct Tally {
    path: String,
    acknowledged: AtomicU64,
    /// Increments that may have been done: their answer never came.
    unknown: AtomicU64,
}

/// A leader that was killed, until somebody is served again.
#[derive(Clone, Copy)]
struct Failover {
    killed: Instant,
    gone: Instant,
    served: Option<Instant>,
}

/// What was promised of a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The counter.
    pub path: String,
    /// Increments that were acknowledged.
    pub acknowledged: u64,
    /// Increments whose outcome is not known.
    pub unknown: u64,
}

impl Load {
    /// `total` increments over `counters` counters; none may begin before the gate is opened.
    pub fn new(total: u64, counters: u64) -> Arc<Self> {
        let tally = |counter: u64| Tally {
            path: format!("/demo/counter-{}", counter + 1),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        };
        Arc::new(Self {
            began: Instant::now(),
            next: AtomicU64::new(0),
            total,
            ended: AtomicBool::new(false),
            gate: watch::Sender::new(0),
            counters: (0..counters).map(tally).collect(),
            acknowledged: AtomicU64::new(0),
            failover: Mutex::new(None),
        })
    }

    /// Lets the increments up to the `limit`th begin.
    pub fn open_gate(&self, limit: u64) {
        self.gate.send_replace(limit);
    }

    /// Lets no further increment begin.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Increments acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Time since the load was made.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was promised of each counter.
    pub fn promised(&self) -> Vec<Promised> {
        let counters = self.counters.iter().map(|tally| Promised {
            path: tally.path.clone(),
            acknowledged: tally.acknowledged.load(Ordering::Relaxed),
            unknown: tally.unknown.load(Ordering::Relaxed),
        });
        counters.collect()
    }

    /// Increments that are settled: acknowledged, or of unknown outcome.
    pub fn settled(&self) -> u64 {
        self.promised().iter().map(|counter| counter.acknowledged + counter.unknown).sum()
    }

    /// Starts to wait for the first acknowledgement after a kill: the signal was sent at `killed`, and the process was
    /// gone at `gone`.
    pub fn leader_killed(&self, killed: Instant, gone: Instant) {
        *self.failover.lock() = Some(Failover { killed, gone, served: None });
    }

    /// Time from the kill to the first acknowledgement of an increment that was sent after the leader was gone, once
    /// there is one. An older increment's answer could have been on its way already.
    pub fn failover(&self) -> Option<Duration> {
        let failover = (*self.failover.lock())?;
        Some(failover.served?.duration_since(failover.killed))
    }

    /// Runs `workers` workers over the clients until all increments are settled.
    pub async fn run(self: Arc<Self>, clients: &[Client], workers: u64) -> Result<(), String> {
        let mut running = JoinSet::new();
        for worker in 0..workers as usize {
            let client = clients[worker % clients.len()].clone();
            running.spawn(Arc::clone(&self).work(client));
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|error| format!("a worker broke off: {error}"))??;
        }
        Ok(())
    }

    async fn work(self: Arc<Self>, client: Client) -> Result<(), String> {
        let mut gate = self.gate.subscribe();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total || self.ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            if *gate.borrow() <= number {
                // The sender lives in `self`, so this ends only when the gate opens.
                let _ = gate.wait_for(|limit| *limit > number).await;
            }
            let tally = &self.counters[number as usize % self.counters.len()];
            self.increment(&client, tally).await?;
        }
    }

    /// One increment, tried again as long as it is certain that it was not done.
    async fn increment(&self, client: &Client, tally: &Tally) -> Result<(), String> {
        for refusal in 1.. {
            let sent = Instant::now();
            match client.counter(&tally.path).increment(1).await {
                Ok(_) => {
                    tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.note_service(sent);
                    return Ok(());
                }
                Err(error) if error.may_have_been_done() => {
                    tally.unknown.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if refusal == MAX_REFUSALS => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(REST_AFTER_ERROR).await,
            }
        }
        Ok(())
    }

    fn note_service(&self, sent: Instant) {
        let mut failover = self.failover.lock();
        if let Some(failover) =
            failover.as_mut().filter(|failover| failover.served.is_none() && sent >= failover.gone)
        {
            failover.served = Some(Instant::now());
        }
    }
}

/// After how many settled increments each kill comes, and how many may begin before it has come: the gate keeps some
/// back, so that there is always somebody who waits while the leader is gone.
pub fn schedule(total: u64, kills: u64) -> Vec<(u64, u64)> {
    let at = |part: u64| (u128::from(total) * u128::from(part) / u128::from(2 * (kills + 1))) as u64;
    (1..=kills).map(|kill| (at(2 * kill), at(2 * kill + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_over_the_run() {
        assert_eq!(schedule(1_000, 1), [(500, 750)]);
        assert_eq!(schedule(1_200, 2), [(400, 600), (800, 1_000)]);
        assert!(schedule(10, 0).is_empty());
        for (kill, gate) in schedule(3_000, 20) {
            assert!(kill < gate && gate < 3_000);
        }
    }

    #[test]
    fn failover_ends_with_a_call_that_was_sent_after_the_leader_was_gone() {
        let load = Load::new(1, 1);
        let killed = Instant::now();
        let gone = killed + Duration::from_millis(1);
        load.leader_killed(killed, gone);
        load.note_service(killed);
        assert_eq!(load.failover(), None, "this one was sent before the leader was gone");
        load.note_service(gone);
        assert!(load.failover().is_some());
    }
}
