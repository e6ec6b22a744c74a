//! `cargo xtask bench --peer etcd` (or nginx, or nsd): both systems on this machine, in turns, under the same load.

mod bramah;
mod cell;
mod debian;
mod dns;
mod etcd;
mod failover;
mod load;
mod proxy;
mod report;
pub(crate) mod soak;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;
use lexopt::ValueExt;
use serde_json::json;

use self::bramah::Bramah;
use self::cell::{Cell, System};
use self::etcd::Etcd;
use self::load::{LOADS, Load, Suite, Times};
use self::report::{FAILOVER, OURS, PEER, Results};
use crate::{processes, workspace};

/// Rest between two loads, for what the one before left in the disk's queue.
const REST: Duration = Duration::from_millis(500);

/// What the command line asks for.
#[derive(Debug)]
struct Plan {
    loads: Vec<Load>,
    failover: bool,
    times: Times,
    turns: usize,
    kills: usize,
    json: bool,
}

pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    // Each peer has measurements of its own, and so arguments.
    let all: Vec<OsString> = arguments.raw_args()?.collect();
    let names = |peer: &str| all.windows(2).any(|words| words[0] == "--peer" && words[1] == peer);
    let arguments = lexopt::Parser::from_args(all.clone());
    if names(proxy::PEER) {
        return proxy::run(arguments);
    }
    if names(dns::PEER) {
        return dns::run(arguments);
    }
    let plan = Plan::read(arguments)?;
    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let target = workspace::target(&root)?;
    let etcd = Etcd::install(&target)?;
    let bramah = Bramah::build(&root, &target)?;

    let scratch = Scratch::new(&target)?;
    let mut results = Results::default();
    let systems: [(&'static str, &dyn System); 2] = [(PEER, &etcd), (OURS, &bramah)];
    for turn in 1..=plan.turns {
        for (name, system) in systems {
            plan.turn(turn, name, system, &bramah.program, &scratch, &mut results)?;
        }
    }
    println!("{}", results.table());
    if plan.json {
        let mut object = results.json();
        object["peer"] = json!({ "name": PEER, "version": etcd::VERSION });
        object["turns"] = json!(plan.turns);
        object["seconds"] = json!(plan.times.seconds);
        println!("{object}");
    }
    Ok(ExitCode::SUCCESS)
}

impl Plan {
    fn read(mut arguments: lexopt::Parser) -> Result<Self> {
        let (mut quick, mut json, mut peer, mut suite) = (false, false, None, Suite::Files);
        let (mut only, mut seconds, mut turns, mut kills) = (Vec::new(), None, 3, 9);
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("peer") => peer = Some(arguments.value()?.string()?),
                Long("suite") => suite = read_suite(&arguments.value()?.string()?)?,
                Long("quick") => quick = true,
                Long("json") => json = true,
                Long("only") => only.push(arguments.value()?.string()?),
                Long("seconds") => seconds = Some(arguments.value()?.parse::<u64>()?.clamp(1, 3_600)),
                Long("turns") => turns = arguments.value()?.parse::<usize>()?.clamp(1, 100),
                Long("kills") => kills = arguments.value()?.parse::<usize>()?.clamp(1, 1_000),
                other => return Err(other.unexpected().into()),
            }
        }
        if peer.as_deref() != Some(PEER) {
            bail!(
                "compare with what? there are --peer {PEER}, --peer {} and --peer {}",
                proxy::PEER,
                dns::PEER
            );
        }
        let wanted = |key: &str, otherwise: bool| {
            if only.is_empty() { otherwise } else { only.iter().any(|only| only == key) }
        };
        let is_of_suite = |load: &&Load| wanted(load.key, load.suite == suite && (!quick || load.quick));
        let loads: Vec<Load> = LOADS.iter().filter(is_of_suite).copied().collect();
        let failover = wanted(FAILOVER, suite == Suite::Files && !quick);
        if let Some(unknown) =
            only.iter().find(|only| *only != FAILOVER && LOADS.iter().all(|load| load.key != *only))
        {
            let keys: Vec<&str> = LOADS.iter().map(|load| load.key).chain([FAILOVER]).collect();
            bail!("there is no measurement {unknown:?}; there are {}", keys.join(", "));
        }
        let times = Times { seconds: seconds.unwrap_or(if quick { 5 } else { 10 }), warmup: 2 };
        Ok(Plan { loads, failover, times, turns, kills, json })
    }

    /// One turn of one system: a new cell for the loads, and another for the kills.
    fn turn(
        &self,
        turn: usize,
        name: &'static str,
        system: &dyn System,
        generator: &Path,
        scratch: &Scratch,
        results: &mut Results,
    ) -> Result<()> {
        let title = format!("turn {turn} of {}, {name}", self.turns);
        if !self.loads.is_empty() {
            let cell = Cell::start(system, &scratch.folder.join(format!("{name}-{turn}")))?;
            for load in &self.loads {
                thread::sleep(REST);
                let measured = load::measure(generator, &cell, *load, self.times)?;
                let rate = measured.operations_per_second;
                eprintln!("xtask: {title}: {} {rate:.0} a second{}", load.key, failures(measured.errors));
                results.add(name, load.key, measured);
            }
        }
        // Spread over the turns, so that neither system has a quieter time of day.
        let kills = self.kills * turn / self.turns - self.kills * (turn - 1) / self.turns;
        if self.failover && kills > 0 {
            let folder = scratch.folder.join(format!("{name}-{turn}-failover"));
            let outages = failover::measure(generator, system, &folder, kills)?;
            eprintln!("xtask: {title}: {FAILOVER} {outages:.0?} ms");
            results.add_outages(name, outages);
        }
        Ok(())
    }
}

