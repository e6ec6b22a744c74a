//! How long a caller has to wait when the leader is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::cell::{Cell, System};
use crate::processes::{Output, Process};

/// Give up on a system that takes no write for so long.
const LONGEST_OUTAGE: Duration = Duration::from_secs(60);

/// Rest between two kills, so that each finds a cell that has settled.
const REST: Duration = Duration::from_secs(2);

/// How long the probe waits for an etcd member before it asks the next. Members that still believe in the dead leader
/// keep a write for seconds, so a patient probe would measure its own patience; our client has times of its own.
const TRY_TIMEOUT: &str = "100ms";

/// An answer that arrives so soon after the kill to a write sent before it was on its way already: no election is that fast.
const ON_ITS_WAY: Duration = Duration::from_millis(10);

/// Kills the leader `kills` times and restarts it; returns for each the milliseconds from the SIGKILL to the next
/// acknowledged write.
pub(super) fn measure(
    generator: &Path,
    system: &dyn System,
    folder: &Path,
    kills: usize,
) -> Result<Vec<f64>> {
    let mut cell = Cell::start(system, folder)?;
    let probe = Probe::start(generator, &cell)?;
    let mut outages = Vec::new();
    for _ in 0..kills {
        probe.next_after(monotonic_us())?;
        thread::sleep(REST + random_part_of(Duration::from_millis(500)));
        let leader = cell.leader()?;
        let killed_us = monotonic_us();
        cell.kill(leader);
        let acknowledged_us =
            probe.next_after(killed_us).with_context(|| format!("after a kill of {}", cell.name()))?;
        outages.push((acknowledged_us - killed_us) as f64 / 1_000.0);
        cell.restart(leader)?;
    }
    Ok(outages)
}

/// Kills must not keep step with heartbeats.
fn random_part_of(longest: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    longest.mul_f64(f64::from(now.subsec_nanos() % 1_000) / 1_000.0)
}

/// The clock that the probe's lines are in.
fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

/// One caller that writes all the time, in a process of its own.
struct Probe {
    process: Process,
    acknowledged: Receiver<Acknowledged>,
}

/// A write that was done, in microseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    sent_us: u64,
    at_us: u64,
}

impl Probe {
    fn start(generator: &Path, cell: &Cell<'_>) -> Result<Self> {
        let mut command = Command::new(generator);
        command
            .args(["bench", "--json", "--workload", "probe", "--protocol", cell.name()])
            .args(["--addresses", &cell.addresses(), "--seconds", "3600"])
            .args(["--keys", "10000", "--value-bytes", "256", "--try-timeout", TRY_TIMEOUT]);
        let process = Process::start(command, &cell.file("probe.log"), Output::Pipe)?;
        let stdout = process.take_stdout().context("the probe's output is no pipe")?;
        let (sender, acknowledged) = sync_channel(1_000);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(write) = read_line(&line)
                    && sender.send(write).is_err()
                {
                    return;
                }
            }
        });
        Ok(Probe { process, acknowledged })
    }

    /// When the first write was acknowledged that a cell killed at `killed_us` cannot have done before.
    fn next_after(&self, killed_us: u64) -> Result<u64> {
        let ends = Instant::now() + LONGEST_OUTAGE;
        while Instant::now() < ends {
            match self.acknowledged.recv_timeout(Duration::from_secs(1)) {
                Ok(write) if is_after(write, killed_us) => return Ok(write.at_us),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "the probe ended by itself{}",
                        if self.process.is_alive()? { ", or closed its output" } else { "" }
                    )
                }
            }
        }
        bail!("no write was acknowledged for {} s", LONGEST_OUTAGE.as_secs())
    }
}

fn read_line(line: &str) -> Option<Acknowledged> {
    let line: Value = serde_json::from_str(line).ok()?;
    let acknowledged = Acknowledged { sent_us: line["sent_us"].as_u64()?, at_us: line["at_us"].as_u64()? };
    (line["ok"] == true).then_some(acknowledged)
}

fn is_after(write: Acknowledged, killed_us: u64) -> bool {
    write.sent_us > killed_us || write.at_us > killed_us + ON_ITS_WAY.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_that_were_done_are_read() {
        assert_eq!(
            read_line(r#"{"at_us":9,"ok":true,"sent_us":7}"#),
            Some(Acknowledged { sent_us: 7, at_us: 9 })
        );
        assert_eq!(read_line(r#"{"at_us":9,"ok":false,"sent_us":7,"error":"x"}"#), None);
        assert_eq!(read_line("noise"), None);
    }

    #[test]
    fn an_answer_that_was_on_its_way_does_not_end_the_outage() {
        let write = |sent_us, at_us| Acknowledged { sent_us, at_us };
        assert!(!is_after(write(900, 990), 1_000), "before the kill");
        assert!(!is_after(write(990, 1_400), 1_000), "answered by the leader while it was killed");
        assert!(is_after(write(990, 300_000), 1_000), "caught by the kill and done by the next leader");
        assert!(is_after(write(1_001, 1_500), 1_000), "sent after the kill");
    }
}
