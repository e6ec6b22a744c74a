//! What a replica keeps on disk: the log with the vote, snapshots, the folder that holds both.

mod crashes;
mod damage;
mod data_folder;
mod flips;
mod full_disk;
pub(crate) mod gated_disk;
mod group_sync;
mod log;
mod sim_disk;
mod snapshots;
mod suite;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bramah_cell::consensus::{EncodedBatch, TypeConfig};
use bramah_cell::disk::Disk;
use bramah_cell::log::{Identity, Log, LogError, LogOptions};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{
    CommittedLeaderIdOf, EntryOf, LeaderIdOf, LogIdOf, OneshotReceiverOf, VoteOf,
};

type Entry = EntryOf<TypeConfig>;
type LogId = LogIdOf<TypeConfig>;
type Vote = VoteOf<TypeConfig>;
type Meta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// Resolves when an append is on the disk.
type Flushed = OneshotReceiverOf<TypeConfig, io::Result<()>>;

const IDENTITY: Identity = Identity { cell_id: 0x00c0_ffee_0000_0001, replica: 2 };

/// The smallest segments, so that a few entries fill one.
fn small() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, cache_bytes: 4 << 10, ..LogOptions::default() }
}

fn open(disk: &Arc<dyn Disk>, folder: &Path, options: &LogOptions) -> Result<Log, LogError> {
    Log::open(Arc::clone(disk), folder, IDENTITY, options.clone(), true, None)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderIdOf::<TypeConfig> { term, node_id: 7 }, index }
}

fn vote(term: u64, committed: bool) -> Vote {
    Vote { leader_id: LeaderIdOf::<TypeConfig> { term, node_id: 7 }, committed }
}

/// An entry whose contents tell it from every other one.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mark = format!("{term}.{index}.{bytes}/");
    let payload: Vec<u8> = mark.bytes().cycle().take(bytes).collect();
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(EncodedBatch(Bytes::from(payload))) }
}

/// Appends and gives back what resolves when the entries are on the disk.
async fn submit(log: &mut Log, entries: Vec<Entry>) -> io::Result<Flushed> {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    Ok(receiver)
}

async fn append(log: &mut Log, entries: Vec<Entry>) -> io::Result<()> {
    submit(log, entries).await?.await.map_err(io::Error::other)?
}

async fn entries_of(log: &mut Log) -> io::Result<Vec<Entry>> {
    log.try_get_log_entries(0..u64::MAX).await
}

/// A runtime without worker threads.
fn block_on<R>(future: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
