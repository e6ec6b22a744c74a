//! Bits that turn over while nobody looks: each one that means something is noticed, and none changes anything.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramah_cell::data_folder::DataFolder;
use bramah_cell::log::LogOptions;
use futures_util::FutureExt;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::sim_disk::SimDisk;
use super::{
    EncodedBatch, Entry, EntryPayload, IDENTITY, LogId, Meta, Vote, append, block_on, entry, log_id, small,
    vote,
};

const FOLDER: &str = "/data";
const BODY: &[u8] = b"what the replica remembers, in a few hundred bytes: ";

/// All that a folder says.
#[derive(Debug, PartialEq)]
struct Said {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    snapshot: Option<(Meta, Vec<u8>)>,
}

fn folder(disk: &SimDisk) -> Result<DataFolder, String> {
    let opened =
        DataFolder::open(disk.shared(), Path::new(FOLDER), "main", IDENTITY.cell_id, IDENTITY.replica);
    opened.map_err(|error| error.to_string())
}

fn said(disk: &SimDisk) -> Result<Said, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut folder = folder(disk)?;
    let mut log = folder.open_log(small()).map_err(|error| error.to_string())?;
    let entries = log.try_get_log_entries(0..u64::MAX).now_or_never().expect("no wait").map_err(text)?;
    let vote = log.read_vote().now_or_never().expect("no wait").map_err(text)?;
    let state = log.get_log_state().now_or_never().expect("no wait").map_err(text)?;
    let snapshot = match folder.open_snapshots().map_err(text)?.newest() {
        None => None,
        Some(file) => {
            let mut bytes = Vec::new();
            file.body().and_then(|mut body| body.read_to_end(&mut bytes)).map_err(text)?;
            Some((file.meta().clone(), bytes))
        }
    };
    Ok(Said { vote, purged: state.last_purged_log_id, entries, snapshot })
}

/// A folder that was closed as it should be, with every kind of file and record in it.
fn written() -> SimDisk {
    let disk = SimDisk::default();
    block_on(async {
        let mut folder = folder(&disk).expect("a folder");
        let mut log = folder.open_log(small()).expect("a log");
        log.save_vote(&vote(3, true)).await.expect("a vote");
        append(&mut log, (0..3).map(|index| entry(2, index, 60)).collect()).await.expect("an append");
        log.truncate_after(Some(log_id(2, 1))).await.expect("a truncation");
        append(&mut log, (2..4).map(|index| entry(3, index, 60)).collect()).await.expect("an append");
        let meta = Meta { last_log_id: Some(log_id(2, 1)), ..Meta::default() };
        let snapshots = folder.open_snapshots().expect("snapshots");
        snapshots.write(meta, |body| body.write_all(&BODY.repeat(6))).expect("a snapshot");
        log.purge(log_id(2, 0)).await.expect("a purge");
        log.close().await;
    });
    disk.copy()
}

/// Every bit of what was written, and of the zeros around it one in each place where a record or field could begin.
fn bits(contents: &[u8]) -> Vec<(u64, u8)> {
    let mut bits = Vec::new();
    for at in 0..contents.len() {
        let near = &contents[at.saturating_sub(16)..contents.len().min(at + 16)];
        let written = near.iter().any(|byte| *byte != 0);
        match written {
            true => bits.extend((0..8).map(|bit| (at as u64, bit))),
            false if at % 8 == 0 => bits.push((at as u64, (at / 8 % 8) as u8)),
            false => {}
        }
    }
    bits
}

/// Spec G-4: whichever bit of whichever file turns over at rest, the folder says what it said, or refuses with the
/// name of the file; of the log and the snapshot also with the place.
#[test]
fn every_flipped_bit_is_noticed_or_means_nothing() {
    let disk = written();
    let whole = said(&disk.copy()).expect("the folder opens");
    assert_eq!(whole.entries.len(), 3);
    let mut tried: BTreeMap<PathBuf, (usize, usize)> = BTreeMap::new();
    for path in disk.files() {
        for (at, bit) in bits(&disk.contents(&path)) {
            let disk = disk.copy();
            assert!(disk.flip(&path, at, bit));
            let (noticed, harmless) = tried.entry(path.clone()).or_default();
            match said(&disk) {
                Ok(found) => {
                    assert_eq!(found, whole, "{} byte {at} bit {bit}", path.display());
                    *harmless += 1;
                }
                Err(error) => {
                    let named = error.contains(&*path.to_string_lossy());
                    let placed = error.contains("at byte") || path.ends_with("identity");
                    assert!(named && placed, "{} byte {at} bit {bit}: {error}", path.display());
                    *noticed += 1;
                }
            }
        }
    }
    println!("noticed and harmless flips: {tried:?}");
    let noticed = |name: &str| tried[&Path::new(FOLDER).join(name)].0;
    // Every bit of the head and of every record: of five entries, a truncation, a purge and the mark at the end, where
    // of four bytes amid zeros only one bit is tried. Padding carries nothing.
    assert_eq!(noticed("log/segment-0000000000000001"), 8 * (56 + 5 * (56 + 60) + 3 * 56) - 31);
    assert!(noticed("identity") >= 8 * 100);
    let snapshot = Path::new(FOLDER).join("snapshots/snapshot-1-2");
    assert_eq!(tried[&snapshot], (8 * disk.contents(&snapshot).len(), 0));
    // Its other copy is whole.
    assert_eq!(noticed("log/control"), 0);
}

