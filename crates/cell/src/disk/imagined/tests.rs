//! What the imagined disk keeps and loses.

use super::*;
use crate::disk::Access;

fn disk() -> ImaginedDisk {
    ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()))
}

fn write(disk: &ImaginedDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(Path::new(path), Access::Create).expect("a file");
    file.write_all_at(bytes, 0).expect("a write");
    file
}

fn all(fate: Fate) -> impl FnMut(&UnsyncedPiece) -> Fate {
    move |_| fate
}

#[test]
fn what_is_not_synced_is_left_to_chance() {
    let disk = disk();
    let file = write(&disk, "/a", &[1; 1024]);
    file.sync_data().expect("a sync");
    disk.sync_directory(Path::new("/")).expect("a sync");
    file.write_all_at(&[2; 700], 100).expect("a write");
    file.write_all_at(&[3; 10], 1020).expect("a write");
    let wreck = disk.wreck();
    let pieces: Vec<_> = wreck.pieces(0).iter().map(|piece| (piece.offset, piece.versions)).collect();
    assert_eq!(pieces, [(None, 1), (Some(0), 1), (Some(512), 2), (Some(1024), 1)]);
    let found = |fate| disk.found(&wreck, 0, &mut all(fate)).contents(Path::new("/a"));
    assert_eq!(found(Fate::Lose), [1; 1024]);
    assert_eq!(found(Fate::Keep), [&[1; 100][..], &[2; 700], &[1; 220], &[3; 10]].concat());
    assert_eq!(found(Fate::Torn(300)), [&[1; 100][..], &[2; 200], &[1; 212], &[2; 288], &[1; 224]].concat());
    // The length of before the last write, and the sectors as they were then.
    assert_eq!(found(Fate::Version(0)), [1; 1024]);
    let mut longer = disk.found(&wreck, 0, &mut |piece| match piece.offset {
        None => Fate::Keep,
        Some(_) => Fate::Lose,
    });
    assert_eq!(longer.contents(Path::new("/a")), [&[1; 1024][..], &[0; 6]].concat());
    longer = longer.kill();
    assert_eq!(longer.contents(Path::new("/a")).len(), 1030);
}

#[test]
fn a_sync_takes_cuts_and_growth_along() {
    let disk = disk();
    let file = write(&disk, "/a", &[1; 9000]);
    disk.sync_directory(Path::new("/")).expect("a sync");
    file.sync_data().expect("a sync");
    file.set_length(100).expect("a cut");
    file.write_all_at(&[2; 10], 8990).expect("a write");
    let expected = [&[1; 100][..], &[0; 8890], &[2; 10]].concat();
    assert_eq!(disk.contents(Path::new("/a")), expected);
    let lost = disk.copy();
    assert_eq!(lost.found(&lost.wreck(), 0, &mut all(Fate::Lose)).contents(Path::new("/a")), [1; 9000]);
    file.sync_data().expect("a sync");
    assert_eq!(disk.found(&disk.wreck(), 0, &mut all(Fate::Lose)).contents(Path::new("/a")), expected);
}

#[test]
fn names_last_once_their_own_folder_is_synced() {
    let disk = disk();
    disk.create_directory(Path::new("/top/log")).expect("folders");
    write(&disk, "/top/log/a", b"x").sync_data().expect("a sync");
    disk.sync_directory(Path::new("/top/log")).expect("a sync");
    let after = |disk: &ImaginedDisk, names| disk.found(&disk.wreck(), names, &mut all(Fate::Keep)).files();
    let first = disk.copy();
    assert_eq!(first.wreck().unsynced_names(), 2);
    assert!(after(&first, 1).is_empty(), "the folder itself was lost");
    assert_eq!(after(&first, 2), [PathBuf::from("/top/log/a")]);
    for folder in ["/", "/top"] {
        disk.sync_directory(Path::new(folder)).expect("a sync");
    }
    disk.rename(Path::new("/top/log/a"), Path::new("/top/log/b")).expect("a rename");
    disk.remove(Path::new("/top/log/b")).expect("a removal");
    assert!(disk.files().is_empty());
    for (names, found) in [(0, Some("/top/log/a")), (1, Some("/top/log/b")), (2, None)] {
        let expected: Vec<PathBuf> = found.map(PathBuf::from).into_iter().collect();
        assert_eq!(after(&disk, names), expected);
    }
    assert!(disk.list(Path::new("/top")).is_err_and(|error| PowerCut::is(&error)));
}

