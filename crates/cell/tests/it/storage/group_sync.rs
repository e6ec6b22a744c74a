//! One sync for all who wait, and no answer before it.

use std::sync::Arc;

use bramah_cell::disk::Disk;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::gated_disk::GatedDisk;
use super::{block_on, entry, log_id, open, small, submit, vote};

/// Large enough that no spare is wanted, whose syncs would be counted too.
fn options() -> bramah_cell::log::LogOptions {
    bramah_cell::log::LogOptions {
        segment_bytes: 1 << 20,
        mark_delay: std::time::Duration::from_secs(3600),
        ..small()
    }
}

/// Spec G-3: what arrives while a sync is under way shares the next one.
/// Spec G-1: nobody is told before the sync is over.
#[test]
fn appends_share_a_sync_and_are_not_told_before_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = GatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    block_on(async {
        let mut log = open(&shared, &folder.path().join("log"), &options()).expect("a log");
        disk.gate.change(|state| state.shut = true);
        let before = disk.gate.passed();
        let mut flushed = vec![submit(&mut log, vec![entry(1, 0, 100)]).await.expect("an append")];
        disk.gate.wait_until(|state| state.waiting == 1);
        for index in 1..50 {
            flushed.push(submit(&mut log, vec![entry(1, index, 100)]).await.expect("an append"));
        }
        for early in &mut flushed {
            assert!(early.try_recv().is_err(), "told before the sync was over");
        }
        disk.gate.change(|state| state.shut = false);
        for done in flushed {
            done.await.expect("an answer").expect("an append");
        }
        assert_eq!(
            disk.gate.passed() - before,
            2,
            "50 appends need two syncs: the first one's and the rest's"
        );
        log.close().await;
    });
}

/// Spec G-1: a vote is not saved before its sync is over, and stands in line behind the appends before it.
#[test]
fn a_vote_waits_for_its_sync() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = GatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    block_on(async {
        let mut log = open(&shared, &folder.path().join("log"), &options()).expect("a log");
        disk.gate.change(|state| state.shut = true);
        let mut flushed = submit(&mut log, vec![entry(1, 0, 100)]).await.expect("an append");
        let mut saver = log.clone();
        let saved = tokio::spawn(async move { saver.save_vote(&vote(2, false)).await });
        disk.gate.wait_until(|state| state.waiting == 1);
        tokio::task::yield_now().await;
        assert!(!saved.is_finished() && flushed.try_recv().is_err());
        assert_eq!(log.read_vote().await.expect("a vote"), None, "a vote that is not saved yet is not shown");
        disk.gate.change(|state| state.shut = false);
        saved.await.expect("the task").expect("a vote");
        assert!(flushed.try_recv().is_ok(), "the append before the vote is on the disk");
        assert_eq!(log.read_vote().await.expect("a vote"), Some(vote(2, false)));
        log.close().await;
    });
}

/// Spec G-1: after a failed sync nothing is promised any more, whatever a later sync would say.
#[test]
fn a_failed_sync_is_never_forgotten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = GatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    block_on(async {
        let mut log = open(&shared, &folder.path().join("log"), &options()).expect("a log");
        disk.gate.change(|state| state.broken = true);
        let flushed = submit(&mut log, vec![entry(1, 0, 100)]).await.expect("an append");
        let error = flushed.await.expect("an answer").expect_err("the sync failed");
        assert!(error.to_string().contains("the disk is broken"), "{error}");
        disk.gate.change(|state| state.broken = false);
        assert!(submit(&mut log, vec![entry(1, 1, 100)]).await.is_err());
        log.close().await;
    });
}

/// Entries that took the place of others while those were on their way to the disk are the ones that are read.
#[test]
fn entries_replaced_on_their_way_are_not_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = GatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = bramah_cell::log::LogOptions { cache_bytes: 0, ..options() };
    block_on(async {
        let mut log = open(&shared, &folder.path().join("log"), &options).expect("a log");
        disk.gate.change(|state| state.shut = true);
        let old = (0..4).map(|index| entry(1, index, 100)).collect();
        let old = submit(&mut log, old).await.expect("an append");
        disk.gate.wait_until(|state| state.waiting == 1);
        log.truncate_after(Some(log_id(1, 0))).await.expect("a truncation");
        let new: Vec<_> = (1..4).map(|index| entry(2, index, 100)).collect();
        let new_flushed = submit(&mut log, new.clone()).await.expect("an append");

        disk.gate.change(|state| state.permits = 1);
        old.await.expect("an answer").expect("the old entries were written");
        assert_eq!(log.try_get_log_entries(1..4).await.expect("entries"), new);
        disk.gate.change(|state| state.shut = false);
        new_flushed.await.expect("an answer").expect("the new entries are written");
        assert_eq!(log.try_get_log_entries(1..4).await.expect("entries"), new);
        log.close().await;
    });
}
