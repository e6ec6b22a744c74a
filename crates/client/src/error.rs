//! Why a call did not give what was asked, and whether it may have been done all the same.

use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::failure::Code as Wire;

/// Why a call failed. Its text says what happened, to what, and what to do next.
///
/// [`Error::may_have_been_done`] tells a call that certainly had no effect from one whose answer is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call itself is wrong: a malformed path, an option out of bounds.
    #[error("{message}")]
    InvalidArgument {
        /// What is wrong.
        message: String,
    },
    /// There is no such node, or no such parent.
    #[error("{message}")]
    NotFound {
        /// What is missing.
        message: String,
    },
    /// There is such a node already.
    #[error("{message}")]
    AlreadyExists {
        /// What exists.
        message: String,
    },
    /// The node is of another kind than the call needs.
    #[error("{message}")]
    WrongKind {
        /// Which node, and its kind.
        message: String,
    },
    /// The directory has children.
    #[error("{message}")]
    NotEmpty {
        /// Which directory.
        message: String,
    },
    /// The node's content generation is not the one the caller named.
    #[error("{message}")]
    GenerationMismatch {
        /// Which node.
        message: String,
        /// The generation now; 0: there is no such node.
        current: Option<u64>,
    },
    /// The counter's value is not the one the caller named.
    #[error("{message}")]
    ValueMismatch {
        /// Which counter.
        message: String,
        /// The value now.
        current: Option<i64>,
    },
    /// The counter would pass its floor, its ceiling or the range of 64 bits.
    #[error("{message}")]
    OutOfRange {
        /// Which counter.
        message: String,
        /// The value now.
        current: Option<i64>,
    },
    /// Contents or a call over a limit.
    #[error("{message}")]
    TooLarge {
        /// Which limit.
        message: String,
    },
    /// The session ended before the call's answer was known.
    #[error("{message}")]
    SessionExpired {
        /// Which session, and why it ended.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
    },
    /// A copy of a command that was done before, and whose answer is gone.
    #[error("{message}")]
    StaleDuplicate {
        /// Which command.
        message: String,
    },
    /// The cell has too much to do, and the retries' budget is spent.
    #[error("{message}")]
    Overloaded {
        /// What is too much.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
        /// How long to wait before the next try; zero when nothing is known.
        retry_after: Duration,
    },
    /// A replica's disk, or the cell's space, is full.
    #[error("{message}")]
    NoSpace {
        /// What is full.
        message: String,
        /// Whether another copy of the call may have been done.
        may_have_been_done: bool,
    },
    /// The cell can't work now: no leader, no majority, nobody reached.
    #[error("{message}")]
    Unavailable {
        /// What is missing.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
        /// How long to wait before the next try; zero when nothing is known.
        retry_after: Duration,
    },
    /// The call's deadline passed without its answer.
    #[error("{message}")]
    DeadlineExceeded {
        /// What was tried, and what came of it.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
    },
    /// A fault of the cell or of this client: report it.
    #[error("{message}")]
    Internal {
        /// What is broken.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
    },
    /// The client was closed.
    #[error("{message}")]
    Closed {
        /// When it was closed, as seen from the call.
        message: String,
        /// Whether the call may have been done.
        may_have_been_done: bool,
    },
    /// The ACL doesn't let this client's principal do that: have it listed in the node's ACL file, or use another token.
    #[error("{message}")]
    PermissionDenied {
        /// Who may not do what.
        message: String,
    },
    /// The token is missing, malformed, expired or not the cell's; or the session is somebody else's.
    #[error("{message}")]
    Unauthenticated {
        /// What is wrong with it.
        message: String,
    },
    /// The handle is closed: open another. The cell closes handles that an ACL change no longer allows.
    #[error("{message}")]
    UnknownHandle {
        /// Which handle.
        message: String,
    },
    /// The node that the handle was opened on is gone, for good: a later node of its name is another one.
    #[error("{message}")]
    NodeDeleted {
        /// Which node.
        message: String,
    },
    /// The handle was not opened for this: open one that is.
    #[error("{message}")]
    HandleLacksRight {
        /// Which right is missing.
        message: String,
    },
    /// Somebody else has the lock, or its lock-delay runs.
    #[error("{message}")]
    LockHeld {
        /// Which lock.
        message: String,
    },
    /// The handle holds the lock, or waits for it, in the other mode: give it back first.
    #[error("{message}")]
    LockInUse {
        /// Which lock.
        message: String,
    },
    /// The handle does not hold the lock.
    #[error("{message}")]
    LockNotHeld {
        /// Which lock.
        message: String,
    },
    /// The lock is not held any more as the sequencer says: whoever sent it has lost the lock.
    #[error("{message}")]
    SequencerInvalid {
        /// Which sequencer.
        message: String,
    },
    /// A limit of handles, waiters or watches is reached: give some up first.
    #[error("{message}")]
    TooMany {
        /// Of what.
        message: String,
    },
    /// A quota of nodes or bytes is used up: delete something, or raise it.
    #[error("{message}")]
    QuotaExceeded {
        /// Which quota, and what is used of it.
        message: String,
    },
    /// The revision asked for is not kept any more: begin again at the newest.
    #[error("{message}")]
    RevisionGone {
        /// Which revision.
        message: String,
    },
    /// The handle was poisoned: its calls fail until it is closed.
    #[error("{message}")]
    Poisoned {
        /// Which handle.
        message: String,
    },
    /// One operation of a transaction was refused, so none was done.
    #[error("{error}")]
    InTransaction {
        /// Which one, from 0.
        part: u32,
        /// Why.
        error: Box<Error>,
    },
}

