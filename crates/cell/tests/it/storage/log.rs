//! The log in the hands of one careful caller.

use std::path::Path;
use std::sync::Arc;

use bramah_cell::consensus::{Member, TypeConfig};
use bramah_cell::disk::{Disk, RealDisk};
use bramah_cell::log::{Identity, Log, LogError, LogOptions};
use futures_util::TryStreamExt;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::EntryOf;

use super::gated_disk::GatedDisk;
use super::sim_disk::SimDisk;
use super::{IDENTITY, append, block_on, entries_of, entry, log_id, open, small, vote};

/// Spec G-1: everything is there again after a restart, on a real disk, across several segments.
#[test]
fn a_log_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let path = folder.path().join("log");
    block_on(async {
        let mut log = open(&disk, &path, &small()).expect("a log");
        let members = openraft::Membership::from(std::collections::BTreeMap::from([(
            3,
            Member { peer_address: "a:1".to_owned(), client_address: "a:2".to_owned() },
        )]));
        let mut entries: Vec<EntryOf<TypeConfig>> = (0..40).map(|index| entry(1, index, 1000)).collect();
        entries[0].payload = EntryPayload::Blank;
        entries[1].payload = EntryPayload::Membership(members);
        for piece in entries.chunks(7) {
            append(&mut log, piece.to_vec()).await.expect("an append");
        }
        log.save_vote(&vote(5, true)).await.expect("a vote");
        log.save_committed(Some(log_id(1, 30))).await.expect("a commit");
        log.truncate_after(Some(log_id(1, 35))).await.expect("a truncation");
        log.purge(log_id(1, 4)).await.expect("a purge");
        log.close().await;

        let mut log = open(&disk, &path, &small()).expect("the log again");
        assert_eq!(entries_of(&mut log).await.expect("entries"), entries[5..36]);
        assert_eq!(log.read_vote().await.expect("a vote"), Some(vote(5, true)));
        assert_eq!(log.read_committed().await.expect("a commit"), Some(log_id(1, 30)));
        let state = log.get_log_state().await.expect("a state");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 4)), Some(log_id(1, 35))));
        log.close().await;
    });
}

/// Reads are the same from the cache, from the disk, and from both at once; a limited read gives at least one.
#[test]
fn entries_are_read_from_memory_and_from_disk() {
    let disk = SimDisk::default().shared();
    block_on(async {
        let options = LogOptions { read_bytes: 2000, ..small() };
        let mut log = open(&disk, Path::new("/log"), &options).expect("a log");
        let entries: Vec<_> = (0..30).map(|index| entry(1, index, 900)).collect();
        append(&mut log, entries.clone()).await.expect("an append");
        assert_eq!(entries_of(&mut log).await.expect("entries"), entries);
        assert_eq!(log.try_get_log_entries(3..=8).await.expect("entries"), entries[3..=8]);
        assert_eq!(log.try_get_log_entries(28..99).await.expect("entries"), entries[28..]);
        assert_eq!(log.limited_get_log_entries(0, 30).await.expect("entries"), entries[..2]);
        assert_eq!(log.limited_get_log_entries(29, 30).await.expect("entries"), entries[29..]);
        append(&mut log, vec![entry(1, 30, 5000)]).await.expect("an append");
        assert_eq!(log.limited_get_log_entries(30, 31).await.expect("entries").len(), 1);
        let streamed: Vec<_> =
            log.entries_stream(2..29).await.try_collect().await.expect("a stream of entries");
        assert_eq!(streamed, entries[2..29]);
    });
}

/// A log is bounded: purging recycles files, and what they held before never comes back.
#[test]
fn recycled_segments_forget_what_they_held() {
    let disk = SimDisk::default();
    block_on(async {
        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("a log");
        let mut most = 0;
        for round in 0..60_u64 {
            // All of one length, so that old records lie where new ones could end.
            let entries = (round * 5..round * 5 + 5).map(|index| entry(round, index, 1000)).collect();
            append(&mut log, entries).await.expect("an append");
            if round > 2 {
                log.purge(log_id(round - 2, (round - 1) * 5 - 1)).await.expect("a purge");
            }
            most = most.max(log.bytes_on_disk());
            let mut copy = open(&disk.copy().shared(), Path::new("/log"), &small()).expect("the log again");
            let kept = entries_of(&mut copy).await.expect("entries");
            assert_eq!(kept, entries_of(&mut log).await.expect("entries"), "after round {round}");
        }
        assert!(most <= 6 * (16 << 10), "{most} bytes for 15 KiB of entries");
        let names = disk.list(Path::new("/log")).expect("names");
        assert!(names.iter().any(|name| name.starts_with("spare-")), "nothing was recycled: {names:?}");
        assert!(!names.iter().any(|name| name == "segment-0000000000000001"), "{names:?}");
    });
}

