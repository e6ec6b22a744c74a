//! The folder of a replica: whose it is, and that only one process uses it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Access, Disk, Lock};
use crate::log::{Identity, Log, LogError, LogOptions};
use crate::snapshot_store::SnapshotStore;

const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";
const LOCK: &str = "lock";
/// Its being there says that the replica has lost what it knew and is not repaired yet.
const REPLACING: &str = "replacing";
/// For people who look into the folder.
const REPLACING_TEXT: &str =
    "This replica lost its data and is being repaired from the others. Leave this file.\n";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
const FORMAT: u32 = 1;
/// A lock file or an identity is never longer.
const MAX_BYTES: u64 = 4096;

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The system refused an operation.
    #[error("can't {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data folder {} is in use by {holder}; stop that process first, or choose another folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, as far as is known.
        holder: String,
    },
    /// It belongs to another replica or cell.
    #[error(
        "the data folder {} belongs to replica {found_replica} of the cell {found_cell} ({found_cell_id:016x}), but \
         replica {replica} of the cell {cell} ({cell_id:016x}) was asked for; choose the folder that belongs to it, \
         or an empty one",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The name of the cell it belongs to.
        found_cell: String,
        /// The number of the cell it belongs to.
        found_cell_id: u64,
        /// The replica it belongs to.
        found_replica: u64,
        /// The name of the cell that was asked for.
        cell: String,
        /// The number of the cell that was asked for.
        cell_id: u64,
        /// The replica that was asked for.
        replica: u64,
    },
    /// It was to be repaired from the other members, but is in use.
    #[error(
        "the data folder {} already belongs to this replica, and {option} is only for one that lost its folder; start it \
         without {option}, or move the folder away first if it is damaged",
        path.display(), option = crate::log::REPLACE_OPTION
    )]
    NotLost {
        /// The folder.
        path: PathBuf,
    },
    /// It holds files, but does not say whose.
    #[error(
        "the folder {} holds {name}, but no file named {IDENTITY}: it is not the data folder of a replica, or it is \
         damaged; choose an empty folder, or one that a replica has used",
        path.display()
    )]
    Unknown {
        /// The folder.
        path: PathBuf,
        /// One of the files.
        name: String,
    },
    /// The file that says whose folder it is can't be read.
    #[error(
        "{} is damaged: {what}. Restore the file from a backup, or repair this replica from the others: move the \
         folder away and start it again with {}",
        path.display(), crate::log::REPLACE_OPTION
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was written in a format that this program doesn't know.
    #[error(
        "{} has format {found}, but this program knows formats up to {FORMAT}; start the program version that wrote \
         it, or a later one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format that was found.
        found: u32,
    },
}

/// Who a data folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cell's name.
    pub cell: String,
    /// The cell's number.
    pub cell_id: u64,
    /// The replica's number in its cell.
    pub replica: u64,
}

/// A replica's data folder, locked against every other process until this and what was opened from it are
/// gone.
pub struct DataFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    owner: Owner,
    lock: Arc<dyn Lock>,
    /// No log was ever opened in it.
    new: bool,
    /// The replica that it belongs to is being repaired from the others.
    replacing: bool,
}

