//! The folder of a replica: whose it is, and one process at a time.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bramah_cell::data_folder::{DataFolder, Entrance, FolderError, Owner};
use bramah_cell::disk::{Disk, RealDisk};
use bramah_cell::log::LogError;
use openraft::storage::RaftLogStorage;

use super::sim_disk::{Random, SimDisk};
use super::{append, block_on, entry, small, vote};

const FOLDER: &str = "/data";
const CELL: (&str, u64, u64) = ("main", 0xabcd, 2);

fn open(disk: &SimDisk, (cell, id, replica): (&str, u64, u64)) -> Result<DataFolder, FolderError> {
    DataFolder::open(disk.shared(), Path::new(FOLDER), cell, id, replica)
}

/// Spec G-4: a folder knows whose it is; the message says whose it is and what was asked for.
#[test]
fn a_foreign_folder_is_refused() {
    let disk = SimDisk::default();
    assert!(DataFolder::owner_of(&*disk, Path::new(FOLDER)).expect("an empty folder").is_none());
    assert!(open(&disk, CELL).expect("a new folder").is_new());
    for other in [("other", 0xabcd, 2), ("main", 0xabce, 2), ("main", 0xabcd, 3)] {
        let message = open(&disk, other).err().expect("it is refused").to_string();
        assert!(message.contains("belongs to replica 2 of the cell main (000000000000abcd)"), "{message}");
        let asked = format!("replica {} of the cell {} ({:016x}) was asked for", other.2, other.0, other.1);
        assert!(message.contains(&asked), "{message}");
    }
    let owner = DataFolder::owner_of(&*disk, Path::new(FOLDER)).expect("an identity").expect("an owner");
    assert_eq!((owner.cell.as_str(), owner.cell_id, owner.replica), CELL);
}

/// Spec G-4: a flipped byte in the identity is found; a folder with other files is left alone.
#[test]
fn a_damaged_identity_is_found() {
    let disk = SimDisk::default();
    drop(open(&disk, CELL).expect("a new folder"));
    let path = Path::new(FOLDER).join("identity");
    let whole = disk.contents(&path);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        disk.set_contents(&path, flipped);
        let error = open(&disk, CELL).err().unwrap_or_else(|| panic!("byte {at} was not noticed"));
        assert!(matches!(error, FolderError::Damaged { .. }), "byte {at}: {error}");
    }
    disk.remove(&path).expect("a removal");
    disk.open(&Path::new(FOLDER).join("photo.jpeg"), bramah_cell::disk::Access::Create).expect("a file");
    let error = open(&disk, CELL).err().expect("it is not ours").to_string();
    assert!(error.contains("photo.jpeg"), "{error}");
}

/// Spec G-4: a replica that has had a log never begins with an empty one, which would forget its vote.
#[test]
fn a_lost_log_is_damage() {
    let disk = SimDisk::default();
    block_on(async {
        let mut folder = open(&disk, CELL).expect("a new folder");
        let mut log = folder.open_log(small()).expect("a log");
        assert!(!folder.is_new());
        log.save_vote(&vote(1, false)).await.expect("a vote");
        append(&mut log, vec![entry(1, 0, 10)]).await.expect("an append");
        log.close().await;
    });
    for name in disk.list(&Path::new(FOLDER).join("log")).expect("names") {
        disk.remove(&Path::new(FOLDER).join("log").join(name)).expect("a removal");
    }
    let mut folder = open(&disk, CELL).expect("the folder again");
    let error = folder.open_log(small()).err().expect("the log is gone");
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("move the folder /data away"), "{error}");
}

/// A first start that is interrupted at any step can be begun again, and no later one loses the log.
#[test]
fn power_cut_at_each_step_of_the_first_start() {
    let mut cuts = 0;
    for cut in 0.. {
        let disk = SimDisk::default();
        disk.cut_power_after(cut);
        let started = open(&disk, CELL).is_ok_and(|mut folder| folder.open_log(small()).is_ok());
        for seed in 0..6 {
            let left = disk.after_power_cut(&mut Random::new(seed));
            let mut folder = open(&left, CELL).expect("the folder opens");
            assert!(!started || !folder.is_new());
            folder.open_log(small()).expect("the log opens");
            folder.open_snapshots().expect("the snapshots open");
        }
        if started {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 12, "only {cuts} steps were found");
}

fn owner() -> Owner {
    Owner { cell: CELL.0.to_owned(), cell_id: CELL.1, replica: CELL.2 }
}

fn enter(disk: &SimDisk, entrance: Option<Entrance>) -> Result<DataFolder, FolderError> {
    DataFolder::open_by(disk.shared(), Path::new(FOLDER), owner(), entrance)
}

/// Spec G-4, G-7: whatever an interrupted start leaves, a folder with a log knows that its replica has not entered its
/// cell yet, until it is told so; and one of a removed replica is never used again.
#[test]
fn power_cut_at_each_step_of_an_entrance() {
    for entrance in [Entrance::Founding, Entrance::Joining, Entrance::Replacing] {
        for cut in 0.. {
            let disk = SimDisk::default();
            disk.cut_power_after(cut);
            let started =
                enter(&disk, Some(entrance)).is_ok_and(|mut folder| folder.open_log(small()).is_ok());
            for seed in 0..6 {
                let left = disk.after_power_cut(&mut Random::new(seed));
                let folder = enter(&left, None).expect("the folder opens");
                assert!(folder.is_new() || folder.entrance() == Some(entrance), "cut {cut}, seed {seed}");
            }
            if started {
                break;
            }
        }
    }
    let disk = SimDisk::default();
    let mut folder = enter(&disk, Some(Entrance::Joining)).expect("a new folder");
    folder.open_log(small()).expect("a log");
    folder.entered().expect("a removal");
    drop(folder);
    let folder = enter(&disk, Some(Entrance::Joining)).expect("the folder again");
    assert_eq!(folder.entrance(), None, "it is asked for of empty folders only");
    folder.removed().expect("a note");
    drop(folder);
    let error = enter(&disk, None).err().expect("it was removed");
    assert!(matches!(error, FolderError::Removed { .. }), "{error}");
}

const CHILD: &str = "BRAMAH_TEST_FOLDER";

/// A second process gets a message that names the first; when that has let go, it may use the folder. This test
/// is also the second process.
#[test]
fn a_folder_is_used_by_one_process() {
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let try_open = |path: &Path| DataFolder::open(Arc::clone(&real), path, CELL.0, CELL.1, CELL.2);
    if let Some(path) = std::env::var_os(CHILD) {
        match try_open(Path::new(&path)) {
            Ok(_) => println!("CHILD: opened"),
            Err(error) => println!("CHILD: {error}"),
        }
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let second_process = || {
        let name = "storage::data_folder::a_folder_is_used_by_one_process";
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", name, "--nocapture"]).env(CHILD, folder.path());
        String::from_utf8(child.output().expect("a second process").stdout).expect("text")
    };
    let mut first = try_open(folder.path()).expect("a new folder");
    let log = first.open_log(small()).expect("a log");
    let holder = format!("is in use by process {}; stop that process first", std::process::id());
    let output = second_process();
    assert!(output.contains(&holder), "{output}");

    // The log holds the folder as long as it writes to it.
    drop(first);
    let output = second_process();
    assert!(output.contains(&holder), "{output}");
    block_on(log.close());
    drop(log);
    let output = second_process();
    assert!(output.contains("CHILD: opened"), "{output}");
}
