//! Opening a log: reads its segments in order and tells a torn tail from damage (spec G-4).
//!
//! A crash can only spoil what was written after the last sync, and each record says how far the segment
//! had been synced when it was written. So a spoilt record before such a place is damage, and so is one in
//! a segment that others follow; one behind all such places is the unfinished end of the last write, unless it is
//! whole but for one bit: writes don't end like that.

use std::path::Path;
use std::sync::Arc;

use super::control::{CONTROL_NAME, Control};
use super::record::{Header, Kind};
use super::segment::{self, Found, PAGE_BYTES, Scanner, Segment, segment_name, sequence_of};
use super::spares::Spares;
use super::tail::{Place, Tail};
use super::{Identity, LogError};
use crate::disk::{self, Access, Disk};

pub(super) struct Recovered {
    pub(super) tail: Tail,
    pub(super) control: Control,
    /// The newest segment and where it ends; `None` before the first one is made.
    pub(super) active: Option<Active>,
    /// Segments that belong to the log no more.
    pub(super) retired: Vec<Arc<Segment>>,
}

pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) end: u64,
    pub(super) sealed: bool,
}

/// Reads the log in `folder`. With `create`, an empty folder becomes an empty log.
pub(super) fn recover(
    disk: &dyn Disk,
    folder: &Path,
    identity: Identity,
    create: bool,
) -> Result<Recovered, LogError> {
    if create {
        disk::make_folder(disk, folder).map_err(LogError::io("create", folder))?;
    }
    let names = match disk.list(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(LogError::damaged(&folder.join(CONTROL_NAME), 0, "the folder of the log is missing"));
        }
        names => names.map_err(LogError::io("list", folder))?,
    };
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    if !names.iter().any(|name| name == CONTROL_NAME) {
        if !create || !sequences.is_empty() {
            let what = "the file with the vote is missing";
            return Err(LogError::damaged(&folder.join(CONTROL_NAME), 0, what));
        }
        let control = Control::create(disk, folder, identity)?;
        return Ok(Recovered { tail: Tail::default(), control, active: None, retired: Vec::new() });
    }
    let mut control = Control::open(disk, folder, identity)?;
    let live = live_segments(folder, &mut control, &sequences)?;
    let mut recovery = Recovery { tail: Tail::default(), identity, committed: 0, active: None };
    recovery.tail.vote = control.facts.vote;
    for (at, sequence) in live.iter().enumerate() {
        recovery.read_segment(disk, folder, *sequence, at + 1 == live.len())?;
    }
    let retired = retired_segments(disk, folder, identity, &sequences, control.facts.first_segment);
    // A rename that this process can see may not be on the disk yet.
    disk.sync_directory(folder).map_err(LogError::io("sync", folder))?;
    recovery.finish(control, retired)
}

/// The sequences that make up the log, none of which may be missing.
fn live_segments(folder: &Path, control: &mut Control, found: &[u64]) -> Result<Vec<u64>, LogError> {
    let (first, last) = (control.facts.first_segment, control.facts.last_segment);
    if let Some(missing) = (first..=last).find(|sequence| found.binary_search(sequence).is_err()) {
        let path = folder.join(segment_name(missing));
        return Err(LogError::damaged(&path, 0, "the file is missing"));
    }
    let newest = found.last().copied().unwrap_or(0);
    if newest > last + 1 {
        let what = format!("segment {newest} is here, but the newest one known is {last}");
        return Err(LogError::damaged(&folder.join(segment_name(newest)), 0, what));
    }
    if newest == last + 1 {
        // Stopped between making the segment and noting it: nothing is in it yet.
        control.facts.last_segment = newest;
        control.save()?;
    }
    Ok((first..=control.facts.last_segment).collect())
}

/// Stopped between noting that segments are not needed and putting their files away.
fn retired_segments(
    disk: &dyn Disk,
    folder: &Path,
    identity: Identity,
    found: &[u64],
    first: u64,
) -> Vec<Arc<Segment>> {
    let mut retired = Vec::new();
    for sequence in found.iter().filter(|sequence| **sequence < first) {
        let path = folder.join(segment_name(*sequence));
        let opened = disk.open(&path, Access::Write).ok();
        let opened = opened.and_then(|file| segment::open(&path, file, identity, *sequence).ok());
        match opened {
            Some((segment, _)) => retired.push(Arc::new(segment)),
            // What is in it matters no more.
            None => Spares::discard(disk, &path),
        }
    }
    retired
}

struct Recovery {
    tail: Tail,
    identity: Identity,
    committed: u64,
    active: Option<Active>,
}

/// The records of a segment.
struct Records {
    /// Where they end.
    end: u64,
    /// A seal ends them.
    sealed: bool,
    /// Up to where they were surely synced.
    durable: u64,
}

