//! Why something was not done, as it travels. The one table from refusals to codes is here.

use bramah_cell::ProposeError;
use bramah_machine::Refusal;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::outcome::Outcome as Reply;

/// When to try again what was refused for lack of room, in milliseconds.
const ROOM_AGAIN_MS: u32 = 100;

/// A failure as an outcome.
pub(in crate::front) fn failed(failure: v1::Failure) -> v1::Outcome {
    v1::Outcome { outcome: Some(Reply::Failure(failure)) }
}

/// A failure for an argument that can't be.
pub(in crate::front) fn invalid(message: &str) -> v1::Failure {
    failure(Code::InvalidArgument, message.to_owned())
}

/// A failure of which nothing more is to be said.
pub(in crate::front) fn failure(code: Code, message: String) -> v1::Failure {
    v1::Failure { code: code.into(), message, ..v1::Failure::default() }
}

/// A refusal of the machine as it travels: nothing was done.
pub(in crate::front) fn refused(refusal: &Refusal) -> v1::Failure {
    let failure = failure(code(refusal), refusal.to_string());
    detailed(refusal, failure)
}

/// The table.
fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::InvalidArgument { .. } | Refusal::RootImmutable => Code::InvalidArgument,
        Refusal::NotFound { .. } | Refusal::ParentNotFound { .. } => Code::NotFound,
        Refusal::AlreadyExists { .. } => Code::AlreadyExists,
        Refusal::WrongKind { .. } => Code::WrongKind,
        Refusal::NotEmpty { .. } => Code::NotEmpty,
        Refusal::GenerationMismatch { .. } => Code::GenerationMismatch,
        Refusal::ValueMismatch { .. } => Code::ValueMismatch,
        Refusal::OutOfRange { .. } => Code::OutOfRange,
        Refusal::TooLarge { .. } => Code::TooLarge,
        Refusal::SessionExpired { .. } => Code::SessionExpired,
        Refusal::StaleDuplicate { .. } => Code::StaleDuplicate,
        Refusal::TooManyUnconfirmed { .. }
        | Refusal::TooManyAnswers { .. }
        | Refusal::TooManyKeys { .. }
        | Refusal::TooManySessions { .. } => Code::Overloaded,
        Refusal::Deposed { .. } => Code::Internal,
        Refusal::UnknownHandle { .. } => Code::UnknownHandle,
        Refusal::NodeDeleted { .. } => Code::NodeDeleted,
        Refusal::HandleLacksRight { .. } => Code::HandleLacksRight,
        Refusal::NotPermitted { .. } => Code::PermissionDenied,
        Refusal::LockHeld { .. } => Code::LockHeld,
        Refusal::LockInUse { .. } => Code::LockInUse,
        Refusal::LockNotHeld { .. } => Code::LockNotHeld,
        Refusal::SequencerInvalid { .. } => Code::SequencerInvalid,
        Refusal::TooManyWaiters { .. } | Refusal::TooManyHandles { .. } => Code::TooMany,
        Refusal::QuotaExceeded { .. } => Code::QuotaExceeded,
        Refusal::TxnRefused { why, .. } => code(why),
    }
}

/// Adds what a program wants to know without reading the message.
fn detailed(refusal: &Refusal, failure: v1::Failure) -> v1::Failure {
    match refusal {
        Refusal::GenerationMismatch { current, .. } => {
            v1::Failure { current_generation: Some(*current), ..failure }
        }
        Refusal::ValueMismatch { current, .. } | Refusal::OutOfRange { current, .. } => {
            v1::Failure { current_value: Some(*current), ..failure }
        }
        Refusal::TooManyKeys { retry_after_ms, .. } => {
            v1::Failure { retry_after_ms: u32::try_from(*retry_after_ms).unwrap_or(u32::MAX), ..failure }
        }
        Refusal::TooManyUnconfirmed { .. }
        | Refusal::TooManyAnswers { .. }
        | Refusal::TooManySessions { .. } => v1::Failure { retry_after_ms: ROOM_AGAIN_MS, ..failure },
        // Its first copy was done.
        Refusal::StaleDuplicate { .. } => v1::Failure { may_have_been_done: true, ..failure },
        Refusal::TxnRefused { part, why } => v1::Failure { part: Some(*part), ..detailed(why, failure) },
        _ => failure,
    }
}

/// Why the cell has no outcome, as it travels.
pub(in crate::front) fn undone(error: &ProposeError) -> v1::Failure {
    let (code, retry_after_ms) = match error {
        ProposeError::Overloaded { retry_after_ms, .. } => (Code::Overloaded, *retry_after_ms),
        ProposeError::TooLarge { .. } => (Code::TooLarge, 0),
        ProposeError::NoSpace { .. } => (Code::NoSpace, 1_000),
        ProposeError::NoLeader { .. } | ProposeError::NotLeader | ProposeError::LeaderLost => {
            (Code::Unavailable, 50)
        }
        ProposeError::Stopping { .. } => (Code::Unavailable, 1),
        ProposeError::Deadline { .. } => (Code::DeadlineExceeded, 0),
        ProposeError::Unreadable { .. } => (Code::Internal, 0),
        ProposeError::Uncertain(last) => {
            let last = undone(last);
            (last.code(), last.retry_after_ms)
        }
    };
    let may_have_been_done = error.may_have_been_done();
    v1::Failure { may_have_been_done, retry_after_ms, ..failure(code, error.to_string()) }
}
