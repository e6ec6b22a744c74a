//! `cargo xtask storm`: simulated cells under faults, one process a seed, for as long as wanted.

mod failover;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;
use lexopt::ValueExt;
use serde_json::{Value, json};

use crate::processes::{self, Output, Process};
use crate::workspace;

/// Seeds that once failed, and what they found.
const FOUND: &str = "crates/sim/found-seeds.txt";
/// The longest that one seed may take; one that hangs takes for ever.
const SEED_LIMIT: Duration = Duration::from_secs(300);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(10);
/// The part of `cargo xtask test`: as many seeds that are always the same as seeds that never were.
const FIXED_SEEDS: u64 = 64;
/// Seeds that are run twice, to see that they are the same.
const TWICE: [u64; 4] = [3, 5, 8, 13];
/// A planted bug must be found within this many seeds.
const SEEDS_FOR_A_BUG: u64 = 20;
/// The simulator knows at least so many planted bugs and faults: a list that came out short is none.
const FEWEST_BUGS: usize = 12;
/// See [`FEWEST_BUGS`].
const FEWEST_FAULTS: usize = 22;
/// Of so many keys at most one may remain undecided.
const KEYS_PER_UNDECIDED: u64 = 1_000;

/// What is to be run.
struct Plan {
    /// Fixed ones first, then fresh ones.
    seeds: Vec<u64>,
    fresh_from: u64,
    until: Option<Instant>,
    jobs: usize,
    arguments: Vec<String>,
    stop_at_first: bool,
}

pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let (mut minutes, mut seeds, mut one, mut json, mut bugs) = (None, None, None, false, false);
    let mut crashes = None;
    let mut jobs = thread::available_parallelism()?.get();
    let mut passed_on = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("minutes") => minutes = Some(arguments.value()?.parse::<f64>()?),
            Long("seeds") => seeds = Some(arguments.value()?.parse::<u64>()?),
            Long("seed") => one = Some(arguments.value()?.parse::<u64>()?),
            Long("leader-crashes") => crashes = Some(arguments.value()?.parse::<u64>()?),
            Long("jobs") => jobs = arguments.value()?.parse::<usize>()?.max(1),
            Long("json") => json = true,
            Long("bugs") => bugs = true,
            Long(
                name
                @ ("bug" | "faults" | "seconds" | "replicas" | "far-apart" | "think" | "history" | "log"),
            ) => {
                let name = format!("--{name}");
                passed_on.extend([name, arguments.value()?.string()?]);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let program = build(&root)?;
    if let Some(seed) = one {
        return replay(&root, &program, seed, &passed_on);
    }
    if let Some(crashes) = crashes {
        return failover::run(&root, &program, crashes, jobs, json, &passed_on);
    }
    if bugs {
        let missed = planted_bugs(&program, jobs)?;
        return Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if minutes.is_some_and(|minutes| !(0.05..=10_080.0).contains(&minutes)) {
        bail!("--minutes must be from 0.05 to 10080");
    }
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let fixed = if until.is_some() { 0 } else { seeds.unwrap_or(FIXED_SEEDS) };
    let plan = Plan {
        seeds: (1..=fixed).collect(),
        fresh_from: fresh(),
        until,
        jobs,
        arguments: passed_on,
        stop_at_first: false,
    };
    let total = rage(&root, &program, &plan);
    println!("{}", total.summary());
    if json {
        println!("{}", total.json());
    }
    let blind = total.too_undecided();
    blind.iter().for_each(|what| println!("{what}"));
    Ok(if total.failed.is_empty() && blind.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part that `cargo xtask test` runs: seeds that once failed, fixed seeds, fresh seeds, then every planted bug.
/// Gives back how many checks passed, and what failed.
pub(crate) fn fixed_share(root: &Path) -> Result<(u64, Vec<String>)> {
    let program = build(root)?;
    let jobs = thread::available_parallelism()?.get();
    let fresh_from = fresh();
    let mut seeds: Vec<u64> = found(root)?;
    seeds.extend(1..=FIXED_SEEDS);
    seeds.extend(fresh_from..fresh_from + FIXED_SEEDS);
    let plan = Plan { seeds, fresh_from, until: None, jobs, arguments: Vec::new(), stop_at_first: false };
    let total = rage(root, &program, &plan);
    println!("{}", total.summary());
    let mut failures: Vec<String> =
        total.failed.iter().map(|seed| format!("cargo xtask storm --seed {seed}")).collect();
    let mut checks = total.seeds + 1;
    failures.extend(total.too_undecided());
    let faults = names(&program, "--list-faults", FEWEST_FAULTS)?;
    checks += faults.len() as u64;
    let idle = faults.iter().filter(|fault| !total.faults.contains_key(*fault));
    failures.extend(idle.map(|fault| format!("fault {fault:?} had no effect in {} seeds", total.seeds)));
    for seed in TWICE {
        checks += 1;
        if !is_repeatable(&program, seed) {
            failures.push(format!("seed {seed} run twice gave two different storms"));
        }
    }
    let missed = planted_bugs(&program, jobs)?;
    checks += names(&program, "--list-bugs", FEWEST_BUGS)?.len() as u64;
    failures.extend(missed.iter().map(|bug| format!("planted bug {bug} was not found")));
    Ok((checks - failures.len() as u64, failures))
}

/// Whether a seed gives the same storm twice, down to the order of its packets.
fn is_repeatable(program: &Path, seed: u64) -> bool {
    let run = || {
        one(program, seed, &[]).map(|mut report| {
            // How long it took is the one thing that differs.
            report["took_ms"] = Value::Null;
            report
        })
    };
    matches!((run(), run()), (Ok(first), Ok(second)) if first == second)
}

/// A number to begin fresh seeds with, far from the fixed ones.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    1_000_000 + since.as_micros() as u64 % 1_000_000_000_000
}

fn found(root: &Path) -> Result<Vec<u64>> {
    let text = fs::read_to_string(root.join(FOUND)).context(FOUND)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seeds = lines.map(|line| line.split_whitespace().next().unwrap_or_default().parse::<u64>());
    seeds.collect::<Result<_, _>>().with_context(|| format!("{FOUND}: each line begins with a seed"))
}

fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("xtask: building the simulator");
    let cargo = workspace::cargo(root, &["build", "--package", "bramah-sim", "--profile", "storm"]);
    if !Process::spawn(cargo)?.wait(Duration::from_secs(30 * 60))? {
        bail!("the simulator does not build");
    }
    Ok(workspace::target(root)?.join("storm/bramah-storm"))
}

/// What a number of seeds came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    simulated_ms: u64,
    took: Duration,
    operations: u64,
    keys: u64,
    undecided: u64,
    anomalies: u64,
    events: u64,
    faults: BTreeMap<String, u64>,
    failed: Vec<u64>,
    /// What the simulator said where it gave no report: that finds nothing, it is broken itself.
    broken: Vec<String>,
    /// Seeds with keys of which the checker could not say whether they are linearizable.
    undecided_seeds: Vec<u64>,
}

