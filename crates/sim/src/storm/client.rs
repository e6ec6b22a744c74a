//! Applications: machines whose processes use the cell through the client library, and note all they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bramah_client::{Client, Route, SetOptions};
use bramah_wire::transport::Transport;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ledger::Ledger;
use super::locks;
use super::watch::Watch;
use crate::history::{Answer, Begun, Call, Outcome, Recorder};

/// Calls under way at once in one process.
const WORKERS: u64 = 3;
/// Those who want locks in one process.
const CONTENDERS: u64 = 2;
/// Counters, and as many files.
pub(super) const KEYS: u64 = 12;
/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(6);

/// What a client's process is told.
#[derive(Clone)]
pub(super) struct Application {
    pub(super) number: u32,
    /// No other process of this storm has it: what one writes and is told is never taken for another's.
    pub(super) incarnation: u32,
    pub(super) seed: u64,
    pub(super) addresses: Vec<String>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) recorder: Recorder,
    pub(super) watch: Watch,
    pub(super) ledger: Ledger,
    /// Longest pause of a worker between two calls.
    pub(super) think: Duration,
    /// Set when no more calls are to begin.
    pub(super) enough: Arc<AtomicBool>,
}

/// The path of a counter.
pub(super) fn counter(key: u64) -> String {
    format!("/counter-{key}")
}

/// The path of a file.
pub(super) fn file(key: u64) -> String {
    format!("/file-{key}")
}

