//! Writing a snapshot: a stream in, a file that is there whole or not at all out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{CHUNK_BYTES, encode_chunk_head, encode_end, encode_head};
use super::{Meta, PARTIAL, SYNC_BYTES, SnapshotError, SnapshotFile, SnapshotStore, name_of, remove};
use crate::disk::{Access, DiskFile};

impl SnapshotStore {
    /// Writes a snapshot by `fill` and puts it in place; an error leaves the older one as it was. If a newer
    /// one got there first, that stays, and the one just written lives as long as its handles.
    pub fn write(
        &self,
        meta: Meta,
        fill: impl FnOnce(&mut SnapshotWriter) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let mut writer = self.writer(meta)?;
        fill(&mut writer)?;
        Ok(writer.finish()?)
    }

    fn writer(&self, meta: Meta) -> Result<SnapshotWriter, SnapshotError> {
        let number = self.inner.written.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.folder.join(format!("{}.{number}{PARTIAL}", name_of(&meta)));
        let file = self.inner.disk.open(&path, Access::Create).map_err(SnapshotError::io("create", &path))?;
        let head = encode_head(self.inner.cell_id, &meta)
            .map_err(|error| SnapshotError::io("write", &path)(io::Error::other(error)))?;
        let mut writer = SnapshotWriter {
            store: self.clone(),
            path,
            file,
            meta,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            offset: 0,
            synced: 0,
            checksum: 0,
            chunks: 0,
            body_bytes: 0,
            placed: false,
        };
        writer.write_out(&head)?;
        Ok(writer)
    }
}

/// A snapshot that is being written. Dropped unfinished, it is removed.
pub struct SnapshotWriter {
    store: SnapshotStore,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    meta: Meta,
    chunk: Vec<u8>,
    offset: u64,
    synced: u64,
    checksum: u32,
    chunks: u64,
    body_bytes: u64,
    placed: bool,
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == CHUNK_BYTES {
            self.end_chunk()?;
        }
        Ok(length)
    }

    /// Does nothing: chunks are written when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.placed {
            remove(&*self.store.inner.disk, &self.path);
        }
    }
}

impl SnapshotWriter {
    fn end_chunk(&mut self) -> Result<(), SnapshotError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.write_out(&encode_chunk_head(self.chunks, &chunk))?;
        self.write_out(&chunk)?;
        self.chunks += 1;
        self.body_bytes += chunk.len() as u64;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all_at(bytes, self.offset).map_err(SnapshotError::io("write", &self.path))?;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.offset += bytes.len() as u64;
        if self.offset - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SnapshotError> {
        self.synced = self.offset;
        self.file.sync_data().map_err(SnapshotError::io("sync", &self.path))
    }

    fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        self.end_chunk()?;
        let (end, _) = encode_end(self.body_bytes, self.chunks, self.checksum);
        self.write_out(&end)?;
        self.sync()?;
        let file = SnapshotFile::open(&self.path, Arc::clone(&self.file), self.store.inner.cell_id)?;
        self.place(file)
    }

    fn place(&mut self, file: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        let inner = Arc::clone(&self.store.inner);
        let _placing = inner.placing.lock();
        let newest = inner.newest.lock().clone();
        if newest.as_ref().is_some_and(|newest| newest.meta().last_log_id > self.meta.last_log_id) {
            return Ok(file);
        }
        let path = inner.folder.join(name_of(&self.meta));
        inner.disk.rename(&self.path, &path).map_err(SnapshotError::io("rename", &self.path))?;
        self.placed = true;
        self.store.set_newest(path, &file, newest.as_ref())?;
        Ok(self.store.newest().unwrap_or(file))
    }
}
