//! Files as the cell reaches them: through two small traits, so that a simulation can take the disk's place.
//!
//! Everything that lasts goes through a [`Disk`]. Its calls block; whoever must not block hands them to a
//! [`Worker`] (the log's writer) or to [`run`] (readers). The production half, [`RealDisk`], gives each worker
//! a thread. A simulation drives its workers itself, without threads and under its own clock.

#[cfg(feature = "simulation")]
pub mod imagined;
mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use real::RealDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// A new file, to be read and written; an old one of that name is emptied.
    Create,
}

/// A folder on some disk, or on an imagined one. All calls block.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a folder with its parents; it may exist already.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, replacing one of the new name. Lasts once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Lasts once the folder is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder last.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written to the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Locks a file, which is created if need be, against every other opener until the guard is dropped.
    /// Fails with [`io::ErrorKind::WouldBlock`] if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Lets `worker` take turns from now on. It also gets a turn after each [`Wake::wake`].
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>>;

    /// How long a reader's next call takes if calls don't block: a simulation's disk takes its time, too.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether calls take real time, so that an async task must hand them to a thread.
    fn blocks(&self) -> bool;
}

/// An open file. Calls may come from several threads at once.
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all bytes at an offset. Lasts once the file is synced.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills the buffer from an offset; fails with [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file off, or lengthens it with zeros that take no space yet.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Writes zeros over `from..to`, so that later writes there change neither the file's length nor its
    /// blocks: their sync then needn't touch the file system's journal, and can't run out of space.
    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()>;

    /// Returns once all that was written, and the length, are on the disk (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds a lock until dropped.
pub trait Lock: Send + Sync {
    /// Leaves a note in the locked file for those who find it locked.
    fn note(&self, text: &str) -> io::Result<()>;
}

/// Work that is done in turns, by one caller at a time, away from async tasks.
pub trait Worker: Send + 'static {
    /// Does what there is to do. `rested`: the time that the last turn asked for has passed, and nobody has
    /// woken the worker meanwhile.
    fn turn(&mut self, rested: bool) -> Turn;
}

/// When a worker wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    Again,
    /// When woken.
    Wait,
    /// When woken, and after this time at the latest.
    WaitAtMost(Duration),
    /// Never: the worker is dropped.
    Done,
}

/// Wakes a worker. May be called from everywhere, also from the worker's own turn.
pub trait Wake: Send + Sync {
    /// Gives the worker a turn that begins after this call. Cheap if it is awake already.
    fn wake(&self);
}

/// Runs a blocking `work` from an async task: on a thread if the disk blocks, else here.
pub async fn run<R: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    if disk.blocks() {
        return tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
    }
    let (before, after) = (disk.latency(), disk.latency());
    if before.is_zero() && after.is_zero() {
        return work();
    }
    // As on a thread: it is done even if nobody waits for it any more.
    let slowly = async move {
        tokio::time::sleep(before).await;
        let done = work();
        tokio::time::sleep(after).await;
        done
    };
    tokio::spawn(slowly).await.map_err(io::Error::other)?
}

/// Creates a folder with its parents and makes its name last, also if it was there: whoever made it may have
/// been stopped before that. POSIX promises nothing of a folder whose parent was never synced, whatever was
/// synced inside it.
pub(crate) fn make_folder(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.create_directory(path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match disk.sync_directory(parent.unwrap_or(Path::new("."))) {
        // What can't be opened was made by somebody else, earlier.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Whether an error says that there is no space, which may pass, unlike other failures of a disk.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
