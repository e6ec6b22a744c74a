//! Opening a log whose files hold arbitrary bytes, with checksums as found and with right ones.
//!
//! An input is a folder without its zeros: what the control file's two copies hold (104 bytes each), then for each
//! segment the length of its records (u16), the beginning of its first page (56 bytes) and its records.

use std::path::Path;
use std::sync::Arc;

use bramah_fuzz::{fuzz, within_bytes};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::control::{CONTROL_NAME, Vote};
use super::record::{
    ALIGNMENT, Entry, HEADER_BYTES, LogId, Seed, decode_entry, leader_id, parse, record_bytes, verify,
};
use super::segment::{PAGE_BYTES, segment_name};
use super::{Identity, Log, LogError, LogOptions};
use crate::consensus::{EncodedBatch, TypeConfig};
use crate::disk::imagined::{ImaginedDisk, Inline, NoFaults};
use crate::disk::{Access, Disk};

const IDENTITY: Identity = Identity { cell_id: 0x00c0_ffee_0000_0001, replica: 2 };
const FOLDER: &str = "/log";
const SEGMENT_BYTES: usize = 16 << 10;
const CONTROL_BYTES: usize = 104;
const HEAD_BYTES: usize = 56;
/// Files on the imagined disk, the writer's buffers and a window of a segment.
const MOST_BYTES: usize = 8 << 20;

/// What an input says lies in the folder.
#[derive(Default)]
struct Folder {
    control: Vec<u8>,
    /// With the sequence that each segment's first page claims.
    segments: Vec<(u64, Vec<u8>)>,
}

impl Folder {
    fn of(bytes: &[u8]) -> Folder {
        let mut rest = bytes;
        let copies = [take(&mut rest, CONTROL_BYTES), take(&mut rest, CONTROL_BYTES)];
        let mut control = vec![0; 2 * PAGE_BYTES];
        control[..copies[0].len()].copy_from_slice(copies[0]);
        control[PAGE_BYTES..PAGE_BYTES + copies[1].len()].copy_from_slice(copies[1]);
        let mut segments = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            rest = after;
            let head = take(&mut rest, HEAD_BYTES);
            let records =
                take(&mut rest, usize::from(u16::from_le_bytes(*length)).min(SEGMENT_BYTES - PAGE_BYTES));
            let mut file = vec![0; SEGMENT_BYTES];
            file[..head.len()].copy_from_slice(head);
            file[PAGE_BYTES..PAGE_BYTES + records.len()].copy_from_slice(records);
            segments.push((u64_at(&file, 32), file));
        }
        Folder { control, segments }
    }

    /// The same with right checksums wherever one could be.
    fn repaired(mut self) -> Folder {
        for copy in [0, PAGE_BYTES] {
            repair(&mut self.control[copy..copy + CONTROL_BYTES]);
        }
        for (sequence, file) in &mut self.segments {
            repair(&mut file[..HEAD_BYTES]);
            repair_records(*sequence, file);
        }
        self
    }

    fn disk(&self) -> ImaginedDisk {
        let disk = ImaginedDisk::new(Arc::new(NoFaults), Arc::new(Inline::default()));
        disk.create_directory(Path::new(FOLDER)).expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            let file = disk.open(&Path::new(FOLDER).join(name), Access::Create).expect("a file");
            file.write_all_at(bytes, 0).expect("a write");
        };
        write(CONTROL_NAME, &self.control);
        self.segments.iter().for_each(|(sequence, file)| write(&segment_name(*sequence), file));
        disk
    }

    /// All entries in it whose checksums are right, whether they count or not.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (sequence, file) in &self.segments {
            for offset in (PAGE_BYTES..file.len() - HEADER_BYTES).step_by(ALIGNMENT) {
                entries.extend(entry_at(*sequence, file, offset));
            }
        }
        entries
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(length.min(rest.len()));
    *rest = after;
    taken
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A first page and a copy of the control file have their checksum at one place.
fn repair(page: &mut [u8]) {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..]);
    page[12..16].copy_from_slice(&checksum.to_le_bytes());
}

fn repair_records(sequence: u64, file: &mut [u8]) {
    let owner = [IDENTITY.cell_id, IDENTITY.replica, sequence].map(u64::to_le_bytes).concat();
    let mut at = PAGE_BYTES;
    while at + HEADER_BYTES <= file.len() && file[at..at + HEADER_BYTES] != [0; HEADER_BYTES] {
        let length = u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
        let payload = at + HEADER_BYTES;
        let Some(bytes) = file.get(payload..payload.saturating_add(length)) else { return };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&owner), &file[at..at + 4]);
        let checksum = crc32c::crc32c_append(checksum, &file[at + 8..payload]);
        let checksum = crc32c::crc32c_append(checksum, bytes);
        file[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
        at += record_bytes(length);
    }
}