impl Total {
    fn add(&mut self, report: &Value) {
        let number = |key: &str| report[key].as_u64().unwrap_or(0);
        self.seeds += 1;
        self.simulated_ms += number("simulated_ms");
        self.operations += number("operations");
        self.events += number("events");
        self.keys += number("keys");
        self.undecided += number("undecided");
        for (name, times) in report["faults"].as_object().into_iter().flatten() {
            *self.faults.entry(name.clone()).or_default() += times.as_u64().unwrap_or(0);
        }
    }

    fn json(&self) -> Value {
        json!({
            "seeds": self.seeds,
            "simulated_seconds": self.simulated_ms as f64 / 1e3,
            "seconds": self.took.as_secs_f64(),
            "operations_checked": self.operations,
            "events_checked": self.events,
            "keys_checked": self.keys,
            "undecided": self.undecided,
            "undecided_seeds": self.undecided_seeds,
            "anomalies": self.anomalies,
            "failed_seeds": self.failed,
            "faults": self.faults,
        })
    }

    /// Says so if too much was left undecided to call it clean.
    fn too_undecided(&self) -> Option<String> {
        (self.undecided * KEYS_PER_UNDECIDED > self.keys).then(|| {
            let seeds: Vec<String> = self.undecided_seeds.iter().take(5).map(u64::to_string).collect();
            format!(
                "{} of {} keys are undecided, more than one of {KEYS_PER_UNDECIDED}: cargo xtask storm --seed {}",
                self.undecided,
                self.keys,
                seeds.join(", ")
            )
        })
    }

    fn line(&self) -> String {
        let faults: u64 = self.faults.values().sum();
        let hours = self.simulated_ms as f64 / 3.6e6;
        format!(
            "{} seeds, {hours:.2} simulated hours, {} operations checked, {} of {} keys undecided, {faults} faults, {} anomalies",
            self.seeds, self.operations, self.undecided, self.keys, self.anomalies
        )
    }

    fn summary(&self) -> String {
        let mut text = format!("{} in {:.0} s\n", self.line(), self.took.as_secs_f64());
        let mut faults: Vec<_> = self.faults.iter().collect();
        faults.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        for (name, times) in faults {
            text.push_str(&format!("  {times:>8}  {name}\n"));
        }
        text.trim_end().to_owned()
    }
}

