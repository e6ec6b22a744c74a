//! Linearizability: is there one order of all operations, each at some moment between its call and its answer, in which a
//! file or counter without replicas would have given these answers? (Herlihy and Wing, 1990.)
//!
//! A history is linearizable exactly when the part of each key is (Herlihy and Wing, §3.2), so each key is judged alone. The
//! search is that of Wing and Gong (1993), with Lowe's memory of positions that lead nowhere ("Testing for
//! linearizability", 2017); see [`search`]. It is exact: an order that is found is one, and a violation is reported only when
//! every order was ruled out. What could not be settled within the steps allowed is *undecided*.
//!
//! What an operation's outcome means here:
//!
//! | outcome | the order |
//! |---|---|
//! | answered | has it, between its call and its return, with just this answer |
//! | not done | doesn't have it |
//! | unknown | may have it, at any time after its call |

mod explain;
mod models;
mod search;

use std::collections::HashSet;

use super::Report;
use crate::history::{Answer, Call, Contents, History, Operation, Outcome};

pub use models::{Counter, File};
pub use search::{Interval, Model, OutOfSteps, Search};

/// Steps for one key that are plenty for a minute of a storm: at worst some seconds, and some hundred megabytes.
pub const STEPS: u64 = 5_000_000;

/// What is known of the operations on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order; this one, as places among the operations given. Unknown ones that it doesn't need are left out.
    Linearizable(Vec<usize>),
    /// There is none. [`explain_key`] says where it breaks.
    Violation,
    /// Neither is certain after the steps allowed.
    Undecided,
}

/// Judges every key of a history, with at most `steps` for each.
pub fn check(history: &History, steps: u64) -> Report {
    let mut report = Report::new("linearizability of each key");
    for (key, operations) in history.by_key() {
        report.checked += operations.len() as u64;
        match check_key(&operations, steps) {
            Verdict::Linearizable(_) => {}
            Verdict::Violation => {
                report.anomaly(|| format!("{key} is not linearizable: {}", explain_key(&operations, steps)))
            }
            Verdict::Undecided => report.undecided.push(format!(
                "{key}: whether its {} operations have an order is not certain after {steps} steps; \
                 shorten the run, or spread it over more keys",
                operations.len()
            )),
        }
    }
    report
}

/// Judges the operations on one key, with at most `steps`.
#[must_use]
pub fn check_key(operations: &[&Operation], steps: u64) -> Verdict {
    let intervals = intervals(operations);
    let found = match kind(operations) {
        Kind::File => Search::new(&File::of(&intervals), &intervals).run(steps),
        Kind::Counter => Search::new(&Counter::of(&intervals), &intervals).run(steps),
        Kind::Both => Ok(None),
    };
    match found {
        Ok(Some(order)) => Verdict::Linearizable(order),
        Ok(None) => Verdict::Violation,
        Err(OutOfSteps) => Verdict::Undecided,
    }
}

/// Where operations on one key, which are a violation, have no order any more: text of several lines. It takes about as
/// many searches as their number has binary digits, each with at most `steps`.
#[must_use]
pub fn explain_key(operations: &[&Operation], steps: u64) -> String {
    let intervals = intervals(operations);
    match kind(operations) {
        Kind::File => explain::violation(&File::of(&intervals), operations, &intervals, steps),
        Kind::Counter => explain::violation(&Counter::of(&intervals), operations, &intervals, steps),
        Kind::Both => "the history calls it a file and a counter; the workload must keep to one".to_owned(),
    }
}

enum Kind {
    File,
    Counter,
    Both,
}

fn kind(operations: &[&Operation]) -> Kind {
    match operations.iter().filter(|operation| operation.call.of_counter()).count() {
        0 => Kind::File,
        counters if counters == operations.len() => Kind::Counter,
        _ => Kind::Both,
    }
}

/// Those operations that can have a place in an order, numbered as they come.
fn intervals(operations: &[&Operation]) -> Vec<Interval> {
    let read = contents_read(operations);
    let numbered = operations.iter().enumerate();
    numbered.filter_map(|(number, operation)| interval(number, operation, &read)).collect()
}

fn interval(number: usize, operation: &Operation, read: &HashSet<&Contents>) -> Option<Interval> {
    let (returned, answer) = match &operation.outcome {
        Outcome::Answered(answer) => (Some(operation.returned.unwrap_or(u64::MAX)), Some(answer.clone())),
        Outcome::Unknown { .. } if !operation.call.only_reads() => (None, None),
        Outcome::Unknown { .. } | Outcome::NotDone { .. } => return None,
    };
    let call = match &operation.call {
        // Nobody can tell contents apart that were never read. Taking them for the same makes far fewer positions.
        Call::Set { contents, if_generation } if !read.contains(contents) => {
            Call::Set { contents: Contents::never_read(), if_generation: *if_generation }
        }
        call => call.clone(),
    };
    Some(Interval { invoked: operation.invoked, returned, call, answer, number })
}

fn contents_read<'a>(operations: &[&'a Operation]) -> HashSet<&'a Contents> {
    let read = operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Answered(Answer::Contents { contents, .. }) => Some(contents),
        _ => None,
    });
    read.collect()
}
