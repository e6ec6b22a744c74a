//! What a storm proved: every checker over everything that was seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Storm;
use super::client::{KEYS, counter};
use super::timeline::Note;
use crate::check::{digests, exactly_once, linear, sessions};
use crate::history::{Counts, History};

/// How long after its lease a session may still be there: each change of leader gives it a whole lease again.
const LATEST_END: Duration = Duration::from_secs(120);

/// So many calls are answered in any storm of 30 s, or the cell served nobody.
const FEWEST_ANSWERS: u64 = 10;

/// Workers that pause longer are asked for no number of calls.
const MOST_THOUGHT: Duration = Duration::from_secs(1);

/// What came of one storm.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where all its chance came from.
    pub seed: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Milliseconds that it really took, judgement and all.
    pub took_ms: u64,
    /// Operations of clients that were checked.
    pub operations: u64,
    /// How they ended.
    pub outcomes: Counts,
    /// Events of the cell that were checked.
    pub events: u64,
    /// Keys that were checked, and those of which the checker could not say whether they are linearizable.
    pub keys: u64,
    /// See `keys`.
    pub undecided: u64,
    /// What must never happen and did.
    pub anomalies: Vec<String>,
    /// Faults that had their effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// How long nobody was served after each crash of a leader, in microseconds (`Plan::leader_crashes`).
    pub failovers_us: Vec<u64>,
    /// A number that is the same if everything happened alike.
    pub fingerprint: u64,
    /// What happened.
    #[serde(skip)]
    pub timeline: Vec<Note>,
    /// What clients asked and were told.
    #[serde(skip)]
    pub history: History,
}

pub(super) fn judge(storm: Storm, began: std::time::Instant) -> Report {
    let mut history = storm.recorder.history();
    history.doubt_until(storm.replayed_until);
    let linear = linear::check(&history, linear::STEPS);
    let [events, sessions] = storm.watch.judge(&history, rules(&storm));
    let others = [exactly_once::check(&history, &finals(&storm)), digests::check(&storm.digests)];
    let (wrong, locks) = storm.ledger.judge();
    let checked = events.checked;
    let mut anomalies = storm.watch.anomalies();
    anomalies.extend(wrong);
    let seen = [
        ("events", events.checked),
        ("sessions", sessions.checked),
        ("digests", others[1].checked),
        ("locks", locks[0].checked),
        ("queues", locks[1].checked),
    ];
    anomalies.extend(too_little(&storm, history.counts().answered, &seen));
    for report in [&linear, &events, &sessions].into_iter().chain(&others).chain(&locks) {
        anomalies.extend(report.anomalies.iter().cloned());
    }
    Report {
        seed: storm.plan.seed,
        simulated_ms: storm.engine.now_ms(),
        took_ms: millis(began.elapsed()),
        operations: history.counts().total(),
        outcomes: history.counts(),
        events: checked,
        keys: history.by_key().len() as u64,
        undecided: linear.undecided.len() as u64,
        anomalies,
        faults: storm.fired.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect(),
        failovers_us: storm.failovers_us.clone(),
        fingerprint: storm.fingerprint(&history),
        timeline: storm.timeline.notes(),
        history,
    }
}

/// A storm in which hardly anything happened proves nothing, however clean.
fn too_little(storm: &Storm, answered: u64, seen: &[(&str, u64)]) -> Vec<String> {
    let mut missing: Vec<String> = seen
        .iter()
        .filter(|(_, checked)| *checked == 0)
        .map(|(what, _)| format!("no {what} were checked"))
        .collect();
    let plan = &storm.plan;
    let is_busy = plan.leader_crashes == 0 && plan.think <= MOST_THOUGHT;
    let floor = if is_busy { FEWEST_ANSWERS * plan.seconds.min(30) / 30 } else { 1 };
    if answered < floor {
        missing.push(format!("only {answered} calls were answered, of at least {floor}"));
    }
    missing
}

/// Sessions have 2 % for drifting clocks, as much as a client counts on (spec S-4), and end when nobody leads for
/// long, too: that they end at all is what is asked.
fn rules(storm: &Storm) -> sessions::Rules {
    let observed_until = storm.engine.now_ms() * 1_000_000;
    sessions::Rules { drift_ppm: 20_000, bound: LATEST_END.as_nanos() as u64, observed_until }
}

/// The counters at the end, as the replica has them that has applied most; that the others have the same is what
/// digests say.
fn finals(storm: &Storm) -> BTreeMap<Arc<str>, i64> {
    let cells = storm.members().filter_map(super::Replica::cell);
    let Some(cell) = cells.max_by_key(|cell| cell.status().applied_index) else { return BTreeMap::new() };
    let view = cell.view();
    let counters = (0..KEYS).map(counter).filter_map(|path| {
        let known = bramah_machine::Path::parse(&path).ok()?;
        Some((path.as_str().into(), view.get_counter(&known).ok()?.0))
    });
    counters.collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
