//! What connections cost that have asked once and wait: memory, and whether the proxy still answers.

use std::fs;
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Running, ask, family};

/// So many.
const CONNECTIONS: usize = 10_000;

/// Of one proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Idle {
    pub(super) connections: usize,
    /// Bytes of memory a connection, without the kernel's.
    pub(super) bytes_each: f64,
    /// Of the whole process, with all of them.
    pub(super) resident_mib: f64,
    /// An answer to one more, while they wait.
    pub(super) answer_ms: f64,
}

pub(super) fn measure(proxy: &Running) -> Result<Idle> {
    let connect =
        || TcpStream::connect(&proxy.address).context("cannot connect; is `ulimit -n` below 12,000?");
    let mut first = connect()?;
    ask(&mut first)?;
    let before = resident(proxy.process.pid())?;
    let mut waiting = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = connect()?;
        ask(&mut connection)?;
        waiting.push(connection);
    }
    let after = resident(proxy.process.pid())?;
    let begun = Instant::now();
    ask(&mut first)?;
    Ok(Idle {
        connections: waiting.len(),
        bytes_each: (after.saturating_sub(before)) as f64 / waiting.len() as f64,
        resident_mib: after as f64 / f64::from(1 << 20),
        answer_ms: begun.elapsed().as_secs_f64() * 1e3,
    })
}

/// Bytes in memory, of a process and its children.
fn resident(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += kib.with_context(|| format!("process {pid} has no memory"))? * 1_024;
    }
    Ok(sum)
}
