//! What a caller is told: the answer to a command, or why it was refused.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acl::{AclNames, Principal, Right};
use crate::lock::Sequencer;
use crate::quota::QuotaKind;
use crate::{HandleId, Path, SessionId};

/// The most bytes a refusal's own text has; one that is longer is cut off.
const MAX_WHY_BYTES: usize = 1024;

/// What became of a command. A refused command changed nothing.
///
/// Outcomes are kept in the replicated state for retries (spec S-6), so the order of variants and fields
/// here is part of the durable format: add at the end, never reorder (docs/formats.md).
pub type Outcome = Result<Answer, Refusal>;

/// What a command answers when it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A session is there.
    SessionOpened {
        /// The session.
        session: SessionId,
        /// Its lease in milliseconds.
        lease_ms: u32,
    },
    /// The session is over.
    SessionEnded,
    /// A file was written, or a directory is there.
    Written {
        /// The node's content generation now.
        generation: u64,
        /// The revision that last changed the node: of this change, unless nothing had to change.
        revision: u64,
        /// Whether the command made the node.
        created: bool,
    },
    /// The node is gone.
    Deleted {
        /// The revision of the change.
        revision: u64,
    },
    /// A counter was added to or reset.
    Counter {
        /// Its value now.
        value: i64,
        /// The revision of the change.
        revision: u64,
    },
    /// It was done, and there is nothing to say of it.
    Done,
    /// A handle is open.
    NodeOpened {
        /// The handle.
        handle: HandleId,
        /// The node's instance.
        instance: u64,
        /// Whether the command made the node.
        created: bool,
    },
    /// The handle holds the lock.
    LockAcquired {
        /// The lock generation that it holds.
        generation: u64,
        /// Whether it is held together with others.
        shared: bool,
    },
    /// The handle stands in the queue; an event will say when it holds the lock.
    LockWaiting {
        /// How many stand in the queue, this one among them.
        waiters: u64,
    },
    /// The handle has nothing to do with the lock.
    LockApart,
    /// A transaction was done.
    Txn {
        /// Whether all guards held, so that the first list was done.
        held: bool,
        /// What became of each operation of the list that was done.
        answers: Vec<Answer>,
    },
    /// The ACL names were written.
    AclSet {
        /// The ACL generation now.
        generation: u64,
        /// The revision of the change.
        revision: u64,
    },
}

