//! A segment: a file of fixed size whose first page says whose it is; records follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{
    ALIGNMENT, HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, SEGMENT_FIELD, Seed, is_one_bit_off, parse,
    record_bytes, verify,
};
use super::{Identity, LogError};
use crate::disk::DiskFile;

/// The first page; records begin behind it.
pub(super) const PAGE_BYTES: usize = 4096;
/// No segment is longer, because offsets take 32 bits.
pub(super) const MAX_SEGMENT_BYTES: u64 = 1 << 31;

const MAGIC: &[u8; 8] = b"bramlog\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 56;
/// How much is read at once when a segment is scanned.
const WINDOW_BYTES: usize = 1 << 20;

/// An open segment.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) size: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) seed: Seed,
    /// One more than the highest index in it.
    next_index: AtomicU64,
}

impl Segment {
    pub(super) fn new(
        identity: Identity,
        sequence: u64,
        size: u64,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
    ) -> Self {
        let seed = Seed::new(identity, sequence);
        Self { sequence, size, path, file, seed, next_index: AtomicU64::new(0) }
    }

    pub(super) fn note_entry(&self, index: u64) {
        self.next_index.fetch_max(index + 1, Ordering::Relaxed);
    }

    /// One more than the highest index that any of its records has, whether it still counts or not.
    pub(super) fn next_index(&self) -> u64 {
        self.next_index.load(Ordering::Relaxed)
    }
}

pub(super) fn segment_name(sequence: u64) -> String {
    format!("segment-{sequence:016}")
}

/// The sequence in a segment's name; `None` for other files.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.parse().ok()
}

/// The first page of a segment whose first entry will have `next_index`.
pub(super) fn encode_head(identity: Identity, sequence: u64, next_index: u64, size: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    page[..8].copy_from_slice(MAGIC);
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let fields = [identity.cell_id, identity.replica, sequence, next_index, size];
    for (field, place) in fields.iter().zip(page[16..HEAD_BYTES].chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    let checksum = head_checksum(&page);
    page[12..16].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn head_checksum(page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..HEAD_BYTES])
}

/// Opens a segment that has been written before; the index is that of its first entry.
pub(super) fn open(
    path: &Path,
    file: Arc<dyn DiskFile>,
    identity: Identity,
    sequence: u64,
) -> Result<(Segment, u64), LogError> {
    let length = file.length().map_err(LogError::io("read", path))?;
    if length < PAGE_BYTES as u64 {
        return Err(LogError::damaged(
            path,
            length,
            format!("the file ends within its first {PAGE_BYTES} bytes"),
        ));
    }
    let mut page = [0; HEAD_BYTES];
    file.read_exact_at(&mut page, 0).map_err(LogError::io("read", path))?;
    if &page[..8] != MAGIC {
        return Err(LogError::damaged(path, 0, "this is not a segment of a log"));
    }
    let u32_at = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if u32_at(12) != head_checksum(&page) {
        return Err(LogError::damaged(path, 0, "the first page does not match its checksum"));
    }
    if u32_at(8) != VERSION {
        return Err(LogError::Version { path: path.to_owned(), found: u32_at(8), known: VERSION });
    }
    check_owner(path, identity, u64_at(16), u64_at(24))?;
    if u64_at(32) != sequence {
        let what = format!("the file is segment {} under the name of segment {sequence}", u64_at(32));
        return Err(LogError::damaged(path, 32, what));
    }
    if u64_at(48) != length {
        let what = format!("the file should have {} bytes, but has {length}", u64_at(48));
        return Err(LogError::damaged(path, length, what));
    }
    Ok((Segment::new(identity, sequence, length, path.to_owned(), file), u64_at(40)))
}

pub(super) fn check_owner(path: &Path, identity: Identity, cell: u64, replica: u64) -> Result<(), LogError> {
    if (cell, replica) == (identity.cell_id, identity.replica) {
        return Ok(());
    }
    Err(LogError::Foreign {
        path: path.to_owned(),
        found_cell: cell,
        found_replica: replica,
        cell: identity.cell_id,
        replica: identity.replica,
    })
}

/// Reads a segment from the front, a window at a time.
pub(super) struct Scanner<'a> {
    segment: &'a Segment,
    window: Vec<u8>,
    window_start: u64,
}

/// What lies at an offset of a segment.
pub(super) enum Found {
    /// A whole record, and where the next one begins.
    Record { header: Header, next: u64 },
    /// Zeros: nothing was ever written here, or it was lost.
    Nothing,
    /// Something else; `torn` if it has the look of one of this segment's records.
    Garbage { torn: bool },
}

