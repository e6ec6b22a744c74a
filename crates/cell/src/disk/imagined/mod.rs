//! An imagined disk, for simulations and tests: it forgets what was not synced, and fails when it is told to.
//!
//! It models what a file system promises and no more (POSIX, and what ext4 and XFS do):
//!
//! - What is written lasts once the file is synced. Until then each sector of 512 bytes may, after a power cut,
//!   be as it was at the last sync, as it was after any later write to it, or torn within; the same holds for
//!   the file's length. A lost sector behind the old end reads as zeros.
//! - A name lasts once its folder is synced; that of a folder too. Changes of names that are not synced survive
//!   up to some point of their order, as a journal keeps them.
//! - What a failed sync was to write may be lost, though it can be read, and though the next sync succeeds.
//! - Zeros that are written take space, a hole takes none. Nothing is ever half done for want of space.
//! - A lock lasts until it is dropped, or the machine stops.
//!
//! A [`Faults`] object is asked before each operation, so a test can stop the machine between any two steps. A
//! [`Scheduler`] gives the workers their turns. After a power cut nothing works and no worker takes a turn;
//! [`ImaginedDisk::crash`] makes the disk that is then found.

mod contents;
mod faults;
mod tree;
mod turns;
mod wreck;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use faults::{CutBefore, Faults, Kind, NoFaults, Operation, PowerCut, Verdict};
pub use turns::{Inline, Latency, Scheduler, Tasks};
pub use wreck::{Fate, SECTOR_BYTES, UnsyncedPiece, Wreck};

use self::tree::{Change, Tree, tidy};
use super::{Access, Disk, DiskFile, Lock, Turn, Wake, Worker};

/// The disk of one machine. Clones are handles to the same one.
#[derive(Clone)]
pub struct ImaginedDisk {
    tree: Arc<Mutex<Tree>>,
    faults: Arc<dyn Faults>,
    scheduler: Arc<dyn Scheduler>,
}

impl fmt::Debug for ImaginedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.files().into_iter().map(|path| (path.clone(), self.contents(&path).len())))
            .finish()
    }
}

/// What is left to be done to bytes that are read or written.
type Flip = Option<(u64, u8)>;

/// What came of asking.
#[derive(Clone, Copy, Default)]
struct Asked {
    flip: Flip,
    pretend: bool,
    /// It fails, after so many bytes have landed ([`Verdict::FailInPart`]).
    fails_after: Option<u64>,
}

impl Asked {
    /// How many of so many bytes land.
    fn landed(&self, length: u64) -> u64 {
        self.fails_after.map_or(length, |landed| landed % (length + 1))
    }
}

impl ImaginedDisk {
    /// An empty disk.
    pub fn new(faults: Arc<dyn Faults>, scheduler: Arc<dyn Scheduler>) -> Self {
        Self { tree: Arc::default(), faults, scheduler }
    }

    /// A handle to the same disk whose operations another object is asked about.
    pub fn with_faults(&self, faults: Arc<dyn Faults>) -> Self {
        Self { faults, ..self.clone() }
    }

    /// A handle to the same disk whose workers another scheduler gives their turns.
    pub fn with_scheduler(&self, scheduler: Arc<dyn Scheduler>) -> Self {
        Self { scheduler, ..self.clone() }
    }

