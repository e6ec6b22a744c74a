//! What a bench needs from a system under load.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// One connection to a system under load; clones share it.
pub(crate) trait Target: Clone + Send + Sync + 'static {
    /// Writes a file, durably.
    fn write(&self, key: usize, value: Bytes) -> impl Future<Output = Result<(), String>> + Send;
    /// Reads a file, linearizably.
    fn read(&self, key: usize) -> impl Future<Output = Result<(), String>> + Send;
    /// Adds one to a counter, durably.
    fn increment(&self, counter: usize) -> impl Future<Output = Result<(), String>> + Send;
    /// Whether the file is there already.
    fn exists(&self, key: usize) -> impl Future<Output = Result<bool, String>> + Send;
    /// One that takes and gives back a lock.
    type Contender: Contender;
    /// Gets ready to contend for a lock.
    fn contender(&self, lock: usize) -> impl Future<Output = Result<Self::Contender, String>> + Send;
    /// Begins so many watches of the watched file, which count what is delivered to them.
    fn watch(
        &self,
        watchers: usize,
        deliveries: Deliveries,
    ) -> impl Future<Output = Result<(), String>> + Send;
    /// Writes the watched file, durably.
    fn write_watched(&self, value: Bytes) -> impl Future<Output = Result<(), String>> + Send;
    /// Ends the connection.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// One that wants a lock, apart from all others even of the same connection.
pub(crate) trait Contender: Send + 'static {
    /// Waits until it holds the lock, and gives it back.
    fn acquire_and_release(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

/// How many events were delivered to watchers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deliveries(Arc<AtomicU64>);

impl Deliveries {
    pub(crate) fn add(&self, events: usize) {
        self.0.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The names of files and counters, made once.
pub(crate) struct Names {
    /// Names of the files.
    pub(crate) keys: Vec<String>,
    /// Names of the counters.
    pub(crate) counters: Vec<String>,
}

impl Names {
    pub(crate) fn new(keys: usize, counters: usize) -> Self {
        Self {
            keys: (0..keys).map(|key| format!("{KEY_FOLDER}/{key:07}")).collect(),
            counters: (0..counters).map(|counter| format!("{COUNTER_FOLDER}/{counter:04}")).collect(),
        }
    }
}

/// The folder of the files.
pub(crate) const KEY_FOLDER: &str = "/bench/keys";
/// The folder of the locks.
pub(crate) const LOCK_FOLDER: &str = "/bench/locks";
/// The file that is watched.
pub(crate) const WATCHED: &str = "/bench/watched";
const COUNTER_FOLDER: &str = "/bench/counters";