impl DataFolder {
    /// Who the folder belongs to; `None` if it is empty or not there. Takes no lock.
    pub fn owner_of(disk: &dyn Disk, path: &Path) -> Result<Option<Owner>, FolderError> {
        match read_identity(disk, path) {
            Ok((owner, _)) => Ok(Some(owner)),
            Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Locks the folder and checks that it belongs to this cell's replica; an empty one, or one that is not
    /// there yet, is made the replica's. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        cell: &str,
        cell_id: u64,
        replica: u64,
    ) -> Result<Self, FolderError> {
        let owner = Owner { cell: cell.to_owned(), cell_id, replica };
        Self::open_as(disk, path, owner, false)
    }

    /// Like [`DataFolder::open`], for a replica that is to be repaired from the others. The folder must be new;
    /// it is marked, and whoever opens it is told so, until [`DataFolder::replaced`].
    pub fn open_to_replace(
        disk: Arc<dyn Disk>,
        path: &Path,
        cell: &str,
        cell_id: u64,
        replica: u64,
    ) -> Result<Self, FolderError> {
        let owner = Owner { cell: cell.to_owned(), cell_id, replica };
        Self::open_as(disk, path, owner, true)
    }

    fn open_as(disk: Arc<dyn Disk>, path: &Path, owner: Owner, replace: bool) -> Result<Self, FolderError> {
        make(&*disk, path)?;
        let lock = lock(&*disk, path)?;
        let known = match read_identity(&*disk, path) {
            Ok((found, _)) if found != owner => return Err(foreign(path, found, owner)),
            Ok((_, new)) => Some(new),
            Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                refuse_strangers(&*disk, path)?;
                None
            }
            Err(error) => return Err(error),
        };
        let new = known.unwrap_or(true);
        let marked = disk.list(path).map_err(io_error("list", path))?.iter().any(|name| name == REPLACING);
        if replace && !marked {
            if !new {
                return Err(FolderError::NotLost { path: path.to_owned() });
            }
            // Before anything else: without it the next start would take the replica for one of a new cell.
            write_marker(&*disk, path)?;
        }
        if known.is_none() {
            write_identity(&*disk, path, &owner, true)?;
        }
        Ok(Self { disk, path: path.to_owned(), owner, lock, new, replacing: marked || replace })
    }

    /// Whether the replica is being repaired from the others: it has forgotten what it voted for.
    pub fn is_replacing(&self) -> bool {
        self.replacing
    }

