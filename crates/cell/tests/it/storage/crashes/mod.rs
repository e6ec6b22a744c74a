//! Power cuts and kills at every step of every operation, against a model.
//!
//! A *crash point* is a disk that may be found after a power cut: a script of operations, the change to the disk
//! at which the power goes, how many of the unsynced changes of names survive, and for every unsynced sector and
//! length whether it is kept, lost, torn or of some time between. Each is opened, compared with the model, written
//! on, crashed and opened once more; of some the recovery itself is cut at each step, twice in a row.
//!
//! `cargo test` tries a fixed share. `BRAMAH_CRASH_POINTS=1000000` makes `every_crash_point` go on, with wider
//! bounds and new seeds, until it has tried so many; `BRAMAH_CRASH_SEED` sets the first seed.

mod enumerate;
mod model;
mod random;
mod replica;
mod teeth;

use std::io::Write;
use std::time::Instant;

use self::enumerate::{Counts, Enumerator, Share};
use self::replica::Step::{self, *};

/// Fills half of a smallest segment, whose 16 KiB begin with a page of its own.
const HALF: Step = Append { entries: 6, bytes: 1000 };
/// An entry with its record takes a page, so that what was left of one lies where the next one begins.
const PAGES: Step = Append { entries: 3, bytes: 4096 - 56 };

/// Every operation of the storage, in rows short enough that all of what a crash may leave can be tried.
const SCRIPTS: &[(&str, &[Step])] = &[
    ("first start", &[Open]),
    ("first start with --replace", &[OpenToReplace, Vote, Replaced, Open]),
    (
        "restart with --replace",
        &[OpenToReplace, Open, Append { entries: 1, bytes: 100 }, OpenToReplace, Replaced],
    ),
    ("append one", &[Open, Append { entries: 1, bytes: 100 }, Append { entries: 1, bytes: 100 }]),
    ("append many", &[Open, Append { entries: 5, bytes: 300 }, Append { entries: 5, bytes: 300 }]),
    ("append pages", &[Open, Append { entries: 1, bytes: 4096 - 56 }, PAGES, Kill, PAGES]),
    ("votes", &[Open, Vote, Vote, Append { entries: 1, bytes: 100 }, Vote]),
    (
        "a vote among appends",
        &[
            Open,
            Pause,
            Append { entries: 2, bytes: 200 },
            Vote,
            Pause,
            Append { entries: 1, bytes: 200 },
            Resume,
        ],
    ),
    ("append across a segment", &[Open, HALF, Append { entries: 8, bytes: 1000 }, Tick]),
    ("an entry longer than a segment", &[Open, HALF, Append { entries: 1, bytes: 17_000 }]),
    ("truncate", &[Open, Append { entries: 4, bytes: 300 }, Truncate { entries: 2 }, Tick]),
    (
        "truncate and append over old records",
        &[
            Open,
            Append { entries: 4, bytes: 300 },
            Truncate { entries: 2 },
            Append { entries: 3, bytes: 300 },
        ],
    ),
    (
        "truncate behind a segment",
        &[Open, HALF, HALF, Truncate { entries: 8 }, Append { entries: 1, bytes: 500 }, Kill],
    ),
    (
        "commit and mark",
        &[
            Open,
            Append { entries: 3, bytes: 100 },
            Commit,
            Append { entries: 1, bytes: 100 },
            Tick,
            Open,
            Commit,
        ],
    ),
    ("purge", &[Open, Append { entries: 4, bytes: 300 }, Purge { entries: 2 }, Tick]),
    (
        "purge of segments, and their files again",
        &[Open, HALF, HALF, HALF, Purge { entries: 14 }, HALF, Tick, HALF, Purge { entries: 12 }],
    ),
    (
        "purge beyond the end",
        &[Open, HALF, HALF, PurgeBeyond { entries: 5 }, Append { entries: 2, bytes: 300 }],
    ),
    ("snapshot", &[Open, Append { entries: 2, bytes: 100 }, Snapshot]),
    (
        "snapshot over an older one",
        &[Open, Append { entries: 2, bytes: 100 }, Snapshot, Append { entries: 1, bytes: 100 }, Snapshot],
    ),
    (
        "snapshot from a peer",
        &[
            Open,
            Append { entries: 2, bytes: 100 },
            Install { ahead: 3, pieces: 3 },
            Append { entries: 1, bytes: 100 },
        ],
    ),
    (
        "snapshot from a peer over an own one, resumed",
        &[Open, HALF, HALF, Snapshot, Receive { ahead: 3 }, Kill, Install { ahead: 3, pieces: 2 }, Tick],
    ),
    (
        "restart",
        &[Open, Vote, Append { entries: 3, bytes: 300 }, Open, Append { entries: 1, bytes: 300 }, Open],
    ),
    (
        "kill",
        &[Open, Pause, Append { entries: 3, bytes: 300 }, Kill, Append { entries: 1, bytes: 300 }, Kill],
    ),
];

/// What `cargo test` tries.
const FIXED: Share = Share { exhaustive: 256, samples: 16, depth: 2, recoveries: 0, seed: 1 };
/// What a storm tries in each round.
const STORM: Share = Share { exhaustive: 1 << 12, samples: 64, depth: 2, recoveries: 1, seed: 1 };

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {value:?}")))
}

/// The steps that a script has in common with the first one, which tries them.
fn known(script: &[Step]) -> usize {
    usize::from(script.len() > 1 && script[0] == Open)
}

/// One round over all scripts.
fn round(share: Share, least: u64) -> Counts {
    let mut counts = Counts::default();
    // Each round begins with another one: the last round may end early.
    let first = share.seed as usize % SCRIPTS.len();
    for (name, script) in SCRIPTS[first..].iter().chain(&SCRIPTS[..first]) {
        let mut enumerator = Enumerator::new(share, None);
        let began = Instant::now();
        if let Err(error) = enumerator.script(script, known(script)) {
            panic!("BRAMAH_CRASH_SEED={} {share:?}\n{name}: {error}", share.seed);
        }
        report(&format!("  {name}: {}, {:.1} s", enumerator.counts, began.elapsed().as_secs_f64()));
        counts.add(enumerator.counts);
        if least > 0 && counts.points >= least {
            break;
        }
    }
    counts
}

/// Not by println!, which the test harness keeps to itself.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Spec G-1, G-4, G-5: whatever is appended, truncated, purged, voted and snapshot, wherever the power goes and
/// whatever unsynced part of it survives: the folder opens, all that was promised is there, and nothing that was
/// not once written.
#[test]
fn every_crash_point() {
    let (least, began) = (number("BRAMAH_CRASH_POINTS").unwrap_or(0), Instant::now());
    let seed = number("BRAMAH_CRASH_SEED").unwrap_or(1);
    let mut share = Share { seed, ..if least > 0 { STORM } else { FIXED } };
    let mut counts = round(share, least);
    while counts.points < least {
        share.seed += 1;
        counts.add(round(share, least - counts.points));
    }
    let seconds = began.elapsed().as_secs_f64();
    report(&format!("{counts}; {seconds:.1} s, {:.0} points a second", counts.points as f64 / seconds));
    assert!(counts.points > 5_000 && counts.in_recovery > 500, "{counts}");
}
