//! The load: callers that each wait for their answer before their next call, the same loop for every protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::target::{Contender, Deliveries, Target};
use crate::cli::{BenchArgs, Workload};

/// A failing caller rests this long, so that it measures the system and not its own spinning.
const REST_AFTER_ERROR: Duration = Duration::from_millis(10);
/// Different contents to write, made ahead so that making them costs the measurement nothing.
const VALUES: usize = 64;
/// Callers that fill the files before the measurement.
const LOADERS: usize = 64;
/// Most time that all watches may take to begin.
const WATCHES_WITHIN: Duration = Duration::from_secs(30);
/// Longest latency the histogram tells apart, in microseconds.
const MAX_LATENCY_US: u64 = 120_000_000;

/// What one caller does, and between which instants it counts.
#[derive(Clone)]
pub(crate) struct Plan {
    workload: Workload,
    keys: usize,
    counters: usize,
    values: Arc<[Bytes]>,
    /// Before this it warms up.
    pub(crate) begin: Instant,
    /// After this it starts no call.
    pub(crate) end: Instant,
}

impl Plan {
    pub(crate) fn new(args: &BenchArgs) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(args.warmup);
        Self {
            workload: args.workload,
            keys: args.keys,
            counters: args.counters,
            values: values(args.value_bytes as usize),
            begin,
            end: begin + Duration::from_secs_f64(args.seconds),
        }
    }
}

fn values(length: usize) -> Arc<[Bytes]> {
    let mut random = SmallRng::seed_from_u64(length as u64);
    (0..VALUES).map(|_| (0..length).map(|_| random.random::<u8>()).collect::<Vec<u8>>().into()).collect()
}

/// What the callers saw between begin and end.
pub(crate) struct Measured {
    /// Latencies of the calls that were answered well, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Calls that failed.
    pub(crate) errors: u64,
    /// The first failure's words.
    pub(crate) first_error: Option<String>,
    /// With watchers: events that were delivered to them, all together.
    pub(crate) deliveries: Option<u64>,
}

impl Measured {
    /// What was done in all.
    pub(crate) fn operations(&self) -> u64 {
        self.deliveries.unwrap_or(self.latency.len())
    }
}

/// What a caller does over and over.
trait Caller: Send + 'static {
    fn call(&mut self, random: &mut SmallRng) -> impl Future<Output = Result<(), String>> + Send;
}

struct Shared {
    latency: Mutex<Histogram<u64>>,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

/// Runs `clients` callers over the connections until the plan's end.
pub(crate) async fn run<T: Target>(
    connections: &[T],
    clients: usize,
    plan: &Plan,
) -> Result<Measured, String> {
    match plan.workload {
        Workload::LockOwn | Workload::LockOne => {
            let mut contending = Vec::new();
            for caller in 0..clients {
                let lock = if plan.workload == Workload::LockOwn { caller } else { 0 };
                contending.push(Contending(connections[caller % connections.len()].contender(lock).await?));
            }
            run_callers(contending, plan).await
        }
        Workload::Watch => run_watchers(connections, clients, plan).await,
        _ => {
            let target = |caller: usize| connections[caller % connections.len()].clone();
            let using = (0..clients).map(|caller| Using { target: target(caller), plan: plan.clone() });
            run_callers(using.collect(), plan).await
        }
    }
}

/// One caller writes one file, and `watchers` watch it.
async fn run_watchers<T: Target>(
    connections: &[T],
    watchers: usize,
    plan: &Plan,
) -> Result<Measured, String> {
    connections[0].write_watched(plan.values[0].clone()).await?;
    let deliveries = Deliveries::default();
    for (index, connection) in connections.iter().enumerate() {
        let share = watchers / connections.len() + usize::from(index < watchers % connections.len());
        let begun = tokio::time::timeout(WATCHES_WITHIN, connection.watch(share, deliveries.clone()));
        begun.await.map_err(|_| "the watches did not begin in time".to_owned())??;
    }
    let writer = Writing { target: connections[0].clone(), plan: plan.clone() };
    let (measured, delivered) =
        tokio::join!(run_callers(vec![writer], plan), delivered_between(plan, &deliveries));
    Ok(Measured { deliveries: Some(delivered), ..measured? })
}

async fn delivered_between(plan: &Plan, deliveries: &Deliveries) -> u64 {
    tokio::time::sleep_until(plan.begin.into()).await;
    let before = deliveries.count();
    tokio::time::sleep_until(plan.end.into()).await;
    deliveries.count() - before
}

async fn run_callers<C: Caller>(all: Vec<C>, plan: &Plan) -> Result<Measured, String> {
    let latency = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared {
        latency: Mutex::new(latency),
        errors: AtomicU64::new(0),
        first_error: Mutex::new(None),
    });
    let mut callers = JoinSet::new();
    for (caller, number) in all.into_iter().zip(0..) {
        callers.spawn(call_until_end(caller, number, plan.clone(), Arc::clone(&shared)));
    }
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| format!("a caller broke off: {error}"))?;
    }
    let latency = shared.latency.lock().clone();
    let first_error = shared.first_error.lock().take();
    let errors = shared.errors.load(Ordering::Relaxed);
    Ok(Measured { latency, errors, first_error, deliveries: None })
}