/// What [`Scanner::leftovers`] finds.
pub(super) struct Leftovers {
    pub(super) end: u64,
    pub(super) newer: Option<u64>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self { segment, window: Vec::new(), window_start: 0 }
    }

    /// Looks at `offset`, which is aligned.
    pub(super) fn at(&mut self, offset: u64) -> Result<Found, LogError> {
        let seed = self.segment.seed;
        let rest = self.segment.size.saturating_sub(offset);
        if rest < HEADER_BYTES as u64 {
            return Ok(Found::Nothing);
        }
        let mut bytes = [0_u8; HEADER_BYTES];
        bytes.copy_from_slice(self.bytes(offset, HEADER_BYTES)?);
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Found::Nothing);
        }
        let Some(header) = parse(seed, &bytes) else {
            return Ok(Found::Garbage { torn: false });
        };
        let whole = record_bytes(header.length as usize) as u64;
        if whole > rest {
            return Ok(Found::Garbage { torn: true });
        }
        let payload = self.bytes(offset + HEADER_BYTES as u64, header.length as usize)?;
        if !verify(seed, &bytes, payload) {
            return Ok(Found::Garbage { torn: true });
        }
        Ok(Found::Record { header, next: offset + whole })
    }

    /// Whether the garbage at `offset` is a record but for one bit.
    pub(super) fn is_one_bit_off(&mut self, offset: u64) -> Result<bool, LogError> {
        let seed = self.segment.seed;
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(self.bytes(offset, HEADER_BYTES)?);
        let rest = (self.segment.size - offset) as usize - HEADER_BYTES;
        let payload = |length: usize| match length <= rest {
            true => self.bytes(offset + HEADER_BYTES as u64, length).map(|bytes| Some(bytes.to_vec())),
            false => Ok(None),
        };
        is_one_bit_off(seed, offset, &header, payload)
    }

    /// Whole records at or behind `offset`, where none should be: the end of the last one, and the first one
    /// that was written after a place behind `offset` had been synced.
    pub(super) fn leftovers(&mut self, offset: u64) -> Result<Leftovers, LogError> {
        let mut leftovers = Leftovers { end: offset, newer: None };
        let mut from = offset;
        while let Some(at) = self.candidate(from)? {
            from = at + ALIGNMENT as u64;
            if let Found::Record { header, next } = self.at(at)? {
                if u64::from(header.durable) > offset && leftovers.newer.is_none() {
                    leftovers.newer = Some(at);
                }
                leftovers.end = next;
                from = next;
            }
        }
        Ok(leftovers)
    }

    /// The first place at or behind `offset` that names this segment as a record does. Most of what is looked
    /// through is zeros or an earlier use of the file, so this is quick.
    fn candidate(&mut self, offset: u64) -> Result<Option<u64>, LogError> {
        let name = self.segment.seed.segment().to_le_bytes();
        let mut at = offset;
        while at + HEADER_BYTES as u64 <= self.segment.size {
            let field = at + SEGMENT_FIELD as u64;
            let length = self.ahead(field);
            let fields = self.bytes(field, length)?.chunks_exact(ALIGNMENT);
            if let Some(found) = fields.clone().position(|field| field[..4] == name) {
                return Ok(Some(at + (found * ALIGNMENT) as u64));
            }
            at += (fields.len() * ALIGNMENT) as u64;
        }
        Ok(None)
    }

    /// How many bytes to look at from `offset` on: what the window holds of them, or a window full.
    fn ahead(&self, offset: u64) -> usize {
        let held = (self.window_start + self.window.len() as u64).saturating_sub(offset);
        if offset >= self.window_start && held >= ALIGNMENT as u64 {
            return held as usize;
        }
        (self.segment.size - offset).min(WINDOW_BYTES as u64) as usize
    }

    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], LogError> {
        debug_assert!(length <= MAX_PAYLOAD_BYTES);
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + length as u64 > window_end {
            let wanted = length.max(WINDOW_BYTES).min((self.segment.size - offset) as usize);
            self.window.resize(wanted, 0);
            self.window_start = offset;
            let read = self.segment.file.read_exact_at(&mut self.window, offset);
            read.map_err(LogError::io("read", &self.segment.path))?;
        }
        let start = (offset - self.window_start) as usize;
        Ok(&self.window[start..start + length])
    }
}
