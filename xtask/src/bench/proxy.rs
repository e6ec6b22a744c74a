//! `cargo xtask bench --peer nginx`: both proxies in turns, alone on one core, before the same instances.

mod idle;
mod loads;
mod nginx;
mod report;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;
use lexopt::ValueExt;
use serde_json::json;

use self::loads::{LOADS, Load};
use self::report::Results;
use super::Scratch;
use super::bramah::Bramah;
use crate::processes::{self, Output, Process};
use crate::workspace;

pub(super) const PEER: &str = "nginx";
pub(super) const OURS: &str = "bramah";

/// The core that the proxy has to itself; everything else has the others.
const PROXY_CORE: &str = "0";
/// How long a program may take to answer for the first time.
const READY_WITHIN: Duration = Duration::from_secs(20);

struct Plan {
    seconds: u64,
    turns: usize,
    json: bool,
}

impl Plan {
    fn read(mut arguments: lexopt::Parser) -> Result<Self> {
        let (mut quick, mut json, mut seconds, mut turns) = (false, false, None, None);
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("peer") => drop(arguments.value()?),
                Long("quick") => quick = true,
                Long("json") => json = true,
                Long("seconds") => seconds = Some(arguments.value()?.parse::<u64>()?.clamp(1, 3_600)),
                Long("turns") => turns = Some(arguments.value()?.parse::<usize>()?.clamp(1, 100)),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Plan {
            seconds: seconds.unwrap_or(if quick { 4 } else { 10 }),
            turns: turns.unwrap_or(if quick { 2 } else { 5 }),
            json,
        })
    }
}

/// What is measured with: programs, the instances, a folder.
struct Bench {
    bramah: Bramah,
    scratch: Scratch,
    instances: nginx::Instances,
    other_cores: String,
}

/// A proxy that runs, and where.
struct Running {
    process: Process,
    address: String,
}

pub(super) fn run(arguments: lexopt::Parser) -> Result<ExitCode> {
    let plan = Plan::read(arguments)?;
    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let target = workspace::target(&root)?;
    let version = nginx::install()?;
    let bramah = Bramah::build(&root, &target)?;
    let scratch = Scratch::new(&target)?;
    let other_cores = other_cores()?;
    let instances = nginx::instances(&scratch.folder, &other_cores)?;
    let bench = Bench { bramah, scratch, instances, other_cores };

    let mut results = Results::default();
    for turn in 1..=plan.turns {
        for load in LOADS {
            for name in [PEER, OURS] {
                let proxy = bench.start(name, load)?;
                let measured = loads::measure(&bench, load, &proxy, plan.seconds)?;
                eprintln!(
                    "xtask: turn {turn} of {}, {name}: {} {:.0} a second, p99 {:.2} ms",
                    plan.turns, load.key, measured.per_second, measured.p99_ms
                );
                results.add(name, load.key, measured);
            }
        }
    }
    for name in [PEER, OURS] {
        results.set_idle(name, idle::measure(&bench.start(name, &LOADS[0])?)?);
    }
    println!("{}", results.table());
    if plan.json {
        let mut object = results.json();
        object["peer"] = json!({ "name": PEER, "version": version });
        object["turns"] = json!(plan.turns);
        object["seconds"] = json!(plan.seconds);
        println!("{object}");
    }
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn folder(&self) -> &Path {
        &self.scratch.folder
    }

    fn start(&self, name: &str, load: &Load) -> Result<Running> {
        let address = free_address()?;
        let (mut command, log) = match name {
            PEER => (nginx::proxy(self.folder(), &self.instances, load, &address)?, "nginx-proxy.log"),
            _ => (self.ours(load, &address), "bramah-proxy.log"),
        };
        command.env("LC_ALL", "C");
        let process = Process::start(command, &self.folder().join(log), Output::Log)?;
        let running = Running { process, address };
        wait_until_listening(&running.process, &running.address)?;
        Ok(running)
    }

    /// With all features on: retries, outliers, figures, limits.
    fn ours(&self, load: &Load, address: &str) -> Command {
        let mut command = pinned(PROXY_CORE, &self.bramah.program);
        command
            .args(["proxy", "--listen", address, "--to", &self.instances.of(load).join(",")])
            .args(["--workers", "1", "--admin", "127.0.0.1:0"])
            .args(["--exit-with-parent", &std::process::id().to_string()]);
        command
    }
}

/// A command on these cores only.
pub(super) fn pinned(cores: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// All cores but the proxy's.
pub(super) fn other_cores() -> Result<String> {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => bail!("the proxy needs a core of its own, and there is only one: measure on a machine with two"),
        2 => Ok("1".into()),
        cores => Ok(format!("1-{}", cores - 1)),
    }
}

pub(super) fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}

fn wait_until_listening(process: &Process, address: &str) -> Result<()> {
    let ends = Instant::now() + READY_WITHIN;
    while TcpStream::connect(address).is_err() {
        if !process.is_alive()? || Instant::now() > ends {
            bail!("nobody listens on {address}; look at the logs beside the scratch folder");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One request of HTTP/1.1 and its answer's head; the connection stays.
fn ask(connection: &mut TcpStream) -> Result<()> {
    connection.set_read_timeout(Some(READY_WITHIN))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n")?;
    let mut answer = [0; 1_024];
    let count = connection.read(&mut answer)?;
    if !answer[..count].starts_with(b"HTTP/1.1 200") {
        bail!("the answer is {:?}", String::from_utf8_lossy(&answer[..count]));
    }
    Ok(())
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}
