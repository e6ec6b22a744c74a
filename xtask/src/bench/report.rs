//! The outcome of a comparison: a table for people, one object for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::load::{LOADS, Measured, UNWATCHED, WATCHED, median};

/// The two systems, in the order in which they take turns.
pub(super) const PEER: &str = "etcd";
pub(super) const OURS: &str = "bramah";

pub(super) const FAILOVER: &str = "failover";

/// Everything that was measured, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Results {
    loads: BTreeMap<(&'static str, &'static str), Vec<Measured>>,
    outages_ms: BTreeMap<&'static str, Vec<f64>>,
}

impl Results {
    pub(super) fn add(&mut self, system: &'static str, key: &'static str, measured: Measured) {
        self.loads.entry((system, key)).or_default().push(measured);
    }

    pub(super) fn add_outages(&mut self, system: &'static str, outages_ms: Vec<f64>) {
        self.outages_ms.entry(system).or_default().extend(outages_ms);
    }

    fn turns(&self, system: &'static str, key: &'static str) -> &[Measured] {
        self.loads.get(&(system, key)).map_or(&[], Vec::as_slice)
    }

    fn outage_ms(&self, system: &str) -> Option<f64> {
        self.outages_ms.get(system).map(|outages| median(outages.iter().copied()))
    }

    /// The median over the turns of one number.
    fn middle(&self, system: &'static str, key: &'static str, pick: fn(&Measured) -> f64) -> Option<f64> {
        let turns = self.turns(system, key);
        (!turns.is_empty()).then(|| median(turns.iter().map(pick)))
    }

    /// How many times better ours is: operations a second over theirs, or their outage over ours.
    fn ratio(&self, key: &'static str) -> Option<f64> {
        if key == FAILOVER {
            return Some(self.outage_ms(PEER)? / self.outage_ms(OURS)?);
        }
        let rate = |measured: &Measured| measured.operations_per_second;
        Some(self.middle(OURS, key, rate)? / self.middle(PEER, key, rate)?)
    }

    /// How many times longer a write takes while many watch it.
    fn slowed_by_watchers(&self, system: &'static str) -> Option<f64> {
        let p50 = |key| self.middle(system, key, |measured| measured.p50_us);
        Some(p50(WATCHED)? / p50(UNWATCHED)?)
    }

