//! `bramah bench`: a load generator. A *client* is a caller that waits for its answer before its next call; clients
//! share a few connections, spread evenly over the replicas.

mod bramah;
pub(crate) mod cpu;
mod etcd;
mod generator;
mod idle;
mod probe;
pub(crate) mod report;
mod target;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::{BenchArgs, BenchRoute, Protocol, Shared, Workload};
use crate::command::connect::status_of_all;
use crate::output::{Failure, Printer};
use generator::{Measured, Plan};
use report::CpuTime;
use target::{Names, Target};

/// Runs the bench on a small runtime of its own: one thread unless asked for more, which costs the servers on the
/// same machine the least.
pub fn run(shared: &Shared, args: &BenchArgs) -> Result<(), Failure> {
    check(args)?;
    let mut builder = match args.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(args.threads).enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::refused(format!("cannot start the load generator: {error}")))?;
    runtime.block_on(bench(shared, args))
}

fn check(args: &BenchArgs) -> Result<(), Failure> {
    let good = |seconds: f64| (0.0..=86_400.0).contains(&seconds);
    if !good(args.seconds) || args.seconds == 0.0 || !good(args.warmup) {
        return Err(Failure::usage(
            "--seconds must be more than 0 and --warmup at least 0, both at most 86,400",
        ));
    }
    Ok(())
}

async fn bench(shared: &Shared, args: &BenchArgs) -> Result<(), Failure> {
    let names = Arc::new(Names::new(args.keys, args.counters));
    match (args.workload, args.protocol) {
        (Workload::Idle, Protocol::Bramah) => idle::run(shared, args).await,
        (Workload::Idle, Protocol::Etcd) => Err(Failure::usage("--workload idle speaks bramah alone")),
        (Workload::Probe, _) => probe_any(shared, args, names).await,
        (_, Protocol::Bramah) => {
            let connections = connect_bramah(shared, args, &names).await.map_err(unavailable)?;
            connections[0].make_folder().await.map_err(unavailable)?;
            measure(shared, args, connections).await
        }
        (_, Protocol::Etcd) => {
            let connections = connect_etcd(shared, args, &names).await.map_err(unavailable)?;
            measure(shared, args, connections).await
        }
    }
}

/// Runs the probe for `--seconds`.
async fn probe_any(shared: &Shared, args: &BenchArgs, names: Arc<Names>) -> Result<(), Failure> {
    let length = Duration::from_secs_f64(args.seconds);
    let value = Bytes::from(vec![b'x'; args.value_bytes as usize]);
    match args.protocol {
        Protocol::Bramah => {
            let target =
                bramah::Bramah::connect(&shared.addresses, 0, args.route, shared.timeout, names).await;
            let target = target.map_err(unavailable)?;
            target.make_folder().await.map_err(unavailable)?;
            // The client keeps its own deadline; a little later nothing can come any more.
            let try_timeout = shared.timeout + Duration::from_secs(1);
            let mut writer = probe::Writer::of_client(target.clone(), try_timeout, args.keys);
            probe::run(&mut writer, length, value).await;
            target.close().await;
        }
        Protocol::Etcd => {
            let targets = probe::etcd_targets(&shared.addresses, &names).map_err(unavailable)?;
            let mut writer = probe::Writer::in_turn(targets, args.try_timeout, args.keys);
            probe::run(&mut writer, length, value).await;
        }
    }
    Ok(())
}

async fn connect_bramah(
    shared: &Shared,
    args: &BenchArgs,
    names: &Arc<Names>,
) -> Result<Vec<bramah::Bramah>, String> {
    let mut connections = Vec::new();
    for index in 0..connection_count(args) {
        let connected =
            bramah::Bramah::connect(&shared.addresses, index, args.route, shared.timeout, Arc::clone(names));
        connections.push(connected.await?);
    }
    Ok(connections)
}

async fn connect_etcd(
    shared: &Shared,
    args: &BenchArgs,
    names: &Arc<Names>,
) -> Result<Vec<etcd::Etcd>, String> {
    let addresses = match args.route {
        BenchRoute::Spread => shared.addresses.clone(),
        BenchRoute::Leader => vec![etcd::leader(&shared.addresses).await?],
    };
    let mut connections = Vec::new();
    for index in 0..connection_count(args) {
        let channel = etcd::connect(&addresses[index % addresses.len()]).await?;
        connections.push(etcd::Etcd::new(channel, Arc::clone(names)));
    }
    Ok(connections)
}

fn connection_count(args: &BenchArgs) -> usize {
    args.connections.unwrap_or(16).min(args.clients)
}

async fn measure<T: Target>(shared: &Shared, args: &BenchArgs, connections: Vec<T>) -> Result<(), Failure> {
    if matches!(args.workload, Workload::Write | Workload::Read) {
        generator::prepare(&connections, args).await.map_err(unavailable)?;
    }
    let plan = Plan::new(args);
    let (measured, cpu) =
        tokio::join!(generator::run(&connections, args.clients, &plan), cpu_between(shared, args, &plan));
    let measured = measured.map_err(Failure::refused)?;
    let count = connections.len();
    let text = report::text(args, count, &measured, cpu);
    Printer { json: shared.is_json() }.answer(text, report::json(args, count, &measured, cpu))?;
    for connection in connections {
        connection.close().await;
    }
    verdict(&measured)
}

/// CPU time between the plan's begin and end.
async fn cpu_between(shared: &Shared, args: &BenchArgs, plan: &Plan) -> CpuTime {
    tokio::time::sleep_until(plan.begin.into()).await;
    let (servers_before, generator_before) = (server_cpu(shared, args).await, cpu::own());
    tokio::time::sleep_until(plan.end.into()).await;
    let generator = cpu::own().saturating_sub(generator_before);
    let servers_after = server_cpu(shared, args).await;
    let servers = servers_before.zip(servers_after).map(|(before, after)| after.saturating_sub(before));
    CpuTime { generator, servers }
}

async fn server_cpu(shared: &Shared, args: &BenchArgs) -> Option<Duration> {
    if !args.server_pids.is_empty() {
        return cpu::of_processes(&args.server_pids).ok();
    }
    if args.protocol == Protocol::Etcd {
        return None;
    }
    let asked_at = Instant::now();
    let replies = status_of_all(&shared.addresses, false, shared.timeout).await;
    tracing::debug!(took = ?asked_at.elapsed(), "asked the replicas for their CPU time");
    replies.into_iter().map(|(_, reply)| Some(Duration::from_micros(reply.ok()?.cpu_us))).sum()
}

fn unavailable(error: String) -> Failure {
    Failure { exit: crate::output::Exit::Unavailable, code: "unavailable".into(), message: error, next: None }
}

/// A bench in which nothing succeeded has measured nothing.
fn verdict(measured: &Measured) -> Result<(), Failure> {
    match (&measured.first_error, measured.latency.is_empty()) {
        (Some(error), true) => {
            Err(Failure::refused(format!("no call succeeded; the first failure: {error}")))
        }
        (None, true) => Err(Failure::refused("no call was answered within the time; give more --seconds")),
        _ => Ok(()),
    }
}