fn rage(root: &Path, program: &Path, plan: &Plan) -> Total {
    let began = Instant::now();
    let total = Mutex::new(Total::default());
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let fresh = AtomicU64::new(plan.fresh_from);
    let next_seed = || {
        let place = next.fetch_add(1, Ordering::Relaxed);
        let listed = plan.seeds.get(place).copied();
        listed.or_else(|| {
            let goes_on = plan.until.is_some_and(|until| Instant::now() < until);
            goes_on.then(|| fresh.fetch_add(1, Ordering::Relaxed))
        })
    };
    thread::scope(|scope| {
        let working: Vec<_> = (0..plan.jobs)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed)
                        && let Some(seed) = next_seed()
                    {
                        let came = one(program, seed, &plan.arguments);
                        let failed = note(root, program, plan, seed, came, &total);
                        over.fetch_or(failed && plan.stop_at_first, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let mut shown = Instant::now();
        while working.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            if shown.elapsed() >= PROGRESS && !plan.stop_at_first {
                shown = Instant::now();
                eprintln!("xtask: {:>5.0} s: {}", began.elapsed().as_secs_f64(), lock(&total).line());
            }
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.took = began.elapsed();
    total
}

fn lock(total: &Mutex<Total>) -> MutexGuard<'_, Total> {
    total.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a seed; its report, or what it said if it has none.
fn one(program: &Path, seed: u64, arguments: &[String]) -> std::result::Result<Value, String> {
    let mut command = Command::new(program);
    command.args(["--json", "--seed", &seed.to_string()]).args(arguments);
    let log = std::env::temp_dir().join(format!("bramah-storm-{}-{seed}.log", std::process::id()));
    let said = Process::start(command, &log, Output::Log).and_then(|process| {
        let succeeded = process.wait(SEED_LIMIT)?;
        Ok((succeeded, fs::read_to_string(&log)?))
    });
    let _ = fs::remove_file(&log);
    let (succeeded, said) = said.map_err(|error| format!("{error:#}"))?;
    report(succeeded, said.trim_end())
}

/// The report in the last line of what the simulator said, if there is one that goes with how it ended.
fn report(succeeded: bool, said: &str) -> std::result::Result<Value, String> {
    let last = said.rsplit('\n').next().unwrap_or_default();
    let report = serde_json::from_str::<Value>(last);
    let report = report.map_err(|_| format!("it ended without a report:\n{said}"))?;
    match report["anomalies"].as_array() {
        Some(anomalies) if anomalies.is_empty() == succeeded => Ok(report),
        Some(anomalies) => Err(format!(
            "it {}, though its report has {} anomalies:\n{said}",
            if succeeded { "succeeded" } else { "failed" },
            anomalies.len()
        )),
        None => Err(format!("its report says nothing of anomalies:\n{said}")),
    }
}

/// Adds what came of a seed; true if it failed, which is told at once.
fn note(
    root: &Path,
    program: &Path,
    plan: &Plan,
    seed: u64,
    came: std::result::Result<Value, String>,
    total: &Mutex<Total>,
) -> bool {
    let anomalies: Vec<String> = match &came {
        Ok(report) => {
            let texts = report["anomalies"].as_array().into_iter().flatten();
            texts.map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
        }
        Err(said) => vec![said.clone()],
    };
    {
        let mut total = lock(total);
        total.add(came.as_ref().unwrap_or(&Value::Null));
        total.anomalies += anomalies.len() as u64;
        if !anomalies.is_empty() {
            total.failed.push(seed);
        }
        match &came {
            Ok(report) if report["undecided"].as_u64() != Some(0) => total.undecided_seeds.push(seed),
            Ok(_) => {}
            Err(said) => total.broken.push(format!("seed {seed}: {said}")),
        }
    }
    if anomalies.is_empty() || plan.stop_at_first {
        return !anomalies.is_empty();
    }
    let picture = draw(root, program, seed, &plan.arguments);
    println!("{}\n  what happened: {picture}", replay_command(seed, &plan.arguments));
    for anomaly in anomalies.iter().take(5) {
        println!("  {}", anomaly.replace('\n', "\n    "));
    }
    true
}

fn replay_command(seed: u64, arguments: &[String]) -> String {
    let words =
        arguments.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() });
    let words: Vec<String> = words.collect();
    format!("cargo xtask storm --seed {seed} {}", words.join(" ")).trim_end().to_owned()
}

fn draw(root: &Path, program: &Path, seed: u64, arguments: &[String]) -> String {
    let folder = workspace::target(root).unwrap_or_else(|_| root.join("target")).join("storm-pictures");
    let path = folder.join(format!("seed-{seed}.html"));
    let _ = fs::create_dir_all(&folder);
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string(), "--timeline"]).arg(&path).args(arguments);
    let log = folder.join(format!("seed-{seed}.txt"));
    let ran = Process::start(command, &log, Output::Log).and_then(|process| process.wait(SEED_LIMIT));
    match ran {
        Ok(_) if path.exists() => path.display().to_string(),
        _ => log.display().to_string(),
    }
}

