//! Snapshots: whole or not there, sent in pieces, resumed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bramah_cell::consensus::TypeConfig;
use bramah_cell::disk::Disk;
use bramah_cell::log::Identity;
use bramah_cell::snapshot_store::{SnapshotFile, SnapshotStore};
use openraft::type_config::alias::SnapshotMetaOf;

use super::sim_disk::{Random, SimDisk};
use super::{IDENTITY, log_id};

type Meta = SnapshotMetaOf<TypeConfig>;

const FOLDER: &str = "/snapshots";

fn meta(index: u64) -> Meta {
    Meta { last_log_id: Some(log_id(3, index)), ..Meta::default() }
}

fn store(disk: &SimDisk) -> std::io::Result<SnapshotStore> {
    SnapshotStore::open(disk.shared(), Path::new(FOLDER), IDENTITY)
}

/// A body of a few chunks that depends on the index.
fn body(index: u64) -> Vec<u8> {
    let mut random = Random::new(index);
    (0..600_000).map(|_| random.below(256) as u8).collect()
}

fn write(store: &SnapshotStore, index: u64) -> std::io::Result<SnapshotFile> {
    let body = body(index);
    store.write(meta(index), |writer| body.chunks(10_007).try_for_each(|piece| writer.write_all(piece)))
}

fn read(file: &SnapshotFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.body()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new(FOLDER)).expect("names")
}

/// Spec G-5: the newest snapshot is kept, older ones go, and who still reads one can finish.
#[test]
fn the_newest_snapshot_is_kept() {
    let disk = SimDisk::default();
    let snapshots = store(&disk).expect("snapshots");
    assert!(snapshots.newest().is_none());
    let first = write(&snapshots, 10).expect("a snapshot");
    write(&snapshots, 20).expect("a snapshot");
    assert_eq!(names(&disk), ["snapshot-20-3"]);
    assert_eq!(read(&first).expect("a body"), body(10), "an open snapshot stays readable");

    let newest = store(&disk).expect("snapshots again").newest().expect("a snapshot");
    assert_eq!(newest.meta(), &meta(20));
    assert_eq!(newest.body_bytes(), 600_000);
    assert_eq!(read(&newest).expect("a body"), body(20));

    // One that was begun earlier and ends later.
    let older = write(&snapshots, 15).expect("a snapshot");
    assert_eq!(read(&older).expect("a body"), body(15));
    assert_eq!(snapshots.newest().expect("a snapshot").meta(), &meta(20));
    drop(older);
    assert_eq!(names(&disk), ["snapshot-20-3"]);
}

/// Spec G-5: a snapshot that fails leaves the older one and no trace.
#[test]
fn a_failed_snapshot_leaves_nothing() {
    let disk = SimDisk::default();
    let snapshots = store(&disk).expect("snapshots");
    write(&snapshots, 10).expect("a snapshot");
    let failed = snapshots.write(meta(20), |writer| {
        writer.write_all(&body(20))?;
        Err(std::io::Error::other("the state can't be read"))
    });
    assert!(failed.is_err());
    disk.set_capacity(Some(disk.used() + 100_000));
    assert_eq!(snapshots.free_bytes().expect("free space"), 100_000);
    let failed = write(&snapshots, 30).expect_err("the disk is full");
    assert_eq!(failed.kind(), std::io::ErrorKind::StorageFull);
    assert!(failed.to_string().contains("/snapshots/snapshot-30-3"), "{failed}");
    assert_eq!(names(&disk), ["snapshot-10-3"]);
    assert_eq!(read(&snapshots.newest().expect("a snapshot")).expect("a body"), body(10));
}