fn read_suite(name: &str) -> Result<Suite> {
    match name {
        "files" => Ok(Suite::Files),
        "locks" => Ok(Suite::Locks),
        _ => bail!("there is no suite {name:?}; there are files and locks"),
    }
}

fn failures(errors: f64) -> String {
    if errors > 0.0 { format!(" ({errors} calls FAILED)") } else { String::new() }
}

/// A folder on the disk of the target folder, for the cells' data. Removed at the end.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(target: &Path) -> Result<Self> {
        let all = target.join("bench");
        remove_left_behind(&all);
        let folder = all.join(std::process::id().to_string());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Scratch { folder })
    }
}

/// Removes the folders of runs that a signal ended. Each is named after its process.
fn remove_left_behind(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let over = name.to_str().is_some_and(|name| name.parse::<u32>().is_ok())
            && !Path::new("/proc").join(&name).exists();
        if over {
            // It costs nothing but space, so a failure is nothing to stop for.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: cannot remove {}: {error}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        Plan::read(lexopt::Parser::from_args(arguments))
    }

    fn keys(plan: &Plan) -> Vec<&str> {
        plan.loads.iter().map(|load| load.key).collect()
    }

    #[test]
    fn all_of_it_some_of_it_and_one_of_it() {
        let all = plan(&["--peer", "etcd"]).unwrap();
        assert_eq!(keys(&all), ["write_1", "write_64", "write_256", "write_1000", "read_256", "counter_64"]);
        assert!(all.failover);
        let quick = plan(&["--peer", "etcd", "--quick"]).unwrap();
        assert_eq!(keys(&quick), ["write_1", "write_256", "read_256", "counter_64"]);
        assert!(!quick.failover);
        let locks = plan(&["--peer", "etcd", "--suite", "locks", "--quick"]).unwrap();
        assert_eq!(keys(&locks), ["lock_own_64", "lock_one_64", "unwatched", "watch_1000"]);
        assert!(!locks.failover);
        let one = plan(&["--peer", "etcd", "--only", "failover"]).unwrap();
        assert!(one.loads.is_empty() && one.failover);
    }

    #[test]
    fn only_folders_of_runs_that_are_over_are_removed() {
        let all = std::env::temp_dir().join(format!("xtask-scratch-{}", std::process::id()));
        let (over, running, other) =
            (all.join("4294967295"), all.join(std::process::id().to_string()), all.join("notes"));
        for folder in [&over, &running, &other] {
            fs::create_dir_all(folder).unwrap();
        }
        remove_left_behind(&all);
        let left = [&over, &running, &other].map(|folder| folder.exists());
        fs::remove_dir_all(&all).unwrap();
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(plan(&[]).unwrap_err().to_string().contains("--peer etcd"));
        let error = plan(&["--peer", "etcd", "--only", "write_2"]).unwrap_err().to_string();
        assert!(error.contains("write_2") && error.contains("write_64"), "{error}");
        let error = plan(&["--peer", "etcd", "--suite", "lock"]).unwrap_err().to_string();
        assert!(error.contains("locks"), "{error}");
    }
}
