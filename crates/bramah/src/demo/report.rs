//! What the demo has found.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Promised;
use crate::bench::report::with_separators;

/// A counter as it was promised and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What the workers were told.
    pub promised: Promised,
    /// What the cell says now.
    pub value: i64,
}

impl Counted {
    /// Acknowledged increments that are not in the value.
    pub fn lost(&self) -> u64 {
        (i128::from(self.promised.acknowledged) - i128::from(self.value)).max(0) as u64
    }

    /// Increments in the value beyond those that were acknowledged or may have been done.
    pub fn doubled(&self) -> u64 {
        let most = i128::from(self.promised.acknowledged) + i128::from(self.promised.unknown);
        (i128::from(self.value) - most).max(0) as u64
    }
}

/// The whole run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each counter.
    pub counters: Vec<Counted>,
    /// Whether all replicas have the same state at the same index, and answered with the same values.
    pub replicas_agree: bool,
    /// Leaders killed.
    pub kills: u64,
    /// For each kill, the time to the next acknowledged increment.
    pub failovers: Vec<Duration>,
    /// How long the workers ran.
    pub elapsed: Duration,
    /// How many workers there were.
    pub workers: u64,
}

impl Report {
    fn sum(&self, part: impl Fn(&Counted) -> u64) -> u64 {
        self.counters.iter().map(part).sum()
    }

    fn acknowledged(&self) -> u64 {
        self.sum(|counter| counter.promised.acknowledged)
    }

    fn unknown(&self) -> u64 {
        self.sum(|counter| counter.promised.unknown)
    }

    fn value(&self) -> i64 {
        self.counters.iter().map(|counter| counter.value).sum()
    }

    fn increments_per_second(&self) -> f64 {
        self.acknowledged() as f64 / self.elapsed.as_secs_f64()
    }

    /// Nothing lost, nothing doubled, nothing different.
    pub fn is_good(&self) -> bool {
        self.replicas_agree
            && self.counters.iter().all(|counter| counter.lost() == 0 && counter.doubled() == 0)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged(),
            "value": self.value(),
            "unknown": self.unknown(),
            "lost": self.sum(Counted::lost),
            "doubled": self.sum(Counted::doubled),
            "increments_per_second": self.increments_per_second().round(),
            "failover_ms": self.failovers.iter().map(milliseconds).collect::<Vec<u64>>(),
            "replicas_agree": self.replicas_agree,
            "kills": self.kills,
            "elapsed_seconds": (self.elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0,
        })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let verdict = if self.is_good() { "Counted exactly." } else { "NOT COUNTED EXACTLY." };
        let mut text = format!("{verdict}\n");
        let mut line =
            |name: &str, value: String| writeln!(text, "  {name:<24}{value}").expect("a String takes all");
        line("acknowledged", with_separators(self.acknowledged()));
        line(
            "in the counters",
            u64::try_from(self.value()).map_or_else(|_| self.value().to_string(), with_separators),
        );
        line("lost", with_separators(self.sum(Counted::lost)));
        line("doubled", with_separators(self.sum(Counted::doubled)));
        if self.unknown() > 0 {
            line("outcome unknown", with_separators(self.unknown()));
        }
        line("replicas agree", if self.replicas_agree { "yes".into() } else { "NO".into() });
        line("increments a second", with_separators(self.increments_per_second().round() as u64));
        let (workers, seconds) = (with_separators(self.workers), self.elapsed.as_secs_f64());
        line(
            "from",
            format!("{workers} workers through 3 replicas, {} counters, {seconds:.1} s", self.counters.len()),
        );
        if self.kills > 0 {
            let times: Vec<String> =
                self.failovers.iter().map(|time| milliseconds(time).to_string()).collect();
            line(
                "leaders killed",
                format!("{}; next acknowledged increment after {} ms", self.kills, times.join(", ")),
            );
        }
        for counter in self.counters.iter().filter(|counter| counter.lost() + counter.doubled() > 0) {
            line(
                &counter.promised.path,
                format!("{} acknowledged, value {}", counter.promised.acknowledged, counter.value),
            );
        }
        text.trim_end().to_owned()
    }
}

fn milliseconds(time: &Duration) -> u64 {
    time.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(acknowledged: u64, unknown: u64, value: i64) -> Report {
        let promised = Promised { path: "/demo/counter-1".into(), acknowledged, unknown };
        Report {
            counters: vec![Counted { promised, value }],
            replicas_agree: true,
            kills: 1,
            failovers: vec![Duration::from_millis(312)],
            elapsed: Duration::from_secs(2),
            workers: 64,
        }
    }

    #[test]
    fn the_exact_sum_is_good() {
        let report = report(1_000, 0, 1_000);
        assert!(report.is_good());
        let json = report.to_json();
        assert_eq!((&json["lost"], &json["doubled"]), (&json!(0), &json!(0)));
        assert_eq!(json["failover_ms"], json!([312]));
        assert_eq!(json["increments_per_second"], json!(500.0));
        assert!(report.to_text().starts_with("Counted exactly."));
    }

    #[test]
    fn unknown_outcomes_may_have_been_done_or_not() {
        assert!(report(998, 2, 998).is_good());
        assert!(report(998, 2, 1_000).is_good());
    }

    #[test]
    fn a_loss_a_double_and_a_difference_are_bad() {
        assert_eq!(report(1_000, 0, 999).to_json()["lost"], json!(1));
        assert!(!report(1_000, 0, 999).is_good());
        assert_eq!(report(998, 2, 1_001).to_json()["doubled"], json!(1));
        assert!(report(998, 2, 1_001).to_text().starts_with("NOT COUNTED EXACTLY."));
        assert!(!Report { replicas_agree: false, ..report(1, 0, 1) }.is_good());
    }

    #[test]
    fn a_loss_in_one_counter_does_not_make_up_for_a_double_in_another() {
        let mut both = report(10, 0, 9);
        both.counters.extend(report(10, 0, 11).counters);
        assert_eq!((both.to_json()["lost"].clone(), both.to_json()["doubled"].clone()), (json!(1), json!(1)));
    }
}