/// Spec G-4: another cell's or replica's log is refused, and nothing in it is touched.
#[test]
fn a_foreign_log_is_refused() {
    let disk = SimDisk::default();
    block_on(async {
        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("a log");
        append(&mut log, vec![entry(1, 0, 10)]).await.expect("an append");
        log.close().await;
    });
    let contents = || disk.files().iter().map(|path| disk.contents(path)).collect::<Vec<_>>();
    let before = contents();
    for identity in [Identity { cell_id: 9, ..IDENTITY }, Identity { replica: 9, ..IDENTITY }] {
        let opened = Log::open(disk.shared(), Path::new("/log"), identity, small(), true, None);
        let error = opened.err().expect("it is refused");
        assert!(matches!(error, LogError::Foreign { found_replica: 2, .. }), "{error}");
    }
    assert!(contents() == before, "a file was touched");
}

/// An entry longer than a segment gets a segment of its own.
#[test]
fn an_entry_may_be_longer_than_a_segment() {
    let disk = SimDisk::default().shared();
    block_on(async {
        let mut log = open(&disk, Path::new("/log"), &small()).expect("a log");
        let entries = vec![entry(1, 0, 10), entry(1, 1, 100_000), entry(1, 2, 10)];
        append(&mut log, entries.clone()).await.expect("an append");
        log.close().await;
        let mut log = open(&disk, Path::new("/log"), &small()).expect("the log again");
        assert_eq!(entries_of(&mut log).await.expect("entries"), entries);
    });
}

/// A log that was closed answers, and does not promise anything.
#[test]
fn a_closed_log_refuses_writes() {
    let disk = SimDisk::default().shared();
    block_on(async {
        let mut log = open(&disk, Path::new("/log"), &small()).expect("a log");
        log.close().await;
        assert!(append(&mut log, vec![entry(1, 0, 10)]).await.is_err());
        assert!(log.save_vote(&vote(1, false)).await.is_err());
    });
}

/// A hole in the log is refused.
#[test]
fn a_hole_is_refused() {
    let disk = SimDisk::default().shared();
    block_on(async {
        let mut log = open(&disk, Path::new("/log"), &small()).expect("a log");
        append(&mut log, vec![entry(1, 0, 10)]).await.expect("an append");
        let error = append(&mut log, vec![entry(1, 2, 10)]).await.expect_err("entry 1 is missing");
        assert!(error.to_string().contains("entry 2 does not follow"), "{error}");
    });
}

/// A reader that is still at entries whose segment is purged meanwhile reads them right: the file is not used
/// again as long as it is read.
#[test]
fn a_segment_is_not_recycled_under_its_reader() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = GatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = LogOptions { cache_bytes: 0, ..small() };
    block_on(async {
        let mut log = open(&shared, &folder.path().join("log"), &options).expect("a log");
        let old: Vec<_> = (0..10).map(|index| entry(1, index, 1000)).collect();
        append(&mut log, old.clone()).await.expect("an append");

        disk.gate.change(|state| state.reads_shut = true);
        let mut reader = log.clone();
        let reading = tokio::spawn(async move { reader.try_get_log_entries(0..10).await });
        tokio::task::yield_now().await;
        disk.gate.wait_until(|state| state.reads_waiting == 1);
        // Enough to use every file that there is again and again.
        for round in 1..10_u64 {
            let entries = (round * 10..round * 10 + 10).map(|index| entry(2, index, 1000)).collect();
            append(&mut log, entries).await.expect("an append");
            let last = if round == 1 { log_id(1, 9) } else { log_id(2, round * 10 - 1) };
            log.purge(last).await.expect("a purge");
        }
        disk.gate.change(|state| state.reads_shut = false);
        assert_eq!(reading.await.expect("the task").expect("entries"), old);
        log.close().await;
    });
}
