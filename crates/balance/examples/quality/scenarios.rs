//! What is simulated, and with which policies.

use std::time::Duration;

use bramah_balance::{
    LeastRequest, LoadSettings, Maglev, OutlierSettings, Policy, Random, RoundRobin, Settings, SlowStart,
    TwoChoices,
};

use crate::simulator::{Measured, Run, Trouble};

/// A group of simulations that make one picture.
pub(crate) struct Scenario {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    /// What the share is the share of.
    pub(crate) share: &'static str,
    /// What the share would be if nobody looked; 0: nobody has trouble, and there is nothing to draw.
    pub(crate) fair: f64,
    run: Run,
    candidates: Vec<Candidate>,
}

/// A policy in its settings.
struct Candidate {
    label: &'static str,
    settings: fn(u64) -> Settings,
}

/// One candidate's result.
pub(crate) struct Row {
    pub(crate) label: &'static str,
    pub(crate) result: Measured,
}

impl Scenario {
    pub(crate) fn run(&self) -> Vec<Row> {
        let row = |candidate: &Candidate| {
            let result = self.run.measure(1, candidate.settings).expect("there are always instances");
            Row { label: candidate.label, result }
        };
        self.candidates.iter().map(row).collect()
    }
}

pub(crate) fn all() -> Vec<Scenario> {
    let ten = |trouble| Run {
        instances: 10,
        callers: 1,
        trouble,
        load: 0.7,
        from: Duration::from_secs(60),
        to: Duration::from_secs(660),
    };
    let cold = Run { to: Duration::from_secs(90), ..ten(Trouble::Cold) };
    let hundred = Run { instances: 100, callers: 10, to: Duration::from_secs(180), ..ten(Trouble::Slow) };
    let share_of =
        |file, title, share, run, candidates| Scenario { file, title, share, fair: 0.1, run, candidates };
    vec![
        Scenario {
            fair: 0.0,
            ..share_of("well", "All ten instances are well", "", ten(Trouble::None), policies())
        },
        share_of(
            "slow",
            "One of ten instances is ten times slower",
            "share of the slow one",
            ten(Trouble::Slow),
            policies(),
        ),
        share_of(
            "many",
            "Ten of a hundred instances are ten times slower; ten callers that don't know of each other",
            "share of the slow ones",
            hundred,
            policies(),
        ),
        share_of(
            "failing",
            "One of ten instances fails at once",
            "calls that fail",
            ten(Trouble::Failing),
            about_failures(),
        ),
        share_of(
            "cold",
            "One of ten instances comes and is ten times slower at first: the 30 s until it is warm",
            "share of the cold one",
            cold,
            about_cold(),
        ),
    ]
}

/// Only the policy decides: no ejection, no slow start.
fn bare(policy: impl Policy + 'static) -> Settings {
    Settings { outliers: None, slow_start: SlowStart::OFF, ..Settings::with(policy) }
}

fn policies() -> Vec<Candidate> {
    vec![
        Candidate { label: "round robin", settings: |seed| bare(RoundRobin::seeded(seed)) },
        Candidate { label: "random", settings: |seed| bare(Random::seeded(seed)) },
        Candidate { label: "least request of all", settings: |seed| bare(LeastRequest::seeded(seed)) },
        Candidate { label: "two choices, requests", settings: |seed| bare(TwoChoices::least_request(seed)) },
        Candidate { label: "two choices, peak EWMA", settings: |seed| bare(TwoChoices::peak_ewma(seed)) },
        Candidate { label: "Maglev, bound 1.25", settings: |seed| bare(Maglev::seeded(seed).bounded(0.25)) },
    ]
}

/// With this policy, and failures that count for nothing.
fn blind(policy: impl Policy + 'static) -> Settings {
    let load = LoadSettings { failure_lasts: Duration::ZERO, ..LoadSettings::default() };
    Settings { load, ..bare(policy) }
}

fn ejecting(policy: impl Policy + 'static) -> Settings {
    Settings { outliers: Some(OutlierSettings::default()), ..bare(policy) }
}

fn about_failures() -> Vec<Candidate> {
    vec![
        Candidate { label: "round robin", settings: |seed| bare(RoundRobin::seeded(seed)) },
        Candidate { label: "… with ejection", settings: |seed| ejecting(RoundRobin::seeded(seed)) },
        Candidate {
            label: "least request, failures not counted",
            settings: |seed| blind(LeastRequest::seeded(seed)),
        },
        Candidate { label: "least request", settings: |seed| bare(LeastRequest::seeded(seed)) },
        Candidate { label: "… with ejection", settings: |seed| ejecting(LeastRequest::seeded(seed)) },
        Candidate { label: "two choices, requests", settings: |seed| bare(TwoChoices::least_request(seed)) },
        Candidate { label: "… with ejection", settings: |seed| ejecting(TwoChoices::least_request(seed)) },
        Candidate { label: "two choices, peak EWMA", settings: |seed| bare(TwoChoices::peak_ewma(seed)) },
        Candidate { label: "… with ejection", settings: |seed| ejecting(TwoChoices::peak_ewma(seed)) },
    ]
}

fn warming(policy: impl Policy + 'static) -> Settings {
    Settings { slow_start: SlowStart::default(), ..bare(policy) }
}

fn about_cold() -> Vec<Candidate> {
    vec![
        Candidate { label: "round robin", settings: |seed| bare(RoundRobin::seeded(seed)) },
        Candidate { label: "… with slow start", settings: |seed| warming(RoundRobin::seeded(seed)) },
        Candidate { label: "least request of all", settings: |seed| bare(LeastRequest::seeded(seed)) },
        Candidate { label: "… with slow start", settings: |seed| warming(LeastRequest::seeded(seed)) },
        Candidate { label: "two choices, requests", settings: |seed| bare(TwoChoices::least_request(seed)) },
        Candidate { label: "… with slow start", settings: |seed| warming(TwoChoices::least_request(seed)) },
        Candidate { label: "two choices, peak EWMA", settings: |seed| bare(TwoChoices::peak_ewma(seed)) },
        Candidate { label: "… with slow start", settings: |seed| warming(TwoChoices::peak_ewma(seed)) },
    ]
}
