//! Snapshot files of arbitrary bytes, in place and as they arrive, with checksums as found and with right ones.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bramah_fuzz::{fuzz, within_bytes};

use super::format::{CHUNK_HEAD_BYTES, END_BYTES, HEAD_BYTES, encode_chunk_head, encode_end, head_checksum};
use super::{Meta, SnapshotFile, SnapshotStore};
use crate::disk::imagined::{ImaginedDisk, Inline, NoFaults};
use crate::disk::{Access, Disk};
use crate::hub::Bounds;
use crate::log::Identity;
use crate::machine_store::MachineStore;

const IDENTITY: Identity = Identity { cell_id: 0x00c0_ffee_0000_0001, replica: 2 };
const FOLDER: &str = "/snapshots";
/// The largest meta, chunk and record, and what serde reserves for a list.
const MOST_BYTES: usize = 8 << 20;

/// Spec G-5: it is taken whole, or refused.
#[test]
fn files() {
    fuzz!("snapshot", |bytes| {
        for bytes in [bytes.to_vec(), repaired(bytes.to_vec())] {
            within_bytes(MOST_BYTES + 256 * bytes.len(), || {
                open(&bytes);
                receive(&bytes);
            });
        }
    });
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The same with right checksums wherever one could be.
fn repaired(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() < HEAD_BYTES + END_BYTES {
        return bytes;
    }
    let meta_bytes = u32_at(&bytes, 24) as usize;
    let end = bytes.len() - END_BYTES;
    let Some(head) = bytes[..end].get_mut(..HEAD_BYTES.saturating_add(meta_bytes)) else { return bytes };
    let checksum = head_checksum(head);
    head[12..16].copy_from_slice(&checksum.to_le_bytes());
    let (mut at, mut chunks, mut body_bytes) = (head.len(), 0, 0);
    while at + CHUNK_HEAD_BYTES < end {
        let data = at + CHUNK_HEAD_BYTES;
        let length = (u32_at(&bytes, at) as usize).min(end - data);
        let head = encode_chunk_head(chunks, &bytes[data..data + length]);
        bytes[at..data].copy_from_slice(&head);
        (at, chunks, body_bytes) = (data + length, chunks + 1, body_bytes + length as u64);
    }
    let (last, _) = encode_end(body_bytes, chunks, crc32c::crc32c(&bytes[..at]));
    bytes.truncate(at);
    bytes.extend_from_slice(&last);
    bytes
}

fn disk() -> ImaginedDisk {
    let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()));
    disk.create_directory(Path::new(FOLDER)).expect("a folder");
    disk
}

fn store(disk: &ImaginedDisk) -> std::io::Result<SnapshotStore> {
    SnapshotStore::open(disk.shared(), Path::new(FOLDER), IDENTITY)
}

fn open(bytes: &[u8]) {
    let disk = disk();
    let file = disk.open(&Path::new(FOLDER).join("snapshot-5-2"), Access::Create).expect("a file");
    file.write_all_at(bytes, 0).expect("a write");
    let Ok(snapshots) = store(&disk) else { return };
    let file = snapshots.newest().expect("it was opened");
    check_body(&file);
    if let Ok(machine) = MachineStore::open(disk.shared(), snapshots, Bounds::default()) {
        assert!(file.verify().is_ok(), "a state was read from a damaged file");
        machine.machine().read(|state| assert_eq!(state.check_invariants(), Ok(())));
    }
}

/// The body is read if and only if the file is whole.
fn check_body(file: &SnapshotFile) {
    let mut body = Vec::new();
    let read = file.body().and_then(|mut reader| reader.read_to_end(&mut body));
    assert_eq!(read.is_ok(), file.verify().is_ok());
    if read.is_ok() {
        assert_eq!(body.len() as u64, file.body_bytes());
    }
}

/// In two pieces, with a stop between them.
fn receive(bytes: &[u8]) {
    let snapshots = store(&disk()).expect("an empty folder");
    let checksum = bytes.len().checked_sub(16).map_or(0, |at| u32_at(bytes, at));
    let meta = meta_of(bytes).unwrap_or_default();
    let begin = || snapshots.receive(meta.clone(), bytes.len() as u64, checksum).expect("it begins");
    begin().append(&bytes[..bytes.len() / 2]).expect("the first half");
    let mut receiving = begin();
    let here = receiving.offset() as usize;
    assert!(here <= bytes.len() / 2);
    receiving.append(&bytes[here..]).expect("the rest");
    let Ok(file) = receiving.finish() else { return };
    assert!(file.verify().is_ok());
    snapshots.adopt(&file).expect("there is no other");
    let newest = snapshots.newest().expect("it was adopted");
    assert_eq!(newest.read_at(0, bytes.len() + 1).expect("its bytes"), bytes);
}

fn meta_of(bytes: &[u8]) -> Option<Meta> {
    let length = u32_at(bytes.get(..HEAD_BYTES)?, 24) as usize;
    postcard::from_bytes(bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?).ok()
}

/// Else nothing but refusals would be tested; and repairing changes nothing that is whole.
#[test]
fn the_corpus_has_snapshots_that_are_whole() {
    let whole: [&[u8]; 3] = [
        include_bytes!("../../__fuzz__/snapshot/corpus/plain"),
        include_bytes!("../../__fuzz__/snapshot/corpus/in-chunks"),
        include_bytes!("../../__fuzz__/snapshot/corpus/with-removed"),
    ];
    for bytes in whole {
        assert_eq!(repaired(bytes.to_vec()), bytes);
        let disk = disk();
        let file = disk.open(&Path::new(FOLDER).join("snapshot-5-2"), Access::Create).expect("a file");
        file.write_all_at(bytes, 0).expect("a write");
        let machine =
            MachineStore::open(disk.shared(), store(&disk).expect("it is whole"), Bounds::default())
                .expect("a state");
        machine.machine().read(|state| assert!(state.node_count() > 2));
    }
}
