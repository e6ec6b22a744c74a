//! A whole snapshot file, and its body as a stream.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::format::Walk;
use super::{Meta, SnapshotError};
use crate::disk::DiskFile;

/// A whole snapshot. Clones are handles to the same file, which can be read even after a newer snapshot has
/// taken its place.
#[derive(Clone)]
pub struct SnapshotFile {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) path: std::path::PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) cell_id: u64,
    pub(super) meta: Meta,
    pub(super) length: u64,
    pub(super) body_bytes: u64,
    pub(super) checksum: u32,
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner.path.display())
    }
}

impl SnapshotFile {
    /// Opens a file and checks its head and end; the body is checked when it is read.
    pub(super) fn open(path: &Path, file: Arc<dyn DiskFile>, cell_id: u64) -> Result<Self, SnapshotError> {
        let (walk, meta) = Walk::begin(path, file, cell_id)?;
        let end = walk.peek_end()?;
        let Walk { path, file, length, .. } = walk;
        let (body_bytes, checksum) = (end.body_bytes, end.checksum);
        Ok(Self { inner: Arc::new(Inner { path, file, cell_id, meta, length, body_bytes, checksum }) })
    }

    /// What the snapshot holds: its last log id and members.
    pub fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    /// The file's name when it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The file's length in bytes: what is sent to another replica.
    pub fn length(&self) -> u64 {
        self.inner.length
    }

    /// The body's length in bytes.
    pub fn body_bytes(&self) -> u64 {
        self.inner.body_bytes
    }

    /// The checksum over the whole file; with the meta and the length it names this very file.
    pub fn checksum(&self) -> u32 {
        self.inner.checksum
    }

    /// Whether both are copies of one file.
    pub(super) fn is_same(&self, other: &SnapshotFile) -> bool {
        let key = |file: &SnapshotFile| (file.length(), file.checksum());
        key(self) == key(other) && self.meta() == other.meta()
    }

    /// At most `limit` bytes of the file from `offset` on; none at its end. Blocks.
    pub fn read_at(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let length = self.inner.length.saturating_sub(offset).min(limit as u64);
        let mut bytes = vec![0; length as usize];
        self.inner.file.read_exact_at(&mut bytes, offset).map_err(SnapshotError::io("read", self.path()))?;
        Ok(bytes)
    }

    /// The body from its beginning, checked while it is read. Reading blocks.
    pub fn body(&self) -> io::Result<SnapshotBody> {
        let (walk, _) = Walk::begin(self.path(), Arc::clone(&self.inner.file), self.inner.cell_id)?;
        Ok(SnapshotBody { walk, chunk: Vec::new(), read: 0, ended: false })
    }

    /// Reads the whole file and compares all checksums. Blocks.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let (mut walk, _) = Walk::begin(self.path(), Arc::clone(&self.inner.file), self.inner.cell_id)?;
        let mut chunk = Vec::new();
        while walk.chunk(&mut chunk)? {}
        walk.end()?;
        Ok(())
    }
}

/// The body of a snapshot, a chunk in memory at a time.
pub struct SnapshotBody {
    walk: Walk,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Read for SnapshotBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.len() && !self.ended && !buffer.is_empty() {
            self.read = 0;
            if !self.walk.chunk(&mut self.chunk)? {
                self.walk.end()?;
                self.ended = true;
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.read);
        buffer[..length].copy_from_slice(&self.chunk[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}
