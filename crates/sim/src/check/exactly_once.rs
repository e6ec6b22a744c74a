//! Exactly-once: each increment that was acknowledged is in its counter once, and none is in it twice.
//!
//! Linearizability says so too. This says it at once for any length of history, needs no search, and says which increments
//! are missing or doubled and by how much; that part is for counters whose increments are all positive. For others only
//! the final total is judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Report;
use crate::history::{Answer, Call, History, Operation, Outcome};

/// Judges the counters of a history against the values they hold in the end: read when no operation is on its way
/// any more, not even an unknown one that could still arrive. A counter that was never made has no final value.
///
/// Every counter in the history needs its final value, unless no increment of it was acknowledged.
pub fn check(history: &History, finals: &BTreeMap<Arc<str>, i64>) -> Report {
    let mut report = Report::new("increments exactly once");
    for (key, operations) in history.by_key() {
        let increments = Increments::of(&operations);
        report.checked += increments.count;
        if increments.count == 0 {
            continue;
        }
        let mut findings = Vec::new();
        increments.judge_final(finals.get(key).copied(), &mut findings);
        if increments.only_grows {
            increments.judge_values(finals.get(key).copied(), &mut findings);
            judge_clients(&operations, &mut findings);
        }
        for finding in findings {
            report.anomaly(|| format!("{key}: {finding}"));
        }
    }
    report
}

/// What was added to one counter.
struct Increments<'a> {
    count: u64,
    only_grows: bool,
    /// Those acknowledged: the value before and after, in the order of the latter.
    acknowledged: Vec<Step<'a>>,
    /// The sums of what may have been added and may have been taken away.
    unknown: (i128, i128),
}

/// An acknowledged increment: it takes the counter from one value to another.
#[derive(Clone, Copy)]
struct Step<'a> {
    before: i128,
    after: i128,
    operation: &'a Operation,
}

impl<'a> Increments<'a> {
    fn of(operations: &[&'a Operation]) -> Self {
        let mut increments = Self { count: 0, only_grows: true, acknowledged: Vec::new(), unknown: (0, 0) };
        for operation in operations {
            if let Call::Add { delta } = operation.call {
                increments.add(operation, delta.into());
            }
        }
        increments.acknowledged.sort_by_key(|step| step.after);
        increments
    }

    fn add(&mut self, operation: &'a Operation, delta: i128) {
        self.count += 1;
        match &operation.outcome {
            Outcome::Answered(Answer::Value { value }) => {
                let after = i128::from(*value);
                self.acknowledged.push(Step { before: after - delta, after, operation });
            }
            Outcome::Unknown { .. } if delta > 0 => self.unknown.0 += delta,
            Outcome::Unknown { .. } => self.unknown.1 += delta,
            Outcome::Answered(_) | Outcome::NotDone { .. } => return,
        }
        self.only_grows &= delta > 0;
    }

    fn judge_final(&self, found: Option<i64>, findings: &mut Vec<String>) {
        let sum: i128 = self.acknowledged.iter().map(|step| step.after - step.before).sum();
        let (least, most) = (sum + self.unknown.1, sum + self.unknown.0);
        let unknown = if self.unknown == (0, 0) {
            "nothing else can have been added".to_owned()
        } else {
            format!("what else may have been added is between {} and {}", self.unknown.1, self.unknown.0)
        };
        let Some(found) = found.map(i128::from) else {
            if !self.acknowledged.is_empty() {
                findings
                    .push(format!("increments of {sum} in all were acknowledged, but it has no final value"));
            }
            return;
        };
        let acknowledged =
            format!("its final value is {found}; increments of {sum} in all were acknowledged, {unknown}");
        if found < least {
            findings.push(format!("{} was lost: {acknowledged}", least - found));
        } else if found > most {
            findings.push(format!("{} was added too often: {acknowledged}", found - most));
        }
    }

    /// Each acknowledged increment has a stretch of the way from 0 to the final value to itself; what lies between the
    /// stretches must be from unknown ones.
    fn judge_values(&self, found: Option<i64>, findings: &mut Vec<String>) {
        let mut left = self.unknown.0;
        let mut last: Option<Step<'_>> = None;
        for step in &self.acknowledged {
            let reached = last.map_or(0, |last| last.after);
            if step.before < reached {
                findings.push(match last {
                    Some(last) => format!(
                        "one of two was lost, as both were told that they led to {}:\n    {}\n    {}",
                        step.after.min(last.after),
                        last.operation,
                        step.operation
                    ),
                    None => format!("it was below 0 before this:\n    {}", step.operation),
                });
            } else if step.before - reached > left {
                let between = step.before - reached;
                findings.push(format!(
                    "{} was added twice, or by nobody: it went from {reached} to {} by {left} at most before this:\n    {}",
                    between - left, step.before, step.operation
                ));
                left = 0;
            } else {
                left -= step.before - reached;
            }
            if found.is_some_and(|found| step.after > found.into()) {
                findings.push(format!(
                    "it was more than its final value {} once:\n    {}",
                    found.unwrap_or_default(),
                    step.operation
                ));
            }
            last = Some(*step);
        }
    }
}

/// What one client is told, in calls that follow each other, never goes back.
fn judge_clients(operations: &[&Operation], findings: &mut Vec<String>) {
    let mut clients: BTreeMap<u32, Vec<(&Operation, i64)>> = BTreeMap::new();
    for operation in operations {
        if let Outcome::Answered(Answer::Value { value }) = operation.outcome {
            clients.entry(operation.client).or_default().push((operation, value));
        }
    }
    for told in clients.into_values() {
        judge_client(told, findings);
    }
}

fn judge_client(mut told: Vec<(&Operation, i64)>, findings: &mut Vec<String>) {
    told.sort_by_key(|(operation, _)| operation.invoked);
    let mut by_return = told.clone();
    by_return.sort_by_key(|(operation, _)| operation.returned.unwrap_or(u64::MAX));
    let mut returned = by_return.into_iter().peekable();
    let mut highest: Option<(&Operation, i64)> = None;
    for (operation, value) in told {
        // A client may have several calls under way; only what it was told before this call counts.
        while let Some(before) =
            returned.next_if(|(before, _)| before.returned.is_some_and(|end| end < operation.invoked))
        {
            highest = highest.filter(|(_, highest)| *highest >= before.1).or(Some(before));
        }
        if let Some((before, highest)) = highest
            && value < highest + i64::from(!operation.call.only_reads())
        {
            findings.push(format!("a client saw it go back:\n    {before}\n    {operation}"));
        }
    }
}