/// Why a command, or a read, was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The command makes no sense, whatever the state.
    #[error("{why}")]
    InvalidArgument {
        /// What is wrong and what would be right.
        why: String,
    },
    /// There is no such node.
    #[error("there is no node {path}; create it first, or check the name")]
    NotFound {
        /// The node asked for.
        path: Path,
    },
    /// The directory that should hold the node is missing.
    #[error(
        "{path} can't be created because there is no directory {parent}; create that first, or ask for missing ancestors to be made"
    )]
    ParentNotFound {
        /// The node to be created.
        path: Path,
        /// The ancestor that is missing.
        parent: Path,
    },
    /// The node is there already.
    #[error("{path} exists already; delete it first, or use another name")]
    AlreadyExists {
        /// The node.
        path: Path,
    },
    /// The node is of another kind.
    #[error("{path} is a {is}, and this needs a {wanted}; use a name of a {wanted}")]
    WrongKind {
        /// The node.
        path: Path,
        /// What it is.
        is: NodeKind,
        /// What the command needs.
        wanted: NodeKind,
    },
    /// A directory with children is not deleted.
    #[error("{path} can't be deleted because it has {children} children; delete them first")]
    NotEmpty {
        /// The directory.
        path: Path,
        /// How many children it has.
        children: u64,
    },
    /// The node has another content generation than the command demands.
    #[error(
        "{path} has content generation {current} (0: there is no such node), not the one demanded; read it again and decide anew"
    )]
    GenerationMismatch {
        /// The node.
        path: Path,
        /// Its content generation now, 0 if there is no such node.
        current: u64,
    },
    /// The counter has another value than the command demands.
    #[error("the counter {path} holds {current}, not the value expected; read it again and decide anew")]
    ValueMismatch {
        /// The counter.
        path: Path,
        /// Its value now.
        current: i64,
    },
    /// The counter would leave its range.
    #[error("adding {delta} to the counter {path}, which holds {current}, would {limit}; add less")]
    OutOfRange {
        /// The counter.
        path: Path,
        /// Its value now; 0 if it is not there yet.
        current: i64,
        /// What should have been added.
        delta: i64,
        /// What stands in the way.
        limit: RangeLimit,
    },
    /// The contents are too long.
    #[error("{bytes} bytes for {path} are too many; a file holds at most {limit}, so split them")]
    TooLarge {
        /// The file.
        path: Path,
        /// How many bytes were to be written.
        bytes: u64,
        /// How many a file holds.
        limit: u64,
    },
    /// The root directory can't be deleted.
    #[error("the root directory / can't be deleted; delete what is in it")]
    RootImmutable,
    /// The session is over.
    #[error("session {session} has ended or expired; open another one")]
    SessionExpired {
        /// The session.
        session: SessionId,
    },
    /// A copy of a command whose answer the client has confirmed, so the first copy was done long ago.
    #[error(
        "command {number} of session {session} is a late copy: the client has confirmed the answers up to {confirmed}; use the first copy's answer"
    )]
    StaleDuplicate {
        /// The session.
        session: SessionId,
        /// The command's number.
        number: u64,
        /// The session's commands up to this number have been confirmed.
        confirmed: u64,
    },
    /// The session runs too far ahead of its confirmations. Nothing was done and nothing is remembered.
    #[error(
        "session {session} can't run command {number} while it has confirmed answers only up to {confirmed}; confirm answers, then send it again"
    )]
    TooManyUnconfirmed {
        /// The session.
        session: SessionId,
        /// The command's number.
        number: u64,
        /// The session's commands up to this number have been confirmed.
        confirmed: u64,
    },
    /// The cell keeps too many answers for its sessions. Nothing was done and nothing is remembered.
    #[error(
        "the cell keeps {kept} unconfirmed answers for its sessions, the most it can; send the command again later"
    )]
    TooManyAnswers {
        /// How many answers the cell keeps.
        kept: u64,
    },
    /// The table of idempotency keys, or that of sessions' openings, is full. Nothing was done and nothing is remembered.
    #[error(
        "the cell remembers the keys of {kept} commands of this kind, the most it can; send the command again in {retry_after_ms} ms"
    )]
    TooManyKeys {
        /// How many keys the cell remembers.
        kept: u64,
        /// When the oldest key is forgotten, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// There are too many sessions. Nothing was done and nothing is remembered.
    #[error("the cell has {sessions} sessions, the most it can; end some, or try again later")]
    TooManySessions {
        /// How many sessions there are.
        sessions: u64,
    },
    /// The leader that saw a lease end has been replaced (spec S-8).
    #[error(
        "the leader of term {term} may not expire session {session}: term {newer} has begun; leave it to the new leader"
    )]
    Deposed {
        /// The session, which goes on.
        session: SessionId,
        /// The term of the leader that saw the lease end.
        term: u64,
        /// The newest term that the state has seen.
        newer: u64,
    },
    /// The handle is closed, or was never opened in this session.
    #[error(
        "session {session} has no handle {handle}: it was closed, or is another session's; open the node again"
    )]
    UnknownHandle {
        /// The session.
        session: SessionId,
        /// The handle.
        handle: HandleId,
    },
    /// The node that the handle was opened on is gone (spec H-3).
    #[error(
        "the node {path} that handle {handle} was opened on was deleted; open it again if the name is in use anew"
    )]
    NodeDeleted {
        /// The node's name.
        path: Path,
        /// The handle.
        handle: HandleId,
    },
    /// The handle was not opened for this (spec H-2).
    #[error("this handle on {path} was not opened to {right} it; open another one for that")]
    HandleLacksRight {
        /// The node.
        path: Path,
        /// What it was to be used for.
        right: Right,
    },
    /// The ACL does not let this principal do that (spec A-1).
    #[error("{principal} may not {right} {path}: that takes a line in the ACL /acl/{acl}")]
    NotPermitted {
        /// The node.
        path: Path,
        /// What was to be done.
        right: Right,
        /// Who was to do it.
        principal: Principal,
        /// The ACL that governs it.
        acl: String,
    },
    /// The lock can't be had now.
    #[error(
        "the lock {path} is held by {holders} and waited for by {waiters}, or its lock-delay runs; wait for it"
    )]
    LockHeld {
        /// The node.
        path: Path,
        /// How many hold it.
        holders: u64,
        /// How many wait.
        waiters: u64,
    },
    /// The handle holds the lock, or waits for it, in the other mode.
    #[error(
        "handle {handle} holds the lock {path}, or waits for it, in the other mode; release or cancel that first"
    )]
    LockInUse {
        /// The node.
        path: Path,
        /// The handle.
        handle: HandleId,
    },
    /// The handle does not hold the lock.
    #[error("handle {handle} does not hold the lock {path}, so it can't release it")]
    LockNotHeld {
        /// The node.
        path: Path,
        /// The handle.
        handle: HandleId,
    },
    /// The lock is not held any more as the sequencer says (spec L-4).
    #[error("the sequencer {sequencer} is not valid any more; whoever showed it must acquire the lock again")]
    SequencerInvalid {
        /// The sequencer.
        sequencer: Sequencer,
    },
    /// The queue of a lock is full. Nothing was done and nothing is remembered.
    #[error("{waiters} wait for the lock {path}, the most that can; try again later")]
    TooManyWaiters {
        /// The node.
        path: Path,
        /// How many wait.
        waiters: u64,
    },
    /// There are too many handles. Nothing was done and nothing is remembered.
    #[error("{} {handles} handles open, the most it can; close some first", whose.map_or("the cell has".to_owned(), |session| format!("session {session} has")))]
    TooManyHandles {
        /// How many there are.
        handles: u64,
        /// The session that has them; `None`: the cell.
        whose: Option<SessionId>,
    },
    /// An operation of a transaction was refused, so nothing of it was done.
    #[error("operation {part} of the transaction was refused, so nothing was done: {why}")]
    TxnRefused {
        /// Which operation of the list that would have been done, counted from 0.
        part: u32,
        /// Why.
        why: Box<Refusal>,
    },
    /// A quota does not allow it (spec N-10).
    #[error(
        "{path} would take {directory} to {would_be} {what}, and its quota allows {allowed}; delete something there, or raise the quota"
    )]
    QuotaExceeded {
        /// The node to be written.
        path: Path,
        /// The directory that has the quota.
        directory: Path,
        /// Of what.
        what: QuotaKind,
        /// How much there would be.
        would_be: u64,
        /// How much there may be.
        allowed: u64,
    },
}

