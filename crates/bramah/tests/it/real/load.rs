//! The load of every scenario: clients at all replicas, which count, read, write and compare-and-swap, and the record of
//! what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bramah_client::{Client, Error, SetOptions};
use bramah_sim::history::{Answer, Call, Contents, Outcome, Recorder};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::cell::{RealCell, eventually};
use super::network::CLIENTS;
use super::record::Record;
use crate::support::PATIENCE;

pub(super) const COUNTERS: u32 = 4;
pub(super) const FILES: u32 = 4;
const FOLDER: &str = "/real";
/// Workers of each session: two that count, one that writes files, one that reads.
const WORKERS: [fn(&mut Worker) -> Step; 4] = [Worker::add, Worker::add, Worker::write, Worker::read];
/// How many of them write.
const WRITERS: u64 = 3;
/// The longest that a worker rests between two calls, in microseconds: two cores have to be enough for all.
const LONGEST_REST: u64 = 8_000;
/// Before the next call after one that could not be done.
const REST_AFTER_ERROR: Duration = Duration::from_millis(20);

/// Clients at work. They go on until they are told to end.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    clients: Vec<Client>,
}

struct Shared {
    recorder: Recorder,
    ended: AtomicBool,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    /// Calls that were refused for want of space.
    no_space: AtomicU64,
    /// Calls that failed because a session had ended.
    sessions_lost: AtomicU64,
    /// Calls of which nobody knows whether they were done.
    uncertain: AtomicU64,
}

impl Load {
    /// A session with each replica, and one that follows the leader.
    pub(crate) async fn start(cell: &RealCell) -> Self {
        Self::with_files_of(cell, 0).await
    }

    /// The same, and files have at least so many bytes: disks get full of them.
    pub(crate) async fn with_files_of(cell: &RealCell, bytes: usize) -> Self {
        let mut clients = vec![cell.client().await];
        clients[CLIENTS].mkdir_all(FOLDER).await.expect("the cell works");
        for replica in 1..=cell.count() {
            clients.push(cell.client_at(replica).await);
        }
        let shared = Arc::new(Shared {
            recorder: Recorder::monotonic(),
            ended: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            no_space: AtomicU64::new(0),
            sessions_lost: AtomicU64::new(0),
            uncertain: AtomicU64::new(0),
        });
        let mut workers = JoinSet::new();
        for client in &clients {
            for step in WORKERS {
                let worker = Worker::new(workers.len() as u32, client.clone(), Arc::clone(&shared), bytes);
                workers.spawn(worker.work(step));
            }
        }
        let load = Self { shared, workers, clients };
        load.progresses(100).await;
        load
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Calls refused for want of space so far.
    pub(crate) fn no_space(&self) -> u64 {
        self.shared.no_space.load(Ordering::Relaxed)
    }

    /// Calls that failed so far because their session had ended.
    pub(crate) fn sessions_lost(&self) -> u64 {
        self.shared.sessions_lost.load(Ordering::Relaxed)
    }

    /// Calls under way at once, at most.
    pub(crate) fn writers(&self) -> u64 {
        WRITERS * self.clients.len() as u64
    }

    /// Calls so far of which nobody knows whether they were done.
    pub(crate) fn uncertain(&self) -> u64 {
        self.shared.uncertain.load(Ordering::Relaxed)
    }

    /// Waits until so many further writes are acknowledged, and tells how long it took.
    pub(crate) async fn progresses(&self, count: u64) -> Duration {
        let began = Instant::now();
        let wanted = self.acknowledged() + count;
        eventually("writes go on", async || self.acknowledged() >= wanted).await;
        began.elapsed()
    }

    /// Nothing is acknowledged for so long, after what was already on its way.
    pub(crate) async fn is_silent_for(&self, time: Duration) {
        let mut seen = self.acknowledged();
        eventually("nothing is acknowledged", async || {
            tokio::time::sleep(time).await;
            std::mem::replace(&mut seen, self.acknowledged()) == self.acknowledged()
        })
        .await;
    }

    /// Waits until every writer is refused again and again for want of space, and nothing is acknowledged any more.
    pub(crate) async fn is_refused(&self) {
        let writers = self.writers();
        let mut seen = (self.acknowledged(), self.no_space());
        eventually("all writes are refused", async || {
            if seen.0 != self.acknowledged() {
                seen = (self.acknowledged(), self.no_space());
            }
            self.no_space() >= seen.1 + 10 * writers
        })
        .await;
    }

    /// No further calls; those under way are waited for.
    pub(crate) async fn end(mut self) -> Record {
        self.shared.ended.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(worker) = self.workers.join_next().await {
                worker.expect("no worker breaks off");
            }
        };
        tokio::time::timeout(2 * PATIENCE, ended).await.expect("every call gets its answer or its end");
        for client in self.clients.drain(..) {
            client.close().await;
        }
        Record::of(self.shared.recorder.clone())
    }
}

