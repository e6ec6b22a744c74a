//! One sync for all who wait, and no answer before it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bramah_cell::disk::{Access, Disk, DiskFile, Lock, RealDisk, Wake, Worker};

use super::{block_on, entry, open, small, submit, vote};

/// The real disk, whose syncs wait while the gate is shut.
#[derive(Clone, Default)]
struct GatedDisk {
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    shut: bool,
    waiting: u64,
    passed: u64,
    broken: bool,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut GateState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn wait_until(&self, condition: impl Fn(&GateState) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| !condition(state)));
    }

    fn passed(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).passed
    }

    fn pass(&self) -> io::Result<()> {
        self.change(|state| state.waiting += 1);
        self.wait_until(|state| !state.shut);
        let mut broken = false;
        self.change(|state| {
            state.waiting -= 1;
            state.passed += 1;
            broken = state.broken;
        });
        if broken { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl DiskFile for GatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.fill_with_zeros(from, to)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, access)?;
        Ok(Arc::new(GatedFile { file, gate: Arc::clone(&self.gate) }))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(path)
    }
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        RealDisk.start(name, worker)
    }
    fn blocks(&self) -> bool {
        true
    }
}

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
    use openraft::storage::{RaftLogReader, RaftLogStorage};
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