#[test]
fn space_is_counted_in_blocks() {
    let disk = disk();
    let file = write(&disk, "/a", b"x");
    disk.set_capacity(Some(16384));
    file.set_length(1 << 30).expect("a hole takes no space");
    assert_eq!(disk.used(), 4096);
    file.fill_with_zeros(0, 12288).expect("space");
    assert_eq!(disk.free_bytes(Path::new("/")).expect("space"), 4096);
    let full = file.fill_with_zeros(8192, 20480).expect_err("no space");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.write_all_at(&[1; 12288], 0).expect("filled ahead");
    disk.remove(Path::new("/a")).expect("a removal");
    assert_eq!(disk.used(), 12288, "it is still open");
    drop(file);
    assert_eq!(disk.used(), 0);
}

#[test]
fn a_lock_is_exclusive_until_the_machine_stops() {
    let disk = disk();
    let lock = disk.lock(Path::new("/lock")).expect("a lock");
    lock.note("process 1").expect("a note");
    let busy = disk.lock(Path::new("/lock")).err().expect("it is locked");
    assert_eq!(busy.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(disk.contents(Path::new("/lock")), b"process 1");
    drop(disk.kill().lock(Path::new("/lock")).expect("nobody holds it any more"));
    let disk = disk.copy();
    drop(disk.lock(Path::new("/lock")).expect("a lock"));
    disk.lock(Path::new("/lock")).expect("it was let go");
}

/// Gives each verdict once, at the operation of its name.
struct Script(Mutex<Vec<(&'static str, Verdict)>>);

impl Faults for Script {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let mut script = self.0.lock().expect("no panic");
        match script.first() {
            Some((name, _)) if *name == operation.name() => script.remove(0).1,
            _ => Verdict::Proceed,
        }
    }
}

#[test]
fn faults_are_aimed_by_name() {
    let script = vec![
        ("create control", Verdict::Fail(io::ErrorKind::StorageFull.into())),
        ("write control", Verdict::Flip { byte: 1, bit: 3 }),
        ("read control", Verdict::Flip { byte: 0, bit: 0 }),
        ("set length of control", Verdict::Pretend),
        ("rename snapshot", Verdict::CutPower { done: true }),
    ];
    let disk = ImaginedDisk::new(Arc::new(Script(Mutex::new(script))), Arc::new(Inline::default()));
    let control = Path::new("/control");
    assert!(disk.open(control, Access::Create).is_err());
    let file = write(&disk, "/control", &[0; 4]);
    assert_eq!(disk.contents(control), [0, 8, 0, 0]);
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).expect("a read");
    assert_eq!(bytes, [1, 8, 0, 0]);
    file.set_length(1).expect("it is said to be done");
    assert_eq!(file.length().expect("a length"), 4);
    write(&disk, "/snapshot-1-1.0.partial", b"x");
    let cut = disk.rename(Path::new("/snapshot-1-1.0.partial"), Path::new("/snapshot-1-1"));
    assert!(cut.is_err_and(|error| PowerCut::is(&error)));
    assert!(file.sync_data().is_err());
    assert_eq!(disk.kill().files(), [control, Path::new("/snapshot-1-1")]);
}

struct Counting(Arc<Mutex<Vec<bool>>>, Turn);

impl Worker for Counting {
    fn turn(&mut self, rested: bool) -> Turn {
        self.0.lock().expect("no panic").push(rested);
        self.1
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").push(false);
    }
}

#[test]
fn without_power_a_worker_stands_still() {
    let turns = Arc::new(Mutex::new(Vec::new()));
    let inline = Arc::new(Inline::default());
    let disk = ImaginedDisk::new(Arc::new(NoFaults), inline.clone());
    let worker = Counting(Arc::clone(&turns), Turn::Wait);
    let wake = disk.start("worker", Box::new(worker)).expect("a worker");
    wake.wake();
    inline.tick();
    disk.cut_power();
    wake.wake();
    inline.tick();
    assert_eq!(*turns.lock().expect("no panic"), [false, true]);
    inline.drop_workers();
    assert_eq!(turns.lock().expect("no panic").len(), 3, "it was dropped");
}

#[test]
fn tasks_take_turns_under_simulated_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let turns = Arc::new(Mutex::new(Vec::new()));
        let slow = Tasks::new(Arc::new(|_: &str| std::time::Duration::from_millis(20)));
        let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(slow));
        let begin = tokio::time::Instant::now();
        let worker = Counting(Arc::clone(&turns), Turn::WaitAtMost(std::time::Duration::from_secs(1)));
        let wake = disk.start("worker", Box::new(worker)).expect("a worker");
        let wait = |count: usize| {
            let turns = Arc::clone(&turns);
            async move {
                while turns.lock().expect("no panic").len() < count {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        };
        wait(1).await;
        wake.wake();
        wait(2).await;
        assert!(begin.elapsed() < std::time::Duration::from_millis(50), "{:?}", begin.elapsed());
        wait(3).await;
        assert!(begin.elapsed() > std::time::Duration::from_secs(1));
        assert_eq!(*turns.lock().expect("no panic"), [false, false, true]);
    });
}