/// What to do next: to which key, what, and what is written if it writes a file.
type Step = (String, Call, Vec<u8>);

/// One caller, which has one call under way at a time.
struct Worker {
    number: u32,
    client: Client,
    shared: Arc<Shared>,
    random: SmallRng,
    written: u64,
    file_bytes: usize,
    /// The generation that a file had when this worker last saw it.
    seen: [u64; FILES as usize],
}

impl Worker {
    fn new(number: u32, client: Client, shared: Arc<Shared>, file_bytes: usize) -> Self {
        let random = SmallRng::seed_from_u64(u64::from(number));
        Self { number, client, shared, random, written: 0, file_bytes, seen: [0; FILES as usize] }
    }

    async fn work(mut self, step: fn(&mut Self) -> Step) {
        while !self.shared.ended.load(Ordering::Relaxed) {
            let (key, call, bytes) = step(&mut self);
            let begun = self.shared.recorder.begin(self.number, key.as_str(), call.clone());
            let outcome = self.ask(&key, &call, bytes).await;
            let done = self.note(&key, &call, &outcome);
            self.shared.recorder.end(begun, outcome);
            let rest = Duration::from_micros(self.random.random_range(0..LONGEST_REST));
            tokio::time::sleep(if done { rest } else { REST_AFTER_ERROR }).await;
        }
    }

    fn add(&mut self) -> Step {
        (counter(self.random.random_range(0..COUNTERS)), Call::Add { delta: 1 }, Vec::new())
    }

    fn read(&mut self) -> Step {
        match self.random.random() {
            true => (counter(self.random.random_range(0..COUNTERS)), Call::Read, Vec::new()),
            false => (file(self.random.random_range(0..FILES)), Call::Get, Vec::new()),
        }
    }

    fn write(&mut self) -> Step {
        let number = self.random.random_range(0..FILES);
        let bytes = self.next_contents();
        let contents = Contents::of(&bytes);
        let generation = self.seen[number as usize];
        let call = match self.random.random_range(0..10) {
            0..4 => Call::set(contents),
            4..7 => Call::set_if(contents, generation),
            7..9 => Call::Get,
            _ => Call::Delete { if_generation: Some(generation) },
        };
        (file(number), call, bytes)
    }

    /// Unlike any other.
    fn next_contents(&mut self) -> Vec<u8> {
        self.written += 1;
        let text = format!("{}-{}.", self.number, self.written);
        text.repeat(self.file_bytes / text.len() + 1).into_bytes()
    }

    async fn ask(&self, key: &str, call: &Call, bytes: Vec<u8>) -> Outcome {
        let (client, shared) = (&self.client, &self.shared);
        match call {
            Call::Add { delta } => shared.look(client.counter(key).increment(*delta).await),
            Call::Read => shared.look(client.counter(key).get().await),
            Call::Get => shared.look(client.get(key).await),
            Call::Set { if_generation, .. } => {
                let options = SetOptions { if_generation: *if_generation, ..SetOptions::default() };
                shared.look(client.set_with(key, bytes, options).await)
            }
            Call::Delete { if_generation: None } => shared.look(client.delete(key).await),
            Call::Delete { if_generation: Some(generation) } => {
                shared.look(client.delete_if(key, *generation).await)
            }
        }
    }

    /// Remembers what was learned; true if the cell answered.
    fn note(&mut self, key: &str, call: &Call, outcome: &Outcome) -> bool {
        let Outcome::Answered(answer) = outcome else { return false };
        let number = key.bytes().last().map_or(0, |digit| usize::from(digit - b'0'));
        match answer {
            Answer::Contents { generation, .. } | Answer::Written { generation, .. } => {
                self.seen[number] = *generation
            }
            _ => {}
        }
        if !call.only_reads() && !matches!(answer, Answer::Refused(_)) {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

impl Shared {
    fn look<T>(&self, result: Result<T, Error>) -> Outcome
    where
        Outcome: From<Result<T, Error>>,
    {
        if result.as_ref().is_err_and(Error::may_have_been_done) {
            self.uncertain.fetch_add(1, Ordering::Relaxed);
        }
        match &result {
            Err(Error::NoSpace { .. }) => drop(self.no_space.fetch_add(1, Ordering::Relaxed)),
            Err(Error::SessionExpired { .. }) => drop(self.sessions_lost.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        Outcome::from(result)
    }
}

pub(super) fn counter(number: u32) -> String {
    format!("{FOLDER}/counter-{number}")
}

pub(super) fn file(number: u32) -> String {
    format!("{FOLDER}/file-{number}")
}