/// Runs one seed for people: its report and its picture.
fn replay(root: &Path, program: &Path, seed: u64, arguments: &[String]) -> Result<ExitCode> {
    println!("{}", replay_command(seed, arguments));
    let folder = workspace::target(root)?.join("storm-pictures");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("seed-{seed}.html"));
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string(), "--timeline"]).arg(&path).args(arguments);
    let clean = Process::spawn(command)?.wait(SEED_LIMIT)?;
    println!("what happened: {}", path.display());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the simulator lists: names, each up to the first tab, so many at least.
fn names(program: &Path, list: &str, fewest: usize) -> Result<Vec<String>> {
    let listed = Command::new(program).arg(list).output()?;
    if !listed.status.success() {
        bail!("{} {list} failed: {}", program.display(), String::from_utf8_lossy(&listed.stderr).trim());
    }
    let text = String::from_utf8(listed.stdout)?;
    let names = text.lines().filter_map(|line| line.split('\t').next()).map(|name| name.trim().to_owned());
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    if names.len() < fewest {
        bail!("{} {list} names only {} of at least {fewest}", program.display(), names.len());
    }
    Ok(names)
}

/// Plants each bug and counts the seeds until the storm finds it. Gives back those that it does not find.
fn planted_bugs(program: &Path, jobs: usize) -> Result<Vec<String>> {
    let mut missed = Vec::new();
    for bug in names(program, "--list-bugs", FEWEST_BUGS)? {
        let arguments = vec!["--bug".to_owned(), bug.clone()];
        let seeds = (1..=SEEDS_FOR_A_BUG).collect();
        let plan = Plan { seeds, fresh_from: 0, until: None, jobs, arguments, stop_at_first: true };
        let total = rage(Path::new("."), program, &plan);
        if let Some(said) = total.broken.first() {
            println!("planted bug {bug}: the simulator itself failed: {said}");
            missed.push(bug);
            continue;
        }
        match total.failed.iter().min() {
            Some(seed) => println!(
                "planted bug {bug}: found by seed {seed}, after {} seeds, {:.1} s",
                total.seeds,
                total.took.as_secs_f64()
            ),
            None => {
                println!("planted bug {bug}: NOT found within {} seeds", total.seeds);
                missed.push(bug);
            }
        }
    }
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_that_goes_with_how_it_ended_counts() {
        let clean = r#"{"anomalies":[],"undecided":0}"#;
        let found = r#"{"anomalies":["two leaders"],"undecided":0}"#;
        assert!(report(true, &format!("a warning\n{clean}")).is_ok());
        assert!(report(false, found).is_ok());
        for (succeeded, said) in [
            (false, clean),
            (true, found),
            (true, "{}"),
            (true, r#"{"anomalies":7}"#),
            (true, ""),
            (false, "thread 'main' panicked at engine/host.rs:70"),
        ] {
            assert!(report(succeeded, said).is_err(), "{succeeded} {said}");
        }
    }

    #[test]
    fn a_simulator_that_lists_little_or_fails_lists_nothing() {
        assert!(names(Path::new("/bin/false"), "--list-bugs", 0).is_err());
        assert!(names(Path::new("/bin/true"), "--list-bugs", 1).is_err());
        assert_eq!(names(Path::new("/bin/echo"), "a\tb\nc", 2).ok(), Some(vec!["a".into(), "c".into()]));
    }

    /// The simulator's own failure is none of the planted bug's.
    #[test]
    fn a_broken_simulator_finds_no_bug() {
        let plan = Plan {
            seeds: vec![1, 2],
            fresh_from: 0,
            until: None,
            jobs: 1,
            arguments: Vec::new(),
            stop_at_first: true,
        };
        let total = rage(Path::new("."), Path::new("/bin/false"), &plan);
        assert_eq!((total.broken.len(), total.seeds), (1, 1));
    }

    #[test]
    fn too_many_undecided_keys_are_told_with_a_seed() {
        let mut total = Total { keys: 2_000, undecided: 2, undecided_seeds: vec![7, 9], ..Total::default() };
        assert_eq!(total.too_undecided(), None);
        total.undecided = 3;
        assert!(total.too_undecided().is_some_and(|what| what.contains("--seed 7")));
    }
}