/// The first sync fails, everything else works.
struct FirstSyncFails(std::sync::atomic::AtomicBool);

impl Faults for FirstSyncFails {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        let fails =
            operation.kind == Kind::SyncData && !self.0.swap(true, std::sync::atomic::Ordering::Relaxed);
        let error = io::Error::other("the sync fails");
        if fails { Verdict::FailInPart { error, landed: 0 } } else { Verdict::Proceed }
    }
}

/// As Linux has it: the page is clean after a failed sync, so the next one succeeds and writes nothing.
#[test]
fn a_failed_sync_is_never_made_up_for() {
    let fails = Arc::new(FirstSyncFails(Default::default()));
    let disk = ImaginedDisk::new(fails, Arc::new(Inline::default()));
    let path = Path::new("/a");
    let file = write(&disk, "/a", &[1; 8192]);
    disk.sync_directory(Path::new("/")).expect("a sync");
    file.sync_data().expect_err("it fails");
    file.sync_data().expect("it succeeds, and does nothing");
    let killed = disk.kill();
    assert_eq!(killed.contents(path), [1; 8192], "it can be read, by another process too");
    let found = |disk: &ImaginedDisk, fate| disk.found(&disk.wreck(), 0, &mut all(fate)).contents(path);
    assert_eq!(found(&killed, Fate::Keep), [1; 8192]);
    // The length is the file system's own affair, and its journal has it.
    assert_eq!(found(&killed, Fate::Lose), [0; 8192]);
    // A page that is written again is synced as a whole, the others are not.
    let disk = disk.kill();
    let file = disk.open(path, Access::Write).expect("the file");
    file.write_all_at(&[2; 10], 0).expect("a write");
    file.sync_data().expect("a sync");
    assert_eq!(found(&disk, Fate::Lose), [&[2; 10][..], &[1; 4086], &[0; 4096]].concat());
}

/// A failed write lands in part.
#[test]
fn a_failed_write_leaves_its_beginning() {
    struct WritesFail;
    impl Faults for WritesFail {
        fn before(&self, operation: &Operation<'_>) -> Verdict {
            let error = io::Error::other("the write fails");
            let fails = matches!(operation.kind, Kind::Write { .. });
            if fails { Verdict::FailInPart { error, landed: 3 } } else { Verdict::Proceed }
        }
    }
    let disk = ImaginedDisk::new(Arc::new(WritesFail), Arc::new(Inline::default()));
    let file = disk.open(Path::new("/a"), Access::Create).expect("a file");
    file.write_all_at(&[1; 10], 0).expect_err("it fails");
    assert_eq!(disk.contents(Path::new("/a")), [1; 3]);
}
