//! Torn tails and flipped bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bramah_cell::disk::imagined::{Fate, Faults, ImaginedDisk, Inline, Operation, Verdict};
use bramah_cell::log::{Log, LogError, LogOptions};
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::sim_disk::SimDisk;
use super::{Entry, append, block_on, entries_of, entry, open, small, vote};

const FOLDER: &str = "/log";
/// Records begin behind the first page.
const FIRST_RECORD: usize = 4096;

fn segment(sequence: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("segment-{sequence:016}"))
}

fn reopen(disk: &SimDisk) -> Result<Log, LogError> {
    open(&disk.shared(), Path::new(FOLDER), &small())
}

/// A log with `entries`, an append each; `closed` or as a kill leaves it. Gives back where each append ended.
fn written(entries: &[Entry], closed: bool) -> (SimDisk, Vec<usize>) {
    let disk = SimDisk::default();
    let mut ends = Vec::new();
    let left = block_on(async {
        let mut log = reopen(&disk).expect("a log");
        log.save_vote(&vote(3, true)).await.expect("a vote");
        for entry in entries {
            append(&mut log, vec![entry.clone()]).await.expect("an append");
            let contents = disk.contents(&segment(1));
            ends.push(contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        }
        if closed {
            log.close().await;
        }
        disk.copy()
    });
    (left, ends)
}

fn few() -> Vec<Entry> {
    (0..4).map(|index| entry(2, index, 60)).collect()
}

/// Spec G-4: a last write that reached the disk up to any byte only is cut off, and the log goes on from there.
#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let entries = few();
    let (disk, ends) = written(&entries, false);
    let whole = disk.contents(&segment(1));
    for cut in ends[2]..ends[3] {
        let disk = disk.copy();
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        disk.set_contents(&segment(1), torn);
        block_on(async {
            let mut log = reopen(&disk).expect("a torn tail is no damage");
            assert_eq!(entries_of(&mut log).await.expect("entries"), entries[..3], "cut at byte {cut}");
            assert_eq!(log.read_vote().await.expect("a vote"), Some(vote(3, true)));
            let other = entry(4, 3, 60);
            append(&mut log, vec![other.clone()]).await.expect("an append");
            let mut again = reopen(&disk.copy()).expect("the log again");
            assert_eq!(entries_of(&mut again).await.expect("entries")[3], other, "cut at byte {cut}");
        });
    }
}

/// Spec G-4: blocks of one unfinished write may reach the disk in any order; the later ones never come back.
#[test]
fn a_torn_group_never_comes_back() {
    // A record a page: then no padding of a later write covers the old third record.
    const PAGE: usize = 4096;
    let of_a_page = |term, index| entry(term, index, PAGE - 56);
    let options = LogOptions { segment_bytes: 64 << 10, ..small() };
    let reopen = |disk: &SimDisk| open(&disk.shared(), Path::new(FOLDER), &options);
    let entries: Vec<Entry> = (0..4).map(|index| of_a_page(2, index)).collect();
    let disk = SimDisk::default();
    let disk = block_on(async {
        let mut log = reopen(&disk).expect("a log");
        append(&mut log, entries[..1].to_vec()).await.expect("an append");
        append(&mut log, entries[1..].to_vec()).await.expect("an append");
        disk.copy()
    });
    let mut contents = disk.contents(&segment(1));
    // The middle of the second record was never written; the third and fourth were.
    contents[FIRST_RECORD + PAGE + 512..FIRST_RECORD + PAGE + 1024].fill(0);
    disk.set_contents(&segment(1), contents);
    block_on(async {
        let mut log = reopen(&disk).expect("nothing that was synced is missing");
        assert_eq!(entries_of(&mut log).await.expect("entries"), entries[..1]);
        let other = of_a_page(9, 1);
        append(&mut log, vec![other.clone()]).await.expect("an append");
        let mut again = reopen(&disk.copy()).expect("the log again");
        assert_eq!(entries_of(&mut again).await.expect("entries"), [entries[0].clone(), other]);
    });
}

/// Spec G-4: in a log that was left alone for a moment, a flipped bit in any byte of any record is damage, the
/// last one's too; never a wrong entry, never a missing one.
#[test]
fn every_flipped_byte_is_found() {
    let entries = few();
    let (disk, ends) = written(&entries, true);
    let whole = disk.contents(&segment(1));
    let mut found = 0;
    for at in 0..ends[3] {
        let disk = disk.copy();
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        disk.set_contents(&segment(1), flipped);
        match reopen(&disk) {
            Err(LogError::Io { source, .. }) => panic!("byte {at}: {source}"),
            Err(error) => {
                found += 1;
                assert!(error.to_string().contains("segment-0000000000000001"), "{error}");
            }
            Ok(mut log) => {
                let read = block_on(entries_of(&mut log)).expect("entries");
                assert_eq!(read, entries, "byte {at}: this byte carries nothing");
            }
        }
    }
    // The rest of the first page and padding carry nothing.
    assert!(found >= 4 * 116, "only {found} flipped bytes were found");
}

