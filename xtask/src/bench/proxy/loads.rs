//! The loads: what is sent, by which program, and how its words are read.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Bench, Running, family, pinned};
use crate::processes;

/// One load.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) key: &'static str,
    /// POST of a gRPC message on few connections of HTTP/2, instead of GET on many of HTTP/1.1.
    pub(super) grpc: bool,
}

pub(super) const LOADS: &[Load] = &[Load { key: "http1", grpc: false }, Load { key: "grpc", grpc: true }];

/// Connections of `http1`, each with one request at a time.
const CONNECTIONS: &str = "64";
/// Connections of `grpc`, and requests at once on each.
const H2_CONNECTIONS: &str = "8";
const H2_STREAMS: &str = "8";
/// Before what counts.
const WARMUP: u64 = 1;
/// How much longer than it should a load may take.
const GRACE: Duration = Duration::from_secs(30);

/// What one turn gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) per_second: f64,
    pub(super) p99_ms: f64,
    /// The proxy's processor time a request, in microseconds.
    pub(super) cpu_us: f64,
}

pub(super) fn measure(bench: &Bench, load: &Load, proxy: &Running, seconds: u64) -> Result<Measured> {
    let run = |seconds: u64| match load.grpc {
        false => wrk(bench, proxy, seconds),
        true => h2load(bench, proxy, seconds),
    };
    run(WARMUP)?;
    let before = cpu_seconds(proxy.process.pid())?;
    let (per_second, p99_ms) = run(seconds)?;
    let cpu = cpu_seconds(proxy.process.pid())? - before;
    Ok(Measured { per_second, p99_ms, cpu_us: cpu * 1e6 / (per_second * seconds as f64) })
}

fn run(command: Command, bench: &Bench, seconds: u64) -> Result<String> {
    let log = bench.folder().join("load.log");
    processes::output(command, &log, Duration::from_secs(seconds) + GRACE)
}

fn wrk(bench: &Bench, proxy: &Running, seconds: u64) -> Result<(f64, f64)> {
    let mut command = pinned(&bench.other_cores, "wrk");
    command.args(["--threads", "1", "--connections", CONNECTIONS, "--latency"]);
    command.args(["--duration", &format!("{seconds}s"), &format!("http://{}/", proxy.address)]);
    read_wrk(&run(command, bench, seconds)?)
}

/// Requests a second, and the 99th percentile in milliseconds.
fn read_wrk(text: &str) -> Result<(f64, f64)> {
    if let Some(failures) =
        text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
    {
        bail!("requests failed: {}", failures.trim());
    }
    let after = |label: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(label));
        line.and_then(|line| line.split_whitespace().last())
            .with_context(|| format!("wrk says no {label}:\n{text}"))
    };
    let rate = after("Requests/sec:")?.parse().context("wrk's rate is no number")?;
    Ok((rate, milliseconds(after("99%")?)?))
}

/// As wrk writes times: `1.23ms`, `456.00us`, `1.02s`.
fn milliseconds(text: &str) -> Result<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let factor = match &text[end..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        unit => bail!("{unit:?} is no unit of time that is known"),
    };
    let number: f64 = text[..end].parse().with_context(|| format!("{text:?} is no time"))?;
    Ok(number * factor)
}

/// A gRPC message: not compressed, ten bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x0a0123456789";

fn h2load(bench: &Bench, proxy: &Running, seconds: u64) -> Result<(f64, f64)> {
    let message = bench.folder().join("message");
    fs::write(&message, MESSAGE)?;
    let times = bench.folder().join("times");
    // It appends.
    let _ = fs::remove_file(&times);
    let mut command = pinned(&bench.other_cores, "h2load");
    command.args(["-c", H2_CONNECTIONS, "-m", H2_STREAMS, "-t", "1", "-D", &seconds.to_string()]);
    command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    command.arg("-d").arg(&message).arg(format!("--log-file={}", times.display()));
    command.arg(format!("http://{}/bench.Bench/Call", proxy.address));
    let rate = read_h2load(&run(command, bench, seconds)?)?;
    Ok((rate, p99_of(&times)?))
}

fn read_h2load(text: &str) -> Result<f64> {
    let line = |label: &str| {
        text.lines()
            .find(|line| line.starts_with(label))
            .with_context(|| format!("h2load says no {label:?}:\n{text}"))
    };
    let count = |line: &str, what: &str| {
        let part = line.split([',', ':']).find(|part| part.trim().ends_with(what));
        part.and_then(|part| part.trim().split(' ').next()?.parse::<u64>().ok())
    };
    for (label, bad) in [("requests:", "failed"), ("requests:", "errored"), ("status codes:", "5xx")] {
        if count(line(label)?, bad) != Some(0) {
            bail!("requests failed: {}; {}", line("requests:")?, line("status codes:")?);
        }
    }
    let finished = line("finished in")?;
    let rate = finished.split(", ").find_map(|part| part.strip_suffix(" req/s"));
    rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("h2load says no rate: {finished}"))
}

/// Of what h2load logs: a line a request, with beginning, status and microseconds.
fn p99_of(times: &Path) -> Result<f64> {
    let text = fs::read_to_string(times).context("h2load wrote no times")?;
    let mut all: Vec<u64> =
        text.lines().filter_map(|line| line.split('\t').nth(2)?.trim().parse().ok()).collect();
    all.sort_unstable();
    let place = all.len() * 99 / 100;
    let micros = all.get(place).context("h2load wrote no times")?;
    Ok(*micros as f64 / 1_000.0)
}

/// Processor time of a process and its children so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut sum = 0.0;
    for pid in family(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let field = |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime are fields 14 and 15 of proc(5), and two were cut off.
        sum += (field(11) + field(12)) / ticks;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read() {
        let text = "Running 10s test @ http://127.0.0.1:1/\n  Latency Distribution\n     50%    1.19ms\n     99%    2.50ms\n  \
                    100 requests in 1.00s, 1MB read\nRequests/sec:  51234.56\nTransfer/sec:      1.00MB\n";
        assert_eq!(read_wrk(text).unwrap(), (51_234.56, 2.5));
        assert!(read_wrk(&format!("{text}  Non-2xx or 3xx responses: 5\n")).is_err());
        assert!(read_wrk("").is_err());
        assert_eq!(milliseconds("456.00us").unwrap(), 0.456);
    }

    #[test]
    fn h2load_is_read() {
        let text = "finished in 5.00s, 30123.40 req/s, 1.00MB/s\n\
                    requests: 150617 total, 150681 started, 150617 done, 150617 succeeded, 0 failed, 0 errored, 0 timeout\n\
                    status codes: 150617 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(read_h2load(text).unwrap(), 30_123.4);
        assert!(read_h2load(&text.replace("0 failed", "7 failed")).is_err());
        assert!(read_h2load(&text.replace("0 5xx", "7 5xx")).is_err());
    }
}
