//! What is counted, and how it is told.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// One worker's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) connections_overdue: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// 1xx to 5xx.
    pub(crate) answers: [AtomicU64; 5],
    pub(crate) refused: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_denied: AtomicU64,
    pub(crate) no_instance: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) broken_answers: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    pub(crate) upstream_connections: AtomicU64,
    pub(crate) upstream_refused: AtomicU64,
}

impl Counts {
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Relaxed);
    }
}

/// One worker's counters of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct EndpointCounts {
    pub(crate) calls: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) latency: Latency,
}

/// Upper ends of the classes of latency, in microseconds.
const CLASSES: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// A histogram of how long answers took to begin.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    counts: [AtomicU64; CLASSES.len() + 1],
    micros: AtomicU64,
}

impl Latency {
    pub(crate) fn note(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let class = CLASSES.partition_point(|end| *end < micros);
        self.counts[class].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

/// What a proxy has done and is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// Clients' connections now.
    pub connections_now: u64,
    /// Requests, and connections of the mode `tcp`, now.
    pub requests_now: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections closed at once because there were too many.
    pub connections_refused: u64,
    /// Connections closed because a head didn't end, nothing came, or nothing was read.
    pub connections_overdue: u64,
    /// Requests, and connections of the mode `tcp`, that came.
    pub requests: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx; the proxy's own among them.
    pub answers: [u64; 5],
    /// Requests refused because they are malformed.
    pub refused: u64,
    /// Requests refused because there were too many at once.
    pub over_limit: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Tries there would have been with more budget.
    pub retries_denied: u64,
    /// Requests for which there was no instance.
    pub no_instance: u64,
    /// Tries that took too long.
    pub timed_out: u64,
    /// Answers that an instance broke off.
    pub broken_answers: u64,
    /// Upgrades, such as to WebSocket.
    pub tunnels: u64,
    /// Connections to instances that were tried.
    pub upstream_connections: u64,
    /// Connections to instances that failed.
    pub upstream_refused: u64,
    /// How often an instance was left out for failing.
    pub ejections: u64,
    /// Whether so few instances are well that all are used.
    pub panics: bool,
    /// The instances.
    pub instances: Vec<InstanceFigures>,
}

/// One instance as a proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InstanceFigures {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls that were sent to it.
    pub calls: u64,
    /// Those that failed by its fault.
    pub failures: u64,
    /// Whether it is left out at the moment because of failures.
    pub ejected: bool,
    /// Connections to it that wait for work.
    pub waiting_connections: usize,
    /// The moving average of its latency that policies see, in microseconds.
    pub latency_us: Option<u64>,
    /// Answers by the time until they began: upper ends in microseconds, and how many were within.
    pub latency_classes: Vec<(u64, u64)>,
    /// Answers in all, and the sum of their latencies in microseconds.
    pub latency_count: u64,
    /// The sum.
    pub latency_sum_us: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, counts: &Counts) {
        for (sum, count) in [
            (&mut self.connections, &counts.connections),
            (&mut self.connections_refused, &counts.connections_refused),
            (&mut self.connections_overdue, &counts.connections_overdue),
            (&mut self.requests, &counts.requests),
            (&mut self.refused, &counts.refused),
            (&mut self.over_limit, &counts.over_limit),
            (&mut self.retries, &counts.retries),
            (&mut self.retries_denied, &counts.retries_denied),
            (&mut self.no_instance, &counts.no_instance),
            (&mut self.timed_out, &counts.timed_out),
            (&mut self.broken_answers, &counts.broken_answers),
            (&mut self.tunnels, &counts.tunnels),
            (&mut self.upstream_connections, &counts.upstream_connections),
            (&mut self.upstream_refused, &counts.upstream_refused),
        ] {
            *sum += count.load(Relaxed);
        }
        for (sum, count) in self.answers.iter_mut().zip(&counts.answers) {
            *sum += count.load(Relaxed);
        }
    }

    /// As Prometheus reads it.
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("connections", "gauge", "Clients' connections now", self.connections_now),
            ("requests_in_flight", "gauge", "Requests now", self.requests_now),
            ("panic", "gauge", "1 if health is ignored because too few are well", u64::from(self.panics)),
            ("connections_total", "counter", "Connections accepted", self.connections),
            ("connections_refused_total", "counter", "Connections over the limit", self.connections_refused),
            (
                "connections_overdue_total",
                "counter",
                "Connections closed for taking too long",
                self.connections_overdue,
            ),
            ("requests_total", "counter", "Requests", self.requests),
            ("requests_refused_total", "counter", "Malformed requests", self.refused),
            ("requests_over_limit_total", "counter", "Requests over the limit", self.over_limit),
            ("retries_total", "counter", "Tries after the first", self.retries),
            ("retries_denied_total", "counter", "Retries that the budget denied", self.retries_denied),
            ("no_instance_total", "counter", "Requests without an instance", self.no_instance),
            ("timed_out_total", "counter", "Tries that took too long", self.timed_out),
            ("broken_answers_total", "counter", "Answers that instances broke off", self.broken_answers),
            ("tunnels_total", "counter", "Upgrades", self.tunnels),
            ("upstream_connections_total", "counter", "Connections to instances", self.upstream_connections),
            ("upstream_refused_total", "counter", "Connections that failed", self.upstream_refused),
            ("ejections_total", "counter", "Instances left out for failing", self.ejections),
        ] {
            head(&mut text, name, kind, help);
            line(&mut text, name, "", value);
        }
        head(&mut text, "answers_total", "counter", "Answers by class of status");
        for (class, count) in (1..).zip(self.answers) {
            line(&mut text, "answers_total", &format!("{{class=\"{class}xx\"}}"), count);
        }
        self.instances_to(&mut text);
        text
    }

    fn instances_to(&self, text: &mut String) {
        type Pick = fn(&InstanceFigures) -> u64;
        let columns: [(&str, &str, &str, Pick); 5] = [
            ("instance_in_flight", "gauge", "Calls in flight", |one| u64::from(one.in_flight)),
            ("instance_calls_total", "counter", "Calls", |one| one.calls),
            ("instance_failures_total", "counter", "Calls that failed", |one| one.failures),
            ("instance_ejected", "gauge", "1 if left out for failing", |one| u64::from(one.ejected)),
            ("instance_waiting_connections", "gauge", "Connections without work", |one| {
                one.waiting_connections as u64
            }),
        ];
        for (name, kind, help, pick) in columns {
            head(text, name, kind, help);
            for instance in &self.instances {
                line(text, name, &format!("{{{}}}", instance.label()), pick(instance));
            }
        }
        let name = "instance_latency_seconds";
        head(text, name, "histogram", "Time until the answer began");
        for instance in &self.instances {
            let mut sum = 0;
            for (end, count) in &instance.latency_classes {
                sum += count;
                let label = format!("{{{},le=\"{}\"}}", instance.label(), *end as f64 / 1e6);
                line(text, "instance_latency_seconds_bucket", &label, sum);
            }
            let label = instance.label();
            line(
                text,
                &format!("{name}_bucket"),
                &format!("{{{label},le=\"+Inf\"}}"),
                instance.latency_count,
            );
            line(text, &format!("{name}_count"), &format!("{{{label}}}"), instance.latency_count);
            let seconds = instance.latency_sum_us as f64 / 1e6;
            line(text, &format!("{name}_sum"), &format!("{{{label}}}"), seconds);
        }
    }
}

