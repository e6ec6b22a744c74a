//! A full disk: nothing false is said, elections go on, and it passes by itself.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bramah_cell::disk::{Disk, RealDisk};
use bramah_cell::log::{Log, LogOptions, Space};
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::sim_disk::SimDisk;
use super::{append, block_on, entries_of, entry, log_id, open, small, submit, vote};

/// Appends until the log says that there is no space; gives back the next index.
async fn fill(log: &mut Log) -> u64 {
    let mut index = 0;
    while log.space() == Space::Enough {
        append(log, vec![entry(1, index, 1000)]).await.expect("there is a reserve");
        // Another thread finds out that there is no space for a spare segment; it must not be overtaken by far.
        tokio::time::sleep(Duration::from_millis(3)).await;
        index += 1;
        assert!(index < 10_000, "the disk never gets full");
    }
    index
}

/// Spec G-8: the log says that space is short while it still has room for elections; beyond that appends wait,
/// unanswered; with space they go on by themselves and nothing is lost.
#[test]
fn appends_wait_for_space() {
    let disk = SimDisk::default();
    block_on(async {
        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("a log");
        disk.set_capacity(Some(disk.used() + (40 << 10)));
        let full = fill(&mut log).await;
        assert!(matches!(log.space(), Space::Short { free, needed: 16384 } if free < 16384));

        // What an election needs.
        log.save_vote(&vote(2, true)).await.expect("a vote needs no space");
        append(&mut log, vec![entry(2, full, 0)]).await.expect("the reserve is for this");

        // More than the reserve.
        let more: Vec<_> = (full + 1..full + 20).map(|index| entry(2, index, 1000)).collect();
        let mut waiting = submit(&mut log, more).await.expect("an append");
        disk.tick();
        assert!(waiting.try_recv().is_err(), "an append that has no space is not answered");
        assert_eq!(entries_of(&mut log).await.expect("entries").len() as u64, full + 20, "reads go on");

        disk.set_capacity(None);
        disk.tick();
        waiting.try_recv().expect("an answer").expect("the append went on");
        assert_eq!(log.space(), Space::Enough);
        log.close().await;

        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("the log again");
        assert_eq!(entries_of(&mut log).await.expect("entries").len() as u64, full + 20);
        assert_eq!(log.read_vote().await.expect("a vote"), Some(vote(2, true)));
    });
}

/// Spec G-8: a purge gives the space back that the log itself uses.
#[test]
fn a_purge_makes_space() {
    let disk = SimDisk::default();
    block_on(async {
        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("a log");
        disk.set_capacity(Some(disk.used() + (40 << 10)));
        let full = fill(&mut log).await;
        log.purge(log_id(1, full - 1)).await.expect("a purge");
        assert_eq!(log.space(), Space::Enough);
        append(&mut log, vec![entry(1, full, 1000)]).await.expect("an append");
    });
}

/// Spec G-8: closing does not wait for space that may never come, and says that the rest was not written.
#[test]
fn closing_does_not_wait_for_space() {
    let disk = SimDisk::default();
    block_on(async {
        let mut log = open(&disk.shared(), Path::new("/log"), &small()).expect("a log");
        disk.set_capacity(Some(disk.used() + (40 << 10)));
        let full = fill(&mut log).await;
        let more: Vec<_> = (full..full + 20).map(|index| entry(1, index, 1000)).collect();
        let waiting = submit(&mut log, more).await.expect("an append");
        log.close().await;
        waiting.await.expect("an answer").expect_err("it was not written");
    });
}

/// A small file system in memory; unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(kilobytes: u32) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let size = format!("size={kilobytes}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let output = mount.output().map_err(|error| format!("mount can't be run: {error}"))?;
        match output.status.success() {
            true => Ok(Self { folder }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{} is still mounted",
            self.folder.path().display()
        );
    }
}

/// Spec G-8: the same on a real file system that is full.
#[test]
fn a_full_tmpfs_is_survived() {
    let disk = match SmallDisk::mount(1024) {
        Ok(disk) => disk,
        Err(why) => {
            // Not by println!, which the test harness keeps to itself.
            let name = "storage::full_disk::a_full_tmpfs_is_survived";
            let _ = writeln!(std::io::stderr(), "LEFT OUT: {name}: a tmpfs can't be mounted: {why}");
            return;
        }
    };
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let path = disk.folder.path().join("log");
    let options = LogOptions {
        segment_bytes: 64 << 10,
        retry_interval: Duration::from_millis(10),
        ..LogOptions::default()
    };
    block_on(async {
        let mut log = open(&real, &path, &options).expect("a log");
        let ballast = disk.folder.path().join("ballast");
        std::fs::write(&ballast, vec![1; 600 << 10]).expect("other files");
        let full = fill(&mut log).await;
        log.save_vote(&vote(2, true)).await.expect("a vote needs no space");
        let more: Vec<_> = (full..full + 100).map(|index| entry(1, index, 1000)).collect();
        let mut waiting = submit(&mut log, more).await.expect("an append");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(waiting.try_recv().is_err(), "an append that has no space is not answered");

        std::fs::remove_file(&ballast).expect("space again");
        let done = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        done.expect("within 30 s").expect("an answer").expect("the append went on");
        log.close().await;

        let mut log = open(&real, &path, &options).expect("the log again");
        assert_eq!(entries_of(&mut log).await.expect("entries").len() as u64, full + 100);
        assert_eq!(log.read_vote().await.expect("a vote"), Some(vote(2, true)));
        log.close().await;
    });
}