impl Refusal {
    /// Keeps the text short, whatever of the caller's is in it: refusals are kept for retries.
    pub(crate) fn invalid(why: impl Into<String>) -> Refusal {
        let mut why = why.into();
        if why.len() > MAX_WHY_BYTES {
            why.truncate(why.floor_char_boundary(MAX_WHY_BYTES));
            why.push('…');
        }
        Refusal::InvalidArgument { why }
    }

    /// Whether a retry with the same identity may be done after all: the refusal is about a lack of room,
    /// so nothing was remembered of the command.
    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            Refusal::TooManyUnconfirmed { .. }
                | Refusal::TooManyAnswers { .. }
                | Refusal::TooManyKeys { .. }
                | Refusal::TooManySessions { .. }
                | Refusal::TooManyWaiters { .. }
                | Refusal::TooManyHandles { .. }
        )
    }
}

/// Why a counter can't take a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeLimit {
    /// It would not fit into 64 bits.
    Overflow,
    /// It would be below the floor that the caller gave.
    Floor(i64),
    /// It would be above the ceiling that the caller gave.
    Ceiling(i64),
}

impl fmt::Display for RangeLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RangeLimit::Overflow => formatter.write_str("overflow 64 bits"),
            RangeLimit::Floor(floor) => write!(formatter, "take it below the floor {floor}"),
            RangeLimit::Ceiling(ceiling) => write!(formatter, "take it above the ceiling {ceiling}"),
        }
    }
}

/// What a node is (spec N-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// Holds other nodes.
    Directory,
    /// Holds bytes, read and written whole.
    File,
    /// Holds a signed 64-bit integer.
    Counter,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NodeKind::Directory => "directory",
            NodeKind::File => "file",
            NodeKind::Counter => "counter",
        })
    }
}

/// All that is known of a node besides its contents (spec N-5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub kind: NodeKind,
    /// Greater than that of any earlier node of this name.
    pub instance: u64,
    /// Grows with each write of the contents or change of the counter; 1 when the node was made.
    pub content_generation: u64,
    /// Grows each time the node's lock is taken.
    pub lock_generation: u64,
    /// Grows each time the node's ACL names are written.
    pub acl_generation: u64,
    /// XXH3-64 of a file's contents; of no bytes for other kinds.
    pub checksum: u64,
    /// Bytes of a file; 8 for a counter; 0 for a directory.
    pub length: u64,
    /// How many nodes are in a directory; 0 for other kinds.
    pub children: u64,
    /// The revision that made the node; 0 for the root.
    pub created_revision: u64,
    /// The revision that last changed the node. Nodes that come and go in a directory don't change it.
    pub modified_revision: u64,
    /// Whether it goes when no handle has it open (spec N-4).
    pub ephemeral: bool,
    /// Who may do what with it.
    pub acl: AclNames,
}

/// One line of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// The last component of the node's name.
    pub name: String,
    /// What is known of it.
    pub stat: Stat,
}

/// A file, read whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContents {
    /// Shared with the state, not copied.
    pub contents: Bytes,
    /// What is known of the file.
    pub stat: Stat,
}
