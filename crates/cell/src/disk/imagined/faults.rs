//! Faults of the imagined disk: an object is asked before every operation what is to happen to it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::Access;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind<'a> {
    /// An existing file is opened.
    Open(Access),
    /// A file is made, or an old one is emptied.
    Create,
    /// A folder is made, with its parents.
    CreateFolder,
    /// A folder is listed.
    List,
    /// Bytes are read.
    Read {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Bytes are written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file is cut off, or lengthened by a hole.
    SetLength(u64),
    /// Zeros are written, with the space that they take.
    Fill {
        /// The first byte.
        from: u64,
        /// One past the last byte.
        to: u64,
    },
    /// A file's contents and length are synced.
    SyncData,
    /// A folder's names are synced.
    SyncFolder,
    /// A file gets another name.
    Rename {
        /// The new name.
        to: &'a Path,
    },
    /// A file loses its name.
    Remove,
    /// A file is made if need be, and locked.
    Lock,
    /// A worker is about to take a turn; its name is the path.
    Turn,
    /// A worker's turn is over: whom it calls back has been called. Its name is the path.
    Callback,
}

impl Kind<'_> {
    /// Whether something of it stays when it fails ([`Verdict::FailInPart`]).
    pub(super) fn leaves_a_trace(&self) -> bool {
        matches!(self, Kind::Write { .. } | Kind::Fill { .. } | Kind::SyncData)
    }
}

/// An operation that is about to be done.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Counts the operations of this disk, from 0; a disk found after a crash goes on counting.
    pub serial: u64,
    /// What is asked.
    pub kind: Kind<'a>,
    /// The file or folder; the name of a worker for its turns.
    pub path: &'a Path,
}

impl Operation<'_> {
    /// Whether it changes what a power cut would leave. A cut *before* each operation of these kinds covers
    /// every state that the disk passes through: what happens within one is a matter of what survives.
    pub fn changes(&self) -> bool {
        match self.kind {
            Kind::Create
            | Kind::CreateFolder
            | Kind::Write { .. }
            | Kind::SetLength(_)
            | Kind::Fill { .. }
            | Kind::SyncData
            | Kind::SyncFolder
            | Kind::Rename { .. }
            | Kind::Remove
            | Kind::Lock => true,
            Kind::Open(_) | Kind::List | Kind::Read { .. } | Kind::Turn | Kind::Callback => false,
        }
    }

    /// What is done, the first word of [`Operation::name`].
    pub fn verb(&self) -> &'static str {
        match self.kind {
            Kind::Open(_) => "open",
            Kind::Create => "create",
            Kind::CreateFolder => "create folder",
            Kind::List => "list",
            Kind::Read { .. } => "read",
            Kind::Write { .. } => "write",
            Kind::SetLength(_) => "set length of",
            Kind::Fill { .. } => "fill",
            Kind::SyncData => "sync",
            Kind::SyncFolder => "sync folder",
            Kind::Rename { .. } => "rename",
            Kind::Remove => "remove",
            Kind::Lock => "lock",
            Kind::Turn => "turn",
            Kind::Callback => "callback",
        }
    }

    /// What it is done to, the rest of [`Operation::name`]: which of a replica's files (`docs/formats.md`). A
    /// rename goes by the new name.
    pub fn thing(&self) -> &'static str {
        let path = if let Kind::Rename { to } = self.kind { to } else { self.path };
        let name = path.file_name().map_or("".into(), |name| name.to_string_lossy());
        match &*name {
            "control" | "control.new" => "control",
            "identity" | "identity.new" => "identity",
            "replacing" => "replacing marker",
            "lock" => "lock file",
            "log" => "log",
            "snapshots" => "snapshots",
            "log-writer" => "log writer",
            "log-maker" => "spare maker",
            name if name.starts_with("spare-") || name == "segment.partial" => "spare",
            name if name.starts_with("segment-") => "log segment",
            name if name.starts_with("snapshot-") && name.ends_with(".partial") => "unfinished snapshot",
            name if name.starts_with("snapshot-") => "snapshot",
            name if name.starts_with("receiving-") => "arriving snapshot",
            _ => "other",
        }
    }

    /// A name to aim at, such as `write log segment`, `sync control`, `rename snapshot`, `callback log writer`.
    pub fn name(&self) -> String {
        format!("{} {}", self.verb(), self.thing())
    }
}

/// What happens to an operation.
#[derive(Debug)]
pub enum Verdict {
    /// It is done.
    Proceed,
    /// It fails and changes nothing.
    Fail(io::Error),
    /// It fails, but not without a trace. Of a write, or of zeros, the first bytes land. A failed sync leaves what
    /// was not synced readable, and later syncs take it for written: Linux marks such pages clean (Rebello and
    /// others, "Can Applications Recover from fsync Failures?", 2020). Everything else changes nothing.
    FailInPart {
        /// What the caller is told.
        error: io::Error,
        /// How many bytes of a write land; taken modulo one more than their number.
        landed: u64,
    },
    /// The power goes: this and every later operation fails, and no worker takes a turn any more.
    CutPower {
        /// The operation is done, but nobody is told; else it isn't done at all.
        done: bool,
    },
    /// It isn't done, but said to be: a disk that lies. What gives back something, such as a read, is done.
    Pretend,
    /// A bit of what is read or written is another one. Other operations are simply done.
    Flip {
        /// Which byte of those that are read or written; taken modulo their number.
        byte: u64,
        /// Which bit, 0 to 7.
        bit: u8,
    },
}

/// Decides what happens to each operation.
pub trait Faults: Send + Sync {
    /// Called before each operation, without any lock of the disk held.
    fn before(&self, operation: &Operation<'_>) -> Verdict;
}

/// Everything works.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn before(&self, _operation: &Operation<'_>) -> Verdict {
        Verdict::Proceed
    }
}

/// Cuts the power before one of the operations that change the disk.
#[derive(Debug)]
pub struct CutBefore {
    left: AtomicU64,
    changes: AtomicU64,
}

impl Default for CutBefore {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl CutBefore {
    /// Lets so many changes pass.
    pub fn new(changes: u64) -> Self {
        Self { left: AtomicU64::new(changes), changes: AtomicU64::new(0) }
    }

    /// Lets so many more changes pass from now on.
    pub fn set(&self, changes: u64) {
        self.left.store(changes, Ordering::Relaxed);
    }

    /// Changes that have passed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
}

impl Faults for CutBefore {
    fn before(&self, operation: &Operation<'_>) -> Verdict {
        if !operation.changes() {
            return Verdict::Proceed;
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Verdict::CutPower { done: false };
        }
        self.left.store(left - 1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Verdict::Proceed
    }
}

/// The error of every operation after a power cut.
#[derive(Clone, Copy, Debug)]
pub struct PowerCut;

impl fmt::Display for PowerCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the power was cut")
    }
}

impl std::error::Error for PowerCut {}

impl PowerCut {
    /// Whether an error of the disk says that the power was cut.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<PowerCut>())
    }
}
