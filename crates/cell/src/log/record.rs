//! One record of a segment: a header of 56 bytes, then its payload, padded to 8 bytes.
//!
//! `docs/formats.md` draws it. The checksum begins with who writes (cell, replica, segment), so what an
//! earlier use of a recycled file left behind never passes for a record of this one.

use bramah_machine::planted::{self, Bug};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::type_config::alias::{CommittedLeaderIdOf, EntryOf, LogIdOf};

use super::{Identity, LogError};
use crate::consensus::{EncodedBatch, TypeConfig};

pub(super) type Entry = EntryOf<TypeConfig>;
pub(super) type LogId = LogIdOf<TypeConfig>;

/// A record's header takes this many bytes.
pub(super) const HEADER_BYTES: usize = 56;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// Where in a header the segment's number is, its lower half.
pub(super) const SEGMENT_FIELD: usize = 8;
/// A payload may not be longer: a damaged length must not make us ask for more memory than this.
pub(super) const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// In longer records one turned bit is not looked for: by chance a torn one of `n` bits seems to be that in `n` of
/// 2^32 cases.
const MAX_MENDABLE_BYTES: usize = 64 << 10;

/// Where in a header the checksum is.
const CHECKSUM_FIELD: usize = 4;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Of CRC-32C, its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// No index, sequence or generation gets there in the life of a cell, so counting on from one can't overflow.
pub(super) const MAX_COUNT: u64 = u64::MAX / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An entry without contents, a new leader's first.
    Blank = 1,
    /// An entry with a batch, as it came.
    Normal = 2,
    /// An entry with a change of members, by postcard.
    Membership = 3,
    /// The entries from `index` on are gone.
    Truncate = 4,
    /// The entries up to the log id are gone.
    Purge = 5,
    /// Nothing new: says that the segment is on the disk up to `durable`.
    Mark = 6,
    /// The segment's last record.
    Seal = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Blank, Kind::Normal, Kind::Membership, Kind::Truncate, Kind::Purge, Kind::Mark, Kind::Seal]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    pub(super) fn is_entry(self) -> bool {
        matches!(self, Kind::Blank | Kind::Normal | Kind::Membership)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of payload, without padding.
    pub(super) length: u32,
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) leader: u64,
    /// One more than the newest index known to be committed when this was written; 0 for none.
    pub(super) committed: u64,
    /// The segment was on the disk up to this offset before this record was written.
    pub(super) durable: u32,
}

impl Header {
    pub(super) fn log_id(&self) -> LogId {
        LogId { leader_id: leader_id(self.term, self.leader), index: self.index }
    }
}

pub(super) fn leader_id(term: u64, node_id: u64) -> CommittedLeaderIdOf<TypeConfig> {
    CommittedLeaderIdOf::<TypeConfig> { term, node_id }
}

/// Who writes a segment: what every checksum in it begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed {
    checksum: u32,
    segment: u32,
}

impl Seed {
    pub(super) fn new(identity: Identity, sequence: u64) -> Self {
        let checksum = crc32c::crc32c(&identity.cell_id.to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, &identity.replica.to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, &sequence.to_le_bytes());
        Self { checksum, segment: sequence as u32 }
    }

    pub(super) fn segment(self) -> u32 {
        self.segment
    }

    fn checksum(self, header: &[u8], payload: &[u8]) -> u32 {
        let checksum = crc32c::crc32c_append(self.checksum, &header[..4]);
        let checksum = crc32c::crc32c_append(checksum, &header[8..HEADER_BYTES]);
        crc32c::crc32c_append(checksum, payload)
    }
}

/// What a record with a payload of that length takes.
pub(super) fn record_bytes(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(ALIGNMENT)
}

