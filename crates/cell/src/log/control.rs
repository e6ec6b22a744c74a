//! The control file: the vote, the purge point, and which segments make up the log.
//!
//! It has two copies, one a page, and each save writes and syncs the first before it touches the second.
//! So one of them is always whole, a save needs no new space on the disk, and once a save has returned
//! one damaged copy loses nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::type_config::alias::{LeaderIdOf, VoteOf};

use super::record::{LogId, MAX_COUNT, leader_id};
use super::segment::{PAGE_BYTES, check_owner};
use super::{Identity, LogError};
use crate::consensus::TypeConfig;
use crate::disk::{Access, Disk, DiskFile};

pub(super) type Vote = VoteOf<TypeConfig>;

pub(super) const CONTROL_NAME: &str = "control";
const NEW_NAME: &str = "control.new";
const MAGIC: &[u8; 8] = b"bramctl\n";
const VERSION: u32 = 1;
const FIELDS: usize = 11;
const COPY_BYTES: usize = 16 + FIELDS * 8;

/// What the control file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    /// The oldest segment that belongs to the log.
    pub(super) first_segment: u64,
    /// The newest one; 0 while there is none.
    pub(super) last_segment: u64,
}

pub(super) struct Control {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    identity: Identity,
    generation: u64,
    pub(super) facts: Facts,
}

impl Control {
    /// Makes the control file of a new log; it exists whole or not at all.
    pub(super) fn create(disk: &dyn Disk, folder: &Path, identity: Identity) -> Result<Self, LogError> {
        let path = folder.join(CONTROL_NAME);
        let new = folder.join(NEW_NAME);
        let file = disk.open(&new, Access::Create).map_err(LogError::io("create", &new))?;
        let facts = Facts { first_segment: 1, ..Facts::default() };
        let mut control = Self { file, path: path.clone(), identity, generation: 0, facts };
        control.save()?;
        disk.rename(&new, &path).map_err(LogError::io("create", &path))?;
        disk.sync_directory(folder).map_err(LogError::io("sync", folder))?;
        Ok(control)
    }

    /// Reads the control file and makes both copies whole again.
    pub(super) fn open(disk: &dyn Disk, folder: &Path, identity: Identity) -> Result<Self, LogError> {
        let path = folder.join(CONTROL_NAME);
        let file = disk.open(&path, Access::Write).map_err(LogError::io("open", &path))?;
        let copies = [0, PAGE_BYTES as u64].map(|offset| read_copy(&*file, &path, identity, offset));
        let [first, second] = copies;
        let (generation, facts) = match (first?, second?) {
            (Some(first), Some(second)) => {
                // The first is written first, so it is never the older one.
                if first.0 >= second.0 { first } else { second }
            }
            (Some(only), None) | (None, Some(only)) => {
                tracing::warn!(path = %path.display(), "one of the two copies in the control file was damaged or half written; the other one is used");
                only
            }
            (None, None) => {
                return Err(LogError::damaged(&path, 0, "neither copy of the vote matches its checksum"));
            }
        };
        let mut control = Self { file, path, identity, generation, facts };
        control.save()?;
        Ok(control)
    }

    /// Returns once the facts are on the disk twice.
    pub(super) fn save(&mut self) -> Result<(), LogError> {
        self.generation += 1;
        let page = encode(self.identity, self.generation, &self.facts);
        for offset in [0, PAGE_BYTES as u64] {
            self.file.write_all_at(&page, offset).map_err(LogError::io("write", &self.path))?;
            self.file.sync_data().map_err(LogError::io("sync", &self.path))?;
        }
        Ok(())
    }
}

fn encode(identity: Identity, generation: u64, facts: &Facts) -> Vec<u8> {
    let vote = facts
        .vote
        .map_or([0; 3], |vote| [1 + u64::from(vote.committed), vote.leader_id.term, vote.leader_id.node_id]);
    // Index + 1, so that 0 says "nothing".
    let purged = facts
        .purged
        .map_or([0; 3], |purged| [purged.index + 1, purged.leader_id.term, purged.leader_id.node_id]);
    let mut page = vec![0; PAGE_BYTES];
    page[..8].copy_from_slice(MAGIC);
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let fields = [identity.cell_id, identity.replica, generation, facts.first_segment, facts.last_segment];
    let fields = fields.into_iter().chain(vote).chain(purged);
    for (field, place) in fields.zip(page[16..COPY_BYTES].chunks_exact_mut(8)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    let checksum = checksum(&page);
    page[12..16].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn checksum(page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..COPY_BYTES])
}

/// One copy with its generation; `None` if it is not whole.
fn read_copy(
    file: &dyn DiskFile,
    path: &Path,
    identity: Identity,
    offset: u64,
) -> Result<Option<(u64, Facts)>, LogError> {
    let length = file.length().map_err(LogError::io("read", path))?;
    if length < offset + COPY_BYTES as u64 {
        return Ok(None);
    }
    let mut page = [0; COPY_BYTES];
    file.read_exact_at(&mut page, offset).map_err(LogError::io("read", path))?;
    let u32_at = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let field = |number: usize| {
        let at = 16 + number * 8;
        u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32
    };
    if &page[..8] != MAGIC || u32_at(12) != checksum(&page) {
        return Ok(None);
    }
    if u32_at(8) != VERSION {
        return Err(LogError::Version { path: path.to_owned(), found: u32_at(8), known: VERSION });
    }
    check_owner(path, identity, field(0), field(1))?;
    if [2, 3, 4, 8].into_iter().any(|number| field(number) > MAX_COUNT) {
        return Err(LogError::damaged(path, offset, "a number is too large to be true"));
    }
    let vote = (field(5) > 0).then(|| Vote {
        leader_id: LeaderIdOf::<TypeConfig> { term: field(6), node_id: field(7) },
        committed: field(5) == 2,
    });
    let purged =
        (field(8) > 0).then(|| LogId { leader_id: leader_id(field(9), field(10)), index: field(8) - 1 });
    let facts = Facts { vote, purged, first_segment: field(3), last_segment: field(4) };
    Ok(Some((field(2), facts)))
}
