//! `cargo xtask test`: every check there is, one after the other, and one summary.

use std::io::{BufRead, BufReader, Read, Write, pipe, stdout};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;

use crate::processes::{self, Process};
use crate::test_output::TestOutput;
use crate::{licences, storm, tidy, workspace};

/// The longest that cargo may print nothing at all: a test that hangs says nothing for ever.
const LONGEST_SILENCE: Duration = Duration::from_secs(10 * 60);

/// The longest that formatting or clippy may take, with all dependencies to be checked first.
const LONGEST_LINT: Duration = Duration::from_secs(30 * 60);

/// What one check found.
#[derive(Debug, Default)]
struct Outcome {
    passed: u64,
    skipped: u64,
    failures: Vec<String>,
    left_out: Vec<String>,
}

impl Outcome {
    /// A check that is one test in itself.
    fn of_one(name: &str, ok: bool) -> Self {
        let failures = if ok { Vec::new() } else { vec![name.to_owned()] };
        Outcome { passed: u64::from(ok), failures, ..Outcome::default() }
    }

    fn left_out(name: &str, why: &str) -> Self {
        Outcome { skipped: 1, left_out: vec![format!("{name}: {why}")], ..Outcome::default() }
    }
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let mut quick = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => quick = true,
            other => return Err(other.unexpected().into()),
        }
    }

    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let mut steps = Vec::new();
    steps.push(step("format", || rustup_component(&root, "fmt", "rustfmt", &["--all", "--check"])));
    steps.push(step("tidy", || problems("tidy", tidy::problems(&root))));
    if quick {
        steps.push(step("licences", || Outcome::left_out("licences", "--quick")));
        steps.push(step("clippy", || Outcome::left_out("clippy", "--quick")));
    } else {
        steps.push(step("licences", || problems("licences", licences::problems(&root))));
        let lints = ["--workspace", "--all-targets", "--", "-D", "warnings"];
        steps.push(step("clippy", || rustup_component(&root, "clippy", "clippy", &lints)));
    }
    steps.push(step("tests", || tests(&root)));
    if quick {
        steps.push(step("storm", || Outcome::left_out("storm", "--quick")));
    } else {
        steps.push(step("storm", || the_storm(&root)));
    }
    Ok(summary(&steps))
}

fn step(name: &'static str, check: impl FnOnce() -> Outcome) -> Step {
    say(&format!("==> {name}"));
    let began = Instant::now();
    let outcome = check();
    Step { name, outcome, took: began.elapsed() }
}

/// Runs `cargo COMMAND`, which a minimal toolchain may lack.
fn rustup_component(root: &Path, command: &str, component: &str, arguments: &[&str]) -> Outcome {
    let there = workspace::cargo(root, &[command, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        return Outcome::left_out(
            command,
            &format!("not installed; `rustup component add {component}` adds it"),
        );
    }
    let mut cargo = workspace::cargo(root, &[command]);
    cargo.args(arguments).stdin(Stdio::null());
    let ran = Process::spawn(cargo).and_then(|process| process.wait(LONGEST_LINT));
    if let Err(error) = &ran {
        say(&format!("{command}: {error:#}"));
    }
    Outcome::of_one(command, ran.unwrap_or(false))
}

/// One of our own checks, which prints what it found.
fn problems(name: &str, found: Result<Vec<String>>) -> Outcome {
    let found = found.unwrap_or_else(|error| vec![format!("{error:#}")]);
    for problem in &found {
        say(&format!("{name}: {problem}"));
    }
    Outcome::of_one(name, found.is_empty())
}

/// Simulated cells under faults; `cargo xtask storm` does more of the same.
fn the_storm(root: &Path) -> Outcome {
    match storm::fixed_share(root) {
        Ok((passed, failures)) => Outcome { passed, failures, ..Outcome::default() },
        Err(error) => {
            say(&format!("storm: {error:#}"));
            Outcome::of_one("storm", false)
        }
    }
}

/// All tests of all crates. `--show-output`, because a test that leaves itself out says so on its standard output.
fn tests(root: &Path) -> Outcome {
    let arguments = ["test", "--workspace", "--no-fail-fast", "--", "--show-output"];
    let mut counted = TestOutput::default();
    let ran = stream(workspace::cargo(root, &arguments), |line| counted.line(line));
    let mut failures = counted.failures();
    match ran {
        Err(error) => failures.push(format!("cargo test: {error:#}")),
        // It did not compile, or cargo itself went wrong.
        Ok(false) if failures.is_empty() => failures.push("cargo test (see above)".to_owned()),
        Ok(_) => {}
    }
    Outcome {
        passed: counted.passed(),
        skipped: counted.skipped(),
        failures,
        left_out: counted.left_out().to_vec(),
    }
}

/// Runs a command and shows, as they come, the lines of its output that `show` wants; true if it succeeded.
fn stream(mut command: Command, mut show: impl FnMut(&str) -> bool) -> Result<bool> {
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    // One pipe for both, so that their order is kept.
    command.stdin(Stdio::null()).stderr(writer.try_clone()?).stdout(writer);
    let process = Process::spawn(command)?;

    let lines = lines_of(reader);
    let mut quiet_since = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                quiet_since = Instant::now();
                if show(&line) {
                    say(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return process.wait(LONGEST_SILENCE),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(succeeded) = process.succeeded()? {
                    say("a process that some test started is still there; it is ended now");
                    return Ok(succeeded);
                }
                if quiet_since.elapsed() > LONGEST_SILENCE {
                    bail!("nothing was printed for {} minutes: stopped", LONGEST_SILENCE.as_secs() / 60);
                }
            }
        }
    }
}

/// Reads lines on a thread of its own, so that the caller can look after other things meanwhile.
fn lines_of(reader: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1_000);
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

fn summary(steps: &[Step]) -> ExitCode {
    let passed: u64 = steps.iter().map(|step| step.outcome.passed).sum();
    let skipped: u64 = steps.iter().map(|step| step.outcome.skipped).sum();
    let failed: usize = steps.iter().map(|step| step.outcome.failures.len()).sum();

    say("\n==> summary");
    for Step { name, outcome, took } in steps {
        let counts = format!(
            "{} passed, {} failed, {} left out",
            outcome.passed,
            outcome.failures.len(),
            outcome.skipped
        );
        say(&format!("{name:<10} {counts:<44} {:>6.1} s", took.as_secs_f64()));
    }
    name_each("Left out", steps, |outcome| &outcome.left_out);
    name_each("Failed", steps, |outcome| &outcome.failures);
    say(&format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn name_each(title: &str, steps: &[Step], pick: impl Fn(&Outcome) -> &Vec<String>) {
    let all: Vec<&String> = steps.iter().flat_map(|step| pick(&step.outcome)).collect();
    if all.is_empty() {
        return;
    }
    say(&format!("\n{title}:"));
    for one in all {
        say(&format!("  {one}"));
    }
}

/// Prints a line; a reader that went away (`| head`) must not end the tests.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
