//! The files that say whose a data folder is, of arbitrary bytes.

use std::path::Path;
use std::sync::Arc;

use bramah_cell::data_folder::DataFolder;
use bramah_cell::disk::imagined::{ImaginedDisk, Inline, NoFaults};
use bramah_cell::disk::{Access, Disk};
use bramah_fuzz::{fuzz, within_bytes};

const FOLDER: &str = "/data";

/// The identity; behind a zero byte the marker. With the checksum as found and with the right one.
#[test]
fn data_folders() {
    fuzz!("identity", |bytes| {
        let (identity, marker) = match bytes.iter().position(|byte| *byte == 0) {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        within_bytes((64 << 10) + 64 * bytes.len(), || {
            open(identity, marker);
            open(&repaired(identity), marker);
        });
    });
}

fn repaired(identity: &[u8]) -> Vec<u8> {
    let line = b"checksum: ";
    let end = identity.windows(line.len()).rposition(|window| window == line).unwrap_or(identity.len());
    let body = &identity[..end];
    [body, format!("checksum: {:08x}\n", crc32c::crc32c(body)).as_bytes()].concat()
}

fn open(identity: &[u8], marker: Option<&[u8]>) {
    let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()));
    disk.create_directory(Path::new(FOLDER)).expect("a folder");
    write(&disk, "identity", identity);
    if let Some(marker) = marker {
        write(&disk, "replacing", marker);
    }
    let folder = Path::new(FOLDER);
    let Ok(owner) = DataFolder::owner_of(&disk, folder) else {
        assert!(
            DataFolder::open(disk.shared(), folder, "main", 1, 1).is_err(),
            "a damaged identity was passed over"
        );
        return;
    };
    let owner = owner.expect("there is an identity");
    let other = DataFolder::open(disk.shared(), folder, &owner.cell, owner.cell_id, owner.replica ^ 1);
    assert!(other.is_err(), "the folder of another replica was taken");
    if let Ok(opened) = DataFolder::open(disk.shared(), folder, &owner.cell, owner.cell_id, owner.replica) {
        assert_eq!((opened.identity().cell_id, opened.identity().replica), (owner.cell_id, owner.replica));
        assert_eq!(opened.entrance().is_some(), marker.is_some());
    }
}

fn write(disk: &ImaginedDisk, name: &str, bytes: &[u8]) {
    let file = disk.open(&Path::new(FOLDER).join(name), Access::Create).expect("a file");
    file.write_all_at(bytes, 0).expect("a write");
}