    /// As the trait that a replica wants.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Bytes that the disk holds; `None` for no limit. A smaller number than is used takes nothing away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let mut tree = self.tree();
        tree.capacity = bytes;
        tree.told.clear();
    }

    /// Bytes that its files take, in blocks of 4 KiB.
    pub fn used(&self) -> u64 {
        self.tree().used()
    }

    /// Writes that were refused so far, because they wanted more space than there was.
    pub fn refused(&self) -> u64 {
        self.tree().refused
    }

    /// The least free space that anybody was told who asked about this folder since the capacity was set.
    pub fn least_told(&self, folder: &Path) -> Option<u64> {
        self.tree().told.get(&tidy(folder)).copied()
    }

    /// Operations that were asked for so far.
    pub fn operations(&self) -> u64 {
        self.tree().serial
    }

    /// Cuts the power here and now.
    pub fn cut_power(&self) {
        self.tree().power_is_cut = true;
    }

    /// Whether the power was cut.
    pub fn power_is_cut(&self) -> bool {
        self.tree().power_is_cut
    }

    /// Cuts the power, if it isn't cut already, and looks at what is left to chance.
    pub fn wreck(&self) -> Wreck {
        self.cut_power();
        Wreck::of(self.tree().clone())
    }

    /// The disk that is found if the first `names_kept` unsynced changes of names survive and `choice` says what
    /// becomes of everything else that was not synced. It has the faults and the scheduler of this one.
    pub fn found(
        &self,
        wreck: &Wreck,
        names_kept: usize,
        choice: &mut dyn FnMut(&UnsyncedPiece) -> Fate,
    ) -> ImaginedDisk {
        self.of(wreck.found(names_kept, choice))
    }

    /// Cuts the power and makes the disk that is found afterwards. `draw` gives back a number below its
    /// argument; the same numbers make the same disk.
    pub fn crash(&self, draw: &mut dyn FnMut(u64) -> u64) -> ImaginedDisk {
        let wreck = self.wreck();
        let names_kept = draw(wreck.unsynced_names() as u64 + 1) as usize;
        // Mostly files survive as a whole or not at all; the rest is the interesting part.
        let mut of_file = (PathBuf::new(), 0);
        self.found(&wreck, names_kept, &mut |piece| {
            if of_file.0 != piece.path {
                of_file = (piece.path.clone(), draw(4));
            }
            match of_file.1 {
                0 => Fate::Lose,
                1 => Fate::Keep,
                _ => random_fate(piece, draw),
            }
        })
    }

    /// What is found if the process dies, but not the machine: everything. Nothing of the process touches it
    /// any more.
    pub fn kill(&self) -> ImaginedDisk {
        self.cut_power();
        self.copy()
    }

    /// Another disk with the same contents, unsynced ones as well, on which nothing is open.
    pub fn copy(&self) -> ImaginedDisk {
        let tree = self.tree().clone();
        self.of(tree.untouched())
    }

    fn of(&self, tree: Tree) -> Self {
        Self { tree: Arc::new(Mutex::new(tree)), ..self.clone() }
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let tree = self.tree();
        let files = tree.names.iter().filter(|(_, node)| matches!(node, tree::Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// What a file holds; empty if there is none.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let tree = self.tree();
        tree.find(&tidy(path)).map_or_else(|_| Vec::new(), |id| tree.files[&id].now.all())
    }

    /// Replaces what a file holds, as if it had always been so; false if there is no such file.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) -> bool {
        self.damage(path, |file| wreck::replace(file, bytes))
    }

    /// Makes a bit of a file another one, the synced one too; false if there is no such file.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.damage(path, |file| wreck::flip(file, offset, bit))
    }

    fn damage(&self, path: &Path, damage: impl FnOnce(&mut tree::File)) -> bool {
        let mut tree = self.tree();
        let Ok(id) = tree.find(&tidy(path)) else { return false };
        tree.files.get_mut(&id).map(damage).is_some()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what gives nothing back, unless it is only pretended.
    fn change(
        &self,
        path: &Path,
        kind: Kind<'_>,
        change: impl FnOnce(&mut Tree, Asked) -> io::Result<()>,
    ) -> io::Result<()> {
        self.operate(path, kind, |tree, asked| if asked.pretend { Ok(()) } else { change(tree, asked) })
    }

    /// Asks what is to happen, and lets it.
    fn operate<R>(
        &self,
        path: &Path,
        kind: Kind<'_>,
        operate: impl FnOnce(&mut Tree, Asked) -> io::Result<R>,
    ) -> io::Result<R> {
        let serial = {
            let mut tree = self.tree();
            if tree.power_is_cut {
                return Err(io::Error::other(PowerCut));
            }
            tree.serial += 1;
            tree.serial - 1
        };
        let verdict = self.faults.before(&Operation { serial, kind, path });
        let mut tree = self.tree();
        let mut asked = Asked::default();
        let mut told = Ok(());
        match verdict {
            // Another thread, or whoever was asked, may have cut it meanwhile.
            _ if tree.power_is_cut => return Err(io::Error::other(PowerCut)),
            Verdict::Proceed => {}
            Verdict::Pretend => asked.pretend = true,
            Verdict::Flip { byte, bit } => asked.flip = Some((byte, bit)),
            Verdict::Fail(error) => return Err(error),
            Verdict::FailInPart { error, landed } if kind.leaves_a_trace() => {
                (asked.fails_after, told) = (Some(landed), Err(error));
            }
            Verdict::FailInPart { error, .. } => return Err(error),
            Verdict::CutPower { done } => {
                tree.power_is_cut = true;
                if !done {
                    return Err(io::Error::other(PowerCut));
                }
                told = Err(io::Error::other(PowerCut));
            }
        }
        let done = operate(&mut tree, asked);
        told.and(done)
    }

    fn file(&self, id: u64) -> Arc<dyn DiskFile> {
        Arc::new(ImaginedFile { disk: self.clone(), id })
    }
}

fn random_fate(piece: &UnsyncedPiece, draw: &mut dyn FnMut(u64) -> u64) -> Fate {
    match draw(8) {
        0..3 => Fate::Keep,
        3..6 => Fate::Lose,
        6 => Fate::Torn(draw(SECTOR_BYTES)),
        _ => Fate::Version(draw(piece.versions as u64 + 1) as usize),
    }
}

fn flipped(bytes: &[u8], flip: Flip) -> Box<[u8]> {
    let mut bytes: Box<[u8]> = bytes.into();
    if let (Some((byte, bit)), false) = (flip, bytes.is_empty()) {
        let at = byte as usize % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
    }
    bytes
}

