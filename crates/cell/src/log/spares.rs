//! Spare segments: zero-filled ahead, so that an append never waits for new blocks, or old ones recycled.
//!
//! They are also the log's reserve. While one can't be made, the disk being full, the segment in use still
//! has room for what elections write, and [`super::Log::space`] says that no more should be proposed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::segment::Segment;
use super::{LogError, LogOptions, Shared, Space};
use crate::disk::{Access, Disk, DiskFile, Turn, Worker, is_no_space};

/// More than these are given back to the file system.
const KEPT: usize = 2;
/// Written and synced at once: a longer sync would hold up the appends to another file.
const STEP_BYTES: u64 = 1 << 20;
/// Between steps, so that filling a spare takes only a part of the disk's time.
const PAUSE: Duration = Duration::from_millis(5);
const PREFIX: &str = "spare-";
const PARTIAL: &str = ".partial";

/// A file of zeros, or of old records that no longer count, ready to become a segment.
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) size: u64,
}

#[derive(Default)]
pub(super) struct Spares {
    ready: Vec<Spare>,
    /// The size of the spare that is to be made.
    wanted: Option<u64>,
    /// The writer waits for it.
    urgent: bool,
    pub(super) shortage: Option<Space>,
    last_number: u64,
}

impl Spares {
    /// Finds the spares in a log's folder.
    pub(super) fn open(disk: &dyn Disk, folder: &Path, size: u64) -> Result<Self, LogError> {
        let mut spares = Self::default();
        for name in disk.list(folder).map_err(LogError::io("list", folder))? {
            let Some(number) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let path = folder.join(&name);
            let whole = number.parse::<u64>().ok();
            spares.last_number = spares.last_number.max(whole.unwrap_or(0));
            let file = disk.open(&path, Access::Write).map_err(LogError::io("open", &path))?;
            let length = file.length().map_err(LogError::io("read", &path))?;
            if whole.is_some() && length == size && spares.ready.len() < KEPT {
                spares.ready.push(Spare { path, file, size });
            } else {
                Self::discard(disk, &path);
            }
        }
        Ok(spares)
    }

    /// A spare of at least `size` bytes.
    pub(super) fn take(&mut self, size: u64) -> Option<Spare> {
        let at = self.ready.iter().position(|spare| spare.size >= size)?;
        Some(self.ready.swap_remove(at))
    }

    /// Asks for a spare; true if the maker must be woken for it.
    pub(super) fn want(&mut self, size: u64, urgent: bool) -> bool {
        let unmet = self.ready.iter().all(|spare| spare.size < size);
        let news = unmet && (self.wanted.is_none_or(|wanted| wanted < size) || (urgent && !self.urgent));
        if unmet {
            self.wanted = Some(self.wanted.unwrap_or(0).max(size));
            self.urgent |= urgent;
        }
        news
    }

    /// Keeps a segment's file for later use, or gives its space back.
    pub(super) fn retire(&mut self, disk: &dyn Disk, folder: &Path, segment: Arc<Segment>, size: u64) {
        // A reader that still holds the segment must find its old contents there.
        let segment = match Arc::try_unwrap(segment) {
            Ok(segment) if segment.size == size && self.ready.len() < KEPT => segment,
            Ok(segment) => return Self::discard(disk, &segment.path),
            Err(segment) => return Self::discard(disk, &segment.path),
        };
        let path = self.new_path(folder);
        match disk.rename(&segment.path, &path) {
            Ok(()) => self.ready.push(Spare { path, file: segment.file, size }),
            Err(_) => Self::discard(disk, &segment.path),
        }
    }

