//! What a power cut leaves, and what of it is left to chance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::contents::{self, Contents};
use super::tree::{Change, File, Node, Stranded, Tree};

/// What a disk keeps or loses as a whole, unless it is torn within.
pub const SECTOR_BYTES: u64 = 512;

/// Something that was not synced when the power went: a sector of a file, or a file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsyncedPiece {
    /// The file, by the name that it has after the crash.
    pub path: PathBuf,
    /// Where the sector begins; `None` for the file's length.
    pub offset: Option<u64>,
    /// How often it changed since the last sync: a file system may have written it out after any of them.
    pub versions: usize,
}

/// What becomes of an [`UnsyncedPiece`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was last written.
    Keep,
    /// It is as it was last synced.
    Lose,
    /// Its first bytes, so many of them, are as last written, the others as last synced. A length is lost.
    Torn(u64),
    /// It is as it was after so many of its changes; 0 is [`Fate::Lose`].
    Version(usize),
}

/// A disk at the moment of a power cut. From it any disk can be made that may be found afterwards.
pub struct Wreck {
    tree: Tree,
    loose: BTreeMap<u64, Loose>,
}

/// The unsynced part of one file; the first version of each is the synced one.
struct Loose {
    lengths: Vec<u64>,
    sectors: Vec<(u64, Vec<Sector>)>,
}

type Sector = [u8; SECTOR_BYTES as usize];

impl Wreck {
    pub(super) fn of(mut tree: Tree) -> Self {
        let unsynced = tree.files.iter().filter(|(_, file)| file.is_loose());
        let loose = unsynced.map(|(id, file)| (*id, Loose::of(file))).collect();
        for file in tree.files.values_mut() {
            file.now = file.durable.clone();
            file.unsynced.clear();
            file.stranded = Stranded::default();
        }
        Self { tree, loose }
    }

    /// How many changes of names were not synced. A journal keeps their order, so the first so many of them
    /// survive.
    pub fn unsynced_names(&self) -> usize {
        self.tree.unsynced_names.len()
    }

    /// What is left to chance if the first `names_kept` of the unsynced changes of names survive; always in the
    /// same order. Files that no name leads to then are left out.
    pub fn pieces(&self, names_kept: usize) -> Vec<UnsyncedPiece> {
        let mut pieces = Vec::new();
        for (path, id) in self.files(names_kept) {
            let Some(loose) = self.loose.get(&id) else { continue };
            let piece = |offset, versions: usize| UnsyncedPiece {
                path: path.clone(),
                offset,
                versions: versions - 1,
            };
            if loose.lengths.len() > 1 {
                pieces.push(piece(None, loose.lengths.len()));
            }
            pieces.extend(loose.sectors.iter().map(|(offset, sector)| piece(Some(*offset), sector.len())));
        }
        pieces
    }

    /// The disk as it is found, if `names_kept` changes of names survive and `choice` is made for each of
    /// [`Wreck::pieces`].
    pub(super) fn found(&self, names_kept: usize, choice: &mut dyn FnMut(&UnsyncedPiece) -> Fate) -> Tree {
        let mut tree = self.tree.clone();
        tree.names = self.names(names_kept);
        for piece in self.files(names_kept) {
            if let Some(file) = tree.files.get_mut(&piece.1) {
                self.settle(file, &piece.0, piece.1, choice);
            }
        }
        tree.settled()
    }

    fn settle(&self, file: &mut File, path: &Path, id: u64, choice: &mut dyn FnMut(&UnsyncedPiece) -> Fate) {
        file.path = path.to_owned();
        let Some(loose) = self.loose.get(&id) else { return };
        let mut ask = |offset, versions| {
            if versions == 1 {
                return Fate::Keep;
            }
            choice(&UnsyncedPiece { path: path.to_owned(), offset, versions: versions - 1 })
        };
        let length = version(&loose.lengths, ask(None, loose.lengths.len()), |last, _| last);
        let mut found = file.durable.clone();
        for (offset, versions) in &loose.sectors {
            let sector = version(versions, ask(Some(*offset), versions.len()), tear);
            found.write(*offset, &sector);
        }
        found.set_length(length);
        file.now = found.clone();
        file.durable = found;
        file.unsynced.clear();
    }

