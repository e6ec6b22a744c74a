//! The state of an imagined disk: files and names, as they are now and as they would be after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::contents::{self, Contents};

/// What the unsynced part of a file is made of, in order.
#[derive(Clone)]
pub(super) enum Change {
    Bytes { offset: u64, bytes: Box<[u8]> },
    Zeros { from: u64, to: u64 },
    Length(u64),
}

impl Change {
    pub(super) fn apply(&self, contents: &mut Contents) {
        match self {
            Change::Bytes { offset, bytes } => contents.write(*offset, bytes),
            Change::Zeros { from, to } => contents.zero(*from, *to),
            Change::Length(length) => contents.set_length(*length),
        }
    }

    /// The bytes that may be others after it.
    pub(super) fn range(&self, length_before: u64) -> (u64, u64) {
        match self {
            Change::Bytes { offset, bytes } => (*offset, offset + bytes.len() as u64),
            Change::Zeros { from, to } => (*from, *to),
            Change::Length(length) => (*length.min(&length_before), length_before),
        }
    }

    pub(super) fn length_after(&self, before: u64) -> u64 {
        match self {
            Change::Bytes { offset, bytes } => before.max(offset + bytes.len() as u64),
            Change::Zeros { to, .. } => before.max(*to),
            Change::Length(length) => *length,
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) now: Contents,
    /// As of the last sync.
    pub(super) durable: Contents,
    pub(super) unsynced: Vec<Change>,
    pub(super) stranded: Stranded,
    open: u64,
}

/// What syncs that failed were to write, and no sync since has written.
#[derive(Clone, Default)]
pub(super) struct Stranded {
    /// The file as it was at the last failed sync.
    pub(super) contents: Contents,
    /// The pages of it that count; empty if no sync has failed.
    pub(super) pages: BTreeSet<u64>,
}

impl Stranded {
    fn add(&mut self, contents: &Contents, ranges: &[(u64, u64)]) {
        self.contents = contents.clone();
        self.pages.extend(ranges.iter().flat_map(|(from, to)| contents::pages(*from, *to)));
    }

    /// Whoever writes to a page that is clean by mistake has all of it written.
    fn remove(&mut self, length: u64, ranges: &[(u64, u64)]) {
        if !self.pages.is_empty() {
            self.contents.set_length(length);
            let written = ranges.iter().flat_map(|(from, to)| contents::pages(*from, *to));
            written.for_each(|page| _ = self.pages.remove(&page));
        }
    }
}

impl File {
    /// Whether a power cut may take something away.
    pub(super) fn is_loose(&self) -> bool {
        !self.unsynced.is_empty() || !self.stranded.pages.is_empty()
    }

    fn sync(&mut self) {
        let ranges = self.clean();
        self.durable.set_length(self.now.length());
        ranges.iter().for_each(|(from, to)| self.durable.take_over(&self.now, *from, *to));
        self.stranded.remove(self.now.length(), &ranges);
    }

    /// The pages count as written, and are not.
    fn fail_sync(&mut self) {
        let ranges = self.clean();
        self.stranded.add(&self.now, &ranges);
    }

