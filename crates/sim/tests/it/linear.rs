//! Linearizability by hand: what is right is accepted, what is wrong is refused, and the text says where.

use bramah_sim::check::linear::{self, STEPS};
use bramah_sim::history::{Call, History, Refusal};

use crate::story::*;

const ADD: Call = Call::Add { delta: 1 };

#[track_caller]
fn accepted(story: Story) {
    let report = linear::check(&story.history(), STEPS);
    assert!(report.is_clean() && report.checked > 0, "{report}");
}

#[track_caller]
fn refused_with(story: Story, says: &str) {
    let report = linear::check(&story.history(), STEPS);
    assert_eq!(report.undecided, [""; 0]);
    assert_eq!(report.anomalies.len(), 1, "{report}");
    assert!(report.anomalies[0].contains(says), "{report}");
}

fn written_twice() -> Story {
    Story::new().then(1, (0, 10), "/f", Call::set("a"), written(1)).then(
        1,
        (20, 30),
        "/f",
        Call::set("b"),
        written(2),
    )
}

#[test]
fn a_life_of_a_file() {
    let differing = written_twice()
        .then(2, (40, 50), "/f", Call::Get, contents("b", 2))
        .then(2, (60, 70), "/f", Call::set_if("c", 2), written(3))
        .then(2, (80, 90), "/f", Call::set_if("d", 2), differs(3))
        .then(2, (100, 110), "/f", Call::create("d"), differs(3))
        .then(2, (120, 130), "/f", Call::create("d"), refused(Refusal::Exists))
        .then(2, (140, 150), "/f", Call::Delete { if_generation: Some(2) }, differs(3))
        .then(2, (160, 170), "/f", Call::Delete { if_generation: Some(3) }, deleted(4))
        .then(2, (180, 190), "/f", Call::Delete { if_generation: None }, refused(Refusal::NotFound))
        .then(2, (200, 210), "/f", Call::Get, refused(Refusal::NotFound))
        .then(2, (220, 230), "/f", Call::set_if("d", 3), differs(0))
        .then(2, (240, 250), "/f", Call::create("e"), at(5, written(1)));
    accepted(differing);
}

#[test]
fn a_life_of_a_counter() {
    let story = Story::new()
        .then(1, (0, 10), "/n", Call::Read, refused(Refusal::NotFound))
        .then(1, (20, 30), "/n", Call::Add { delta: i64::MAX }, value(i64::MAX))
        .then(1, (40, 50), "/n", ADD, refused(Refusal::OutOfRange { current: Some(i64::MAX) }))
        .then(1, (60, 70), "/n", Call::Add { delta: -2 }, value(i64::MAX - 2))
        .then(1, (80, 90), "/n", Call::Read, value(i64::MAX - 2));
    accepted(story);
}

#[test]
fn a_stale_read() {
    refused_with(
        written_twice().then(2, (40, 50), "/f", Call::Get, contents("a", 1)),
        "no order explains what client 2 was told",
    );
    // While the write is under way, either is right; at the same nanosecond too.
    accepted(written_twice().then(2, (25, 50), "/f", Call::Get, contents("a", 1)));
    accepted(written_twice().then(2, (30, 50), "/f", Call::Get, contents("a", 1)));
}

#[test]
fn reads_that_go_back() {
    let story = written_twice().then(2, (21, 24), "/f", Call::Get, contents("b", 2)).then(
        3,
        (25, 28),
        "/f",
        Call::Get,
        contents("a", 1),
    );
    refused_with(story, "client 3 was told");
}

#[test]
fn contents_that_nobody_wrote() {
    refused_with(
        written_twice().then(2, (40, 50), "/f", Call::Get, contents("z", 2)),
        "which nobody ever wrote",
    );
    refused_with(written_twice().then(2, (40, 50), "/f", Call::Get, contents("b", 3)), "client 2");
}

#[test]
fn a_lost_update() {
    let read = |story: Story, client, times| story.then(client, times, "/f", Call::Get, contents("a", 1));
    let story = Story::new().then(0, (0, 10), "/f", Call::create("a"), written(1));
    let story = read(read(story, 1, (20, 30)), 2, (20, 31))
        .then(1, (40, 50), "/f", Call::set_if("b", 1), written(2))
        .then(2, (40, 51), "/f", Call::set_if("c", 1), written(2));
    refused_with(story, "set \"c\" if generation 1");
}

#[test]
fn an_answered_write_that_is_gone() {
    let story = written_twice().then(2, (40, 50), "/f", Call::Get, refused(Refusal::NotFound));
    refused_with(story, "refused: not found");
}

/// What was certainly not done explains nothing: neither a value that is read nor one that is lost.
#[test]
fn not_done_is_not_done() {
    let story = |outcome| {
        Story::new()
            .then(1, (0, 10), "/f", Call::set("a"), written(1))
            .then(2, (20, 30), "/f", Call::set("b"), outcome)
            .then(3, (40, 50), "/f", Call::Get, contents("b", 2))
    };
    refused_with(story(not_done()), "client 3");
    accepted(story(unknown()));
    let lost = Story::new()
        .then(1, (0, 10), "/f", Call::set("a"), written(1))
        .then(2, (20, 30), "/f", Call::Delete { if_generation: None }, not_done())
        .then(3, (40, 50), "/f", Call::Get, refused(Refusal::NotFound));
    refused_with(lost, "client 3");
}