/// Spec G-4: so does a bit of what was written last, although nothing behind it says that it had been synced.
#[test]
fn a_flipped_bit_of_the_last_group_is_noticed() {
    let disk = SimDisk::default();
    let never_marked = LogOptions { mark_delay: Duration::from_secs(3_600), ..small() };
    let last = [entry(2, 1, 60), entry(2, 2, 1), entry(2, 3, 200)];
    block_on(async {
        let mut folder = folder(&disk).expect("a folder");
        let mut log = folder.open_log(never_marked).expect("a log");
        append(&mut log, vec![entry(2, 0, 60)]).await.expect("an append");
        append(&mut log, last.to_vec()).await.expect("an append");
        let segment = Path::new(FOLDER).join("log/segment-0000000000000001");
        let cut_off = disk.copy();
        let whole = said(&cut_off.copy()).expect("the folder opens");
        assert_eq!(whole.entries.len(), 4);
        let contents = cut_off.contents(&segment);
        let begin = 4_096 + 56 + 64;
        let end = contents.iter().rposition(|byte| *byte != 0).expect("it is not empty") + 1;
        let mut noticed = 0;
        for (at, bit) in (begin..end).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let disk = cut_off.copy();
            assert!(disk.flip(&segment, at as u64, bit));
            match said(&disk) {
                // Between the records.
                Ok(found) => assert_eq!(found, whole, "byte {at} bit {bit}"),
                Err(error) => {
                    assert!(error.contains("one bit") && error.contains("at byte"), "{error}");
                    noticed += 1;
                }
            }
        }
        assert_eq!(noticed, 8 * (3 * 56 + 60 + 1 + 200));
    });
}

/// Spec G-4: a write that ended half-way is still told from a turned bit, and cut off.
#[test]
fn a_torn_last_record_is_cut_off() {
    let disk = SimDisk::default();
    block_on(async {
        let mut folder = folder(&disk).expect("a folder");
        let mut log = folder.open_log(small()).expect("a log");
        append(&mut log, vec![entry(2, 0, 60)]).await.expect("an append");
        append(&mut log, vec![entry(2, 1, 2_000)]).await.expect("an append");
        let segment = Path::new(FOLDER).join("log/segment-0000000000000001");
        let begin = 4_096 + 56 + 64;
        for lost in (begin..begin + 56 + 2_000).step_by(8) {
            let disk = disk.copy();
            let mut contents = disk.contents(&segment);
            contents[lost..].fill(0);
            disk.set_contents(&segment, contents);
            assert_eq!(said(&disk).expect("the folder opens").entries.len(), 1, "lost from byte {lost}");
        }
    });
}

/// Spec G-4: a write that broke off before the last byte, which has one bit, is torn and nothing else.
#[test]
fn a_write_that_broke_off_before_its_last_bit_is_no_turned_bit() {
    let disk = SimDisk::default();
    block_on(async {
        let mut folder = folder(&disk).expect("a folder");
        let mut log = folder.open_log(small()).expect("a log");
        let mut bytes = vec![7; 100];
        *bytes.last_mut().expect("it is not empty") = 0x10;
        let last = Entry { log_id: log_id(2, 0), payload: EntryPayload::Normal(EncodedBatch(bytes.into())) };
        append(&mut log, vec![last]).await.expect("an append");
        let segment = Path::new(FOLDER).join("log/segment-0000000000000001");
        let disk = disk.copy();
        let mut contents = disk.contents(&segment);
        assert_eq!(contents[4_096 + 56 + 99], 0x10);
        contents[4_096 + 56 + 99] = 0;
        disk.set_contents(&segment, contents);
        assert_eq!(said(&disk).expect("the folder opens").entries.len(), 0);
    });
}

/// Spec G-4: a torn record of which no more is missing than a sector with one bit in it is torn all the same.
#[test]
fn a_lost_sector_with_one_bit_is_no_turned_bit() {
    let disk = SimDisk::default();
    block_on(async {
        let mut folder = folder(&disk).expect("a folder");
        let mut log = folder.open_log(small()).expect("a log");
        // Its last byte is alone in the next sector.
        let mut bytes = vec![7; 512 - 56 + 1];
        *bytes.last_mut().expect("it is not empty") = 0x10;
        let last = Entry { log_id: log_id(2, 0), payload: EntryPayload::Normal(EncodedBatch(bytes.into())) };
        append(&mut log, vec![last]).await.expect("an append");
        let segment = Path::new(FOLDER).join("log/segment-0000000000000001");
        let disk = disk.copy();
        let mut contents = disk.contents(&segment);
        assert_eq!(contents[4_096 + 512], 0x10);
        contents[4_096 + 512..].fill(0);
        disk.set_contents(&segment, contents);
        assert_eq!(said(&disk).expect("the folder opens").entries.len(), 0);
    });
}
