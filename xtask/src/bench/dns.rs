//! `cargo xtask bench --peer nsd`: a name server of the field and a replica in turns, alone on one core, with the same
//! names, while the replica's registry changes.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lexopt::Arg::Long;
use lexopt::ValueExt;
use serde_json::json;

use super::bramah::Bramah;
use super::load::median;
use super::proxy::{free_address, other_cores, pinned};
use super::{Scratch, debian};
use crate::processes::{self, Output, Process};
use crate::workspace;

pub(super) const PEER: &str = "nsd";
const OURS: &str = "bramah";
const NSD: &str = "/usr/sbin/nsd";
const PACKAGES: [(&str, &str); 2] = [("nsd", NSD), ("dnsperf", "/usr/bin/dnsperf")];
/// The core that the server has to itself.
const SERVER_CORE: &str = "0";
/// Services, each with an instance, and so names that are asked for.
const SERVICES: usize = 100;
/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Between two changes of the registry.
const CHANGE_EVERY: Duration = Duration::from_millis(50);
/// How much longer than it should a load may take.
const GRACE: Duration = Duration::from_secs(30);

pub(super) fn run(mut arguments: lexopt::Parser) -> Result<ExitCode> {
    let (mut json, mut seconds, mut turns) = (false, 5, 3);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("peer") => drop(arguments.value()?),
            Long("quick") => (seconds, turns) = (4, 3),
            Long("json") => json = true,
            Long("seconds") => seconds = arguments.value()?.parse::<u64>()?.clamp(1, 3_600),
            Long("turns") => turns = arguments.value()?.parse::<usize>()?.clamp(1, 100),
            other => return Err(other.unexpected().into()),
        }
    }
    processes::end_all_on_signal()?;
    let root = workspace::root()?;
    let target = workspace::target(&root)?;
    debian::install(&PACKAGES)?;
    let bench = Bench { bramah: Bramah::build(&root, &target)?, scratch: Scratch::new(&target)? };
    let (theirs, ours) = (bench.nsd()?, bench.replica()?);
    let (mut nsd, mut bramah) = (Vec::new(), Vec::new());
    for turn in 1..=turns {
        for (name, server, rates) in [(PEER, &theirs, &mut nsd), (OURS, &ours, &mut bramah)] {
            let rate = bench.load(server, seconds)?;
            eprintln!("xtask: turn {turn} of {turns}, {name}: {rate:.0} queries a second");
            rates.push(rate);
        }
    }
    let (nsd, bramah) = (median(nsd), median(bramah));
    let ratio = bramah / nsd;
    println!("queries a second, {SERVICES} names: {PEER} {nsd:.0}, {OURS} {bramah:.0}: {ratio:.2}");
    if json {
        let rates = json!({ PEER: nsd, OURS: bramah });
        println!(
            "{}",
            json!({ "ratios": { "dns": ratio }, "queries_per_second": rates, "turns": turns, "seconds": seconds })
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A name server that runs.
struct Running {
    /// Held as long as it is asked.
    _process: Process,
    dns: String,
    /// Where it is told of changes, if it is.
    clients: Option<String>,
}

struct Bench {
    bramah: Bramah,
    scratch: Scratch,
}

impl Bench {
    fn folder(&self) -> &Path {
        &self.scratch.folder
    }

    fn nsd(&self) -> Result<Running> {
        let dns = free_address()?;
        let folder = self.folder().display();
        let mut zone =
            "$ORIGIN bench.example.\n$TTL 0\n@ SOA ns root 1 60 60 60 5\n@ NS ns\nns A 127.0.0.1\n"
                .to_owned();
        for number in 0..SERVICES {
            zone += &format!("s{number}.service A 10.0.0.{number}\n");
        }
        self.write("bench.zone", &zone)?;
        let config = format!(
            "server:\n ip-address: {at}\n server-count: 1\n rrl-ratelimit: 0\n username: \"\"\n zonesdir: \"{folder}\"\n database: \"\"\n \
             pidfile: \"{folder}/nsd.pid\"\n xfrdfile: \"{folder}/xfrd.state\"\n zonelistfile: \"{folder}/zone.list\"\n \
             cookie-secret-file: \"\"\nremote-control:\n control-enable: no\n\
             zone:\n name: bench.example\n zonefile: bench.zone\n",
            at = dns.replace(':', "@")
        );
        let mut command = pinned(SERVER_CORE, NSD);
        command.arg("-d").arg("-c").arg(self.write("nsd.conf", &config)?);
        let process = Process::start(command, &self.folder().join("nsd.log"), Output::Log)?;
        wait_until_answering(&process, &dns)?;
        Ok(Running { _process: process, dns, clients: None })
    }

    fn replica(&self) -> Result<Running> {
        let (dns, clients, peers) = (free_address()?, free_address()?, free_address()?);
        let mut command = pinned(SERVER_CORE, &self.bramah.program);
        command
            .args(["server", "--bootstrap", "--cell", "bench", "--replica", "1", "--log-level", "warn"])
            .arg("--data")
            .arg(self.folder().join("replica"))
            .args(["--clients-listen", &clients, "--peers-listen", &peers])
            .args(["--members", &format!("1={peers}/{clients}")])
            .args(["--dns-listen", &dns, "--dns-domain", "example"]);
        let process = Process::start(command, &self.folder().join("replica.log"), Output::Log)?;
        wait_until_answering(&process, &dns)?;
        for number in 0..SERVICES {
            self.register(&clients, &format!("s{number}"), number as u16 + 1)?;
        }
        Ok(Running { _process: process, dns, clients: Some(clients) })
    }

    fn register(&self, clients: &str, service: &str, port: u16) -> Result<()> {
        let file = format!("/services/{service}/a");
        let instance = json!({ "address": format!("10.0.0.{}", port % 250), "port": port }).to_string();
        let mut command = pinned(&other_cores()?, &self.bramah.program);
        command.args(["--addresses", clients, "set", "--parents", &file, &instance]);
        let set = command.stdout(Stdio::null()).output().context("cannot start bramah")?;
        if !set.status.success() {
            bail!("bramah set: {}", String::from_utf8_lossy(&set.stderr).trim());
        }
        Ok(())
    }

    /// Queries a second.
    fn load(&self, server: &Running, seconds: u64) -> Result<f64> {
        let names: String =
            (0..SERVICES).map(|number| format!("s{number}.service.bench.example A\n")).collect();
        let names = self.write("queries", &names)?;
        let (host, port) = server.dns.rsplit_once(':').context("an address without a port")?;
        let mut command = pinned(&other_cores()?, "dnsperf");
        command
            .args(["-s", host, "-p", port, "-l", &seconds.to_string(), "-c", "8", "-q", "256", "-d"])
            .arg(names);
        let over = AtomicBool::new(false);
        let limit = Duration::from_secs(seconds) + GRACE;
        let text = thread::scope(|scope| {
            let changing = scope.spawn(|| self.change(server, &over));
            let text = processes::output(command, &self.folder().join("dnsperf.log"), limit);
            over.store(true, Ordering::Relaxed);
            let changed = changing.join().unwrap_or_else(|_| bail!("the thread of changes broke off"));
            changed.and(text)
        })?;
        let figure = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse::<f64>().ok())
                .with_context(|| format!("dnsperf gave no {name}: {text}"))
        };
        if figure("Queries completed:")? < 0.99 * figure("Queries sent:")? {
            bail!("more than one query of a hundred was not answered: {text}");
        }
        figure("Queries per second:")
    }

    /// Changes another service all the time.
    fn change(&self, server: &Running, over: &AtomicBool) -> Result<()> {
        let Some(clients) = &server.clients else { return Ok(()) };
        let mut port = 0;
        while !over.load(Ordering::Relaxed) {
            port = port % 1_000 + 1;
            self.register(clients, "changing", port)?;
            thread::sleep(CHANGE_EVERY);
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<std::path::PathBuf> {
        let file = self.folder().join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Asks for the zone's SOA until there is an answer.
fn wait_until_answering(process: &Process, dns: &str) -> Result<()> {
    const SOA: &[u8] =
        b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05bench\x07example\x00\x00\x06\x00\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").context("no free port")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (ends, mut answer) = (Instant::now() + READY_WITHIN, [0; 512]);
    loop {
        // A port that nobody has yet gives an error, as silence does.
        let _ = socket.send_to(SOA, dns);
        if socket.recv(&mut answer).is_ok_and(|count| count > 12 && answer[3] & 15 == 0) {
            return Ok(());
        }
        if !process.is_alive()? || Instant::now() > ends {
            bail!("nobody answers at {dns}; look at the logs in the scratch folder");
        }
    }
}