    /// Removes a file that isn't needed; if that fails, the next start tries again.
    pub(super) fn discard(disk: &dyn Disk, path: &Path) {
        if let Err(error) = disk.remove(path) {
            tracing::warn!(path = %path.display(), %error, "a file of the log that isn't needed any more can't be removed");
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.ready.iter().map(|spare| spare.size).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    fn new_path(&mut self, folder: &Path) -> PathBuf {
        self.last_number += 1;
        folder.join(format!("{PREFIX}{:06}", self.last_number))
    }
}

/// Makes a file of zeros step by step.
pub(super) struct Making {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size: u64,
    filled: u64,
}

impl Making {
    pub(super) fn begin(disk: &dyn Disk, path: PathBuf, size: u64) -> io::Result<Self> {
        let free = disk.free_bytes(path.parent().unwrap_or(&path))?;
        if free < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = disk.open(&path, Access::Create)?;
        Ok(Self { path, file, size, filled: 0 })
    }

    /// Does the next step; true when the file is full of zeros that are on the disk.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        let to = self.size.min(self.filled + STEP_BYTES);
        self.file.fill_with_zeros(self.filled, to)?;
        self.file.sync_data()?;
        self.filled = to;
        Ok(self.filled == self.size)
    }

    pub(super) fn into_spare(self) -> Spare {
        Spare { path: self.path, file: self.file, size: self.size }
    }
}

/// The worker that makes spares.
pub(super) struct Maker {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) options: LogOptions,
    pub(super) making: Option<Making>,
    /// Dropped last, which tells that the folder is no longer in use.
    pub(super) _gone: oneshot::Sender<()>,
}

impl Worker for Maker {
    fn turn(&mut self, _rested: bool) -> Turn {
        // Not earlier: the writer may need a spare to end its work.
        if self.shared.tail.lock().failed.is_some() {
            self.give_up();
            return Turn::Done;
        }
        let (wanted, urgent) = {
            let spares = self.shared.spares.lock();
            (spares.wanted, spares.urgent)
        };
        let Some(size) = wanted else { return Turn::Wait };
        match self.advance(size) {
            Ok(true) => Turn::Again,
            Ok(false) if urgent => Turn::Again,
            Ok(false) => Turn::WaitAtMost(PAUSE),
            Err(error) => {
                self.report(&error, size);
                Turn::WaitAtMost(self.options.retry_interval)
            }
        }
    }
}

impl Maker {
    fn advance(&mut self, size: u64) -> io::Result<bool> {
        if self.making.as_ref().is_some_and(|making| making.size < size) {
            self.give_up();
        }
        if self.making.is_none() {
            let path = self.shared.spares.lock().new_path(&self.folder);
            let partial = path.with_extension(&PARTIAL[1..]);
            self.making = Some(Making::begin(&*self.disk, partial, size)?);
        }
        let Some(making) = &mut self.making else {
            return Ok(false);
        };
        if !making.step()? {
            return Ok(false);
        }
        let whole = making.path.with_extension("");
        self.disk.rename(&making.path, &whole)?;
        if let Some(making) = self.making.take() {
            let mut spares = self.shared.spares.lock();
            spares.ready.push(Spare { path: whole, ..making.into_spare() });
            (spares.wanted, spares.urgent, spares.shortage) = (None, false, None);
        }
        self.shared.wake_writer();
        Ok(true)
    }

    /// A full disk is no failure: it is tried again until there is space (spec G-8).
    fn report(&mut self, error: &io::Error, size: u64) {
        self.give_up();
        let free = self.disk.free_bytes(&self.folder).unwrap_or(0);
        let shortage = Space::Short { free, needed: size };
        let mut spares = self.shared.spares.lock();
        if spares.shortage.is_none() {
            let reason =
                if is_no_space(error) { "the disk is full" } else { "a spare segment can't be made" };
            tracing::warn!(folder = %self.folder.display(), %error, free, needed = size, "{reason}: soon this replica takes no more writes; free some space, nothing else is needed");
        }
        spares.shortage = Some(shortage);
        drop(spares);
        self.shared.wake_writer();
    }

    fn give_up(&mut self) {
        if let Some(making) = self.making.take() {
            Spares::discard(&*self.disk, &making.path);
        }
    }
}
