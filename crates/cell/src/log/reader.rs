//! Reading entries that have left the cache: neighbours in one read, each checked against its checksum.

use std::io;

use bytes::Bytes;

use super::LogError;
use super::record::{Entry, HEADER_BYTES, decode_entry, parse, record_bytes, verify};
use super::tail::OnDisk;

/// Neighbouring records are read together up to this.
const SPAN_BYTES: usize = 1 << 20;

/// Reads entries in order.
pub(super) fn read(wanted: &[OnDisk]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(wanted.len());
    let mut rest = wanted;
    while !rest.is_empty() {
        let (span, behind) = rest.split_at(span(rest));
        read_span(span, &mut entries)?;
        rest = behind;
    }
    Ok(entries)
}

/// How many of the first entries lie side by side.
fn span(wanted: &[OnDisk]) -> usize {
    let mut bytes = 0;
    let mut end = wanted[0].place.offset as usize;
    let together = wanted.iter().take_while(|entry| {
        let begins = entry.place.offset as usize;
        let size = record_bytes(entry.place.length as usize);
        let fits =
            entry.place.segment == wanted[0].place.segment && begins == end && bytes + size <= SPAN_BYTES;
        bytes += size;
        end = begins + size;
        fits
    });
    together.count().max(1)
}

fn read_span(span: &[OnDisk], entries: &mut Vec<Entry>) -> io::Result<()> {
    let first = &span[0];
    let total: usize = span.iter().map(|entry| record_bytes(entry.place.length as usize)).sum();
    let mut buffer = vec![0; total];
    let segment = &first.segment;
    segment
        .file
        .read_exact_at(&mut buffer, u64::from(first.place.offset))
        .map_err(LogError::io("read", &segment.path))?;
    let buffer = Bytes::from(buffer);
    let mut at = 0;
    for wanted in span {
        let size = record_bytes(wanted.place.length as usize);
        entries.push(decode(wanted, buffer.slice(at..at + size))?);
        at += size;
    }
    Ok(())
}

fn decode(wanted: &OnDisk, record: Bytes) -> io::Result<Entry> {
    let segment = &wanted.segment;
    let damaged = |what: String| {
        io::Error::from(LogError::damaged(&segment.path, u64::from(wanted.place.offset), what))
    };
    let mut bytes = [0; HEADER_BYTES];
    bytes.copy_from_slice(&record[..HEADER_BYTES]);
    let payload = record.slice(HEADER_BYTES..HEADER_BYTES + wanted.place.length as usize);
    let header = parse(segment.seed, &bytes).filter(|header| header.log_id() == wanted.log_id);
    let Some(header) = header.filter(|_| verify(segment.seed, &bytes, &payload)) else {
        return Err(damaged(format!("the record of entry {} does not match its checksum", wanted.log_id)));
    };
    decode_entry(&header, payload).map_err(damaged)
}