/// Appends a record; `header.length` is taken from the payload.
pub(super) fn encode(buffer: &mut Vec<u8>, seed: Seed, header: Header, payload: &[u8]) {
    let mut bytes = [0_u8; HEADER_BYTES];
    bytes[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[SEGMENT_FIELD..12].copy_from_slice(&seed.segment.to_le_bytes());
    bytes[12] = header.kind as u8;
    bytes[16..24].copy_from_slice(&header.index.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.term.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.leader.to_le_bytes());
    bytes[40..48].copy_from_slice(&header.committed.to_le_bytes());
    bytes[48..52].copy_from_slice(&header.durable.to_le_bytes());
    let checksum = seed.checksum(&bytes, payload);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(&bytes);
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
}

/// Reads a header if the bytes look like one of this segment; [`verify`] says whether it is.
pub(super) fn parse(seed: Seed, bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if u32_at(SEGMENT_FIELD) != seed.segment || u32_at(0) as usize > MAX_PAYLOAD_BYTES {
        return None;
    }
    if u64_at(16).max(u64_at(40)) > MAX_COUNT {
        return None;
    }
    Some(Header {
        length: u32_at(0),
        kind: Kind::from_byte(bytes[12])?,
        index: u64_at(16),
        term: u64_at(24),
        leader: u64_at(32),
        committed: u64_at(40),
        durable: u32_at(48),
    })
}

/// Whether a record is whole and of this segment.
pub(super) fn verify(seed: Seed, header: &[u8; HEADER_BYTES], payload: &[u8]) -> bool {
    let stored = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    stored == seed.checksum(header, payload) || planted::is(Bug::ChecksumIgnored)
}

/// Whether a record that does not verify would, if one bit of it were the other way round. `payload` gives that
/// many bytes behind the header, if there are so many.
///
/// A sector that was never written, in which the record would have had but one bit, looks the same, and so does the end
/// of a record whose write broke off: that is no turned bit. `offset` is where the record begins.
pub(super) fn is_one_bit_off(
    seed: Seed,
    offset: u64,
    header: &[u8; HEADER_BYTES],
    mut payload: impl FnMut(usize) -> Result<Option<Vec<u8>>, LogError>,
) -> Result<bool, LogError> {
    let mut read = |header: &Header| match header.length as usize {
        length if length > MAX_MENDABLE_BYTES => Ok(None),
        length => payload(length),
    };
    let as_it_is = parse(seed, header);
    if let Some(found) = &as_it_is
        && let Some(payload) = read(found)?
    {
        let stored = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let off = stored ^ seed.checksum(header, &payload);
        let turned = match off.is_power_of_two() {
            true => Some(CHECKSUM_FIELD + off.trailing_zeros() as usize / 8),
            // What is summed up is the record without its checksum.
            false => turned_byte(off, HEADER_BYTES - 4 + payload.len())
                .map(|byte| if byte < CHECKSUM_FIELD { byte } else { byte + 4 }),
        };
        if let Some(byte) = turned {
            return Ok(!is_empty_around(offset, &[header, &payload[..]].concat(), byte));
        }
    }
    // A bit that says how long the record is, or makes the header none at all.
    for bit in 0..HEADER_BYTES * 8 {
        let mut other = *header;
        other[bit / 8] ^= 1 << (bit % 8);
        let parsed =
            parse(seed, &other).filter(|parsed| as_it_is.is_none_or(|was| was.length != parsed.length));
        if let Some(parsed) = parsed
            && let Some(payload) = read(&parsed)?
            && verify(seed, &other, &payload)
        {
            return Ok(!is_empty_around(offset, &[header, &payload[..]].concat(), bit / 8));
        }
    }
    Ok(false)
}

/// Which of the last `bytes` that were summed up has the one bit that changes a CRC-32C by `off`: the sum is linear, so
/// a bit changes it by a value that depends on its distance from the end alone.
fn turned_byte(off: u32, bytes: usize) -> Option<usize> {
    let step = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
    let mut sums = std::iter::successors(Some(POLYNOMIAL), |sum| Some(step(*sum))).take(bytes * 8);
    sums.position(|sum| sum == off).map(|from_end| bytes - 1 - from_end / 8)
}

/// Whether all of the record that lies in the same sector as its byte `byte` is zeros, or all from that byte on.
fn is_empty_around(offset: u64, record: &[u8], byte: usize) -> bool {
    let sector = (offset as usize + byte) / SECTOR_BYTES * SECTOR_BYTES;
    let begin = sector.saturating_sub(offset as usize);
    let end = (sector + SECTOR_BYTES).saturating_sub(offset as usize).min(record.len());
    let is_empty = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    is_empty(&record[begin..end]) || is_empty(&record[byte..])
}

/// How an entry's payload lies on disk. A batch is not copied.
pub(super) fn encode_payload(entry: &Entry) -> Result<(Kind, Bytes), postcard::Error> {
    Ok(match &entry.payload {
        EntryPayload::Blank => (Kind::Blank, Bytes::new()),
        EntryPayload::Normal(batch) => (Kind::Normal, batch.0.clone()),
        EntryPayload::Membership(membership) => (Kind::Membership, postcard::to_stdvec(membership)?.into()),
    })
}

/// The entry of a verified record.
pub(super) fn decode_entry(header: &Header, payload: Bytes) -> Result<Entry, String> {
    let payload = match header.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Normal => EntryPayload::Normal(EncodedBatch(payload)),
        Kind::Membership => EntryPayload::Membership(
            postcard::from_bytes(&payload)
                .map_err(|error| format!("a change of members that can't be read: {error}"))?,
        ),
        other => return Err(format!("a record of kind {other:?} where an entry was written")),
    };
    Ok(Entry { log_id: header.log_id(), payload })
}

/// Roughly what an entry takes on disk and in memory; the same for the same entry.
pub(super) fn weight(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Membership(_) => 128,
    };
    record_bytes(payload) as u64
}
