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
/// Its being there says that the replica may have forgotten something and does not take part in all yet.
const REPLACING: &str = "replacing";
const MARKER_NEW: &str = "replacing.new";
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
    /// The replica was removed from its cell.
    #[error(
        "the data folder {} belongs to replica {} of the cell {}, which was removed from the cell for good; to have a \
         replica here again, start one with a number of its own, an empty folder and --join, and add it with \
         `bramah member add`",
        path.display(), owner.replica, owner.cell
    )]
    Removed {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: Owner,
    },
    /// The replica's state differed from that of the others.
    #[error(
        "the data folder {} belongs to replica {} of the cell {}, whose state differed from that of the other replicas at \
         log entry {index}: it is wrong and must not be served. Move the folder away, start the replica again with {} to \
         have it repaired from the others, and keep the folder for whoever looks for the cause",
        path.display(), owner.replica, owner.cell, crate::log::REPLACE_OPTION
    )]
    Differs {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: Owner,
        /// Index of the entry after which it differed.
        index: u64,
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

/// How a replica with an empty folder comes to take part in its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// It begins a new cell with others, unless it turns out that the cell lives already.
    Founding,
    /// It is added to a cell that lives, under a number that is new.
    Joining,
    /// It is repaired from the others, having lost its folder.
    Replacing,
}

impl Entrance {
    /// For people who look into the folder. The first words are what counts.
    fn text(self) -> &'static str {
        match self {
            Entrance::Founding => {
                "This replica is new and asks the others whether its cell is, too. Leave this file.\n"
            }
            Entrance::Joining => {
                "This replica joins a cell and has caught up with nobody yet. Leave this file.\n"
            }
            Entrance::Replacing => {
                "This replica lost its data and is being repaired from the others. Leave this file.\n"
            }
        }
    }

    fn of_text(text: &[u8]) -> Self {
        let begins = |entrance: &Entrance| text.starts_with(&entrance.text().as_bytes()[..20]);
        // Anything else asks for most care.
        [Entrance::Founding, Entrance::Joining].into_iter().find(begins).unwrap_or(Entrance::Replacing)
    }
}

/// How far a replica has come, as its identity says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No log was ever opened.
    New,
    InUse,
    /// The cell has removed the replica for good.
    Removed,
    /// The replica's state was found to differ from that of the others after the entry of this index.
    Differs(u64),
}

/// Before the index at which the state differed.
const DIFFERS: &str = "differs at ";

impl Stage {
    fn text(self) -> String {
        match self {
            Stage::New => "new".to_owned(),
            Stage::InUse => "in use".to_owned(),
            Stage::Removed => "removed".to_owned(),
            Stage::Differs(index) => format!("{DIFFERS}{index}"),
        }
    }

