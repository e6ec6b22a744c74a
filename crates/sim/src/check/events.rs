//! Events: each watcher sees the changes in their order, from the first it sees to the last all of them, each once, and none
//! before it can be read (spec E-1 to E-3).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Report;

/// A change of a node, as the cell made it and as a watcher is told of it. A change of several nodes at once is several
/// of these, with one revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The cell's revision of it.
    pub revision: u64,
    /// The node.
    pub path: Arc<str>,
    /// What happened to it: any text that is the same wherever the change is told.
    pub what: String,
}

/// An event that a watcher was told.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it was told.
    pub change: Change,
    /// The revision of the state that it then read at the same replica, if it did.
    pub state_revision: Option<u64>,
}

/// What one watcher was told without a break. One that was told that it missed something, or turned to another replica
/// and did not go on from where it was, begins anew: as another watcher.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// For people.
    pub name: String,
    /// It watches this node and all below; `/`: all.
    pub under: Arc<str>,
    /// What it was told, in the sequence in which that came.
    pub seen: Vec<Seen>,
}

/// Judges watchers against all changes of the cell, in the order in which they were applied.
///
/// A list that can't be one is an anomaly itself: revisions in it that go back, or the same change twice.
pub fn check(changes: &[Change], watchers: &[Watcher]) -> Report {
    let mut report = Report::new("events in order, each once, none early");
    judge_list(changes, &mut report);
    for watcher in watchers {
        report.checked += watcher.seen.len() as u64;
        judge_watcher(changes, watcher, &mut report);
    }
    report
}

fn judge_list(changes: &[Change], report: &mut Report) {
    for pair in changes.windows(2).filter(|pair| pair[0].revision > pair[1].revision) {
        report.anomaly(|| {
            format!("the list of changes goes back from {} to {}", told(&pair[0]), told(&pair[1]))
        });
    }
    let mut known = BTreeSet::new();
    for change in changes {
        if !known.insert((change.revision, &change.path, &change.what)) {
            report.anomaly(|| format!("the list of changes has {} twice", told(change)));
        }
    }
}

fn judge_watcher(changes: &[Change], watcher: &Watcher, report: &mut Report) {
    let watched: Vec<&Change> =
        changes.iter().filter(|change| is_under(&change.path, &watcher.under)).collect();
    let places: HashMap<&Change, usize> =
        watched.iter().enumerate().map(|(place, change)| (*change, place)).collect();
    let mut told_before = vec![false; watched.len()];
    let (mut first, mut furthest) = (usize::MAX, 0);
    let name = &watcher.name;
    for seen in &watcher.seen {
        let event = told(&seen.change);
        if let Some(state) = seen.state_revision.filter(|state| *state < seen.change.revision) {
            report.anomaly(|| {
                format!("{name} was told {event} early: the state it then read was of revision {state}")
            });
        }
        let Some(place) = places.get(&seen.change).copied() else {
            report.anomaly(|| {
                format!("{name} was told {event}, which never took place under {}", watcher.under)
            });
            continue;
        };
        if told_before[place] {
            report.anomaly(|| format!("{name} was told {event} twice"));
        } else if first != usize::MAX && place < furthest {
            report.anomaly(|| {
                format!("{name} was told {event} after {}, which came later", told(watched[furthest]))
            });
        }
        told_before[place] = true;
        (first, furthest) = (first.min(place), furthest.max(place));
    }
    if first != usize::MAX {
        judge_gaps(&watched[first..=furthest], &told_before[first..=furthest], name, report);
    }
}

/// One anomaly for each stretch that is missing.
fn judge_gaps(watched: &[&Change], told_before: &[bool], name: &str, report: &mut Report) {
    let mut place = 0;
    for stretch in told_before.chunk_by(|one, other| one == other) {
        if !stretch[0] {
            let (from, to) = (told(watched[place]), told(watched[place + stretch.len() - 1]));
            report.anomaly(|| match stretch.len() {
                1 => format!("{name} was never told {from}, though it was told what came before and after"),
                missing => format!("{name} was never told {missing} changes, from {from} to {to}"),
            });
        }
        place += stretch.len();
    }
}

fn is_under(path: &str, under: &str) -> bool {
    let under = under.trim_end_matches('/');
    path.strip_prefix(under).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn told(change: &Change) -> String {
    let Change { revision, path, what } = change;
    format!("\"{path} {what}\" of revision {revision}")
}