impl Disk for ImaginedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let path = tidy(path);
        let kind = if access == Access::Create { Kind::Create } else { Kind::Open(access) };
        let id = self.operate(&path, kind, |tree, _| {
            let id = if access == Access::Create { tree.create(&path) } else { tree.find(&path) };
            id.map(|id| tree.opened(id))
        })?;
        Ok(self.file(id))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let path = tidy(path);
        self.change(&path, Kind::CreateFolder, |tree, _| tree.create_folder(&path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = tidy(path);
        self.operate(&path, Kind::List, |tree, _| tree.list(&path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (tidy(from), tidy(to));
        self.change(&from, Kind::Rename { to: &to }, |tree, _| tree.rename(&from, &to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = tidy(path);
        self.change(&path, Kind::Remove, |tree, _| tree.remove(&path))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let path = tidy(path);
        self.change(&path, Kind::SyncFolder, |tree, _| tree.sync_folder(&path))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let mut tree = self.tree();
        if tree.power_is_cut {
            return Err(io::Error::other(PowerCut));
        }
        let free = tree.free();
        let least = tree.told.entry(tidy(path)).or_insert(free);
        *least = free.min(*least);
        Ok(free)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let path = tidy(path);
        let id = self.operate(&path, Kind::Lock, |tree, _| {
            let id = tree.find_or_make(&path)?;
            if tree.locked.contains(&id) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            tree.locked.push(id);
            Ok(tree.opened(id))
        })?;
        Ok(Box::new(ImaginedLock(ImaginedFile { disk: self.clone(), id })))
    }

    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        let worker = PoweredWorker { disk: self.clone(), name: PathBuf::from(name), worker };
        self.scheduler.start(name, Box::new(worker))
    }

    fn latency(&self) -> std::time::Duration {
        self.scheduler.latency()
    }

    fn blocks(&self) -> bool {
        false
    }
}

/// A worker that stands still without power: it neither works nor goes, so nobody is told anything.
struct PoweredWorker {
    disk: ImaginedDisk,
    name: PathBuf,
    worker: Box<dyn Worker>,
}

impl PoweredWorker {
    /// Whether there is power to go on. A turn is no operation that could fail.
    fn has_power(&self, kind: Kind<'_>) -> bool {
        let _ = self.disk.operate(&self.name, kind, |_, _| Ok(()));
        !self.disk.power_is_cut()
    }
}

impl Worker for PoweredWorker {
    fn turn(&mut self, rested: bool) -> Turn {
        if !self.has_power(Kind::Turn) {
            return Turn::Wait;
        }
        let turn = self.worker.turn(rested);
        if self.has_power(Kind::Callback) { turn } else { Turn::Wait }
    }
}

struct ImaginedFile {
    disk: ImaginedDisk,
    id: u64,
}

impl ImaginedFile {
    fn path(&self) -> PathBuf {
        self.disk.tree().files.get(&self.id).map(|file| file.path.clone()).unwrap_or_default()
    }

    fn change(
        &self,
        kind: Kind<'_>,
        change: impl FnOnce(&mut Tree, Asked) -> io::Result<()>,
    ) -> io::Result<()> {
        self.disk.change(&self.path(), kind, change)
    }
}

impl Drop for ImaginedFile {
    fn drop(&mut self) {
        self.disk.tree().closed(self.id);
    }
}

impl DiskFile for ImaginedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Kind::Write { offset, bytes }, |tree, asked| {
            let bytes = &bytes[..asked.landed(bytes.len() as u64) as usize];
            tree.change(self.id, Change::Bytes { offset, bytes: flipped(bytes, asked.flip) })
        })
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let length = buffer.len() as u64;
        self.disk.operate(&self.path(), Kind::Read { offset, length }, |tree, asked| {
            let contents = &tree.files[&self.id].now;
            if offset + length > contents.length() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            contents.read(offset, buffer);
            if asked.flip.is_some() {
                buffer.copy_from_slice(&flipped(buffer, asked.flip));
            }
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        let tree = self.disk.tree();
        if tree.power_is_cut {
            Err(io::Error::other(PowerCut))
        } else {
            Ok(tree.files[&self.id].now.length())
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(Kind::SetLength(length), |tree, _| tree.change(self.id, Change::Length(length)))
    }

    fn fill_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        self.change(Kind::Fill { from, to }, |tree, asked| {
            let to = from + asked.landed(to.saturating_sub(from));
            tree.change(self.id, Change::Zeros { from, to })
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Kind::SyncData, |tree, asked| {
            match asked.fails_after {
                None => tree.sync_data(self.id),
                Some(_) => tree.fail_sync(self.id),
            }
            Ok(())
        })
    }
}

struct ImaginedLock(ImaginedFile);

impl Lock for ImaginedLock {
    fn note(&self, text: &str) -> io::Result<()> {
        self.0.write_all_at(text.as_bytes(), 0)?;
        self.0.set_length(text.len() as u64)
    }
}

impl Drop for ImaginedLock {
    fn drop(&mut self) {
        let mut tree = self.0.disk.tree();
        tree.locked.retain(|id| *id != self.0.id);
    }
}

#[cfg(test)]
mod tests;
