//! Errors planted in the disk, each of which the enumeration must find: else it proves nothing.

use bramah_cell::disk::imagined::{Kind, Operation};

use super::enumerate::{Enumerator, Share};
use super::replica::Lie;
use super::{SCRIPTS, known, report};

const SHARE: Share = Share { exhaustive: 16, samples: 4, depth: 0, recoveries: 0, seed: 1 };
/// Draws by chance of all that is tried, until an error is found.
const TRIES: u64 = 6;

fn is(operation: &Operation<'_>, name: &str) -> bool {
    operation.name() == name
}

fn is_write(operation: &Operation<'_>, thing: &str) -> bool {
    matches!(operation.kind, Kind::Write { .. }) && operation.thing() == thing
}

/// That of the mark of a repair is not among the syncs: all that counts of it is its name.
const PLANTED: &[(&str, Lie)] = &[
    ("appends are not synced", |operation, _| is(operation, "sync log segment")),
    ("what an unfinished write left is not cleared", |operation, _| {
        let Kind::Write { bytes, .. } = operation.kind else { return false };
        operation.thing() == "log segment" && bytes.iter().all(|byte| *byte == 0)
    }),
    ("a spare's first page is not synced before its name", |operation, _| is(operation, "sync spare")),
    ("the vote is not synced", |operation, _| is(operation, "sync control")),
    ("both copies of the vote are written before either is synced", |operation, last_offset| {
        is(operation, "sync control") && last_offset == 0
    }),
    ("the vote is written once only, in place", |operation, _| {
        is_write(operation, "control") && matches!(operation.kind, Kind::Write { offset: 4096, .. })
            || is(operation, "sync control")
    }),
    ("a new segment's name is not synced", |operation, _| is(operation, "sync folder log")),
    ("a snapshot gets its name before it is synced", |operation, _| {
        is(operation, "sync unfinished snapshot")
    }),
    ("a received snapshot gets its name before it is synced", |operation, _| {
        is(operation, "sync arriving snapshot")
    }),
    ("a snapshot's name is not synced before the older one goes", |operation, _| {
        is(operation, "sync folder snapshots")
    }),
    ("the identity is not synced before its name", |operation, _| is(operation, "sync identity")),
    ("the data folder is not synced", |operation, _| {
        operation.kind == Kind::SyncFolder && operation.path.ends_with("data")
    }),
    ("the folder above is not synced", |operation, _| {
        operation.kind == Kind::SyncFolder && operation.path.ends_with("replica")
    }),
];

/// The first script that finds it, with the crash points that it took.
fn finds(lie: Lie) -> Option<(&'static str, u64, String)> {
    let mut points = 0;
    // What is lost at a power cut is drawn by chance: another draw may show what one has not.
    let tries = (1..=TRIES).flat_map(|seed| SCRIPTS.iter().map(move |script| (seed, script)));
    for (seed, (name, script)) in tries {
        let mut enumerator = Enumerator::new(Share { seed, ..SHARE }, Some(lie));
        let found = enumerator.script(script, known(script));
        points += enumerator.counts.points;
        if let Err(error) = found {
            return Some((name, points, error));
        }
    }
    None
}

/// Spec G-1: each planted error is found.
#[test]
fn every_planted_error_is_found() {
    let mut missed = Vec::new();
    for (what, lie) in PLANTED {
        match finds(*lie) {
            Some((script, points, error)) => {
                let error = error.lines().next().unwrap_or_default();
                report(&format!("{what}: found by {script:?} after {points} crash points: {error:.160}"));
            }
            None => missed.push(*what),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}
