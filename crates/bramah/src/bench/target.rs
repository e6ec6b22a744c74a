//! What a bench needs from a system under load.

use std::future::Future;

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
    /// Ends the connection.
    fn close(self) -> impl Future<Output = ()> + Send;
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
const COUNTER_FOLDER: &str = "/bench/counters";