/// Spec G-4: the error says which file, where, and the way out.
#[test]
fn damage_is_explained() {
    let (disk, ends) = written(&few(), true);
    let mut flipped = disk.contents(&segment(1));
    flipped[ends[1] - 5] ^= 1;
    disk.set_contents(&segment(1), flipped);
    let message = reopen(&disk).err().expect("damage").to_string();
    let record = FIRST_RECORD + 120;
    for part in ["/log/segment-0000000000000001", &format!("byte {record}"), "must not vote", "--replace"] {
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    }
}

/// Spec G-4, the window that is left: if a kill came within the moment after the last write, two flipped bits in
/// that write look like a torn one and it is cut off; earlier ones are damage all the same.
#[test]
fn only_the_last_write_before_a_kill_can_pass_for_torn() {
    let entries = few();
    let (disk, ends) = written(&entries, false);
    let whole = disk.contents(&segment(1));
    for (number, end) in ends.iter().enumerate() {
        let disk = disk.copy();
        let mut flipped = whole.clone();
        flipped[end - 5] ^= 3;
        disk.set_contents(&segment(1), flipped);
        let opened = reopen(&disk);
        if number < 3 {
            assert!(matches!(opened, Err(LogError::Damaged { .. })), "record {number}");
        } else {
            let mut log = opened.expect("the last write may be torn");
            assert_eq!(block_on(entries_of(&mut log)).expect("entries"), entries[..3]);
        }
    }
}

/// Spec G-4: damage in a segment that others follow is damage wherever it is; so is a missing one.
#[test]
fn damage_in_an_older_segment_is_found() {
    let entries: Vec<Entry> = (0..40).map(|index| entry(2, index, 1000)).collect();
    let (disk, _) = written(&entries, false);
    for sequence in 1..4 {
        let whole = disk.contents(&segment(sequence));
        for at in (0..whole.len()).step_by(61) {
            let disk = disk.copy();
            let mut flipped = whole.clone();
            flipped[at] ^= 0x80;
            disk.set_contents(&segment(sequence), flipped);
            if let Ok(mut log) = reopen(&disk) {
                let read = block_on(entries_of(&mut log)).expect("entries");
                assert_eq!(read, entries, "segment {sequence}, byte {at}");
            }
        }
        let disk = disk.copy();
        bramah_cell::disk::Disk::remove(&*disk, &segment(sequence)).expect("a removal");
        let error = reopen(&disk).err().expect("a segment is missing").to_string();
        assert!(error.contains("the file is missing"), "{error}");
    }
}

/// Spec G-4: one damaged copy of the vote is repaired from the other; without any the replica must not vote.
#[test]
fn the_vote_is_never_forgotten() {
    let (disk, _) = written(&few(), true);
    let control = Path::new(FOLDER).join("control");
    let whole = disk.contents(&control);
    assert_eq!(whole.len(), 8192);
    for at in 0..whole.len() {
        let disk = disk.copy();
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        disk.set_contents(&control, flipped);
        let mut log = reopen(&disk).expect("the other copy is whole");
        assert_eq!(block_on(log.read_vote()).expect("a vote"), Some(vote(3, true)), "byte {at}");
    }
    for at in 0..96 {
        let disk = disk.copy();
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        flipped[at + 4096] ^= 4;
        disk.set_contents(&control, flipped);
        let error = reopen(&disk).err().expect("both copies are damaged");
        assert!(matches!(error, LogError::Damaged { .. }), "byte {at}: {error}");
    }
    let disk = disk.copy();
    bramah_cell::disk::Disk::remove(&*disk, &control).expect("a removal");
    let error = reopen(&disk).err().expect("the vote is gone").to_string();
    assert!(error.contains("the file with the vote is missing"), "{error}");
}

/// The next sync of a segment fails once it is armed.
#[derive(Default)]
struct SyncFails(AtomicBool);

impl Faults for SyncFails {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let fails = operation.name() == "sync log segment" && self.0.swap(false, Ordering::Relaxed);
        let error = io::Error::other("the sync fails");
        if fails { Verdict::FailInPart { error, landed: 0 } } else { Verdict::Proceed }
    }
}

/// Spec G-1: after a failed sync the system takes for written what it has lost. A process that starts on it, counts
/// the entries and acknowledges them must have written them again before.
#[test]
fn what_a_failed_sync_left_is_written_again() {
    let fails = Arc::new(SyncFails::default());
    let disk = ImaginedDisk::new(Arc::clone(&fails) as Arc<dyn Faults>, Arc::new(Inline::default()));
    let reopen = |disk: &ImaginedDisk| open(&disk.shared(), Path::new(FOLDER), &small());
    let entries = few();
    block_on(async {
        let mut log = reopen(&disk).expect("a log");
        append(&mut log, entries[..3].to_vec()).await.expect("an append");
        fails.0.store(true, Ordering::Relaxed);
        append(&mut log, entries[3..].to_vec()).await.expect_err("its sync fails");
        let disk = disk.kill();
        let mut log = reopen(&disk).expect("the log again");
        let counted = entries_of(&mut log).await.expect("entries");
        let disk = disk.found(&disk.wreck(), 0, &mut |_| Fate::Lose);
        let mut log = reopen(&disk).expect("the log after a power cut");
        assert_eq!(entries_of(&mut log).await.expect("entries"), counted);
    });
}