fn entry_at(sequence: u64, file: &[u8], offset: usize) -> Option<Entry> {
    let seed = Seed::new(IDENTITY, sequence);
    let header = file[offset..].first_chunk::<HEADER_BYTES>()?;
    let parsed = parse(seed, header)?;
    let payload = file.get(offset + HEADER_BYTES..offset + HEADER_BYTES + parsed.length as usize)?;
    let whole = parsed.kind.is_entry() && verify(seed, header, payload);
    decode_entry(&parsed, Bytes::copy_from_slice(payload)).ok().filter(|_| whole)
}

/// Spec G-4: it is opened with entries that were written, or refused; and an opened log stays as it is and goes on.
#[test]
fn logs() {
    fuzz!("log", |bytes| {
        open(&Folder::of(bytes));
        open(&Folder::of(bytes).repaired());
    });
}

fn open(folder: &Folder) {
    let turns = Arc::new(Inline::default());
    let disk = folder.disk().with_scheduler(turns.clone());
    if let Ok(log) = reopen(&disk) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(use_log(log, &disk, &folder.entries()));
    }
    // They hold the disk, which holds them.
    turns.drop_workers();
}

fn reopen(disk: &ImaginedDisk) -> Result<Log, LogError> {
    let options =
        LogOptions { segment_bytes: SEGMENT_BYTES as u64, cache_bytes: 4096, ..LogOptions::default() };
    within_bytes(MOST_BYTES, || Log::open(disk.shared(), Path::new(FOLDER), IDENTITY, options, false, None))
}

async fn use_log(mut log: Log, disk: &ImaginedDisk, written: &[Entry]) {
    let Ok(entries) = log.try_get_log_entries(0..u64::MAX).await else {
        // A record whose payload is no change of members: refused when it is read.
        return;
    };
    for entry in &entries {
        assert!(written.contains(entry), "{entry:?} was never written");
    }
    let state = log.get_log_state().await.expect("a state");
    let found = (entries, log.read_vote().await.expect("a vote"), state.last_purged_log_id);
    log.close().await;
    let mut log = reopen(disk).expect("what was opened can be opened again");
    assert_eq!(contents(&mut log).await, found);
    go_on(&mut log).await;
    log.close().await;
}

async fn contents(log: &mut Log) -> (Vec<Entry>, Option<Vote>, Option<LogId>) {
    let entries = log.try_get_log_entries(0..u64::MAX).await.expect("entries");
    let state = log.get_log_state().await.expect("a state");
    (entries, log.read_vote().await.expect("a vote"), state.last_purged_log_id)
}

/// One more entry and another vote.
async fn go_on(log: &mut Log) {
    let last = log.get_log_state().await.expect("a state").last_log_id;
    let log_id = LogId { leader_id: leader_id(9, 1), index: last.map_or(0, |last| last.index + 1) };
    let payload = EntryPayload::Normal(EncodedBatch(Bytes::from_static(b"one more")));
    let entry = Entry { log_id, payload };
    let (sender, flushed) = TypeConfig::oneshot();
    log.append([entry.clone()], IOFlushed::signal(sender)).await.expect("an append");
    flushed.await.expect("an answer").expect("it is on the disk");
    assert_eq!(log.try_get_log_entries(log_id.index..log_id.index + 1).await.expect("entries"), [entry]);
    log.save_vote(&Vote::new(10, 1)).await.expect("a vote");
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_logs_that_open() {
    let few = Folder::of(include_bytes!("../../__fuzz__/log/corpus/few-entries"));
    let mut log = reopen(&few.disk()).expect("it is whole");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (entries, vote, purged) = runtime.block_on(contents(&mut log));
    assert_eq!((entries, vote, purged), (few.entries(), Some(Vote::new_committed(3, 7)), None));
    assert_eq!(few.entries().len(), 5);
    let purged = Folder::of(include_bytes!("../../__fuzz__/log/corpus/three-segments-purged"));
    let mut log = reopen(&purged.disk()).expect("it is whole");
    assert_eq!(runtime.block_on(contents(&mut log)).2.map(|purged| purged.index), Some(7));
}
