//! One caller that writes all the time and prints a line for each acknowledged write: what fail-over is measured with.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::cpu::monotonic_us;
use super::etcd;
use super::target::Target;

/// A caller whose next address has just failed too rests this long.
const REST_AFTER_ERROR: Duration = Duration::from_millis(5);

/// Writes until `length` has passed or nobody reads the lines. Each line has the instants of CLOCK_MONOTONIC, in
/// microseconds, at which the write was sent and acknowledged; a write that had to be tried again was sent when it was
/// first tried.
pub(crate) async fn run(writer: &mut Writer<impl Target>, length: Duration, value: Bytes) {
    let end = monotonic_us() + length.as_micros() as u64;
    let mut key = 0;
    while monotonic_us() < end {
        let sent_us = monotonic_us();
        let error = writer.write(key, value.clone()).await.err();
        let line = match &error {
            None => json!({ "at_us": monotonic_us(), "sent_us": sent_us, "ok": true }),
            Some(error) => {
                json!({ "at_us": monotonic_us(), "sent_us": sent_us, "ok": false, "error": error })
            }
        };
        // Rust's standard output writes whole lines at once, so a reader sees each as soon as it is there.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return;
        }
        if error.is_some() {
            tokio::time::sleep(REST_AFTER_ERROR).await;
        }
        key = (key + 1) % writer.keys;
    }
}

/// How the probe writes.
pub(crate) struct Writer<T> {
    /// One that finds its own way past a failed replica, or one an address.
    targets: Vec<T>,
    current: usize,
    try_timeout: Duration,
    keys: usize,
}

impl<T: Target> Writer<T> {
    /// A writer over a client that finds its own way: no try is ended before the client ends it.
    pub(crate) fn of_client(target: T, deadline: Duration, keys: usize) -> Self {
        Self { targets: vec![target], current: 0, try_timeout: deadline, keys }
    }

    /// A writer that goes on to the next address as soon as a try fails or takes longer than `try_timeout`.
    pub(crate) fn in_turn(targets: Vec<T>, try_timeout: Duration, keys: usize) -> Self {
        Self { targets, current: 0, try_timeout, keys }
    }

    async fn write(&mut self, key: usize, value: Bytes) -> Result<(), String> {
        let mut last_error = String::new();
        for _ in 0..self.targets.len() {
            let attempt = self.targets[self.current].write(key, value.clone());
            match tokio::time::timeout(self.try_timeout, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last_error = error,
                Err(_) => last_error = format!("no answer within {:?}", self.try_timeout),
            }
            self.current = (self.current + 1) % self.targets.len();
        }
        Err(last_error)
    }
}

/// A connection to each address, made when it is needed.
pub(crate) fn etcd_targets(
    addresses: &[String],
    names: &std::sync::Arc<super::target::Names>,
) -> Result<Vec<etcd::Etcd>, String> {
    addresses
        .iter()
        .map(|address| Ok(etcd::Etcd::new(etcd::connect_lazily(address)?, names.clone())))
        .collect()
}