impl Recovery {
    fn read_segment(
        &mut self,
        disk: &dyn Disk,
        folder: &Path,
        sequence: u64,
        is_last: bool,
    ) -> Result<(), LogError> {
        let path = folder.join(segment_name(sequence));
        let file = disk.open(&path, Access::Write).map_err(LogError::io("open", &path))?;
        let (segment, next_index) = segment::open(&path, file, self.identity, sequence)?;
        let segment = Arc::new(segment);
        if !self.tail.is_empty() && next_index != self.tail.next() {
            let what =
                format!("the segment begins with entry {next_index}, but {} is next", self.tail.next());
            return Err(LogError::damaged(&path, 40, what));
        }
        let Records { end, sealed, durable } = self.read_records(&segment, is_last)?;
        if is_last && !sealed {
            clear_end(&segment, end)?;
        }
        if is_last {
            // Entries that a killed process had written, but not synced, count from now on.
            write_again(&segment, durable, end)?;
            segment.file.sync_data().map_err(LogError::io("sync", &path))?;
            self.active = Some(Active { segment: Arc::clone(&segment), end, sealed });
        }
        self.tail.segments.insert(sequence, segment);
        Ok(())
    }

    /// Takes up the records of a segment.
    fn read_records(&mut self, segment: &Arc<Segment>, is_last: bool) -> Result<Records, LogError> {
        let mut scanner = Scanner::new(segment);
        let mut offset = PAGE_BYTES as u64;
        let mut durable = 0;
        loop {
            match scanner.at(offset)? {
                Found::Record { header, next } => {
                    durable = durable.max(u64::from(header.durable));
                    self.take_up(segment, offset, &header, next - offset)?;
                    offset = next;
                    if header.kind == Kind::Seal {
                        return Ok(Records { end: offset, sealed: true, durable });
                    }
                }
                Found::Nothing | Found::Garbage { .. } if offset < durable => {
                    let what = "a record that had been synced does not match its checksum";
                    return Err(LogError::damaged(&segment.path, offset, what));
                }
                Found::Nothing | Found::Garbage { .. } if !is_last => {
                    let what = "a record does not match its checksum, and later segments follow";
                    return Err(LogError::damaged(&segment.path, offset, what));
                }
                Found::Garbage { .. } if scanner.is_one_bit_off(offset)? => {
                    let what = "a record has one bit that is not as it was written";
                    return Err(LogError::damaged(&segment.path, offset, what));
                }
                Found::Nothing | Found::Garbage { .. } => {
                    return Ok(Records { end: offset, sealed: false, durable });
                }
            }
        }
    }

    fn take_up(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        header: &Header,
        bytes: u64,
    ) -> Result<(), LogError> {
        self.committed = self.committed.max(header.committed);
        match header.kind {
            Kind::Truncate => self.tail.truncate(header.index),
            Kind::Purge => self.tail.purge(header.log_id()),
            kind if kind.is_entry() => {
                let place = Place { segment: segment.sequence, offset: offset as u32, length: header.length };
                segment.note_entry(header.index);
                let taken = self.tail.push(header.log_id(), bytes, place);
                taken.map_err(|what| LogError::damaged(&segment.path, offset, what))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self, control: Control, retired: Vec<Arc<Segment>>) -> Result<Recovered, LogError> {
        if let Some(purged) = control.facts.purged {
            self.tail.purge(purged);
        }
        self.tail.committed = match self.committed.checked_sub(1) {
            // A commit is noted with the next record, so it is never ahead of the log by itself; a purge
            // may have passed it.
            Some(index) => self.tail.log_id(index).or(self.tail.purged),
            None => None,
        };
        Ok(Recovered { tail: self.tail, control, active: self.active, retired })
    }
}

/// Writes what can be read, but may never have been synced, once more. If its sync failed, the system holds it in
/// memory as if it were on the disk, and no other sync would write it: a power cut would take it away after it was
/// acknowledged (Rebello and others, "Can Applications Recover from fsync Failures?", 2020).
fn write_again(segment: &Segment, durable: u64, end: u64) -> Result<(), LogError> {
    let from = durable / PAGE_BYTES as u64 * PAGE_BYTES as u64;
    let mut bytes = vec![0; end.saturating_sub(from) as usize];
    segment.file.read_exact_at(&mut bytes, from).map_err(LogError::io("read", &segment.path))?;
    segment.file.write_all_at(&bytes, from).map_err(LogError::io("write", &segment.path))
}

/// Looks behind the last whole record: what was synced must not be there, and what was never synced must not
/// be found there when the log has grown to it.
fn clear_end(segment: &Segment, end: u64) -> Result<(), LogError> {
    let mut scanner = Scanner::new(segment);
    let torn = matches!(scanner.at(end)?, Found::Garbage { torn: true });
    let leftovers = scanner.leftovers(end)?;
    if let Some(newer) = leftovers.newer {
        let what = format!(
            "a record that had been synced does not match its checksum: the record at byte {newer} was written after it"
        );
        return Err(LogError::damaged(&segment.path, end, what));
    }
    if torn || leftovers.end > end {
        tracing::warn!(path = %segment.path.display(), offset = end, "the log ended in a write that was never finished; it was cut off there");
    }
    let clear = leftovers.end.next_multiple_of(PAGE_BYTES as u64).min(segment.size);
    if clear > end {
        let zeros = vec![0; (clear - end) as usize];
        segment.file.write_all_at(&zeros, end).map_err(LogError::io("write", &segment.path))?;
    }
    Ok(())
}