    fn names(&self, kept: usize) -> BTreeMap<PathBuf, Node> {
        let mut names = self.tree.durable_names.clone();
        let kept = kept.min(self.tree.unsynced_names.len());
        self.tree.unsynced_names[..kept].iter().for_each(|change| change.apply(&mut names));
        // What lies in a folder is lost with it.
        let folders: Vec<PathBuf> = names.keys().cloned().collect();
        for path in folders {
            if path.parent().is_some_and(|parent| parent.parent().is_some() && !names.contains_key(parent)) {
                names.remove(&path);
            }
        }
        names
    }

    fn files(&self, names_kept: usize) -> Vec<(PathBuf, u64)> {
        let names = self.names(names_kept).into_iter();
        names
            .filter_map(|(path, node)| if let Node::File(id) = node { Some((path, id)) } else { None })
            .collect()
    }
}

impl Loose {
    fn of(file: &File) -> Self {
        let mut lengths = vec![file.durable.length()];
        let mut touched: BTreeMap<u64, Vec<Sector>> = BTreeMap::new();
        let mut passing = file.durable.clone();
        // What a failed sync was to write may have been written.
        if !file.stranded.pages.is_empty() {
            passing.set_length(file.stranded.contents.length());
            note(&mut lengths, passing.length());
        }
        for (from, to) in file.stranded.pages.iter().map(|page| contents::range_of(*page)) {
            passing.take_over(&file.stranded.contents, from, to);
            for sector in from / SECTOR_BYTES..to / SECTOR_BYTES {
                let versions =
                    touched.entry(sector).or_insert_with(|| vec![sector_of(&file.durable, sector)]);
                note(versions, sector_of(&passing, sector));
            }
        }
        for change in &file.unsynced {
            let (from, to) = change.range(passing.length());
            let first = from / SECTOR_BYTES;
            for sector in first..to.div_ceil(SECTOR_BYTES) {
                touched.entry(sector).or_insert_with(|| vec![sector_of(&file.durable, sector)]);
            }
            change.apply(&mut passing);
            note(&mut lengths, passing.length());
            for (sector, versions) in touched.range_mut(first..to.div_ceil(SECTOR_BYTES)) {
                note(versions, sector_of(&passing, *sector));
            }
        }
        touched.retain(|_, versions| versions.len() > 1);
        let sectors = touched.into_iter().map(|(sector, versions)| (sector * SECTOR_BYTES, versions));
        Self { lengths, sectors: sectors.collect() }
    }
}

fn note<T: PartialEq>(versions: &mut Vec<T>, version: T) {
    if versions.last() != Some(&version) {
        versions.push(version);
    }
}

fn sector_of(contents: &Contents, sector: u64) -> Sector {
    let mut bytes = [0; SECTOR_BYTES as usize];
    contents.read(sector * SECTOR_BYTES, &mut bytes);
    bytes
}

fn version<T: Copy>(versions: &[T], fate: Fate, torn: impl Fn(T, (T, u64)) -> T) -> T {
    let (first, last) = (versions[0], versions[versions.len() - 1]);
    match fate {
        Fate::Keep => last,
        Fate::Lose => first,
        Fate::Torn(bytes) => torn(first, (last, bytes)),
        Fate::Version(number) => versions[number.min(versions.len() - 1)],
    }
}

fn tear(synced: Sector, (written, bytes): (Sector, u64)) -> Sector {
    let mut sector = synced;
    let bytes = bytes.min(SECTOR_BYTES) as usize;
    sector[..bytes].copy_from_slice(&written[..bytes]);
    sector
}

/// Damage that nobody asked for: a bit of a file is another one, also of its synced part.
pub(super) fn flip(file: &mut File, offset: u64, bit: u8) {
    for contents in [&mut file.now, &mut file.durable, &mut file.stranded.contents] {
        if offset < contents.length() {
            let mut byte = [0];
            contents.read(offset, &mut byte);
            contents.write(offset, &[byte[0] ^ (1 << (bit % 8))]);
        }
    }
}

/// Replaces what a file holds, as if it had always been so.
pub(super) fn replace(file: &mut File, bytes: &[u8]) {
    let mut contents = Contents::default();
    Change::Bytes { offset: 0, bytes: bytes.into() }.apply(&mut contents);
    (file.now, file.durable) = (contents.clone(), contents);
    file.unsynced.clear();
    file.stranded = Stranded::default();
}
