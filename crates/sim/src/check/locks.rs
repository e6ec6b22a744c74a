//! Locks: at most one holds a lock alone, whoever holds it knows for how long, whoever came first is served first, and a
//! dead holder's lock is kept for its lock-delay (spec L-1 to L-5; Chubby §2.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Report;
use crate::history::Seconds;

/// For how long a client relied on a lock. Times are in nanoseconds of one clock that all records share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The lock.
    pub lock: Arc<str>,
    /// For people.
    pub who: String,
    /// Instance of the node and lock generation, as its sequencer has them.
    pub sequencer: (u64, u64),
    /// Whether it shares the lock.
    pub shared: bool,
    /// When it was told that it holds the lock.
    pub from: u64,
    /// When it stopped to rely on it: before it asked to release it, or when its guard said that it can't be sure any more.
    pub until: u64,
}

/// Who holds a lock and who waits for it at some moment, by one replica's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// For people.
    pub replica: u64,
    /// The entry that was applied last.
    pub applied: u64,
    /// The lock, and the instance of its node.
    pub lock: (Arc<str>, u64),
    /// Session and handle of each that holds it.
    pub holders: Vec<(u64, u64)>,
    /// The same of each that waits, with the number in the queue, in the order in which they are to be served.
    pub waiters: Vec<(u64, u64, u64)>,
}

/// When a holder's session died and when the lock was next given to somebody. Times as in [`Hold`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The lock.
    pub lock: Arc<str>,
    /// When the session was seen to be gone, at the latest.
    pub died: u64,
    /// When somebody was next given the lock, at the earliest.
    pub next: u64,
    /// The lock-delay in nanoseconds.
    pub delay: u64,
}

/// Judges what clients relied on: no two at once that can't be, no sequencer twice.
pub fn check_holds(holds: &[Hold]) -> Report {
    let mut report = Report::new("locks are held by one alone, or shared");
    report.checked = holds.len() as u64;
    let mut of_lock: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in holds {
        of_lock.entry(&hold.lock).or_default().push(hold);
    }
    for holds in of_lock.values_mut() {
        holds.sort_by_key(|hold| hold.from);
        judge_overlaps(holds, &mut report);
        judge_sequencers(holds, &mut report);
    }
    report
}

/// In the order of their beginnings: each against that which lasts longest of those that share, and of those that don't.
fn judge_overlaps(holds: &[&Hold], report: &mut Report) {
    let (mut alone, mut sharing): (Option<&Hold>, Option<&Hold>) = (None, None);
    for &hold in holds {
        let others = if hold.shared { [alone, None] } else { [alone, sharing] };
        for other in others.into_iter().flatten().filter(|other| other.until > hold.from) {
            report
                .anomaly(|| format!("{} held {} while {} did", described(hold), hold.lock, described(other)));
        }
        let longest = if hold.shared { &mut sharing } else { &mut alone };
        if longest.is_none_or(|longest| longest.until < hold.until) {
            *longest = Some(hold);
        }
    }
}

fn judge_sequencers(holds: &[&Hold], report: &mut Report) {
    let mut known: BTreeMap<(u64, u64), &Hold> = BTreeMap::new();
    for &hold in holds {
        let other = *known.entry(hold.sequencer).or_insert(hold);
        let both_share = other.shared && hold.shared;
        if !both_share && !std::ptr::eq(other, hold) {
            report.anomaly(|| {
                format!("{} and {} had one sequencer of {}", described(other), described(hold), hold.lock)
            });
        }
    }
}

fn described(hold: &Hold) -> String {
    let mode = if hold.shared { "shared" } else { "alone" };
    let (instance, generation) = hold.sequencer;
    let (from, until) = (Seconds(hold.from), Seconds(hold.until));
    format!("{} ({mode}, {instance}.{generation}, {from} s to {until} s)", hold.who)
}

/// Judges queues: whoever holds a lock now and waited before, had nobody before it who still waits. Samples of one
/// replica come in the order in which they were taken.
pub fn check_queues(samples: &[Sample]) -> Report {
    let mut report = Report::new("locks are given to whoever came first");
    let mut before: BTreeMap<(u64, &str, u64), &Sample> = BTreeMap::new();
    for sample in samples {
        report.checked += 1;
        let key = (sample.replica, &*sample.lock.0, sample.lock.1);
        if let Some(earlier) = before.insert(key, sample)
            && earlier.applied <= sample.applied
        {
            judge_turn(earlier, sample, &mut report);
        }
    }
    report
}

fn judge_turn(before: &Sample, now: &Sample, report: &mut Report) {
    let still: BTreeSet<u64> = now.waiters.iter().map(|(_, _, ticket)| *ticket).collect();
    let passed_by = before.waiters.iter().find(|(_, _, ticket)| still.contains(ticket));
    let Some((session, handle, ticket)) = passed_by else { return };
    let given = |&&(session, handle, later): &&(u64, u64, u64)| {
        later > *ticket && now.holders.contains(&(session, handle)) && !still.contains(&later)
    };
    if let Some((other_session, other_handle, _)) = before.waiters.iter().find(given) {
        report.anomaly(|| {
            format!(
                "handle {other_handle} of session {other_session} got {} before handle {handle} of session {session}, \
                 which came first (replica {}, entry {})",
                now.lock.0, now.replica, now.applied
            )
        });
    }
}

/// Judges lock-delays. The cell's clock may run at another rate than the checker's, and both ends were seen late: so half
/// of a delay is demanded.
pub fn check_delays(delays: &[Delay]) -> Report {
    let mut report = Report::new("a dead holder's lock is kept for its lock-delay");
    for delay in delays {
        report.checked += 1;
        let passed = delay.next.saturating_sub(delay.died);
        if passed < delay.delay / 2 {
            report.anomaly(|| {
                format!(
                    "{} was given away {} s after its holder's session was gone, in spite of a lock-delay of {} s",
                    delay.lock,
                    Seconds(passed),
                    Seconds(delay.delay)
                )
            });
        }
    }
    report
}
