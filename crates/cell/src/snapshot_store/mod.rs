//! Snapshots on disk: written as a stream, put in place in one step, sent and received in pieces (spec G-5).
//!
//! The folder holds the newest snapshot, perhaps one that is being written (`….partial`) and one that is
//! being received (`receiving-…`), which is taken up where it stopped, also after a restart.
//! All calls block.

mod error;
mod file;
mod format;
#[cfg(test)]
mod fuzz;
mod receiving;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::type_config::alias::SnapshotMetaOf;
use parking_lot::Mutex;

pub use self::error::SnapshotError;
pub use self::file::{SnapshotBody, SnapshotFile};
pub use self::receiving::ReceivingSnapshot;
pub use self::write::SnapshotWriter;
use crate::consensus::TypeConfig;
use crate::disk::{self, Access, Disk};
use crate::log::Identity;

pub(crate) type Meta = SnapshotMetaOf<TypeConfig>;

const PARTIAL: &str = ".partial";
const RECEIVING: &str = "receiving-";
/// Written between syncs: one sync of a whole snapshot would hold up the log's for as long.
const SYNC_BYTES: u64 = 4 << 20;

/// The snapshots of a replica. Clones are handles to the same store.
#[derive(Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cell_id: u64,
    newest: Mutex<Option<SnapshotFile>>,
    /// Held while a snapshot is put in place.
    placing: Mutex<()>,
    /// Tells names of files apart that are written at the same time.
    written: AtomicU64,
    /// How often receiving was begun: only the last one may go on.
    received: AtomicU64,
}

impl SnapshotStore {
    /// Opens the folder, which is made if need be, and its newest snapshot; cleans up what a crash left.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, identity: Identity) -> io::Result<Self> {
        Ok(Self::open_folder(disk, folder, identity.cell_id)?)
    }

    fn open_folder(disk: Arc<dyn Disk>, folder: &Path, cell_id: u64) -> Result<Self, SnapshotError> {
        disk::make_folder(&*disk, folder).map_err(SnapshotError::io("create", folder))?;
        let names = disk.list(folder).map_err(SnapshotError::io("list", folder))?;
        for name in names.iter().filter(|name| name.ends_with(PARTIAL)) {
            remove(&*disk, &folder.join(name));
        }
        let receiving: Vec<_> = names.iter().filter(|name| name.starts_with(RECEIVING)).collect();
        if receiving.len() > 1 {
            receiving.iter().for_each(|name| remove(&*disk, &folder.join(name)));
        }
        let mut found: Vec<(u64, u64, &String)> = names.iter().filter_map(|name| place_of(name)).collect();
        found.sort_unstable();
        let newest = match found.pop() {
            Some((_, _, name)) => {
                let path = folder.join(name);
                let file = disk.open(&path, Access::Read).map_err(SnapshotError::io("open", &path))?;
                Some(SnapshotFile::open(&path, file, cell_id)?)
            }
            None => None,
        };
        // The newest one was on the disk before it got its name.
        found.iter().for_each(|(_, _, name)| remove(&*disk, &folder.join(name)));
        disk.sync_directory(folder).map_err(SnapshotError::io("sync", folder))?;
        Ok(Self {
            inner: Arc::new(Inner {
                disk,
                folder: folder.to_owned(),
                cell_id,
                newest: Mutex::new(newest),
                placing: Mutex::new(()),
                written: AtomicU64::new(0),
                received: AtomicU64::new(0),
            }),
        })
    }

    /// The newest whole snapshot. Does not block.
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.inner.newest.lock().clone()
    }

    /// Bytes that can still be written to the disk: ask before a snapshot is begun that could be put off.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let folder = &self.inner.folder;
        Ok(self.inner.disk.free_bytes(folder).map_err(SnapshotError::io("ask for free space in", folder))?)
    }

    /// Makes a received snapshot the newest one; older ones are removed. Nothing happens if it is already.
    /// An older one than the newest is refused.
    pub fn adopt(&self, file: &SnapshotFile) -> io::Result<()> {
        Ok(self.put_in_place(file)?)
    }

    fn put_in_place(&self, file: &SnapshotFile) -> Result<(), SnapshotError> {
        let inner = &*self.inner;
        let _placing = inner.placing.lock();
        let newest = inner.newest.lock().clone();
        if let Some(newest) = &newest {
            if newest.is_same(file) {
                return Ok(());
            }
            if newest.meta().last_log_id > file.meta().last_log_id {
                let message = format!("{file:?} is older than {newest:?}, which is in place");
                return Err(SnapshotError::Refused(message));
            }
        }
        let path = inner.folder.join(name_of(file.meta()));
        inner.disk.rename(file.path(), &path).map_err(SnapshotError::io("rename", file.path()))?;
        self.set_newest(path, file, newest.as_ref())
    }

    /// The file has its name; makes that last before the older one goes.
    fn set_newest(
        &self,
        path: PathBuf,
        file: &SnapshotFile,
        older: Option<&SnapshotFile>,
    ) -> Result<(), SnapshotError> {
        let inner = &*self.inner;
        inner.disk.sync_directory(&inner.folder).map_err(SnapshotError::io("sync", &inner.folder))?;
        let placed = file::Inner {
            path,
            file: Arc::clone(&file.inner.file),
            meta: file.meta().clone(),
            ..*file.inner
        };
        let placed = SnapshotFile { inner: Arc::new(placed) };
        if let Some(older) = older.filter(|older| older.path() != placed.path()) {
            remove(&*inner.disk, older.path());
        }
        *inner.newest.lock() = Some(placed);
        Ok(())
    }
}

/// Names sort as the snapshots do.
fn name_of(meta: &Meta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |log_id| (log_id.index, log_id.leader_id.term));
    format!("snapshot-{index}-{term}")
}

/// The index and term in a snapshot's name; `None` for other files.
fn place_of(name: &String) -> Option<(u64, u64, &String)> {
    let (index, term) = name.strip_prefix("snapshot-")?.split_once('-')?;
    Some((index.parse().ok()?, term.parse().ok()?, name))
}

/// Removes a file that isn't needed; if that fails, the next start tries again.
fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a snapshot file that isn't needed any more can't be removed");
    }
}
