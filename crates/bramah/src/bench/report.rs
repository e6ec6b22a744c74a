//! What a bench has found, for people and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::generator::Measured;
use crate::cli::{BenchArgs, BenchRoute, Protocol, Workload};

/// CPU time between begin and end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    /// Of this process.
    pub(crate) generator: Duration,
    /// Of all servers together, if it is known.
    pub(crate) servers: Option<Duration>,
}

/// One line for programs.
pub(crate) fn json(args: &BenchArgs, connections: usize, measured: &Measured, cpu: CpuTime) -> Value {
    let latency = &measured.latency;
    json!({
        "workload": workload(args.workload),
        "protocol": protocol(args.protocol),
        "clients": args.clients,
        "connections": connections,
        "route": route(args.route),
        "seconds": args.seconds,
        "operations": measured.operations(),
        "operations_per_second": measured.operations() as f64 / args.seconds,
        "errors": measured.errors,
        "first_error": measured.first_error,
        "latency_us": {
            "mean": latency.mean(),
            "p50": latency.value_at_quantile(0.50),
            "p90": latency.value_at_quantile(0.90),
            "p99": latency.value_at_quantile(0.99),
            "p999": latency.value_at_quantile(0.999),
            "max": latency.max(),
        },
        "generator_cpu_seconds": cpu.generator.as_secs_f64(),
        "server_cpu_seconds": cpu.servers.map(|time| time.as_secs_f64()),
    })
}

/// A few lines for people.
pub(crate) fn text(args: &BenchArgs, connections: usize, measured: &Measured, cpu: CpuTime) -> String {
    let latency = &measured.latency;
    let milliseconds = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let operations = measured.operations().max(1) as f64;
    let each = |time: Duration| {
        format!("{:.2} s, {:.1} µs an operation", time.as_secs_f64(), time.as_secs_f64() * 1e6 / operations)
    };
    let mut text = format!(
        "{} {} a second over {}\n  {} clients on {connections} connections ({}), {} s\n  latency ms: p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}\n  CPU: generator {}",
        with_separators((measured.operations() as f64 / args.seconds).round() as u64),
        operations_name(args.workload),
        protocol(args.protocol),
        args.clients,
        route(args.route),
        args.seconds,
        milliseconds(0.50),
        milliseconds(0.90),
        milliseconds(0.99),
        milliseconds(0.999),
        latency.max() as f64 / 1_000.0,
        each(cpu.generator),
    );
    if let Some(servers) = cpu.servers {
        text.push_str(&format!("; servers {}", each(servers)));
    }
    if let Some(error) = &measured.first_error {
        text.push_str(&format!("\n  {} failed; the first: {error}", measured.errors));
    }
    text
}

fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::Write => "write",
        Workload::Read => "read",
        Workload::Increment => "increment",
        Workload::LockOwn => "lock-own",
        Workload::LockOne => "lock-one",
        Workload::Watch => "watch",
        Workload::Idle => "idle",
        Workload::Probe => "probe",
    }
}

/// What is counted.
fn operations_name(workload: Workload) -> &'static str {
    match workload {
        Workload::Write | Workload::Probe => "writes",
        Workload::Read => "reads",
        Workload::Increment => "increments",
        Workload::LockOwn | Workload::LockOne => "locks taken and given back",
        Workload::Watch => "events delivered",
        Workload::Idle => "sessions",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Bramah => "bramah",
        Protocol::Etcd => "etcd",
    }
}

fn route(route: BenchRoute) -> &'static str {
    match route {
        BenchRoute::Spread => "spread",
        BenchRoute::Leader => "leader",
    }
}

/// A number as people read it: 1,234,567.
pub(crate) fn with_separators(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(with_separators(0), "0");
        assert_eq!(with_separators(999), "999");
        assert_eq!(with_separators(1_000), "1,000");
        assert_eq!(with_separators(1_234_567), "1,234,567");
    }
}