/// Spec G-5: whenever the power goes while one is written, the older or the newer snapshot is there, whole.
#[test]
fn power_cut_at_each_step_of_a_snapshot() {
    let mut cuts = 0;
    for cut in 0.. {
        let disk = SimDisk::default();
        let snapshots = store(&disk).expect("snapshots");
        write(&snapshots, 10).expect("a snapshot");
        disk.cut_power_after(cut);
        let written = write(&snapshots, 20).is_ok();
        let was_cut = disk.power_is_cut();
        for seed in 0..6 {
            let left = disk.after_power_cut(&mut Random::new(seed));
            let snapshots = store(&left).expect("the snapshots open");
            let newest = snapshots.newest().expect("a snapshot");
            let index = newest.meta().last_log_id.expect("a log id").index;
            assert!(index == 20 || !written && index == 10, "cut {cut}: snapshot {index}, written {written}");
            assert_eq!(read(&newest).expect("a body"), body(index));
            assert_eq!(names(&left), [format!("snapshot-{index}-3")], "cut {cut}");
        }
        if written && !was_cut {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 8, "only {cuts} steps were found");
}

/// Spec G-4: a flipped bit in any byte is found, and the message says where.
#[test]
fn a_flipped_byte_is_found() {
    let disk = SimDisk::default();
    write(&store(&disk).expect("snapshots"), 10).expect("a snapshot");
    let path = PathBuf::from(FOLDER).join("snapshot-10-3");
    let whole = disk.contents(&path);
    let middle = (100..whole.len() - 100).step_by(9_973);
    for at in (0..100).chain(middle).chain(whole.len() - 100..whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 2;
        disk.set_contents(&path, flipped);
        let opened = store(&disk).and_then(|snapshots| read(&snapshots.newest().expect("a snapshot")));
        let error = opened.err().unwrap_or_else(|| panic!("byte {at} was not noticed")).to_string();
        assert!(error.contains("/snapshots/snapshot-10-3"), "{error}");
    }
    disk.set_contents(&path, whole[..whole.len() - 1].to_vec());
    let error = store(&disk).err().expect("the file is cut off").to_string();
    assert!(error.contains("damaged at byte") && error.contains("--replace"), "{error}");
}

/// Spec G-4: a snapshot of another cell is refused.
#[test]
fn a_foreign_snapshot_is_refused() {
    let disk = SimDisk::default();
    write(&store(&disk).expect("snapshots"), 10).expect("a snapshot");
    let stranger = Identity { cell_id: 5, ..IDENTITY };
    let error = SnapshotStore::open(disk.shared(), Path::new(FOLDER), stranger).err().expect("it is refused");
    assert!(error.to_string().contains("this replica belongs to the cell 0000000000000005"), "{error}");
}

/// The file that is sent, the disk that receives it, and the store on it.
fn transfer() -> (SnapshotFile, SimDisk, SnapshotStore) {
    let sender = write(&store(&SimDisk::default()).expect("snapshots"), 10).expect("a snapshot");
    let disk = SimDisk::default();
    let receiver = store(&disk).expect("snapshots");
    (sender, disk, receiver)
}

/// Spec G-5: a transfer goes on where it stopped, also after a power cut, and the result is the file that was
/// sent.
#[test]
fn receiving_is_resumed() {
    for seed in 0..20 {
        let (sender, disk, receiver) = transfer();
        let key = (sender.meta().clone(), sender.length(), sender.checksum());
        let mut receiving = receiver.receive(key.0.clone(), key.1, key.2).expect("a beginning");
        while receiving.offset() < 560_000 {
            receiving.append(&sender.read_at(receiving.offset(), 20_000).expect("a piece")).expect("room");
        }
        drop(receiving);

        let again = receiver.receive(key.0.clone(), key.1, key.2).expect("a second attempt");
        assert!(again.offset() > 500_000, "a broken connection costs {}", again.offset());

        let disk = disk.after_power_cut(&mut Random::new(seed));
        let receiver = store(&disk).expect("snapshots");
        let mut receiving = receiver.receive(key.0.clone(), key.1, key.2).expect("a third attempt");
        while receiving.offset() < sender.length() {
            receiving.append(&sender.read_at(receiving.offset(), 70_000).expect("a piece")).expect("room");
        }
        let file = receiving.finish().expect("it is whole");
        assert!(receiver.newest().is_none(), "it is not in place before it is adopted");
        receiver.adopt(&file).expect("it is put in place");
        receiver.adopt(&file).expect("a second time changes nothing");
        let newest = store(&disk).expect("snapshots again").newest().expect("a snapshot");
        assert_eq!(read(&newest).expect("a body"), body(10));
        assert_eq!(names(&disk), ["snapshot-10-3"]);
    }
}

/// Spec G-5: adopting is one step: at whatever point the power goes, the older or the newer one is there.
#[test]
fn power_cut_at_each_step_of_adopting() {
    for cut in 0..6 {
        let (sender, disk, receiver) = transfer();
        write(&receiver, 5).expect("an older snapshot");
        let key = (sender.meta().clone(), sender.length(), sender.checksum());
        let mut receiving = receiver.receive(key.0, key.1, key.2).expect("a beginning");
        receiving.append(&sender.read_at(0, usize::MAX).expect("all of it")).expect("room");
        let file = receiving.finish().expect("it is whole");
        disk.cut_power_after(cut);
        let adopted = receiver.adopt(&file).is_ok();
        for seed in 0..6 {
            let left = disk.after_power_cut(&mut Random::new(seed));
            let newest = store(&left).expect("the snapshots open").newest().expect("a snapshot");
            let index = newest.meta().last_log_id.expect("a log id").index;
            assert!(index == 10 || !adopted && index == 5, "cut {cut}: snapshot {index}, adopted {adopted}");
            assert_eq!(read(&newest).expect("a body"), body(index));
        }
    }
}

/// Spec G-5: what is not the announced file is refused and thrown away; the next attempt begins anew.
#[test]
fn a_wrong_transfer_is_refused() {
    let (sender, _, receiver) = transfer();
    let key = (sender.meta().clone(), sender.length(), sender.checksum());
    let mut wrong = sender.read_at(0, usize::MAX).expect("all of it");
    wrong[300_000] ^= 1;
    let mut receiving = receiver.receive(key.0.clone(), key.1, key.2).expect("a beginning");
    assert!(receiving.append(&[0; 700_000]).is_err(), "more than was announced");
    receiving.append(&wrong).expect("room");
    let error = receiving.finish().expect_err("a flipped byte").to_string();
    assert!(error.contains("is refused") && !error.contains("--replace"), "{error}");
    let receiving = receiver.receive(key.0.clone(), key.1, key.2).expect("another attempt");
    assert_eq!(receiving.offset(), 0);
    assert!(receiving.finish().is_err(), "nothing has arrived");

    // An older attempt that is still alive can't spoil a newer one.
    let mut old = receiver.receive(key.0.clone(), key.1, key.2).expect("an attempt");
    let mut new = receiver.receive(key.0, key.1, key.2).expect("a later attempt");
    assert!(old.append(&wrong[..100]).is_err());
    new.append(&sender.read_at(0, usize::MAX).expect("all of it")).expect("room");
    let file = new.finish().expect("it is whole");

    write(&receiver, 50).expect("a newer snapshot");
    assert!(receiver.adopt(&file).is_err(), "the state never goes back");
}
