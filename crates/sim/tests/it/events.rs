//! Events: order, gaps, copies, and what comes too early.

use std::collections::BTreeMap;

use bramah_sim::check::Report;
use bramah_sim::check::events::{Change, Seen, Watcher, all_changes, check};
use bramah_sim::history::{Answer, Call, History, Outcome, Recorder};

/// Revision 4 made two nodes at once.
fn changes() -> Vec<Change> {
    let nodes = [(1, "/a"), (2, "/b"), (3, "/a/x"), (4, "/c"), (4, "/c/d"), (5, "/ab"), (6, "/a/x")];
    nodes.iter().map(|(revision, path)| change(*revision, path)).collect()
}

fn change(revision: u64, path: &str) -> Change {
    Change { revision, path: path.into(), what: "changed".to_owned() }
}

fn told(changes: &[Change]) -> Vec<Seen> {
    let seen = |change: &Change| Seen { change: change.clone(), state_revision: Some(change.revision) };
    changes.iter().map(seen).collect()
}

fn judge(under: &str, seen: Vec<Seen>) -> Report {
    check(
        &changes(),
        &[Watcher { name: "w".to_owned(), under: under.into(), after: None, until: None, seen }],
    )
}

#[track_caller]
fn finds(report: &Report, says: &[&str]) {
    assert_eq!(report.anomalies, says);
}

#[test]
fn a_stretch_of_all_changes_is_well() {
    for (from, to) in [(0, 7), (2, 5), (3, 3), (4, 7)] {
        let report = judge("/", told(&changes()[from..to]));
        assert!(report.is_clean() && report.checked == (to - from) as u64, "{report}");
    }
    let mut below = changes();
    below.retain(|change| change.path.starts_with("/a") && &*change.path != "/ab");
    assert!(judge("/a", told(&below)).is_clean());
}

#[test]
fn a_gap() {
    let mut one = changes();
    one.remove(3);
    finds(
        &judge("/", told(&one)),
        &["w was never told \"/c changed\" of revision 4, though it was told what came before and after"],
    );
    let mut more = changes();
    more.drain(2..5);
    let range = "from \"/a/x changed\" of revision 3 to \"/c/d changed\" of revision 4";
    finds(&judge("/", told(&more)), &[&format!("w was never told 3 changes, {range}")]);
}

#[test]
fn a_copy() {
    let mut copy = changes();
    copy.insert(5, copy[2].clone());
    finds(&judge("/", told(&copy)), &["w was told \"/a/x changed\" of revision 3 twice"]);
}

#[test]
fn another_order() {
    let mut swapped = changes();
    swapped.swap(3, 4);
    finds(
        &judge("/", told(&swapped)),
        &["w was told \"/c changed\" of revision 4 after \"/c/d changed\" of revision 4, which came later"],
    );
}

#[test]
fn an_early_event() {
    let mut seen = told(&changes());
    seen[2].state_revision = Some(2);
    seen[3].state_revision = Some(9);
    seen[4].state_revision = None;
    finds(
        &judge("/", seen),
        &["w was told \"/a/x changed\" of revision 3 early: the state it then read was of revision 2"],
    );
}

#[test]
fn an_event_of_no_change() {
    let mut seen = told(&changes());
    seen.push(Seen { change: change(7, "/a"), state_revision: None });
    finds(&judge("/", seen), &["w was told \"/a changed\" of revision 7, which never took place under /"]);
    let elsewhere = told(&changes()[5..6]);
    assert_eq!(judge("/a", elsewhere).anomalies.len(), 1);
}

#[test]
fn a_list_that_is_none() {
    let mut list = changes();
    list.swap(0, 1);
    list.push(change(6, "/a/x"));
    finds(
        &check(&list, &[]),
        &[
            "the list of changes goes back from \"/b changed\" of revision 2 to \"/a changed\" of revision 1",
            "the list of changes has \"/a/x changed\" of revision 6 twice",
        ],
    );
}

fn judge_from(after: u64, until: Option<u64>, seen: Vec<Seen>) -> Report {
    let after = Some(after);
    check(&changes(), &[Watcher { name: "w".to_owned(), under: "/".into(), after, until, seen }])
}

/// What a watcher misses before the first or after the last change that it was told.
#[test]
fn a_gap_at_the_beginning_or_the_end() {
    for (after, until, from, to) in
        [(0, Some(6), 0, 7), (3, None, 3, 5), (4, Some(5), 5, 6), (6, Some(6), 7, 7)]
    {
        assert!(judge_from(after, until, told(&changes()[from..to])).is_clean());
    }
    // Nobody knows how far it had come.
    assert!(judge_from(0, None, Vec::new()).is_clean());
    let first = "w was never told \"/a changed\" of revision 1, though it watched then";
    finds(&judge_from(0, None, told(&changes()[1..])), &[first]);
    let last = "w was never told \"/a/x changed\" of revision 6, though it watched then";
    finds(&judge_from(0, Some(6), told(&changes()[..6])), &[last]);
    finds(&judge_from(5, Some(6), Vec::new()), &[last]);
}

/// What no watcher was told is known from the clients, or from the revisions that were counted on.
#[test]
fn a_change_that_nobody_was_told() {
    let recorder = Recorder::monotonic();
    let deleted = recorder.begin(1, "/b", Call::Delete { if_generation: None });
    recorder.end(deleted, Outcome::Answered(Answer::Deleted { revision: 2 }));
    let seen = [changes()[0].clone(), changes()[6].clone()];
    let mut known: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
    seen.iter().for_each(|change| known.entry(change.revision).or_default().push(change.clone()));
    let watcher =
        Watcher { name: "w".to_owned(), under: "/".into(), after: Some(0), until: None, seen: told(&seen) };
    let all = all_changes(&known, &recorder.history(), std::slice::from_ref(&watcher));
    assert_eq!(all.iter().map(|change| change.revision).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(&*all[1].path, "/b");
    let report = check(&all, &[watcher]);
    assert_eq!(report.anomalies.len(), 1, "{report}");
    assert!(report.anomalies[0].starts_with("w was never told 4 changes, from \"/b changed"), "{report}");
    // A client that was told what the watchers were told adds nothing.
    let known = BTreeMap::from([(2, vec![change(2, "/b")])]);
    let all = all_changes(&known, &recorder.history(), &[]);
    assert_eq!(all.iter().filter(|change| change.revision == 2).count(), 1);
    assert!(all_changes(&BTreeMap::new(), &History::default(), &[]).is_empty());
}