    fn of_text(text: &str) -> Self {
        match (text, text.strip_prefix(DIFFERS)) {
            ("new", _) => Stage::New,
            ("removed", _) => Stage::Removed,
            (_, Some(index)) => Stage::Differs(index.parse().unwrap_or(0)),
            _ => Stage::InUse,
        }
    }
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
    /// What is left to do before the replica takes part in all.
    entrance: Option<Entrance>,
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
        Self::open_by(disk, path, owner, None)
    }

    /// Like [`DataFolder::open`], for a replica that begins with an empty folder in this way. A new folder is
    /// marked, and whoever opens it is told so, until [`DataFolder::entered`].
    ///
    /// # Errors
    /// [`FolderError::NotLost`] if it is to be replaced and the folder is in use.
    pub fn open_by(
        disk: Arc<dyn Disk>,
        path: &Path,
        owner: Owner,
        entrance: Option<Entrance>,
    ) -> Result<Self, FolderError> {
        make(&*disk, path)?;
        let lock = lock(&*disk, path)?;
        let known = match read_identity(&*disk, path) {
            Ok((found, _)) if found != owner => return Err(foreign(path, found, owner)),
            Ok((_, Stage::Removed)) => return Err(FolderError::Removed { path: path.to_owned(), owner }),
            Ok((_, Stage::Differs(index))) => {
                return Err(FolderError::Differs { path: path.to_owned(), owner, index });
            }
            Ok((_, stage)) => Some(stage == Stage::New),
            Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                refuse_strangers(&*disk, path)?;
                None
            }
            Err(error) => return Err(error),
        };
        let new = known.unwrap_or(true);
        let marked = read_marker(&*disk, path)?;
        let entrance = match (marked, entrance) {
            (None, Some(Entrance::Replacing)) if !new => {
                return Err(FolderError::NotLost { path: path.to_owned() });
            }
            // Before anything else: without it the next start would take the replica for one that forgot nothing.
            (None, Some(entrance)) if new => {
                write_marker(&*disk, path, entrance)?;
                Some(entrance)
            }
            (None, _) => None,
            (Some(_), Some(Entrance::Replacing)) => Some(Entrance::Replacing),
            (marked, _) => marked,
        };
        if known.is_none() {
            write_identity(&*disk, path, &owner, Stage::New)?;
        }
        Ok(Self { disk, path: path.to_owned(), owner, lock, new, entrance })
    }

    /// What is left to do before the replica may take part in all; `None`: it has forgotten nothing.
    pub fn entrance(&self) -> Option<Entrance> {
        self.entrance
    }

    /// Notes that the replica takes part in all from now on. Blocks.
    pub fn entered(&self) -> io::Result<()> {
        match self.disk.remove(&self.path.join(REPLACING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.disk.sync_directory(&self.path)
    }

    /// Notes that the cell has removed the replica: the folder is never used again. Blocks.
    pub fn removed(&self) -> Result<(), FolderError> {
        write_identity(&*self.disk, &self.path, &self.owner, Stage::Removed)
    }

    /// Notes that the state was found to be wrong after the entry `index`: the folder is never used again. Blocks.
    pub fn differs(&self, index: u64) -> Result<(), FolderError> {
        write_identity(&*self.disk, &self.path, &self.owner, Stage::Differs(index))
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
            let noted = write_identity(&*self.disk, &self.path, &self.owner, Stage::InUse);
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
    let expected = [LOCK, IDENTITY_NEW, MARKER_NEW, REPLACING, "lost+found"];
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

fn read_marker(disk: &dyn Disk, folder: &Path) -> Result<Option<Entrance>, FolderError> {
    let path = folder.join(REPLACING);
    match read_small(disk, &path) {
        Ok(text) => Ok(Some(Entrance::of_text(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

fn write_marker(disk: &dyn Disk, folder: &Path, entrance: Entrance) -> Result<(), FolderError> {
    let path = folder.join(REPLACING);
    replace_file(disk, folder, (MARKER_NEW, REPLACING), entrance.text()).map_err(io_error("write", &path))
}

/// Writes a small file so that it is there whole or not at all.
fn replace_file(
    disk: &dyn Disk,
    folder: &Path,
    (temporary, name): (&str, &str),
    text: &str,
) -> io::Result<()> {
    let temporary = folder.join(temporary);
    let file = disk.open(&temporary, Access::Create)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &folder.join(name))?;
    disk.sync_directory(folder)
}

fn write_identity(disk: &dyn Disk, folder: &Path, owner: &Owner, stage: Stage) -> Result<(), FolderError> {
    let path = folder.join(IDENTITY);
    let text = encode(owner, stage);
    replace_file(disk, folder, (IDENTITY_NEW, IDENTITY), &text).map_err(io_error("write", &path))
}

/// Text, so that people can read it; its last line is the checksum of the others.
fn encode(owner: &Owner, stage: Stage) -> String {
    let Owner { cell, cell_id, replica } = owner;
    let state = stage.text();
    let text = format!(
        "bramah data folder\nformat: {FORMAT}\ncell: {cell}\ncell id: {cell_id:016x}\nreplica: {replica}\nstate: {state}\n"
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum: {checksum:08x}\n")
}

fn read_identity(disk: &dyn Disk, folder: &Path) -> Result<(Owner, Stage), FolderError> {
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
    let found = u32::try_from(number(field("format")?, 10)?).unwrap_or(u32::MAX);
    if found != FORMAT {
        return Err(FolderError::Version { path, found });
    }
    let owner = Owner {
        cell: field("cell")?.to_owned(),
        cell_id: number(field("cell id")?, 16)?,
        replica: number(field("replica")?, 10)?,
    };
    let stage = Stage::of_text(field("state")?);
    Ok((owner, stage))
}

fn read_small(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Access::Read)?;
    let mut bytes = vec![0; file.length()?.min(MAX_BYTES) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