    pub(super) fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<12} {:>22} {:>7}   {:>17} {:>17}   {:>15} {:>15}",
            "", "operations/s", "ratio", "p50 ms", "p99 ms", "server µs/op", "client µs/op"
        )];
        lines.push(format!(
            "{:<12} {:>11} {:>10} {:>7}   {:>8} {:>8} {:>8} {:>8}   {:>7} {:>7} {:>7} {:>7}",
            "", PEER, OURS, "", PEER, OURS, PEER, OURS, PEER, OURS, PEER, OURS
        ));
        lines.extend(LOADS.iter().filter_map(|load| self.row(load.key)));
        if let (Some(theirs), Some(ours), Some(ratio)) =
            (self.outage_ms(PEER), self.outage_ms(OURS), self.ratio(FAILOVER))
        {
            lines.push(format!("{FAILOVER:<12} {theirs:>8.0} ms {ours:>7.0} ms {ratio:>7.2}"));
        }
        if let (Some(theirs), Some(ours)) = (self.slowed_by_watchers(PEER), self.slowed_by_watchers(OURS)) {
            lines.push(format!("a write's p50 with 1,000 watchers, in times of that without: {PEER} {theirs:.2}, {OURS} {ours:.2}"));
        }
        lines.join("\n")
    }

    fn row(&self, key: &'static str) -> Option<String> {
        let both =
            |pick: fn(&Measured) -> f64| Some((self.middle(PEER, key, pick)?, self.middle(OURS, key, pick)?));
        let rate = both(|measured| measured.operations_per_second)?;
        let p50 = both(|measured| measured.p50_us / 1_000.0)?;
        let p99 = both(|measured| measured.p99_us / 1_000.0)?;
        let server = both(|measured| measured.server_cpu_us)?;
        let client = both(|measured| measured.client_cpu_us)?;
        let ratio = self.ratio(key)?;
        Some(format!(
            "{key:<12} {:>11.0} {:>10.0} {ratio:>7.2}   {:>8.2} {:>8.2} {:>8.2} {:>8.2}   {:>7.1} {:>7.1} {:>7.1} {:>7.1}",
            rate.0, rate.1, p50.0, p50.1, p99.0, p99.1, server.0, server.1, client.0, client.1
        ))
    }

    pub(super) fn json(&self) -> Value {
        let keys = LOADS.iter().map(|load| load.key).chain([FAILOVER]);
        let ratios: BTreeMap<_, _> = keys.filter_map(|key| Some((key, rounded(self.ratio(key)?)))).collect();
        let mut turns = serde_json::Map::new();
        for ((system, key), measured) in &self.loads {
            let raw: Vec<&Value> = measured.iter().map(|measured| &measured.raw).collect();
            let of_key = turns.entry(*key).or_insert_with(|| json!({}));
            of_key[*system] = json!({
                "operations_per_second": self.middle(system, key, |measured| measured.operations_per_second),
                "p50_us": self.middle(system, key, |measured| measured.p50_us),
                "p99_us": self.middle(system, key, |measured| measured.p99_us),
                "server_cpu_us": self.middle(system, key, |measured| measured.server_cpu_us).map(rounded),
                "client_cpu_us": self.middle(system, key, |measured| measured.client_cpu_us).map(rounded),
                "turns": raw,
            });
        }
        let slowed = [PEER, OURS].map(|system| (system, self.slowed_by_watchers(system).map(rounded)));
        json!({
            "ratios": ratios,
            "slowed_by_watchers": BTreeMap::from(slowed),
            "measured": turns,
            "failover_ms": self.outages_ms,
        })
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(operations_per_second: f64) -> Measured {
        Measured {
            operations_per_second,
            p50_us: 1.0,
            p99_us: 2.0,
            server_cpu_us: 3.0,
            client_cpu_us: 4.0,
            errors: 0.0,
            raw: json!({ "operations_per_second": operations_per_second }),
        }
    }

    fn results() -> Results {
        let mut results = Results::default();
        for rate in [100.0, 900.0, 200.0] {
            results.add(PEER, "write_1", measured(rate));
            results.add(OURS, "write_1", measured(3.0 * rate));
        }
        results.add_outages(PEER, vec![1_000.0, 1_200.0]);
        results.add_outages(PEER, vec![3_000.0]);
        results.add_outages(OURS, vec![400.0, 300.0, 600.0]);
        results
    }

    #[test]
    fn ratios_are_of_medians_and_better_is_more() {
        let json = results().json();
        assert_eq!(json["ratios"], json!({ "write_1": 3.0, "failover": 3.0 }));
        assert_eq!(json["measured"]["write_1"]["etcd"]["operations_per_second"], 200.0);
        assert_eq!(json["measured"]["write_1"]["bramah"]["turns"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["failover_ms"]["etcd"], json!([1_000.0, 1_200.0, 3_000.0]));
    }

    #[test]
    fn watchers_slow_a_write_by_a_factor() {
        let mut results = Results::default();
        results.add(OURS, UNWATCHED, Measured { p50_us: 800.0, ..measured(1.0) });
        results.add(OURS, WATCHED, Measured { p50_us: 1_000.0, ..measured(1.0) });
        let slowed = &results.json()["slowed_by_watchers"];
        assert_eq!((&slowed["bramah"], &slowed["etcd"]), (&json!(1.25), &json!(null)));
    }

    #[test]
    fn the_table_has_a_row_for_each_that_was_measured() {
        let table = results().table();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(
            table.contains("write_1") && table.contains("failover") && !table.contains("read_256"),
            "{table}"
        );
    }
}
