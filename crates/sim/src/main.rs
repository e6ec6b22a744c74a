//! One storm, one process: `bramah-storm --seed N`.

mod entropy;
mod panics;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bramah_machine::planted;
use bramah_sim::storm::{Plan, Report, Storm, picture};
use lexopt::Arg::{Long, Short};
use lexopt::ValueExt;

/// The one that the cell has in real use, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Simulates a cell under faults, all chance from one seed, and judges what its clients were told.

Usage: bramah-storm --seed N [options]

Options:
  --seed N          where all chance comes from
  --seconds N       simulated seconds in which faults strike (30)
  --replicas N      3 or 5 (by the seed)
  --faults A,B      only these faults; 'all', or 'none' for calm (by the seed)
  --far-apart 1     replicas on different continents, timed for it; 0: side by side
  --think MS        longest pause between two calls of a worker (300)
  --leader-crashes N  instead of faults: so many leaders crash, and the time until somebody is served is measured
  --bug NAME        a built-in error that the storm must find; --list-bugs names them
  --timeline FILE   draws what happened, as HTML
  --history FILE    writes what clients asked and were told, one JSON object a line
  --json            the report as one JSON object
  --log LEVEL       what the cell logs, on standard error
  --list-faults     all faults, and why a cell must survive them

Exit code: 0 no anomaly, 1 anomalies, 2 the storm could not be run.";

struct Options {
    plan: Plan,
    json: bool,
    timeline: Option<std::path::PathBuf>,
    history: Option<std::path::PathBuf>,
    log: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("bramah-storm: {error:#}");
            ExitCode::from(2)
        }
    }
}

const STACK_BYTES: usize = 64 << 20;

/// Runs a storm in a thread of its own: the order of hash maps depends on how many a thread had before, and what else
/// this process is told to do must not change the storm.
fn run_apart(plan: Plan) -> Result<Report> {
    let storm = move || {
        entropy::begin(plan.seed);
        Storm::run(plan)
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(storm).context("a thread")?;
    thread.join().map_err(|_| anyhow::anyhow!("the simulator panicked: {}", panics::take().join("; ")))
}

fn run() -> Result<bool> {
    let Some(options) = options()? else { return Ok(true) };
    if let Some(level) = &options.log {
        let filter = tracing_subscriber::EnvFilter::try_new(level).context("--log")?;
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    panics::watch();
    let mut report = run_apart(options.plan.clone())?;
    report.anomalies.extend(panics::take());
    if let Some(path) = &options.history {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        report.history.write(std::io::BufWriter::new(file))?;
    }
    if let Some(path) = &options.timeline {
        let command = format!("cargo xtask storm --seed {}", options.plan.seed);
        std::fs::write(path, picture(&report, &command)).with_context(|| path.display().to_string())?;
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(report.anomalies.is_empty())
}

fn options() -> Result<Option<Options>> {
    let mut parser = lexopt::Parser::from_env();
    let mut arguments = Vec::new();
    let mut seed = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seed") => seed = Some(parser.value()?.parse()?),
            Long("help") | Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            Long("list-faults") => {
                for fault in bramah_sim::faults::all() {
                    println!("{}\t{}", fault.name(), fault.why());
                }
                for (name, why) in bramah_sim::faults::BESIDES {
                    println!("{name}\t{why}");
                }
                return Ok(None);
            }
            Long("list-bugs") => {
                planted::ALL.iter().for_each(|(_, name)| println!("{name}"));
                return Ok(None);
            }
            Long("json") => arguments.push(("json".to_owned(), String::new())),
            Long(name) => {
                let name = name.to_owned();
                arguments.push((name, parser.value()?.string()?));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(seed) = seed else { bail!("--seed is missing; --help tells more") };
    let mut options =
        Options { plan: Plan::of_seed(seed), json: false, timeline: None, history: None, log: None };
    for (name, value) in arguments {
        options.take(&name, value)?;
    }
    Ok(Some(options))
}

impl Options {
    fn take(&mut self, name: &str, value: String) -> Result<()> {
        let number =
            || value.parse::<u64>().with_context(|| format!("--{name} {value:?}: a number is needed"));
        match name {
            "json" => self.json = true,
            "seconds" => self.plan.seconds = number()?,
            "replicas" => self.plan.replicas = number()?,
            "far-apart" => self.plan.far_apart = number()? > 0,
            "think" => self.plan.think = Duration::from_millis(number()?),
            "faults" => self.plan.choose_faults(&value)?,
            "timeline" => self.timeline = Some(value.into()),
            "history" => self.history = Some(value.into()),
            "leader-crashes" => {
                self.plan.leader_crashes = number()?;
                (self.plan.applications, self.plan.think) = (1, Duration::from_millis(40));
            }
            "log" => self.log = Some(value),
            "bug" => {
                let known = planted::ALL.iter().find(|(_, known)| *known == value);
                let (bug, _) =
                    known.with_context(|| format!("no bug is called {value:?}; see --list-bugs"))?;
                planted::plant(*bug);
            }
            _ => bail!("--{name} is no option; --help names them"),
        }
        Ok(())
    }
}

fn print(out: &mut impl Write, report: &Report) -> Result<()> {
    let speed = report.simulated_ms as f64 / report.took_ms.max(1) as f64;
    writeln!(
        out,
        "seed {}: {:.1} simulated seconds in {:.2} s ({speed:.0} times as fast), {} operations over {} keys ({} undecided), {} events",
        report.seed,
        report.simulated_ms as f64 / 1e3,
        report.took_ms as f64 / 1e3,
        report.operations,
        report.keys,
        report.undecided,
        report.events,
    )?;
    writeln!(out, "outcomes: {:?}", report.outcomes)?;
    let faults: Vec<String> = report.faults.iter().map(|(name, times)| format!("{name} {times}")).collect();
    writeln!(out, "faults: {}", faults.join(", "))?;
    for anomaly in &report.anomalies {
        writeln!(out, "ANOMALY {anomaly}")?;
    }
    writeln!(out, "fingerprint {:016x}", report.fingerprint)?;
    Ok(())
}