impl InstanceFigures {
    pub(crate) fn add(&mut self, counts: &EndpointCounts) {
        self.calls += counts.calls.load(Relaxed);
        self.failures += counts.failures.load(Relaxed);
        self.latency_sum_us += counts.latency.micros.load(Relaxed);
        if self.latency_classes.is_empty() {
            self.latency_classes = CLASSES.iter().map(|end| (*end, 0)).collect();
        }
        for (place, count) in counts.latency.counts.iter().enumerate() {
            let count = count.load(Relaxed);
            self.latency_count += count;
            if let Some((_, sum)) = self.latency_classes.get_mut(place) {
                *sum += count;
            }
        }
    }

    fn label(&self) -> String {
        let id = self.id.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("instance=\"{id}\",address=\"{}\"", self.address)
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "# HELP bramah_proxy_{name} {help}.\n# TYPE bramah_proxy_{name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "bramah_proxy_{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec F-2: figures as Prometheus wants them: classes that add up, one line a value.
    #[test]
    fn figures_are_told_as_prometheus_reads_them() {
        let counts = EndpointCounts::default();
        for micros in [100, 300, 300, 20_000_000] {
            counts.latency.note(Duration::from_micros(micros));
        }
        let mut instance =
            InstanceFigures { id: "a\"b".into(), address: "1.2.3.4:5".into(), ..Default::default() };
        instance.add(&counts);
        let figures = Figures {
            requests: 7,
            answers: [0, 6, 0, 0, 1],
            instances: vec![instance],
            ..Default::default()
        };
        let text = figures.prometheus();
        for wanted in [
            "bramah_proxy_requests_total 7",
            "bramah_proxy_answers_total{class=\"5xx\"} 1",
            "bramah_proxy_instance_latency_seconds_bucket{instance=\"a\\\"b\",address=\"1.2.3.4:5\",le=\"0.00025\"} 1",
            "bramah_proxy_instance_latency_seconds_bucket{instance=\"a\\\"b\",address=\"1.2.3.4:5\",le=\"10\"} 3",
            "bramah_proxy_instance_latency_seconds_bucket{instance=\"a\\\"b\",address=\"1.2.3.4:5\",le=\"+Inf\"} 4",
            "bramah_proxy_instance_latency_seconds_sum{instance=\"a\\\"b\",address=\"1.2.3.4:5\"} 20.0007",
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted} is not in\n{text}");
        }
    }
}
