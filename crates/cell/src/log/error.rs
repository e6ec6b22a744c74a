//! Why a log can't be used.

use std::io;
use std::path::{Path, PathBuf};

/// The option of `bramah server` that lets an emptied replica be repaired from the others.
pub const REPLACE_OPTION: &str = "--replace";

/// Why a log can't be opened. Each says which file, what is wrong with it and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
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
    /// The log lost something that it had promised to keep (spec G-4).
    #[error(
        "the log is damaged: {} at byte {offset}: {what}. This replica must not vote with a damaged log; repair \
         it from the others: stop it, move the folder {} away, start it again with {REPLACE_OPTION}",
        path.display(), folder.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was found there.
        what: String,
        /// The folder that holds the log.
        folder: PathBuf,
    },
    /// The log was written by another replica or for another cell.
    #[error(
        "{} was written by replica {found_replica} of the cell {found_cell:016x}, but this is replica {replica} of \
         the cell {cell:016x}; start the replica with the data folder that belongs to it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cell that it was written for.
        found_cell: u64,
        /// The replica that wrote it.
        found_replica: u64,
        /// The cell that was asked for.
        cell: u64,
        /// The replica that was asked for.
        replica: u64,
    },
    /// The log was written in a format that this program doesn't know.
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
}

impl LogError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        move |source| LogError::Io { doing, path, source }
    }

    /// `path` is a file in the folder to be moved away.
    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> LogError {
        let folder = path.parent().unwrap_or(path);
        // The replica's data folder holds the log's folder: an emptied log beside an old snapshot would
        // still be a replica that has forgotten its vote.
        let folder = folder.parent().unwrap_or(folder).to_owned();
        LogError::Damaged { path: path.to_owned(), offset, what: what.into(), folder }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        let kind = match &error {
            LogError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
