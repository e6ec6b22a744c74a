//! Where a history that is not linearizable breaks, in as few operations as tell it.
//!
//! Operations are taken for optional, with the answers they got, if they returned after a moment T. What has an order for a
//! late T has one for every earlier T: the same, up to the last operation that returned by then. So there is a first return
//! that no order explains, and halving finds it. The text shows that operation, the end of an order that explains all before
//! it, and what was under way meanwhile.

use std::fmt::Write;

use super::search::{Interval, Model, OutOfSteps, Search};
use crate::history::{Answer, Call, Operation, Outcome};

/// Steps shown of the order before the window opens: they say how the state came about.
const STEPS_BEFORE: usize = 3;

/// The most operations shown of each sort.
const MOST_SHOWN: usize = 24;

/// The first answer that no order explains, and why, as text of several lines. There must be such an answer.
pub(super) fn violation<M: Model>(
    model: &M,
    operations: &[&Operation],
    intervals: &[Interval],
    steps: u64,
) -> String {
    let mut returns: Vec<u64> = intervals.iter().filter_map(|interval| interval.returned).collect();
    returns.sort_unstable();
    returns.dedup();
    let unexplained = first_unexplained(model, intervals, &returns, steps);
    let (until, before) = (returns[unexplained], unexplained.checked_sub(1).map(|place| returns[place]));
    let culprits: Vec<usize> = intervals
        .iter()
        .filter(|interval| interval.returned == Some(until))
        .map(|interval| interval.number)
        .collect();
    let explained = Search::new(model, &until_only(intervals, before)).run(steps);
    Window { model, operations, intervals, culprits, until, order: explained.ok().flatten() }.text()
}

/// The place of the first return up to which there is no order. Where the steps don't suffice to tell, a later one is found.
fn first_unexplained<M: Model>(model: &M, intervals: &[Interval], returns: &[u64], steps: u64) -> usize {
    let (mut explained, mut unexplained) = (0, returns.len() - 1);
    while explained < unexplained {
        let middle = usize::midpoint(explained, unexplained);
        match Search::new(model, &until_only(intervals, Some(returns[middle]))).run(steps) {
            Ok(None) => unexplained = middle,
            Ok(Some(_)) | Err(OutOfSteps) => explained = middle + 1,
        }
    }
    unexplained
}

/// The operations called until a moment; those that returned later are optional. `None`: before everything.
fn until_only(intervals: &[Interval], until: Option<u64>) -> Vec<Interval> {
    let until_then = intervals.iter().filter(|interval| until.is_some_and(|until| interval.invoked <= until));
    let mut kept: Vec<Interval> = until_then.cloned().collect();
    for interval in &mut kept {
        interval.returned = interval.returned.filter(|returned| Some(*returned) <= until);
    }
    kept
}

struct Window<'a, M> {
    model: &'a M,
    operations: &'a [&'a Operation],
    /// By their numbers.
    intervals: &'a [Interval],
    /// The operations that returned when it broke; nearly always one.
    culprits: Vec<usize>,
    until: u64,
    /// Of everything before, if one was found.
    order: Option<Vec<usize>>,
}

impl<M: Model> Window<'_, M> {
    fn text(&self) -> String {
        let culprit = self.operations[self.culprits[0]];
        let mut text = format!("no order explains what client {} was told:", culprit.client);
        for number in &self.culprits {
            let _ = write!(text, "\n    {}", self.operations[*number]);
            text.extend(origin(self.operations, self.operations[*number]));
        }
        let opened = culprit.invoked;
        match &self.order {
            Some(order) => self.tell_order(&mut text, order, opened),
            None => text.push_str("\n  how the state before it came about took too many steps to find"),
        }
        let shown = self.order.as_deref().unwrap_or_default();
        let beside = |number: &usize| !shown.contains(number) && !self.culprits.contains(number);
        let of = |interval: &&Interval| interval.invoked <= self.until && beside(&interval.number);
        let (unknown, under_way): (Vec<_>, Vec<_>) =
            self.intervals.iter().filter(of).partition(|interval| interval.answer.is_none());
        let under_way: Vec<_> =
            under_way.into_iter().filter(|interval| interval.returned >= Some(opened)).collect();
        self.tell(&mut text, "and these, under way then, don't help in any place:", &under_way);
        self.tell(&mut text, "nor do these, of which nobody knows whether they were done:", &unknown);
        text
    }

    fn tell_order(&self, text: &mut String, order: &[usize], opened: u64) {
        let overlaps = |number: &usize| self.operations[*number].returned.is_some_and(|end| end >= opened);
        let opens = order.iter().position(overlaps).unwrap_or(order.len());
        // One slow operation can lie far back; what counts is the end.
        let first = opens.saturating_sub(STEPS_BEFORE).max(order.len().saturating_sub(MOST_SHOWN));
        text.push_str("\n  what was answered before it has this order, with the state after each:");
        if first > 0 {
            let _ = write!(text, "\n    … {first} earlier");
        }
        let mut state = self.model.initial();
        for (place, number) in order.iter().enumerate() {
            let interval = self.intervals.binary_search_by_key(number, |interval| interval.number).ok();
            let after = interval.and_then(|interval| {
                let Interval { call, answer, .. } = &self.intervals[interval];
                self.model.step(&state, call, answer.as_ref())
            });
            state = after.unwrap_or(state);
            if place >= first {
                let _ =
                    write!(text, "\n    {}   ⇒ {}", self.operations[*number], self.model.describe(&state));
            }
        }
        if order.is_empty() {
            let _ = write!(text, "\n    nothing yet   ⇒ {}", self.model.describe(&state));
        }
    }

    fn tell(&self, text: &mut String, what: &str, intervals: &[&Interval]) {
        if intervals.is_empty() {
            return;
        }
        let _ = write!(text, "\n  {what}");
        for interval in intervals.iter().take(MOST_SHOWN) {
            let _ = write!(text, "\n    {}", self.operations[interval.number]);
        }
        if intervals.len() > MOST_SHOWN {
            let _ = write!(text, "\n    … {} more", intervals.len() - MOST_SHOWN);
        }
    }
}

/// Where contents that were read come from.
fn origin(operations: &[&Operation], told: &Operation) -> Option<String> {
    let Outcome::Answered(Answer::Contents { contents, .. }) = &told.outcome else {
        return None;
    };
    let wrote = |operation: &&&Operation| matches!(&operation.call, Call::Set { contents: set, .. } if set == contents);
    Some(match operations.iter().find(wrote) {
        Some(write) => format!("\n      (which was written by: {write})"),
        None => "\n      (which nobody ever wrote)".to_owned(),
    })
}
