//! `cargo xtask`: what a developer of Bramah runs that is not Bramah itself.
//!
//! It starts other programs (cargo, etcd, `bramah`) and reads what they print; it uses no crate of ours, so that it
//! compiles in seconds and can test a workspace that does not compile.

mod bench;
mod licences;
mod processes;
mod storm;
mod test;
mod test_output;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::Arg::{Long, Short, Value};

const USAGE: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

  test [--quick]       every check there is, and one summary at the end
                         --quick  without clippy and the licences
  tidy                 the rules of this repository that no compiler knows
  licences             licences, banned crates and sources of all dependencies, as deny.toml has it
  bench --peer etcd    Bramah and etcd side by side on this machine, in turns
                         --quick      write_1, write_256, read_256 and counter_64 only, in under five minutes
                         --only KEY   one measurement (may be given again); KEY as in the table
                         --seconds S  of measuring each (10; with --quick 5)
                         --turns N    of each system (3); medians are taken over them
                         --kills N    of a leader for each system, for `failover` (9)
                         --json       one object on one line at the end
  bench --peer nginx   bramah proxy and nginx in turns, alone on one core; installs Debian's packages
                         --quick      in under five minutes
                         --seconds S  of measuring each (10; with --quick 4)
                         --turns N    of each proxy (5; with --quick 2); medians are taken over them
                         --json       one object on one line at the end
  soak [--minutes M]   three replicas under full load without faults: elections, memory and disk over time
                         --minutes M  (10)
                         --json       one object on one line at the end
  storm [--minutes M]  simulated cells under faults, a process a seed, on all cores; every answer is checked
                         --minutes M  with fresh seeds for so long; else seeds 1 to N
                         --seeds N    (64)
                         --seed S     one seed again, with a picture of what happened
                         --bugs       plant each known bug, and see that the storm finds it
                         --leader-crashes N  how long nobody is served after each, as a picture
                         --jobs N     at once (as many as there are cores)
                         --json       one object on one line at the end
                         --faults A,B --seconds S --replicas N --think MS --bug NAME: as `bramah-storm --help` says";

fn main() -> ExitCode {
    match run(lexopt::Parser::from_env()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let command = match arguments.next()? {
        Some(Value(command)) => command,
        Some(Long("help") | Short('h')) => return help(),
        Some(other) => return Err(other.unexpected().into()),
        None => bail!("no command given\n\n{USAGE}"),
    };
    match command.to_str() {
        Some("test") => test::run(arguments),
        Some("tidy") => tidy::run(arguments),
        Some("licences") => licences::run(arguments),
        Some("bench") => bench::run(arguments),
        Some("soak") => bench::soak::run(arguments),
        Some("storm") => storm::run(arguments),
        Some("help") => help(),
        _ => bail!("there is no command {command:?}\n\n{USAGE}"),
    }
}

fn help() -> Result<ExitCode> {
    println!("{USAGE}");
    Ok(ExitCode::SUCCESS)
}

/// Refuses whatever is left on the command line.
fn no_more(mut arguments: lexopt::Parser) -> Result<()> {
    match arguments.next()? {
        Some(extra) => Err(extra.unexpected().into()),
        None => Ok(()),
    }
}
