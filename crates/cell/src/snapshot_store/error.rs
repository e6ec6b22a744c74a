//! Why a snapshot can't be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::log::REPLACE_OPTION;

/// Why a snapshot can't be written or read. Each says which file, what is wrong with it and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
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
    /// The file is not what was once written (spec G-4).
    #[error(
        "the snapshot {} is damaged at byte {offset}: {what}. Repair this replica from the others: stop it, move \
         its data folder away, start it again with {REPLACE_OPTION}",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was found there.
        what: String,
    },
    /// The snapshot is of another cell.
    #[error(
        "the snapshot {} is of the cell {found:016x}, but this replica belongs to the cell {cell:016x}",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its cell.
        found: u64,
        /// The cell that was asked for.
        cell: u64,
    },
    /// The snapshot was written in a format that this program doesn't know.
    #[error(
        "{} has format {found}, but this program knows formats up to {known}; start the program version that wrote \
         it, or a later one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that is known.
        known: u32,
    },
    /// What arrives from another replica is not what it announced; it is to be sent again.
    #[error("the snapshot that another replica sends is refused: {0}")]
    Refused(String),
}

impl SnapshotError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
        let path = path.to_owned();
        move |source| SnapshotError::Io { doing, path, source }
    }

    pub(super) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> io::Error {
        let kind = match &error {
            SnapshotError::Io { source, .. } => source.kind(),
            SnapshotError::Refused(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
