//! The outcome of the comparison of proxies: a table for people, one object for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::idle::Idle;
use super::loads::{LOADS, Measured};
use super::{OURS, PEER};
use crate::bench::load::median;

/// Everything that was measured, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Results {
    loads: BTreeMap<(&'static str, &'static str), Vec<Measured>>,
    idle: BTreeMap<&'static str, Idle>,
}

impl Results {
    pub(super) fn add(&mut self, proxy: &'static str, key: &'static str, measured: Measured) {
        self.loads.entry((proxy, key)).or_default().push(measured);
    }

    pub(super) fn set_idle(&mut self, proxy: &'static str, idle: Idle) {
        self.idle.insert(proxy, idle);
    }

    fn middle(&self, proxy: &'static str, key: &'static str, pick: fn(&Measured) -> f64) -> Option<f64> {
        let turns = self.loads.get(&(proxy, key))?;
        Some(median(turns.iter().map(pick)))
    }

    /// How many times more requests a second ours answers.
    fn ratio(&self, key: &'static str) -> Option<f64> {
        let rate = |measured: &Measured| measured.per_second;
        Some(self.middle(OURS, key, rate)? / self.middle(PEER, key, rate)?)
    }

    pub(super) fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{:<8} {:>21} {:>7}   {:>17}   {:>17}",
                "", "requests/s", "ratio", "p99 ms", "CPU µs/request"
            ),
            format!(
                "{:<8} {:>10} {:>10} {:>7}   {:>8} {:>8}   {:>8} {:>8}",
                "", PEER, OURS, "", PEER, OURS, PEER, OURS
            ),
        ];
        lines.extend(LOADS.iter().filter_map(|load| self.row(load.key)));
        for (proxy, idle) in &self.idle {
            lines.push(format!(
                "{proxy} with {} idle connections: {:.0} bytes each, {:.0} MiB in all, an answer in {:.2} ms",
                idle.connections, idle.bytes_each, idle.resident_mib, idle.answer_ms
            ));
        }
        lines.join("\n")
    }

    fn row(&self, key: &'static str) -> Option<String> {
        let both =
            |pick: fn(&Measured) -> f64| Some((self.middle(PEER, key, pick)?, self.middle(OURS, key, pick)?));
        let rate = both(|measured| measured.per_second)?;
        let p99 = both(|measured| measured.p99_ms)?;
        let cpu = both(|measured| measured.cpu_us)?;
        let ratio = self.ratio(key)?;
        Some(format!(
            "{key:<8} {:>10.0} {:>10.0} {ratio:>7.2}   {:>8.2} {:>8.2}   {:>8.1} {:>8.1}",
            rate.0, rate.1, p99.0, p99.1, cpu.0, cpu.1
        ))
    }

    pub(super) fn json(&self) -> Value {
        let ratios: BTreeMap<_, _> =
            LOADS.iter().filter_map(|load| Some((load.key, rounded(self.ratio(load.key)?)))).collect();
        let mut measured = json!({});
        for (proxy, key) in self.loads.keys() {
            let middle = |pick| self.middle(proxy, key, pick).map(rounded);
            measured[*key][*proxy] = json!({
                "requests_per_second": middle(|measured| measured.per_second),
                "p99_ms": middle(|measured| measured.p99_ms),
                "cpu_us": middle(|measured| measured.cpu_us),
            });
        }
        let mut waiting = json!({});
        for (proxy, idle) in &self.idle {
            waiting[*proxy] = json!({
                "connections": idle.connections,
                "bytes_each": idle.bytes_each.round(),
                "resident_mib": rounded(idle.resident_mib),
                "answer_ms": rounded(idle.answer_ms),
            });
        }
        json!({ "ratios": ratios, "measured": measured, "idle_connections": waiting })
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_better_is_more() {
        let mut results = Results::default();
        for rate in [100.0, 900.0, 200.0] {
            results.add(PEER, "http1", Measured { per_second: rate, p99_ms: 2.0, cpu_us: 9.0 });
            results.add(OURS, "http1", Measured { per_second: 1.5 * rate, p99_ms: 1.0, cpu_us: 8.0 });
        }
        let json = results.json();
        assert_eq!(json["ratios"], json!({ "http1": 1.5 }));
        assert_eq!(json["measured"]["http1"]["nginx"]["p99_ms"], 2.0);
        let table = results.table();
        assert!(table.contains("http1") && !table.contains("grpc"), "{table}");
    }
}