    /// Forgets what was not synced; the ranges that it may have changed.
    fn clean(&mut self) -> Vec<(u64, u64)> {
        let mut length = self.durable.length();
        let mut ranges = Vec::new();
        for change in self.unsynced.drain(..) {
            ranges.push(change.range(length));
            length = change.length_after(length);
        }
        ranges
    }
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Folder,
}

/// A change of names that is not synced yet.
#[derive(Clone)]
pub(super) enum NameChange {
    Set(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Set(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        match self {
            NameChange::Set(path, _) | NameChange::Remove(path) => path.parent() == Some(folder),
            NameChange::Rename(from, to) => from.parent() == Some(folder) || to.parent() == Some(folder),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<u64, File>,
    pub(super) names: BTreeMap<PathBuf, Node>,
    pub(super) durable_names: BTreeMap<PathBuf, Node>,
    pub(super) unsynced_names: Vec<NameChange>,
    pub(super) locked: Vec<u64>,
    pub(super) capacity: Option<u64>,
    pub(super) serial: u64,
    pub(super) refused: u64,
    /// The least free space that was told of a folder since the capacity was set.
    pub(super) told: BTreeMap<PathBuf, u64>,
    pub(super) power_is_cut: bool,
    next_file: u64,
}

/// Names are compared as text, so `./a` must be `a`.
pub(super) fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

impl Tree {
    /// Bytes that its files take, also those that have lost their name but are still open.
    pub(super) fn used(&self) -> u64 {
        let named = |id: &u64| self.names.get(&self.files[id].path) == Some(&Node::File(*id));
        let counted = self.files.iter().filter(|(id, file)| file.open > 0 || named(id));
        counted.map(|(_, file)| file.now.used()).sum()
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn is_folder(&self, path: &Path) -> bool {
        // The folder that the disk itself is mounted at, or the current one.
        path.parent().is_none() || self.names.get(path) == Some(&Node::Folder)
    }

    fn require_folder(&self, path: &Path) -> io::Result<()> {
        if self.is_folder(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    pub(super) fn opened(&mut self, id: u64) -> u64 {
        if let Some(file) = self.files.get_mut(&id) {
            file.open += 1;
        }
        id
    }

    pub(super) fn closed(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.open = file.open.saturating_sub(1);
            if file.open == 0 {
                self.forget_unreachable();
            }
        }
    }

    /// Makes a file, or empties the one of that name.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        match self.find(path) {
            Ok(id) => self.change(id, Change::Length(0)).map(|()| id),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => self.make(path),
        }
    }

    /// The file of that name, which is made if need be.
    pub(super) fn find_or_make(&mut self, path: &Path) -> io::Result<u64> {
        self.find(path).or_else(|_| self.make(path))
    }

    fn make(&mut self, path: &Path) -> io::Result<u64> {
        self.require_folder(path.parent().unwrap_or(path))?;
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, File { path: path.to_owned(), ..File::default() });
        self.change_names(NameChange::Set(path.to_owned(), Node::File(id)));
        Ok(id)
    }

    pub(super) fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            match self.names.get(folder) {
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None if !self.is_folder(folder) => {
                    self.change_names(NameChange::Set(folder.to_owned(), Node::Folder));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.require_folder(folder)?;
        let inside = self.names.keys().filter(|name| name.parent() == Some(folder));
        let names = inside.filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from)?;
        self.require_folder(to.parent().unwrap_or(to))?;
        if let Some(file) = self.files.get_mut(&id) {
            file.path = to.to_owned();
        }
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change_names(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    /// Makes the names in that one folder last. Those of others wait for a sync of theirs, as POSIX has it.
    pub(super) fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.require_folder(folder)?;
        let changes = std::mem::take(&mut self.unsynced_names);
        let (synced, waiting) = changes.into_iter().partition(|change| change.is_in(folder));
        self.unsynced_names = waiting;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| change.apply(&mut self.durable_names));
        self.forget_unreachable();
        Ok(())
    }

    pub(super) fn change(&mut self, id: u64, change: Change) -> io::Result<()> {
        let free = self.free();
        let file = self.files.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        let missing = match &change {
            Change::Bytes { offset, bytes } => file.now.missing(*offset, offset + bytes.len() as u64),
            Change::Zeros { from, to } => file.now.missing(*from, *to),
            Change::Length(_) => 0,
        };
        if missing > free {
            self.refused += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(())
    }

    pub(super) fn sync_data(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.sync();
        }
    }

    /// A sync that tells of a failure, once: the next one finds nothing to do.
    pub(super) fn fail_sync(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.fail_sync();
        }
    }

    /// Drops files that no name leads to, now or after a power cut, and that nobody has open.
    fn forget_unreachable(&mut self) {
        let Self { files, names, durable_names, unsynced_names, .. } = self;
        files.retain(|id, file| {
            let node = Node::File(*id);
            file.open > 0
                || names.get(&file.path) == Some(&node)
                || durable_names.values().any(|named| *named == node)
                || unsynced_names
                    .iter()
                    .any(|change| matches!(change, NameChange::Set(_, named) if *named == node))
        });
    }

    /// As another machine, or another start of the process, finds it: nothing is open or locked.
    pub(super) fn untouched(mut self) -> Self {
        self.locked.clear();
        self.files.values_mut().for_each(|file| file.open = 0);
        self.power_is_cut = false;
        self.forget_unreachable();
        self
    }

    /// What is on it now is all there is.
    pub(super) fn settled(mut self) -> Self {
        for file in self.files.values_mut() {
            file.sync();
            file.stranded = Stranded::default();
        }
        self.durable_names.clone_from(&self.names);
        self.unsynced_names.clear();
        self.untouched()
    }
}