impl Application {
    /// The process: connects, and works until it is enough.
    pub(super) async fn main(self) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let route = match random.random_range(0..3) {
            0 => Route::Leader,
            1 => Route::Any,
            _ => Route::Fixed(self.number as usize),
        };
        let client = self.connect(route, &mut random).await;
        let mut working = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let random = StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(worker));
            working.spawn(Worker::new(self.clone(), client.clone(), worker, random).work());
        }
        let mut others = tokio::task::JoinSet::new();
        others.spawn(self.clone().note_promises(client.clone()));
        let name = format!("application {} ({})", self.number, self.incarnation);
        others.spawn(self.watch.clone().follow_client(name.clone(), client.clone()));
        let seed = |part: u64| StdRng::seed_from_u64(self.seed.wrapping_mul(37).wrapping_add(part));
        for contender in 0..CONTENDERS {
            let who = format!("{name}, contender {contender}");
            working.spawn(locks::contend(self.clone(), client.clone(), who, seed(contender)));
        }
        working.spawn(locks::stay(self.clone(), client.clone(), seed(CONTENDERS)));
        working.spawn(locks::transfer(self.clone(), client.clone(), seed(CONTENDERS + 1)));
        working.join_all().await;
        others.shutdown().await;
        if let Some(session) = client.session() {
            self.watch.closes(session.session);
        }
        client.close().await;
    }

    /// Notes until when the client relies on its session.
    async fn note_promises(self, client: Client) {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let Some(session) = client.session().filter(|session| !session.lease_left.is_zero()) {
                self.watch.promised(session.session, session.lease_left);
            }
        }
    }

    async fn connect(&self, route: Route, random: &mut StdRng) -> Client {
        loop {
            let builder = Client::builder()
                .addresses(&self.addresses[..])
                .transport(Arc::clone(&self.transport))
                .seed(random.random())
                .name(format!("application {}", self.number))
                .route(route)
                .deadline(CALL_LIMIT);
            match builder.connect().await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

struct Worker {
    application: Application,
    client: Client,
    number: u32,
    random: StdRng,
    /// The generations of files as last seen.
    generations: BTreeMap<u64, u64>,
    written: u64,
}

impl Worker {
    fn new(application: Application, client: Client, worker: u64, random: StdRng) -> Self {
        let number = application.incarnation * WORKERS as u32 + worker as u32;
        Self { application, client, number, random, generations: BTreeMap::new(), written: 0 }
    }

    /// The only worker of its process.
    async fn alone(application: Application, route: Route) -> Self {
        let mut random = StdRng::seed_from_u64(application.seed);
        let client = application.connect(route, &mut random).await;
        Self::new(application, client, 0, random)
    }

    async fn work(mut self) {
        while !self.application.enough.load(Ordering::Relaxed) {
            let think = self.application.think.as_micros() as u64;
            let pause = self.random.random_range(0..=think);
            tokio::time::sleep(Duration::from_micros(pause)).await;
            self.call().await;
        }
    }

    async fn call(&mut self) {
        let key = self.random.random_range(0..KEYS);
        let outcome = match self.random.random_range(0..100) {
            0..40 => self.add(key).await,
            40..55 => self.read(key).await,
            55..70 => self.get(key).await,
            70..85 => self.set(key, None).await,
            85..95 => {
                let generation = self.generations.get(&key).copied().unwrap_or(0);
                self.set(key, Some(generation)).await
            }
            _ => self.delete(key).await,
        };
        tracing::trace!(worker = self.number, key, ?outcome, "an application was told");
    }

    fn told(&self, begun: Begun, result: impl Into<Outcome>) -> Outcome {
        let outcome = result.into();
        self.application.recorder.end(begun, outcome.clone());
        outcome
    }

    async fn add(&mut self, key: u64) -> Outcome {
        let path = counter(key);
        let delta = 1;
        let begun = self.application.recorder.begin(self.number, path.as_str(), Call::Add { delta });
        let added = self.client.counter(path).increment(delta).await;
        self.told(begun, added)
    }

    async fn read(&mut self, key: u64) -> Outcome {
        let path = counter(key);
        let begun = self.application.recorder.begin(self.number, path.as_str(), Call::Read);
        let value = self.client.counter(path).get().await;
        self.told(begun, value)
    }

    async fn get(&mut self, key: u64) -> Outcome {
        let path = file(key);
        let begun = self.application.recorder.begin(self.number, path.as_str(), Call::Get);
        let got = self.client.get(path).await;
        if let Ok(got) = &got {
            self.generations.insert(key, got.stat.content_generation);
        }
        self.told(begun, got)
    }

    async fn set(&mut self, key: u64, if_generation: Option<u64>) -> Outcome {
        let path = file(key);
        self.written += 1;
        let contents = format!("{}.{}", self.number, self.written);
        let call = Call::Set { contents: contents.as_str().into(), if_generation };
        let begun = self.application.recorder.begin(self.number, path.as_str(), call);
        let options = SetOptions { if_generation, ..SetOptions::default() };
        let written = self.client.set_with(path, contents, options).await;
        match &written {
            Ok(written) => drop(self.generations.insert(key, written.generation)),
            Err(bramah_client::Error::GenerationMismatch { current: Some(current), .. }) => {
                self.generations.insert(key, *current);
            }
            Err(_) => {}
        }
        self.told(begun, written)
    }

    async fn delete(&mut self, key: u64) -> Outcome {
        let path = file(key);
        let begun =
            self.application.recorder.begin(self.number, path.as_str(), Call::Delete { if_generation: None });
        let deleted = self.client.delete(path).await;
        if deleted.is_ok() {
            self.generations.insert(key, 0);
        }
        self.told(begun, deleted)
    }
}

/// Writes to a counter and a file, as a cell that is whole must let anybody.
pub(super) async fn prove(application: Application, done: Arc<AtomicBool>) {
    let mut worker = Worker::alone(application, Route::Any).await;
    for outcome in [worker.add(0).await, worker.set(0, None).await] {
        if !matches!(outcome, Outcome::Answered(Answer::Value { .. } | Answer::Written { .. })) {
            worker
                .application
                .watch
                .report(format!("the cell came together, but it does not write: {outcome:?}"));
        }
    }
    worker.client.close().await;
    done.store(true, Ordering::Relaxed);
}

/// Reads every key through the one replica whose address the application has, at the end.
pub(super) async fn read_all(application: Application, done: Arc<AtomicBool>) {
    let mut worker = Worker::alone(application, Route::Fixed(0)).await;
    for key in 0..KEYS {
        for (path, outcome) in [(counter(key), worker.read(key).await), (file(key), worker.get(key).await)] {
            if !matches!(outcome, Outcome::Answered(_)) {
                let addresses = &worker.application.addresses;
                worker
                    .application
                    .watch
                    .report(format!("{addresses:?} does not read {path} at the end: {outcome:?}"));
            }
        }
    }
    worker.client.close().await;
    done.store(true, Ordering::Relaxed);
}
