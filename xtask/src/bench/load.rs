//! One run of the load generator, `bramah bench`, which speaks to both systems.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cell::Cell;
use crate::processes;

/// What a run may take beyond its times: 10,000 files are written before the first.
const PREPARE_WITHIN: Duration = Duration::from_secs(120);

/// What is done, by how many callers, and under which name the result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) key: &'static str,
    pub(super) workload: &'static str,
    pub(super) clients: u32,
    /// What it is run together with.
    pub(super) suite: Suite,
    /// Part of its suite with `--quick`.
    pub(super) quick: bool,
}

/// Loads that are run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// Files and counters, and fail-over.
    Files,
    /// Locks and watches.
    Locks,
}

const fn load(key: &'static str, workload: &'static str, clients: u32, quick: bool) -> Load {
    Load { key, workload, clients, suite: Suite::Files, quick }
}

const fn lock_load(key: &'static str, workload: &'static str, clients: u32) -> Load {
    Load { key, workload, clients, suite: Suite::Locks, quick: true }
}

/// A caller that writes while nobody watches, as [`WATCHED`] does while many do.
pub(super) const UNWATCHED: &str = "unwatched";
/// Its latency is that of the one who writes.
pub(super) const WATCHED: &str = "watch_1000";

/// In the order in which they are run: the writes make the files that are read.
pub(super) const LOADS: &[Load] = &[
    load("write_1", "write", 1, true),
    load("write_64", "write", 64, false),
    load("write_256", "write", 256, true),
    load("write_1000", "write", 1_000, false),
    load("read_256", "read", 256, true),
    load("counter_64", "increment", 64, true),
    lock_load("lock_own_64", "lock-own", 64),
    lock_load("lock_one_64", "lock-one", 64),
    lock_load(UNWATCHED, "write", 1),
    lock_load(WATCHED, "watch", 1_000),
];

/// What a run measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) operations_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) server_cpu_us: f64,
    pub(super) client_cpu_us: f64,
    /// Calls that failed; they are in none of the other numbers.
    pub(super) errors: f64,
    /// The whole of what the generator printed.
    pub(super) raw: Value,
}

/// Seconds of measuring, and of running before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) seconds: u64,
    pub(super) warmup: u64,
}

/// Puts a cell under one load and waits for the outcome.
pub(super) fn measure(generator: &Path, cell: &Cell<'_>, load: Load, times: Times) -> Result<Measured> {
    let raw = run(generator, cell, load, times)?;
    cell.all_alive()?;
    read(raw).with_context(|| format!("{} under {}", cell.name(), load.key))
}

fn run(generator: &Path, cell: &Cell<'_>, load: Load, times: Times) -> Result<Value> {
    let mut command = Command::new(generator);
    command
        .args(["bench", "--json", "--protocol", cell.name(), "--workload", load.workload])
        .args(["--addresses", &cell.addresses(), "--server-pids", &cell.pids()])
        .args(["--clients", &load.clients.to_string(), "--route", "spread"])
        .args(["--seconds", &times.seconds.to_string(), "--warmup", &times.warmup.to_string()])
        .args(["--keys", "10000", "--value-bytes", "256", "--counters", "1"]);
    let limit = Duration::from_secs(times.seconds + times.warmup) + PREPARE_WITHIN;
    let text = processes::output(command, &cell.file("generator.log"), limit)
        .with_context(|| format!("the load generator failed on {} with {}", cell.name(), load.key))?;
    let last = text.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("the load generator printed {last:?}"))
}

fn read(raw: Value) -> Result<Measured> {
    let number = |pointer: &str| {
        let number = raw.pointer(pointer).and_then(Value::as_f64);
        number.with_context(|| format!("the load generator gave no {pointer}: {raw}"))
    };
    let operations = number("/operations")?.max(1.0);
    Ok(Measured {
        operations_per_second: number("/operations_per_second")?,
        p50_us: number("/latency_us/p50")?,
        p99_us: number("/latency_us/p99")?,
        server_cpu_us: number("/server_cpu_seconds")? * 1e6 / operations,
        client_cpu_us: number("/generator_cpu_seconds")? * 1e6 / operations,
        errors: number("/errors")?,
        raw,
    })
}

/// The one in the middle, or the mean of the two in the middle.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cpu_time_is_counted_for_each_operation() {
        let measured = read(json!({
            "operations": 2_000, "operations_per_second": 1_000.0, "errors": 0,
            "latency_us": { "p50": 900, "p99": 1_500 },
            "generator_cpu_seconds": 0.1, "server_cpu_seconds": 0.4,
        }));
        let measured = measured.unwrap();
        assert!((measured.server_cpu_us - 200.0).abs() < 1e-6);
        assert!((measured.client_cpu_us - 50.0).abs() < 1e-6);
        assert!(read(json!({ "operations": 1 })).is_err(), "a number that is missing is not zero");
    }

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median([]).is_nan());
    }
}
