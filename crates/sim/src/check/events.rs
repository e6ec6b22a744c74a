//! Events: each watcher sees the changes in their order, from the first it sees to the last all of them, each once, and none
//! before it can be read (spec E-1 to E-3).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Report;
use crate::history::{Answer, History, Outcome};

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
    /// The revision of the state when it began: it must be told every change after it. `None`: nobody looked, and it is
    /// judged from the first change it was told.
    pub after: Option<u64>,
    /// The revision of the state when it was last seen to be up to date: it must have been told all until then. `None`:
    /// it is judged to the last change it was told.
    pub until: Option<u64>,
    /// What it was told, in the sequence in which that came.
    pub seen: Vec<Seen>,
}

/// What any watcher was told, by revision, and all that must have been there besides, though nobody was told: what clients know
/// to have been done, and revisions that the cell counted on from, for each is a change.
pub fn all_changes(
    told: &BTreeMap<u64, Vec<Change>>,
    history: &History,
    watchers: &[Watcher],
) -> Vec<Change> {
    let mut changes = told.clone();
    for operation in &history.operations {
        let Outcome::Answered(Answer::Written { revision, .. } | Answer::Deleted { revision }) =
            operation.outcome
        else {
            continue;
        };
        let known = changes.entry(revision).or_default();
        if !known.iter().any(|change| change.path == operation.key) {
            let what = "changed, as a client was told".to_owned();
            known.push(Change { revision, path: Arc::clone(&operation.key), what });
        }
    }
    let newest = watchers.iter().filter_map(|watcher| watcher.until.max(watcher.after)).max();
    let newest = newest.max(changes.keys().next_back().copied()).unwrap_or(0);
    for revision in 1..=newest {
        let unknown =
            || vec![Change { revision, path: "/".into(), what: "or something below changed".to_owned() }];
        changes.entry(revision).or_insert_with(unknown);
    }
    changes.into_values().flatten().collect()
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
    let end = if first == usize::MAX { 0 } else { furthest + 1 };
    let place_after = |revision| watched.partition_point(|change| change.revision <= revision);
    let begin = watcher.after.map_or(first, |after| first.min(place_after(after)));
    let end = watcher.until.map_or(end, |until| end.max(place_after(until)));
    if begin < end {
        judge_gaps(&watched[begin..end], &told_before[begin..end], name, report);
    }
}

/// One anomaly for each stretch that is missing.
fn judge_gaps(watched: &[&Change], told_before: &[bool], name: &str, report: &mut Report) {
    let mut place = 0;
    for stretch in told_before.chunk_by(|one, other| one == other) {
        if !stretch[0] {
            let (from, to) = (told(watched[place]), told(watched[place + stretch.len() - 1]));
            report.anomaly(|| match stretch.len() {
                1 if place == 0 || place + 1 == watched.len() => {
                    format!("{name} was never told {from}, though it watched then")
                }
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