async fn call_until_end<C: Caller>(mut caller: C, number: u64, plan: Plan, shared: Arc<Shared>) {
    let mut random = SmallRng::seed_from_u64(number);
    loop {
        let sent = Instant::now();
        if sent >= plan.end {
            return;
        }
        let result = caller.call(&mut random).await;
        let answered = Instant::now();
        let counts = answered >= plan.begin && answered < plan.end;
        match result {
            Ok(()) if counts => {
                let microseconds = answered.duration_since(sent).as_micros() as u64;
                shared.latency.lock().saturating_record(microseconds.max(1));
            }
            Ok(()) => {}
            Err(error) => {
                shared.errors.fetch_add(u64::from(counts), Ordering::Relaxed);
                shared.first_error.lock().get_or_insert(error);
                tokio::time::sleep(REST_AFTER_ERROR).await;
            }
        }
    }
}

/// Writes, reads or increments.
struct Using<T> {
    target: T,
    plan: Plan,
}

impl<T: Target> Caller for Using<T> {
    async fn call(&mut self, random: &mut SmallRng) -> Result<(), String> {
        let plan = &self.plan;
        match plan.workload {
            Workload::Read => self.target.read(random.random_range(0..plan.keys)).await,
            Workload::Increment => self.target.increment(random.random_range(0..plan.counters)).await,
            _ => {
                let value = plan.values[random.random_range(0..plan.values.len())].clone();
                self.target.write(random.random_range(0..plan.keys), value).await
            }
        }
    }
}

/// Takes and gives back a lock.
struct Contending<C>(C);

impl<C: Contender> Caller for Contending<C> {
    async fn call(&mut self, _: &mut SmallRng) -> Result<(), String> {
        self.0.acquire_and_release().await
    }
}

/// Writes what is watched.
struct Writing<T> {
    target: T,
    plan: Plan,
}

impl<T: Target> Caller for Writing<T> {
    async fn call(&mut self, random: &mut SmallRng) -> Result<(), String> {
        let values = &self.plan.values;
        self.target.write_watched(values[random.random_range(0..values.len())].clone()).await
    }
}