/// What sort of failure an [`Error`] is, for tables and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the variant of `Error` with its name")]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    WrongKind,
    NotEmpty,
    GenerationMismatch,
    ValueMismatch,
    OutOfRange,
    TooLarge,
    SessionExpired,
    StaleDuplicate,
    Overloaded,
    NoSpace,
    Unavailable,
    DeadlineExceeded,
    Internal,
    Closed,
    PermissionDenied,
    Unauthenticated,
    UnknownHandle,
    NodeDeleted,
    HandleLacksRight,
    LockHeld,
    LockInUse,
    LockNotHeld,
    SequencerInvalid,
    TooMany,
    QuotaExceeded,
    RevisionGone,
    Poisoned,
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::WrongKind { .. } => Code::WrongKind,
            Self::NotEmpty { .. } => Code::NotEmpty,
            Self::GenerationMismatch { .. } => Code::GenerationMismatch,
            Self::ValueMismatch { .. } => Code::ValueMismatch,
            Self::OutOfRange { .. } => Code::OutOfRange,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::SessionExpired { .. } => Code::SessionExpired,
            Self::StaleDuplicate { .. } => Code::StaleDuplicate,
            Self::Overloaded { .. } => Code::Overloaded,
            Self::NoSpace { .. } => Code::NoSpace,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::Internal { .. } => Code::Internal,
            Self::Closed { .. } => Code::Closed,
            Self::PermissionDenied { .. } => Code::PermissionDenied,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::UnknownHandle { .. } => Code::UnknownHandle,
            Self::NodeDeleted { .. } => Code::NodeDeleted,
            Self::HandleLacksRight { .. } => Code::HandleLacksRight,
            Self::LockHeld { .. } => Code::LockHeld,
            Self::LockInUse { .. } => Code::LockInUse,
            Self::LockNotHeld { .. } => Code::LockNotHeld,
            Self::SequencerInvalid { .. } => Code::SequencerInvalid,
            Self::TooMany { .. } => Code::TooMany,
            Self::QuotaExceeded { .. } => Code::QuotaExceeded,
            Self::RevisionGone { .. } => Code::RevisionGone,
            Self::Poisoned { .. } => Code::Poisoned,
            Self::InTransaction { error, .. } => error.code(),
        }
    }

    /// Whether the call may have had its effect. `false` is certain: it had none.
    #[must_use]
    pub fn may_have_been_done(&self) -> bool {
        match self {
            Self::SessionExpired { may_have_been_done, .. }
            | Self::Overloaded { may_have_been_done, .. }
            | Self::NoSpace { may_have_been_done, .. }
            | Self::Unavailable { may_have_been_done, .. }
            | Self::DeadlineExceeded { may_have_been_done, .. }
            | Self::Internal { may_have_been_done, .. }
            | Self::Closed { may_have_been_done, .. } => *may_have_been_done,
            Self::StaleDuplicate { .. } => true,
            Self::InTransaction { error, .. } => error.may_have_been_done(),
            _ => false,
        }
    }

    /// Whether the same call, made again later, may succeed without anything else being changed.
    ///
    /// Where [`Error::may_have_been_done`] holds, making it again may have the effect a second time.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::SessionExpired { .. }
                | Self::Overloaded { .. }
                | Self::Unavailable { .. }
                | Self::DeadlineExceeded { .. }
                | Self::LockHeld { .. }
                | Self::RevisionGone { .. }
        ) || matches!(self, Self::InTransaction { error, .. } if error.is_retryable())
    }

    /// The error that a failure from the wire is; `uncertain`: another copy of the call is unaccounted for.
    pub(crate) fn from_failure(mut failure: v1::Failure, uncertain: bool) -> Self {
        if let Some(part) = failure.part.take() {
            let error = Box::new(Self::from_failure(failure, uncertain));
            return Self::InTransaction { part, error };
        }
        let code = failure.code();
        let may_have_been_done = failure.may_have_been_done || uncertain;
        let retry_after = Duration::from_millis(failure.retry_after_ms.into());
        let message = failure.message;
        match code {
            Wire::InvalidArgument => Self::InvalidArgument { message },
            Wire::NotFound => Self::NotFound { message },
            Wire::AlreadyExists => Self::AlreadyExists { message },
            Wire::WrongKind => Self::WrongKind { message },
            Wire::NotEmpty => Self::NotEmpty { message },
            Wire::GenerationMismatch => {
                Self::GenerationMismatch { message, current: failure.current_generation }
            }
            Wire::ValueMismatch => Self::ValueMismatch { message, current: failure.current_value },
            Wire::OutOfRange => Self::OutOfRange { message, current: failure.current_value },
            Wire::TooLarge => Self::TooLarge { message },
            Wire::SessionExpired => Self::SessionExpired { message, may_have_been_done },
            Wire::StaleDuplicate => Self::StaleDuplicate { message },
            Wire::Overloaded => Self::Overloaded { message, may_have_been_done, retry_after },
            Wire::NoSpace => Self::NoSpace { message, may_have_been_done },
            Wire::Unavailable => Self::Unavailable { message, may_have_been_done, retry_after },
            Wire::DeadlineExceeded => Self::DeadlineExceeded { message, may_have_been_done },
            Wire::PermissionDenied => Self::PermissionDenied { message },
            Wire::Unauthenticated => Self::Unauthenticated { message },
            Wire::UnknownHandle => Self::UnknownHandle { message },
            Wire::NodeDeleted => Self::NodeDeleted { message },
            Wire::HandleLacksRight => Self::HandleLacksRight { message },
            Wire::LockHeld => Self::LockHeld { message },
            Wire::LockInUse => Self::LockInUse { message },
            Wire::LockNotHeld => Self::LockNotHeld { message },
            Wire::SequencerInvalid => Self::SequencerInvalid { message },
            Wire::TooMany => Self::TooMany { message },
            Wire::QuotaExceeded => Self::QuotaExceeded { message },
            Wire::RevisionGone => Self::RevisionGone { message },
            Wire::Internal | Wire::Unspecified => Self::Internal { message, may_have_been_done },
        }
    }

    /// The cell answered with something that is no answer to what was asked.
    pub(crate) fn unexpected(asked: &str) -> Self {
        Self::Internal {
            message: format!(
                "the cell's answer to {asked} is of a kind this client doesn't know: are their versions far apart?"
            ),
            may_have_been_done: true,
        }
    }

    /// A session is over, and nothing was done.
    pub(crate) fn session_over(session: u64) -> Self {
        let message = format!("session {session} is over, and with it its handles and locks: open them anew");
        Self::SessionExpired { message, may_have_been_done: false }
    }

    /// The client's task is gone.
    pub(crate) fn closed(may_have_been_done: bool) -> Self {
        let message = if may_have_been_done {
            "the client was closed while the call waited for its answer"
        } else {
            "the client is closed: connect another"
        };
        Self::Closed { message: message.into(), may_have_been_done }
    }
}

/// The text of an error with all its causes, each said once.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
