//! Receiving a snapshot from another replica, taken up where it stopped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::Walk;
use super::{Meta, RECEIVING, SYNC_BYTES, SnapshotError, SnapshotFile, SnapshotStore, name_of, remove};
use crate::disk::{Access, DiskFile};

impl SnapshotStore {
    /// Begins to receive the file that `meta`, its length and its checksum name, or goes on where an earlier
    /// attempt stopped. Ends any other attempt: its next piece is refused.
    pub fn receive(&self, meta: Meta, length: u64, checksum: u32) -> io::Result<ReceivingSnapshot> {
        let inner = &*self.inner;
        let _placing = inner.placing.lock();
        let attempt = inner.received.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{RECEIVING}{}-{length}-{checksum:08x}", name_of(&meta));
        let names = inner.disk.list(&inner.folder).map_err(SnapshotError::io("list", &inner.folder))?;
        for other in names.iter().filter(|other| other.starts_with(RECEIVING) && **other != name) {
            remove(&*inner.disk, &inner.folder.join(other));
        }
        let path = inner.folder.join(&name);
        let access = if names.contains(&name) { Access::Write } else { Access::Create };
        let file = inner.disk.open(&path, access).map_err(SnapshotError::io("open", &path))?;
        let mut receiving = ReceivingSnapshot {
            store: self.clone(),
            path,
            file,
            meta,
            length,
            checksum,
            attempt,
            offset: 0,
            synced: 0,
        };
        receiving.offset = receiving.whole_bytes()?;
        receiving.synced = receiving.offset;
        let cut = receiving.file.set_length(receiving.offset);
        cut.map_err(SnapshotError::io("cut off", &receiving.path))?;
        Ok(receiving)
    }
}

/// A snapshot that arrives in pieces.
pub struct ReceivingSnapshot {
    store: SnapshotStore,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    meta: Meta,
    length: u64,
    checksum: u32,
    attempt: u64,
    offset: u64,
    synced: u64,
}

impl ReceivingSnapshot {
    /// Bytes that are here: the next piece begins there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next piece.
    pub fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.check_attempt()?;
        if piece.len() as u64 > self.length - self.offset {
            let message = format!("{} bytes were announced, but more arrive", self.length);
            return Err(SnapshotError::Refused(message).into());
        }
        self.file.write_all_at(piece, self.offset).map_err(SnapshotError::io("write", &self.path))?;
        self.offset += piece.len() as u64;
        if self.offset - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Checks that the file is the one announced; [`SnapshotStore::adopt`] then puts it in place. If it isn't,
    /// it is removed, so that the next attempt begins anew.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        self.check_attempt()?;
        if self.offset != self.length {
            let message = format!("{} of {} bytes arrived", self.offset, self.length);
            return Err(SnapshotError::Refused(message).into());
        }
        self.sync()?;
        let checked = self.check();
        if matches!(checked, Err(SnapshotError::Refused(_))) {
            remove(&*self.store.inner.disk, &self.path);
        }
        Ok(checked?)
    }

    fn check(&self) -> Result<SnapshotFile, SnapshotError> {
        let cell_id = self.store.inner.cell_id;
        let opened = SnapshotFile::open(&self.path, Arc::clone(&self.file), cell_id);
        let whole = opened.and_then(|file| file.verify().map(|()| file));
        let file = whole.map_err(|error| match error {
            error @ SnapshotError::Io { .. } => error,
            // Our own folder is sound, so nothing is to be repaired: it just has to be sent again.
            SnapshotError::Damaged { offset, what, .. } => {
                SnapshotError::Refused(format!("byte {offset}: {what}"))
            }
            other => SnapshotError::Refused(other.to_string()),
        })?;
        if *file.meta() != self.meta || file.checksum() != self.checksum {
            return Err(SnapshotError::Refused("it is not the snapshot that was announced".to_owned()));
        }
        Ok(file)
    }

    /// How many bytes of an earlier attempt are certainly right: after a crash not all of them are.
    fn whole_bytes(&self) -> Result<u64, SnapshotError> {
        let file = Arc::clone(&self.file);
        let begun = Walk::begin(&self.path, file, self.store.inner.cell_id);
        let (mut walk, meta) = match begun {
            Ok(begun) => begun,
            Err(error @ SnapshotError::Io { .. }) => return Err(error),
            Err(_) => return Ok(0),
        };
        if meta != self.meta || walk.length > self.length {
            return Ok(0);
        }
        let mut chunk = Vec::new();
        loop {
            match walk.chunk(&mut chunk) {
                Ok(true) => {}
                Ok(false) | Err(SnapshotError::Damaged { .. }) => return Ok(walk.offset),
                Err(error) => return Err(error),
            }
        }
    }

    fn check_attempt(&self) -> Result<(), SnapshotError> {
        if self.store.inner.received.load(Ordering::Relaxed) == self.attempt {
            return Ok(());
        }
        Err(SnapshotError::Refused("a later attempt has taken its place".to_owned()))
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.synced = self.offset;
        self.file.sync_data().map_err(SnapshotError::io("sync", &self.path))
    }
}
