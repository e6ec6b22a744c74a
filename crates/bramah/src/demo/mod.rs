//! `bramah demo`: three replica processes count together while their leader is killed, and nothing is lost or doubled.

pub mod cell;
pub mod load;
pub mod report;
mod services;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bramah_client::{Client, Route};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{DemoArgs, Shared};
use crate::command::server::Signals;
use crate::output::{Failure, Printer};
use cell::{CellError, LocalCell};
use load::Load;
use report::{Counted, Report};

/// A killed replica stays away this long.
const AWAY: Duration = Duration::from_millis(1_500);
/// Longest time to wait for the first acknowledgement after a kill.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// A call's deadline: longer than any fail-over should be.
const CALL_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs the demo and prints its report.
pub async fn run(shared: &Shared, args: DemoArgs) -> Result<(), Failure> {
    if args.services {
        return services::run(shared, &args).await;
    }
    let mut signals = Signals::install()?;
    tokio::select! {
        result = demo(shared, &args) => result,
        () = signals.next() => Err(Failure::refused("interrupted; the replicas are stopped and their data is removed")),
    }
}

async fn demo(shared: &Shared, args: &DemoArgs) -> Result<(), Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::refused(format!("cannot find my own executable: {error}")))?;
    let progress = Progress::new(args.increments, shared.is_json());
    progress.event("starting three replicas on this machine");
    let mut cell = LocalCell::start(&executable, args.keep).await?;
    let clients = connect(&cell.addresses()).await?;

    let load = Load::new(args.increments, args.counters);
    let working = Arc::clone(&load).run(&clients, args.workers);
    let workers = async { working.await.map(|()| load.elapsed()).map_err(Failure::refused) };
    let (elapsed, failovers) = tokio::select! {
        outcome = async { tokio::try_join!(workers, kill_leaders(&mut cell, &load, args, &progress)) } => outcome?,
        never = progress.follow(&load) => match never {},
    };
    progress.finish(&load);
    for client in clients {
        client.close().await;
    }

    let report = check(&mut cell, &load, args, failovers, elapsed).await?;
    Printer { json: shared.is_json() }.answer(report.to_text(), report.to_json())?;
    if args.keep {
        say_how_to_go_on(cell);
    }
    if report.is_good() {
        return Ok(());
    }
    Err(Failure::refused(
        "the counters are not what was acknowledged: please report this, with the output above",
    ))
}

/// A client at each replica. It stays where it is as long as that replica lives.
async fn connect(addresses: &[String]) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for index in 0..addresses.len() {
        let builder = Client::builder().addresses(addresses).name("bramah demo").route(Route::Fixed(index));
        clients.push(builder.deadline(CALL_LIMIT).connect().await?);
    }
    Ok(clients)
}