/// An unknown write may be done long after its client gave up, but not before it began, nor twice.
#[test]
fn an_unknown_write_is_done_at_most_once_and_not_early() {
    let late = Story::new()
        .then(1, (0, 10), "/n", ADD, unknown())
        .then(2, (20, 30), "/n", Call::Read, refused(Refusal::NotFound))
        .then(2, (40, 50), "/n", ADD, value(2));
    accepted(late);
    let twice = Story::new()
        .then(1, (0, 10), "/n", ADD, unknown())
        .then(2, (20, 30), "/n", ADD, value(2))
        .then(2, (40, 50), "/n", ADD, value(4));
    refused_with(twice, "add 1 → value 4");
    let early =
        Story::new().then(2, (0, 10), "/n", Call::Read, value(1)).then(1, (20, 30), "/n", ADD, unknown());
    refused_with(early, "read → value 1");
}

#[test]
fn a_doubled_increment() {
    let story = Story::new().then(1, (0, 10), "/n", ADD, value(1)).then(1, (20, 30), "/n", ADD, value(3));
    refused_with(story, "add 1 → value 3");
}

/// Two changes of a cell have two revisions, the later one the greater; and a read tells that of the change it read.
#[test]
fn revisions_that_go_back() {
    let first = || Story::new().then(1, (0, 10), "/f", Call::set("a"), at(7, written(1)));
    let second = |revision| first().then(1, (20, 30), "/f", Call::set("b"), at(revision, written(2)));
    accepted(second(8).then(2, (40, 50), "/f", Call::Get, at(8, contents("b", 2))));
    refused_with(second(7), "revision 7");
    refused_with(second(6), "revision 6");
    refused_with(second(8).then(2, (40, 50), "/f", Call::Get, at(9, contents("b", 2))), "revision 9");
    let deleted = |revision| {
        first().then(1, (20, 30), "/f", Call::Delete { if_generation: None }, deleted(8)).then(
            1,
            (40, 50),
            "/f",
            Call::create("b"),
            at(revision, written(1)),
        )
    };
    accepted(deleted(9));
    refused_with(deleted(8), "created, generation 1, revision 8");
    // What nobody was told has a revision all the same, and there must be room for it.
    let unknown = |revision| {
        first().then(1, (20, 30), "/f", Call::set("b"), unknown()).then(
            2,
            (40, 50),
            "/f",
            Call::set("c"),
            at(revision, written(3)),
        )
    };
    accepted(unknown(9));
    refused_with(unknown(8), "generation 3, revision 8");
}

#[test]
fn a_refusal_that_no_state_accounts_for() {
    let error = Refusal::Unexpected { error: "/f is a directory".to_owned() };
    refused_with(written_twice().then(2, (40, 50), "/f", Call::Get, refused(error)), "is a directory");
    let differs_without_need = written_twice().then(2, (40, 50), "/f", Call::set_if("c", 2), differs(2));
    refused_with(differs_without_need, "the generation is 2");
}

#[test]
fn a_key_of_two_kinds() {
    refused_with(written_twice().then(2, (40, 50), "/f", ADD, value(1)), "a file and a counter");
}

#[test]
fn keys_are_judged_alone() {
    let story = written_twice().then(1, (40, 50), "/g", Call::create("a"), written(1)).then(
        1,
        (60, 70),
        "/h",
        ADD,
        value(7),
    );
    let report = linear::check(&story.history(), STEPS);
    assert_eq!((report.checked, report.anomalies.len()), (4, 1), "{report}");
    assert!(report.anomalies[0].starts_with("/h is not linearizable"), "{report}");
}

/// The text has the culprit, what led to it, what was under way; and not the hundreds of operations elsewhere.
#[test]
fn the_text_shows_the_window_and_no_more() {
    let mut story = Story::new();
    for generation in 1..=500 {
        let times = (generation * 100, generation * 100 + 10);
        let contents = format!("v{generation}");
        story = story.then(1, times, "/f", Call::set(contents.as_str()), written(generation));
    }
    let story = story.then(2, (25_050, 25_070), "/f", Call::Get, contents("v249", 249)).then(
        3,
        (25_060, 25_080),
        "/f",
        Call::set("u"),
        unknown(),
    );
    let report = linear::check(&story.history(), STEPS);
    let text = &report.anomalies[0];
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "/f is not linearizable: no order explains what client 2 was told:",
            "    [0.000025050 … 0.000025070] client 2: get → \"v249\", generation 249, revision 249",
            "      (which was written by: [0.000024900 … 0.000024910] client 1: set \"v249\" → written, generation 249, revision 249)",
            "  what was answered before it has this order, with the state after each:",
            "    … 247 earlier",
            "    [0.000024800 … 0.000024810] client 1: set \"v248\" → written, generation 248, revision 248   ⇒ \"never read by anyone\", generation 248, revision 248",
            "    [0.000024900 … 0.000024910] client 1: set \"v249\" → written, generation 249, revision 249   ⇒ \"v249\", generation 249, revision 249",
            "    [0.000025000 … 0.000025010] client 1: set \"v250\" → written, generation 250, revision 250   ⇒ \"never read by anyone\", generation 250, revision 250",
            "  nor do these, of which nobody knows whether they were done:",
            "    [0.000025060 … 0.000025080] client 3: set \"u\" → unknown ()",
        ]
    );
}

/// A search that may not take enough steps says so, and never guesses.
#[test]
fn a_search_out_of_steps_is_undecided() {
    let history = written_twice().then(2, (40, 50), "/f", Call::Get, contents("a", 1)).history();
    let report = linear::check(&history, 1);
    assert!(report.anomalies.is_empty() && report.undecided.len() == 1, "{report}");
    assert!(!report.is_clean());
    assert!(linear::check(&History::default(), 0).is_clean());
}
