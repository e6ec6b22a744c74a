//! Exactly-once: what was lost or doubled is said, and unknown increments excuse no more than themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramah_sim::check::Report;
use bramah_sim::check::exactly_once;
use bramah_sim::history::Call;

use crate::story::*;

const ADD: Call = Call::Add { delta: 1 };

fn judge(story: Story, found: impl Into<Option<i64>>) -> Report {
    let finals: BTreeMap<Arc<str>, i64> =
        found.into().map(|found| ("/n".into(), found)).into_iter().collect();
    exactly_once::check(&story.history(), &finals)
}

#[track_caller]
fn finds(report: Report, says: &[&str]) {
    assert_eq!(report.anomalies.len(), says.len(), "{report}");
    for says in says {
        assert!(report.anomalies.iter().any(|anomaly| anomaly.contains(says)), "{says} is not in {report}");
    }
}

fn two() -> Story {
    Story::new().then(1, (0, 10), "/n", ADD, value(1)).then(2, (20, 30), "/n", ADD, value(2))
}

#[test]
fn all_is_well() {
    finds(judge(two(), 2), &[]);
    let some_unknown = || two().then(1, (40, 50), "/n", Call::Add { delta: 5 }, unknown());
    for found in [2, 7] {
        finds(judge(some_unknown(), found), &[]);
    }
    finds(judge(some_unknown().then(2, (60, 70), "/n", ADD, value(8)), 8), &[]);
    assert_eq!(judge(some_unknown(), 2).checked, 3);
    finds(judge(Story::new().then(1, (0, 10), "/n", ADD, not_done()), None), &[]);
}

#[test]
fn an_acknowledged_increment_is_lost() {
    finds(judge(two(), 1), &["1 was lost: its final value is 1", "more than its final value 1 once"]);
    finds(judge(two(), None), &["has no final value"]);
    let same = two().then(3, (20, 31), "/n", ADD, value(2));
    finds(judge(same, 2), &["1 was lost", "one of two was lost, as both were told that they led to 2"]);
}

#[test]
fn an_increment_is_doubled() {
    finds(judge(two(), 3), &["1 was added too often: its final value is 3"]);
    let jump = two().then(1, (40, 50), "/n", ADD, value(4));
    finds(judge(jump, 4), &["1 was added too often", "1 was added twice, or by nobody: it went from 2 to 3"]);
}

/// One unknown increment may explain one doubled value, and not a second.
#[test]
fn unknown_increments_excuse_no_more_than_themselves() {
    let story = || two().then(3, (0, 10), "/n", ADD, unknown()).then(1, (40, 50), "/n", ADD, value(4));
    finds(judge(story(), 4), &[]);
    finds(judge(story(), 5), &["1 was added too often"]);
    finds(
        judge(story().then(1, (60, 70), "/n", ADD, value(6)), 6),
        &["too often", "from 4 to 5 by 0 at most"],
    );
    let not_done = two().then(3, (0, 10), "/n", ADD, not_done());
    finds(judge(not_done, 3), &["1 was added too often"]);
}

#[test]
fn a_client_sees_it_go_back() {
    let story =
        two().then(2, (40, 50), "/n", Call::Read, value(1)).then(1, (35, 60), "/n", Call::Read, value(2));
    finds(judge(story, 2), &["a client saw it go back"]);
    // Two calls of one client at a time may come back in any order.
    finds(judge(two().then(2, (25, 50), "/n", Call::Read, value(1)), 2), &[]);
}

#[test]
fn what_is_taken_away_is_judged_by_the_total() {
    let story = || two().then(1, (40, 50), "/n", Call::Add { delta: -2 }, value(0));
    finds(judge(story(), 0), &[]);
    finds(judge(story(), 1), &["1 was added too often"]);
    let unknown = || story().then(1, (60, 70), "/n", Call::Add { delta: -3 }, unknown());
    finds(judge(unknown(), -3), &[]);
    finds(judge(unknown(), -4), &["1 was lost"]);
}
