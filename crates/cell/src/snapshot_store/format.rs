//! The bytes of a snapshot file: a head, the body in chunks with a checksum each, an end.
//!
//! `docs/formats.md` draws them. The same file is sent to other replicas, so nothing in it names a replica.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Meta, SnapshotError};
use crate::disk::DiskFile;

pub(super) const HEAD_BYTES: usize = 32;
pub(super) const CHUNK_HEAD_BYTES: usize = 8;
pub(super) const END_BYTES: usize = 40;
/// What a chunk holds, but for the last one.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// A damaged length must not make us ask for more memory than this.
const MAX_CHUNK_BYTES: u32 = 4 << 20;
const MAX_META_BYTES: u32 = 1 << 20;
const MAGIC: &[u8; 8] = b"bramsnp\n";
const END_MAGIC: &[u8; 8] = b"bramend\n";
const VERSION: u32 = 1;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The head, with the meta behind it.
pub(super) fn encode_head(cell_id: u64, meta: &Meta) -> Result<Vec<u8>, postcard::Error> {
    let meta = postcard::to_stdvec(meta)?;
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&cell_id.to_le_bytes());
    bytes[24..28].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&meta);
    let checksum = head_checksum(&bytes);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

pub(super) fn head_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

pub(super) fn encode_chunk_head(number: u64, data: &[u8]) -> [u8; CHUNK_HEAD_BYTES] {
    let mut bytes = [0; CHUNK_HEAD_BYTES];
    bytes[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&chunk_checksum(number, data).to_le_bytes());
    bytes
}

fn chunk_checksum(number: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), data)
}

/// What the end of a file says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) body_bytes: u64,
    pub(super) chunks: u64,
    /// Over all bytes before it.
    pub(super) checksum: u32,
}

/// The end; `checksum` is that of all bytes before it, and goes on over its first fields.
pub(super) fn encode_end(body_bytes: u64, chunks: u64, checksum: u32) -> ([u8; END_BYTES], End) {
    let mut bytes = [0; END_BYTES];
    // A chunk of no bytes ends the body.
    bytes[..CHUNK_HEAD_BYTES].copy_from_slice(&encode_chunk_head(chunks, &[]));
    bytes[8..16].copy_from_slice(&body_bytes.to_le_bytes());
    bytes[16..24].copy_from_slice(&chunks.to_le_bytes());
    let checksum = crc32c::crc32c_append(checksum, &bytes[..24]);
    bytes[24..28].copy_from_slice(&checksum.to_le_bytes());
    bytes[32..].copy_from_slice(END_MAGIC);
    (bytes, End { body_bytes, chunks, checksum })
}

/// A file that is read from the front.
pub(super) struct Walk {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
    /// Everything before this was whole.
    pub(super) offset: u64,
    chunks: u64,
    body_bytes: u64,
    /// Over everything before `offset`.
    checksum: u32,
}

impl Walk {
    /// Reads the head.
    pub(super) fn begin(
        path: &Path,
        file: Arc<dyn DiskFile>,
        cell_id: u64,
    ) -> Result<(Self, Meta), SnapshotError> {
        let length = file.length().map_err(SnapshotError::io("read", path))?;
        let mut walk =
            Self { path: path.to_owned(), file, length, offset: 0, chunks: 0, body_bytes: 0, checksum: 0 };
        let mut head = vec![0; HEAD_BYTES];
        walk.read(&mut head)?;
        if &head[..8] != MAGIC {
            return Err(walk.damaged("this is not a snapshot"));
        }
        let meta_bytes = u32_at(&head, 24);
        if meta_bytes > MAX_META_BYTES {
            return Err(walk.damaged("the head does not match its checksum"));
        }
        head.resize(HEAD_BYTES + meta_bytes as usize, 0);
        walk.read(&mut head)?;
        if u32_at(&head, 12) != head_checksum(&head) {
            return Err(walk.damaged("the head does not match its checksum"));
        }
        if u32_at(&head, 8) != VERSION {
            let (path, found) = (path.to_owned(), u32_at(&head, 8));
            return Err(SnapshotError::Version { path, found, known: VERSION });
        }
        if u64_at(&head, 16) != cell_id {
            let (path, found) = (path.to_owned(), u64_at(&head, 16));
            return Err(SnapshotError::Foreign { path, found, cell: cell_id });
        }
        let meta = postcard::from_bytes(&head[HEAD_BYTES..])
            .map_err(|error| walk.damaged(format!("the head can't be read: {error}")))?;
        walk.pass(&head);
        Ok((walk, meta))
    }

    /// Reads the next chunk into `data`; false if there is none any more.
    pub(super) fn chunk(&mut self, data: &mut Vec<u8>) -> Result<bool, SnapshotError> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        self.read(&mut head)?;
        let length = u32_at(&head, 0);
        if length > MAX_CHUNK_BYTES {
            return Err(self.damaged("a chunk does not match its checksum"));
        }
        data.clear();
        if length == 0 {
            return Ok(false);
        }
        data.resize(CHUNK_HEAD_BYTES + length as usize, 0);
        self.read(data)?;
        if u32_at(&head, 4) != chunk_checksum(self.chunks, &data[CHUNK_HEAD_BYTES..]) {
            return Err(self.damaged("a chunk does not match its checksum"));
        }
        self.pass(data);
        data.drain(..CHUNK_HEAD_BYTES);
        self.chunks += 1;
        self.body_bytes += u64::from(length);
        Ok(true)
    }

    /// Reads the end, once `chunk` has said that there is no further one.
    pub(super) fn end(&mut self) -> Result<End, SnapshotError> {
        let mut bytes = [0; END_BYTES];
        self.read(&mut bytes)?;
        let (expected, end) = encode_end(self.body_bytes, self.chunks, self.checksum);
        if bytes != expected || self.length != self.offset + END_BYTES as u64 {
            return Err(self.damaged("the end does not match what comes before it"));
        }
        Ok(end)
    }

    /// What the end says, without reading what comes before it.
    pub(super) fn peek_end(&self) -> Result<End, SnapshotError> {
        let offset = self.length.saturating_sub(END_BYTES as u64);
        if offset < self.offset {
            return Err(SnapshotError::damaged(&self.path, self.length, "the file ends too early"));
        }
        let mut bytes = [0; END_BYTES];
        self.file.read_exact_at(&mut bytes, offset).map_err(SnapshotError::io("read", &self.path))?;
        if &bytes[32..] != END_MAGIC {
            return Err(SnapshotError::damaged(&self.path, offset, "the end of the file is missing"));
        }
        Ok(End { body_bytes: u64_at(&bytes, 8), chunks: u64_at(&bytes, 16), checksum: u32_at(&bytes, 24) })
    }

    /// Reads at `offset` without passing it.
    fn read(&self, buffer: &mut [u8]) -> Result<(), SnapshotError> {
        if self.offset + buffer.len() as u64 > self.length {
            return Err(self.damaged("the file ends too early"));
        }
        self.file.read_exact_at(buffer, self.offset).map_err(SnapshotError::io("read", &self.path))
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.offset += bytes.len() as u64;
    }

    fn damaged(&self, what: impl Into<String>) -> SnapshotError {
        SnapshotError::damaged(&self.path, self.offset, what)
    }
}