/// Kills the leader as often as asked for, spread over the run, and brings it back each time.
async fn kill_leaders(
    cell: &mut LocalCell,
    load: &Load,
    args: &DemoArgs,
    progress: &Progress,
) -> Result<Vec<Duration>, Failure> {
    let mut failovers = Vec::new();
    let schedule = load::schedule(args.increments, args.kills);
    load.open_gate(schedule.first().map_or(args.increments, |(_, gate)| *gate));
    for (index, (settled, _)) in schedule.iter().enumerate() {
        while load.settled() < *settled {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let next_gate = schedule.get(index + 1).map_or(args.increments, |(_, gate)| *gate);
        failovers.push(kill_leader(cell, load, next_gate, progress).await?);
    }
    Ok(failovers)
}

async fn kill_leader(
    cell: &mut LocalCell,
    load: &Load,
    next_gate: u64,
    progress: &Progress,
) -> Result<Duration, Failure> {
    let victim = cell.wait_for_leader().await?;
    let killed = Instant::now();
    cell.kill(victim)?;
    load.leader_killed(killed, Instant::now());
    load.open_gate(next_gate);
    progress.event(&format!("killed the leader, replica {victim}"));

    let failover = wait_for_failover(load, killed).await?;
    let leader = cell.wait_for_leader().await?;
    progress.event(&format!(
        "replica {leader} leads; the next increment was acknowledged after {} ms",
        failover.as_millis()
    ));
    tokio::time::sleep((killed + AWAY).saturating_duration_since(Instant::now())).await;
    cell.restart(victim).await?;
    cell.wait_until_caught_up().await?;
    progress.event(&format!("replica {victim} is back"));
    Ok(failover)
}

async fn wait_for_failover(load: &Load, killed: Instant) -> Result<Duration, Failure> {
    while killed.elapsed() < FAILOVER_LIMIT {
        if let Some(failover) = load.failover() {
            return Ok(failover);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Failure::refused(format!(
        "no increment was acknowledged within {FAILOVER_LIMIT:?} after the leader was killed"
    )))
}

/// Compares what was promised with what every replica says now.
async fn check(
    cell: &mut LocalCell,
    load: &Load,
    args: &DemoArgs,
    failovers: Vec<Duration>,
    elapsed: Duration,
) -> Result<Report, Failure> {
    let promised = load.promised();
    let mut values = Vec::new();
    for address in cell.addresses() {
        values.push(read_all(&address, &promised).await?);
    }
    let digests = cell.digests().await?;
    let all_alike =
        values.windows(2).all(|pair| pair[0] == pair[1]) && digests.windows(2).all(|pair| pair[0] == pair[1]);
    let counters =
        promised.into_iter().zip(&values[0]).map(|(promised, value)| Counted { promised, value: *value });
    Ok(Report {
        counters: counters.collect(),
        replicas_agree: all_alike,
        kills: failovers.len() as u64,
        failovers,
        elapsed,
        workers: args.workers,
    })
}

/// Reads all counters, linearizably, through one replica.
async fn read_all(address: &str, counters: &[load::Promised]) -> Result<Vec<i64>, Failure> {
    let builder = Client::builder().addresses(address).name("bramah demo").route(Route::Fixed(0));
    let client = builder.deadline(CALL_LIMIT).connect().await?;
    let mut values = Vec::new();
    for counter in counters {
        // With fewer increments than counters some were never made.
        let value = if counter.acknowledged + counter.unknown == 0 {
            0
        } else {
            client.counter(&counter.path).get().await?
        };
        values.push(value);
    }
    client.close().await;
    Ok(values)
}

fn say_how_to_go_on(cell: LocalCell) {
    let addresses = cell.addresses().join(",");
    let pids: Vec<String> = cell.process_ids().iter().map(u32::to_string).collect();
    let folder = cell.leave_running();
    eprintln!(
        "\nThe cell runs on. Talk to it:\n  export BRAMAH_ADDRESSES={addresses}\n  bramah status\n  bramah counter get /demo/counter-1\n\
         Stop it and remove its data:\n  kill {} && rm -r {}",
        pids.join(" "),
        folder.display(),
    );
}

impl From<CellError> for Failure {
    fn from(error: CellError) -> Self {
        Failure::refused(error.to_string())
    }
}

/// What people see while the demo runs, on standard error.
struct Progress {
    bar: ProgressBar,
    quiet: bool,
    began: Instant,
}

impl Progress {
    fn new(total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(total),
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
        );
        let template = "  {bar:40} {human_pos} of {human_len}, {msg} a second";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, quiet, began: Instant::now() }
    }

    fn event(&self, what: &str) {
        if self.quiet {
            return;
        }
        let line = format!("  {:5.1} s  {what}", self.began.elapsed().as_secs_f64());
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Moves the bar along until it is dropped.
    async fn follow(&self, load: &Load) -> std::convert::Infallible {
        const DRAW_EVERY: Duration = Duration::from_millis(100);
        let mut before = (Instant::now(), load.acknowledged());
        loop {
            tokio::time::sleep(DRAW_EVERY).await;
            let now = (Instant::now(), load.acknowledged());
            let rate = (now.1 - before.1) as f64 / now.0.duration_since(before.0).as_secs_f64();
            before = now;
            self.bar.set_message(crate::bench::report::with_separators(rate.round() as u64));
            self.bar.set_position(now.1);
        }
    }

    fn finish(&self, load: &Load) {
        self.bar.set_position(load.acknowledged());
        self.bar.finish_and_clear();
    }
}
