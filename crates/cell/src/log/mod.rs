//! The log of a replica: entries, the vote and the purge point, on disk before anyone is told so.
//!
//! The log is a row of *segments*: files of fixed size, filled with zeros ahead of use and recycled after a
//! purge, so that an append changes no metadata of the file system. A thread of its own writes what is
//! queued in one go, syncs once and then calls back (spec G-1, G-3). `docs/formats.md` draws the bytes.

mod control;
mod error;
#[cfg(test)]
mod fuzz;
mod reader;
mod record;
mod recovery;
mod segment;
mod spares;
mod storage;
mod tail;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

pub use self::error::{LogError, REPLACE_OPTION};
use self::recovery::{Active, recover};
use self::segment::{PAGE_BYTES, Segment, encode_head, segment_name};
use self::spares::{Maker, Making, Spares};
use self::tail::Tail;
use self::writer::{Beginning, Writer};
use crate::disk::{Disk, Lock, Wake};

/// Whose log it is. A log of another cell or replica is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cell's number.
    pub cell_id: u64,
    /// The replica's number in its cell.
    pub replica: u64,
}

/// Sizes and times of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Length of a segment; a multiple of 4 KiB, at least 16 KiB. The first one of a new log is shorter if
    /// this is long, so that a replica starts at once.
    pub segment_bytes: u64,
    /// Entries on the disk that are also kept in memory, in bytes.
    pub cache_bytes: u64,
    /// One read gives back at most this many bytes of entries, but at least one entry.
    pub read_bytes: u64,
    /// Bytes that may wait for the disk; beyond them `append` waits.
    pub queue_bytes: u64,
    /// How often a full disk is asked again.
    pub retry_interval: Duration,
    /// How long the log is left alone before it notes that all of it is on the disk.
    pub mark_delay: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            read_bytes: 1 << 20,
            queue_bytes: 256 << 20,
            retry_interval: Duration::from_secs(1),
            mark_delay: Duration::from_millis(50),
        }
    }
}

/// The first segment of a new log.
const FIRST_SEGMENT_BYTES: u64 = 8 << 20;
const LEAST_SEGMENT_BYTES: u64 = 16 << 10;

/// Whether the log can take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It can.
    Enough,
    /// The disk is full. What is left is for elections: propose nothing and take no entries from a leader
    /// until this changes, which it does by itself once there is space.
    Short {
        /// Free bytes on the disk.
        free: u64,
        /// Free bytes that are needed.
        needed: u64,
    },
}

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Syncs of segments and of the control file.
    pub syncs: u64,
    /// Bytes of records.
    pub written_bytes: u64,
}

/// The log of a replica. Clones are handles to the same log; it closes when the last one is dropped, or by
/// [`Log::close`], which also waits for it.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// What the handles share with the workers.
struct Shared {
    tail: Mutex<Tail>,
    spares: Mutex<Spares>,
    /// Told when the queue got shorter.
    room: Notify,
    /// Why nothing more can be promised.
    broken: watch::Sender<Option<String>>,
    /// Bytes left in the newest segment, and how many of them are kept for elections on a full disk.
    room_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
    syncs: AtomicU64,
    written_bytes: AtomicU64,
    writer: OnceLock<Arc<dyn Wake>>,
    maker: OnceLock<Arc<dyn Wake>>,
    /// Held until the last worker is gone.
    _guard: Option<Arc<dyn Lock>>,
}

