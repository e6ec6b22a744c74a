//! `cargo xtask soak`: full load without faults. A healthy cell holds no election, its memory is flat, its disk bounded.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;
use lexopt::ValueExt;
use serde_json::{Value, json};

use super::Scratch;
use super::bramah::{Bramah, replica_at};
use super::cell::{Cell, REPLICAS};
use crate::processes::{self, Output, Process};
use crate::workspace;

/// How often the replicas are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Increments after which memory is taken for flat or not.
const MILLION: i64 = 1_000_000;

/// One counter, where `bramah bench --workload increment --counters 1` has it.
const COUNTER: &str = "/bench/counters/0000";

pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let (mut minutes, mut json) = (10.0, false);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("minutes") => minutes = arguments.value()?.parse::<f64>()?,
            Long("json") => json = true,
            other => return Err(other.unexpected().into()),
        }
    }
    if !(0.1..=1_440.0).contains(&minutes) {
        bail!("--minutes must be from 0.1 to 1440");
    }
    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let target = workspace::target(&root)?;
    let bramah = Bramah::build(&root, &target)?;
    let scratch = Scratch::new(&target)?;
    let cell = Cell::start(&bramah, &scratch.folder.join("soak"))?;
    let samples = soak(&bramah, &cell, Duration::from_secs_f64(minutes * 60.0))?;
    let elections = elections(&samples);
    println!("{}", table(&samples));
    println!("{elections} elections under load");
    if json {
        let samples: Vec<Value> = samples.iter().map(Sample::json).collect();
        println!("{}", json!({ "minutes": minutes, "elections": elections, "samples": samples }));
    }
    Ok(if elections == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Increments of one counter until there are a million, then writes, until the time is over.
fn soak(bramah: &Bramah, cell: &Cell<'_>, length: Duration) -> Result<Vec<Sample>> {
    let began = Instant::now();
    let mut samples = vec![Sample::take(bramah, cell, began, "start")?];
    let mut load = Load::start(bramah, cell, "increment", length)?;
    let mut counting = true;
    while length.saturating_sub(began.elapsed()) > Duration::from_secs(1) {
        thread::sleep(INTERVAL.min(length.saturating_sub(began.elapsed())));
        cell.all_alive()?;
        load.still_runs()?;
        let mut phase = if counting { "increments" } else { "writes" };
        if counting && counter(bramah, cell)? >= MILLION {
            phase = "a million increments";
            counting = false;
        }
        let sample = Sample::take(bramah, cell, began, phase)?;
        eprintln!("xtask: {sample}", sample = sample.line());
        samples.push(sample);
        if phase == "a million increments" {
            // The one before is ended first: two loads at once are not what is wanted.
            drop(load);
            load = Load::start(bramah, cell, "write", length.saturating_sub(began.elapsed()))?;
        }
    }
    load.finish()?;
    samples.push(Sample::take(bramah, cell, began, "end")?);
    Ok(samples)
}

/// A load generator that runs beside the sampling.
struct Load {
    process: Process,
    log: std::path::PathBuf,
}

impl Load {
    fn start(bramah: &Bramah, cell: &Cell<'_>, workload: &str, length: Duration) -> Result<Self> {
        let mut command = Command::new(&bramah.program);
        command
            .args(["bench", "--workload", workload, "--clients", "256", "--warmup", "0"])
            .args(["--addresses", &cell.addresses()])
            .args(["--seconds", &length.as_secs_f64().max(1.0).to_string()]);
        let log = cell.file(&format!("{workload}.log"));
        Ok(Load { process: Process::start(command, &log, Output::Log)?, log })
    }

    fn still_runs(&self) -> Result<()> {
        // It may end by itself within the last interval.
        if self.process.is_alive()? || self.process.wait(Duration::ZERO).unwrap_or(false) {
            return Ok(());
        }
        bail!("the load generator failed: {}", fs::read_to_string(&self.log).unwrap_or_default().trim());
    }

    fn finish(self) -> Result<()> {
        let succeeded = self.process.wait(Duration::from_secs(60)).context("the load generator")?;
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        if !succeeded {
            bail!("the load generator failed: {}", said.trim());
        }
        eprintln!("xtask: {}", said.trim());
        Ok(())
    }
}

fn counter(bramah: &Bramah, cell: &Cell<'_>) -> Result<i64> {
    let mut command = Command::new(&bramah.program);
    command.args(["counter", "get", COUNTER, "--timeout", "10s", "--addresses", &cell.addresses()]);
    let text = processes::output(command, &cell.file("counter.log"), Duration::from_secs(30))?;
    text.trim().parse().with_context(|| format!("the counter is {text:?}"))
}

/// The cell at one moment.
#[derive(Debug, Clone)]
struct Sample {
    seconds: f64,
    phase: &'static str,
    replicas: Vec<Replica>,
}

#[derive(Debug, Clone)]
struct Replica {
    term: u64,
    elections: u64,
    applied: u64,
    memory_bytes: u64,
    /// What the data folder takes on the disk.
    disk_bytes: u64,
}

impl Sample {
    fn take(bramah: &Bramah, cell: &Cell<'_>, began: Instant, phase: &'static str) -> Result<Self> {
        let replicas =
            (0..REPLICAS).map(|replica| Replica::look(bramah, cell, replica)).collect::<Result<_>>()?;
        Ok(Sample { seconds: began.elapsed().as_secs_f64(), phase, replicas })
    }

    fn line(&self) -> String {
        let mib = |pick: fn(&Replica) -> u64| {
            let each: Vec<String> = self
                .replicas
                .iter()
                .map(|replica| format!("{:>5.0}", pick(replica) as f64 / 1_048_576.0))
                .collect();
            each.join(" ")
        };
        let most = |pick: fn(&Replica) -> u64| self.replicas.iter().map(pick).max().unwrap_or(0);
        format!(
            "{:>6.0} s  term {:>3}  elections {:>3}  applied {:>11}  memory MiB {}  disk MiB {}  {}",
            self.seconds,
            most(|replica| replica.term),
            most(|replica| replica.elections),
            most(|replica| replica.applied),
            mib(|replica| replica.memory_bytes),
            mib(|replica| replica.disk_bytes),
            self.phase
        )
    }

    fn json(&self) -> Value {
        let replicas: Vec<Value> = self.replicas.iter().map(Replica::json).collect();
        json!({ "seconds": self.seconds, "phase": self.phase, "replicas": replicas })
    }
}

impl Replica {
    fn look(bramah: &Bramah, cell: &Cell<'_>, replica: usize) -> Result<Self> {
        let address = cell.client_address(replica);
        let answer = bramah.ask(address)?;
        let status = replica_at(&answer, address)?;
        let number =
            |key: &str| status[key].as_u64().with_context(|| format!("bramah status names no {key}"));
        Ok(Replica {
            // None while there is no leader; then the elections tell.
            term: status["term"].as_u64().unwrap_or(0),
            elections: number("elections")?,
            applied: number("applied_index")?,
            memory_bytes: number("memory_bytes")?,
            disk_bytes: disk_bytes(&cell.data(replica))?,
        })
    }

    fn json(&self) -> Value {
        json!({
            "term": self.term,
            "elections": self.elections,
            "applied": self.applied,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        })
    }
}

/// Space taken on the disk by all files of a folder, some of which come and go meanwhile.
fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?.flatten()
    {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// How often leadership changed between the first look and the last.
fn elections(samples: &[Sample]) -> u64 {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return 0;
    };
    let pairs = first.replicas.iter().zip(&last.replicas);
    let changes = pairs.map(|(before, after)| {
        let terms = after.term.saturating_sub(before.term);
        terms.max(after.elections.saturating_sub(before.elections))
    });
    changes.max().unwrap_or(0)
}

/// The first look, the one after a million increments, the last, and about one in ten between.
fn table(samples: &[Sample]) -> String {
    let step = samples.len().div_ceil(10).max(1);
    let chosen = samples.iter().enumerate().filter(|(index, sample)| {
        index % step == 0 || index + 1 == samples.len() || sample.phase.starts_with("a million")
    });
    chosen.map(|(_, sample)| sample.line()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(terms: [u64; 3]) -> Sample {
        let replica = |term| Replica { term, elections: term, applied: 0, memory_bytes: 0, disk_bytes: 0 };
        Sample { seconds: 0.0, phase: "start", replicas: terms.into_iter().map(replica).collect() }
    }

    #[test]
    fn an_election_that_any_replica_saw_counts() {
        assert_eq!(elections(&[sample([1, 1, 1]), sample([1, 1, 1])]), 0);
        assert_eq!(elections(&[sample([1, 1, 1]), sample([1, 3, 1])]), 2);
        assert_eq!(elections(&[sample([2, 2, 2])]), 0);
    }

    #[test]
    fn the_space_of_files_in_folders_is_counted() {
        let folder = std::env::temp_dir().join(format!("xtask-soak-{}", std::process::id()));
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner").join("file"), vec![1_u8; 100_000]).unwrap();
        let bytes = disk_bytes(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
    }
}