    /// Notes that the replica is repaired. Blocks.
    pub fn replaced(&self) -> io::Result<()> {
        match self.disk.remove(&self.path.join(REPLACING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.disk.sync_directory(&self.path)
    }

    /// Whether no log was ever opened in it: the replica is new.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose log is in it.
    pub fn identity(&self) -> Identity {
        Identity { cell_id: self.owner.cell_id, replica: self.owner.replica }
    }

    /// Opens the log; a new folder gets an empty one. From then on a missing log is damage, not a beginning.
    pub fn open_log(&mut self, options: LogOptions) -> Result<Log, LogError> {
        let identity = Identity { cell_id: self.owner.cell_id, replica: self.owner.replica };
        let guard = Some(Arc::clone(&self.lock));
        let log = Log::open(self.disk.clone(), &self.path.join(LOG), identity, options, self.new, guard)?;
        if self.new {
            let noted = write_identity(&*self.disk, &self.path, &self.owner, false);
            noted.map_err(|error| LogError::Io {
                doing: "note in",
                path: self.path.join(IDENTITY),
                source: io::Error::other(error),
            })?;
            self.new = false;
        }
        Ok(log)
    }

    /// Opens the snapshots.
    pub fn open_snapshots(&self) -> io::Result<SnapshotStore> {
        SnapshotStore::open(self.disk.clone(), &self.path.join(SNAPSHOTS), self.identity())
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { doing, path, source }
}

/// Makes the folder and what leads to it. Its name lasts before anything in it counts: a replica whose folder
/// is gone after a power cut would have forgotten its vote.
fn make(disk: &dyn Disk, path: &Path) -> Result<(), FolderError> {
    disk::make_folder(disk, path).map_err(io_error("create", path))?;
    for above in path.ancestors().skip(2).filter(|above| !above.as_os_str().is_empty()) {
        // Mostly they have been there for long, and may be none of our business.
        let _ = disk.sync_directory(above);
    }
    Ok(())
}

fn lock(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn Lock>, FolderError> {
    let file = path.join(LOCK);
    match disk.lock(&file) {
        Ok(lock) => {
            let note = format!("process {}\n", std::process::id());
            lock.note(&note).map_err(io_error("write", &file))?;
            Ok(lock.into())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let holder = read_small(disk, &file).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let holder = holder.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            let holder = holder.unwrap_or_else(|| "another process".to_owned());
            Err(FolderError::InUse { path: path.to_owned(), holder })
        }
        Err(error) => Err(io_error("lock", &file)(error)),
    }
}

/// A folder without an identity must be empty but for what an interrupted first start leaves.
fn refuse_strangers(disk: &dyn Disk, path: &Path) -> Result<(), FolderError> {
    let names = disk.list(path).map_err(io_error("list", path))?;
    let expected = [LOCK, IDENTITY_NEW, REPLACING, "lost+found"];
    match names.into_iter().find(|name| !expected.contains(&name.as_str())) {
        Some(name) => Err(FolderError::Unknown { path: path.to_owned(), name }),
        None => Ok(()),
    }
}

fn foreign(path: &Path, found: Owner, owner: Owner) -> FolderError {
    FolderError::Foreign {
        path: path.to_owned(),
        found_cell: found.cell,
        found_cell_id: found.cell_id,
        found_replica: found.replica,
        cell: owner.cell,
        cell_id: owner.cell_id,
        replica: owner.replica,
    }
}

fn write_marker(disk: &dyn Disk, folder: &Path) -> Result<(), FolderError> {
    let path = folder.join(REPLACING);
    let write = || -> io::Result<()> {
        let file = disk.open(&path, Access::Create)?;
        file.write_all_at(REPLACING_TEXT.as_bytes(), 0)?;
        file.sync_data()?;
        disk.sync_directory(folder)
    };
    write().map_err(io_error("write", &path))
}

fn write_identity(disk: &dyn Disk, folder: &Path, owner: &Owner, new: bool) -> Result<(), FolderError> {
    let (path, temporary) = (folder.join(IDENTITY), folder.join(IDENTITY_NEW));
    let write = || -> io::Result<()> {
        let file = disk.open(&temporary, Access::Create)?;
        file.write_all_at(encode(owner, new).as_bytes(), 0)?;
        file.sync_data()?;
        disk.rename(&temporary, &path)?;
        disk.sync_directory(folder)
    };
    write().map_err(io_error("write", &path))
}

/// Text, so that people can read it; its last line is the checksum of the others.
fn encode(owner: &Owner, new: bool) -> String {
    let Owner { cell, cell_id, replica } = owner;
    let state = if new { "new" } else { "in use" };
    let text = format!(
        "bramah data folder\nformat: {FORMAT}\ncell: {cell}\ncell id: {cell_id:016x}\nreplica: {replica}\nstate: {state}\n"
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum: {checksum:08x}\n")
}

fn read_identity(disk: &dyn Disk, folder: &Path) -> Result<(Owner, bool), FolderError> {
    let path = folder.join(IDENTITY);
    let bytes = read_small(disk, &path).map_err(io_error("read", &path))?;
    let damaged = |what: &str| FolderError::Damaged { path: path.clone(), what: what.to_owned() };
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (body, checksum) = text.rsplit_once("checksum: ").ok_or_else(|| damaged("it has no checksum"))?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("it does not match its checksum"));
    }
    let field = |name: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.ok_or_else(|| damaged(&format!("it has no line `{name}`")))
    };
    let number =
        |text: &str, radix| u64::from_str_radix(text, radix).map_err(|_| damaged("a number is wrong"));
    let found = number(field("format")?, 10)? as u32;
    if found != FORMAT {
        return Err(FolderError::Version { path, found });
    }
    let owner = Owner {
        cell: field("cell")?.to_owned(),
        cell_id: number(field("cell id")?, 16)?,
        replica: number(field("replica")?, 10)?,
    };
    Ok((owner, field("state")? == "new"))
}

fn read_small(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::Read)?;
    let mut bytes = vec![0; file.length()?.min(MAX_BYTES) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