/// Writes all files once, unless the last one is there from a run before.
pub(crate) async fn prepare<T: Target>(connections: &[T], args: &BenchArgs) -> Result<(), String> {
    if connections[0].exists(args.keys - 1).await? {
        return Ok(());
    }
    let values = values(args.value_bytes as usize);
    // The last file is the mark of a complete run, so it is written by itself after the others.
    let next = Arc::new(AtomicU64::new(0));
    let last = args.keys as u64 - 1;
    let mut loaders: JoinSet<Result<(), String>> = JoinSet::new();
    for loader in 0..LOADERS {
        let target = connections[loader % connections.len()].clone();
        let (next, values) = (Arc::clone(&next), Arc::clone(&values));
        loaders.spawn(async move {
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= last {
                    return Ok(());
                }
                target.write(key as usize, values[key as usize % VALUES].clone()).await?;
            }
        });
    }
    while let Some(loaded) = loaders.join_next().await {
        loaded.map_err(|error| format!("a loader broke off: {error}"))??;
    }
    connections[0].write(last as usize, values[0].clone()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system that answers at once, every tenth call badly.
    #[derive(Clone, Default)]
    struct Fake {
        calls: Arc<AtomicU64>,
        written: Arc<Mutex<std::collections::BTreeSet<usize>>>,
        watching: Arc<Mutex<Vec<(usize, Deliveries)>>>,
    }

    impl Contender for Fake {
        async fn acquire_and_release(&mut self) -> Result<(), String> {
            self.increment(0).await
        }
    }

    impl Target for Fake {
        type Contender = Fake;
        async fn contender(&self, lock: usize) -> Result<Fake, String> {
            self.written.lock().insert(lock);
            Ok(self.clone())
        }
        async fn watch(&self, watchers: usize, deliveries: Deliveries) -> Result<(), String> {
            self.watching.lock().push((watchers, deliveries));
            Ok(())
        }
        async fn write_watched(&self, _: Bytes) -> Result<(), String> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.watching.lock().iter().for_each(|(watchers, deliveries)| deliveries.add(*watchers));
            Ok(())
        }
        async fn write(&self, key: usize, _: Bytes) -> Result<(), String> {
            self.written.lock().insert(key);
            Ok(())
        }
        async fn read(&self, _: usize) -> Result<(), String> {
            Ok(())
        }
        async fn increment(&self, _: usize) -> Result<(), String> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            if call % 10 == 9 { Err("tenth".into()) } else { Ok(()) }
        }
        async fn exists(&self, key: usize) -> Result<bool, String> {
            Ok(self.written.lock().contains(&key))
        }
        async fn close(self) {}
    }

    fn args(arguments: &[&str]) -> BenchArgs {
        use clap::Parser;
        let all = ["bramah", "bench"].iter().chain(arguments);
        match crate::cli::Cli::try_parse_from(all).expect("good arguments").command {
            crate::cli::Command::Bench(args) => args,
            other => panic!("{other:?} is no bench"),
        }
    }

    #[tokio::test]
    async fn good_answers_are_timed_and_bad_ones_counted() {
        let args = args(&["--workload", "increment", "--seconds", "0.3", "--warmup", "0"]);
        let target = Fake::default();
        let measured = run(std::slice::from_ref(&target), 4, &Plan::new(&args)).await.expect("a run");
        assert!(measured.errors > 0 && measured.first_error.as_deref() == Some("tenth"));
        let answered = target.calls.load(Ordering::Relaxed);
        assert!(measured.latency.len() + measured.errors <= answered);
        assert!(measured.latency.len() + measured.errors + 8 >= answered, "all but the last calls count");
        assert!(measured.latency.min() >= 1_000, "each call takes a millisecond");
    }

    #[tokio::test]
    async fn each_contends_for_its_own_lock_or_all_for_one() {
        for (workload, locks) in [("lock-own", 4), ("lock-one", 1)] {
            let args = args(&["--workload", workload, "--seconds", "0.1", "--warmup", "0"]);
            let target = Fake::default();
            let measured = run(std::slice::from_ref(&target), 4, &Plan::new(&args)).await.expect("a run");
            assert_eq!(target.written.lock().len(), locks, "{workload}");
            assert_eq!(measured.operations(), measured.latency.len());
        }
    }

    #[tokio::test]
    async fn what_reaches_watchers_is_counted() {
        let args = args(&["--workload", "watch", "--seconds", "0.2", "--warmup", "0"]);
        let target = Fake::default();
        let measured = run(&[target.clone(), target.clone()], 1_001, &Plan::new(&args)).await.expect("a run");
        let shares: Vec<usize> = target.watching.lock().iter().map(|(watchers, _)| *watchers).collect();
        assert_eq!(shares, [501, 500]);
        let writes = measured.latency.len();
        let of_last_write = 1_001;
        assert!(measured.operations().abs_diff(writes * 1_001) <= of_last_write);
    }

    #[tokio::test]
    async fn every_file_is_prepared_once() {
        let args = args(&["--keys", "1000"]);
        let target = Fake::default();
        prepare(&[target.clone(), target.clone()], &args).await.expect("all are written");
        assert_eq!(target.written.lock().len(), 1_000);
        target.written.lock().remove(&5);
        prepare(std::slice::from_ref(&target), &args).await.expect("nothing is to be done");
        assert!(!target.written.lock().contains(&5), "a prepared cell is left as it is");
    }
}