struct Handle {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    options: LogOptions,
    /// Resolved when the workers are gone.
    gone: tokio::sync::Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Shared {
    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.wake();
        }
    }

    fn wake_maker(&self) {
        if let Some(maker) = self.maker.get() {
            maker.wake();
        }
    }

    fn close(&self) {
        self.tail.lock().closing = true;
        self.wake_writer();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Log {
    /// Waits until the log can't be written any more, and says why. Whoever appends hears of it, too; this is for a
    /// replica that has nothing to append.
    pub async fn broken(&self) -> String {
        let mut broken = self.handle.shared.broken.subscribe();
        let why = broken.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            // The log is gone, and was not broken.
            Err(_) => std::future::pending().await,
        }
    }

    /// Opens the log in `folder`, or makes one there if `create` is set and the folder holds none. Blocks:
    /// it reads the whole log. `guard` is held until nothing of the log touches the folder any more.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        identity: Identity,
        options: LogOptions,
        create: bool,
        guard: Option<Arc<dyn Lock>>,
    ) -> Result<Self, LogError> {
        let options = LogOptions {
            segment_bytes: round_segment(options.segment_bytes),
            read_bytes: options.read_bytes.max(1),
            ..options
        };
        let mut recovered = recover(&*disk, folder, identity, create)?;
        let mut spares = Spares::open(&*disk, folder, options.segment_bytes)?;
        for segment in recovered.retired.drain(..) {
            spares.retire(&*disk, folder, segment, options.segment_bytes);
        }
        let active = match recovered.active.take() {
            Some(active) => active,
            None => first_segment(&*disk, folder, identity, &options, &mut recovered)?,
        };
        let shared = Arc::new(Shared {
            tail: Mutex::new(recovered.tail),
            spares: Mutex::new(spares),
            room: Notify::new(),
            broken: watch::Sender::default(),
            room_bytes: AtomicU64::new(0),
            reserve_bytes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            writer: OnceLock::new(),
            maker: OnceLock::new(),
            _guard: guard,
        });
        let places = (disk.clone(), folder.to_owned(), options.clone());
        let gone = start_workers(&shared, places, identity, recovered.control, active)?;
        let gone = tokio::sync::Mutex::new(gone);
        Ok(Self { handle: Arc::new(Handle { shared, disk, options, gone }) })
    }

    /// Whether the log can take more. Cheap: ask before each proposal, and before taking entries from a leader.
    pub fn space(&self) -> Space {
        let shared = &self.handle.shared;
        let room = shared.room_bytes.load(Ordering::Relaxed);
        if room >= shared.reserve_bytes.load(Ordering::Relaxed) {
            return Space::Enough;
        }
        let spares = shared.spares.lock();
        match spares.shortage {
            Some(shortage) if spares.is_empty() => shortage,
            _ => Space::Enough,
        }
    }

    /// Bytes of all files of the log, spare ones too.
    pub fn bytes_on_disk(&self) -> u64 {
        let segments: u64 =
            self.handle.shared.tail.lock().segments.values().map(|segment| segment.size).sum();
        segments + self.handle.shared.spares.lock().bytes() + 2 * PAGE_BYTES as u64
    }

    /// Bytes of the entries from `index` on.
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.handle.shared.tail.lock().bytes_since(index)
    }

    /// Bytes that wait for the disk.
    pub fn bytes_waiting(&self) -> u64 {
        self.handle.shared.tail.lock().queued_bytes
    }

    /// How long the oldest of what waits for the disk has waited.
    pub fn longest_wait(&self) -> Duration {
        self.handle.shared.tail.lock().waiting.since().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What was done so far.
    pub fn counts(&self) -> LogCounts {
        let shared = &self.handle.shared;
        LogCounts {
            syncs: shared.syncs.load(Ordering::Relaxed),
            written_bytes: shared.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Writes what is queued and lets go of the folder. Whatever is asked for later fails. On a full disk,
    /// what does not fit stays unwritten, and its callbacks say so.
    pub async fn close(&self) {
        self.handle.shared.close();
        for gone in self.handle.gone.lock().await.drain(..) {
            // An error says that the sender is gone, which is what is waited for.
            let _ = gone.await;
        }
    }
}

fn round_segment(bytes: u64) -> u64 {
    let bytes = bytes.clamp(LEAST_SEGMENT_BYTES, segment::MAX_SEGMENT_BYTES);
    bytes - bytes % PAGE_BYTES as u64
}

/// A new log's first segment is made here and now; a spare would take its time.
fn first_segment(
    disk: &dyn Disk,
    folder: &Path,
    identity: Identity,
    options: &LogOptions,
    recovered: &mut recovery::Recovered,
) -> Result<Active, LogError> {
    let size = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
    let (new, path) = (folder.join("segment.partial"), folder.join(segment_name(1)));
    let make = || -> io::Result<Arc<dyn crate::disk::DiskFile>> {
        let mut making = Making::begin(disk, new.clone(), size)?;
        while !making.step()? {}
        let spare = making.into_spare();
        spare.file.write_all_at(&encode_head(identity, 1, 0, size), 0)?;
        spare.file.sync_data()?;
        disk.rename(&new, &path)?;
        disk.sync_directory(folder)?;
        Ok(spare.file)
    };
    let file = make().map_err(LogError::io("create", &path))?;
    recovered.control.facts.last_segment = 1;
    recovered.control.save()?;
    let segment = Arc::new(Segment::new(identity, 1, size, path, file));
    recovered.tail.segments.insert(1, Arc::clone(&segment));
    Ok(Active { segment, end: PAGE_BYTES as u64, sealed: false })
}

fn start_workers(
    shared: &Arc<Shared>,
    (disk, folder, options): (Arc<dyn Disk>, PathBuf, LogOptions),
    identity: Identity,
    control: control::Control,
    active: Active,
) -> Result<Vec<oneshot::Receiver<()>>, LogError> {
    let ((writer_gone, writer_end), (maker_gone, maker_end)) = (oneshot::channel(), oneshot::channel());
    let maker = Maker {
        shared: Arc::clone(shared),
        disk: disk.clone(),
        folder: folder.clone(),
        options: options.clone(),
        making: None,
        _gone: maker_gone,
    };
    let beginning = Beginning {
        shared: Arc::clone(shared),
        disk: disk.clone(),
        folder: folder.clone(),
        identity,
        options,
        control,
        gone: writer_gone,
    };
    let started =
        disk.start("log-maker", Box::new(maker)).map_err(LogError::io("start a thread for", &folder))?;
    let _ = shared.maker.set(started);
    let writer = Box::new(Writer::new(beginning, active));
    let started = disk.start("log-writer", writer).map_err(LogError::io("start a thread for", &folder))?;
    let _ = shared.writer.set(started);
    Ok(vec![writer_end, maker_end])
}
