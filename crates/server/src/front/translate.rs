//! Between what travels and what the machine knows: operations in, outcomes and failures out. The one table
//! from refusals to codes is here.

use std::time::Duration;

use bramah_cell::ProposeError;
use bramah_machine::{
    Answer, Command, CreateDirectory, Delete, Identity, Increment, NodeKind, Outcome, Path, Refusal,
    ResetCounter, SetContents, Stat, State,
};
use bramah_wire::limits::{DEFAULT_DEADLINE, MAX_DEADLINE};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome as Reply;
use tokio::time::Instant;

/// Entries of a directory in one page, unless the caller says.
const DEFAULT_PAGE: usize = 1_000;

/// The most entries in one page.
const MAX_PAGE: u32 = 10_000;

/// About what an entry of a directory takes.
pub(super) const ENTRY_BYTES: usize = 128;

/// The most bytes that an entry's numbers take.
const STAT_BYTES: usize = 112;

/// Bytes that a page of a directory may take, to stay well within one message.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// What a caller wants: to change the state, or to look at it.
pub(crate) enum Work {
    Write(Command),
    Read(Read),
}

/// The ways to look at the state.
#[derive(Debug)]
pub(crate) enum Read {
    Contents(Path),
    Stat(Path),
    Counter(Path),
    Directory { path: Path, after: String, limit: usize },
}

/// Reads an operation, or says what is wrong with it. `cell` is the name this cell answers to.
pub(crate) fn work(operation: Option<v1::Operation>, cell: &str) -> Result<Work, v1::Failure> {
    let operation = operation.and_then(|operation| operation.operation).ok_or_else(|| {
        invalid("the call has no operation that this version knows; is the client newer than the cell?")
    })?;
    let path = |text: &str| Path::parse_in_cell(text, cell).map_err(|error| invalid(&error.to_string()));
    Ok(match operation {
        Operation::SetContents(o) => Work::Write(Command::SetContents(SetContents {
            path: path(&o.path)?,
            contents: o.contents,
            if_generation: o.if_generation,
            parents: o.parents,
        })),
        Operation::CreateDirectory(o) => Work::Write(Command::CreateDirectory(CreateDirectory {
            path: path(&o.path)?,
            parents: o.parents,
        })),
        Operation::Delete(o) => {
            Work::Write(Command::Delete(Delete { path: path(&o.path)?, if_generation: o.if_generation }))
        }
        Operation::Increment(o) => Work::Write(Command::Increment(Increment {
            path: path(&o.path)?,
            delta: o.delta,
            create: o.create,
            floor: o.floor,
            ceiling: o.ceiling,
        })),
        Operation::ResetCounter(o) => Work::Write(Command::ResetCounter(ResetCounter {
            path: path(&o.path)?,
            value: o.value,
            expect: o.expect,
            create: o.create,
        })),
        Operation::GetContents(o) => Work::Read(Read::Contents(path(&o.path)?)),
        Operation::GetStat(o) => Work::Read(Read::Stat(path(&o.path)?)),
        Operation::GetCounter(o) => Work::Read(Read::Counter(path(&o.path)?)),
        Operation::ReadDirectory(o) => {
            let limit = if o.limit == 0 { DEFAULT_PAGE } else { o.limit.min(MAX_PAGE) as usize };
            Work::Read(Read::Directory { path: path(&o.path)?, after: o.after, limit })
        }
    })
}

/// Looks at the state and answers.
pub(crate) fn read(state: &State, read: &Read) -> v1::Outcome {
    let reply = match read {
        Read::Contents(path) => state.get_contents(path).map(|file| {
            Reply::Contents(v1::FileContents { contents: file.contents, stat: Some(stat(&file.stat)) })
        }),
        Read::Stat(path) => state.stat(path).map(|found| Reply::Stat(stat(&found))),
        Read::Counter(path) => state
            .get_counter(path)
            .map(|(value, revision)| Reply::Counter(v1::CounterValue { value, revision })),
        Read::Directory { path, after, limit } => {
            let after = (!after.is_empty()).then_some(after.as_str());
            state.read_directory(path, after, *limit).map(|(entries, more)| directory_page(entries, more))
        }
    };
    v1::Outcome { outcome: Some(reply.unwrap_or_else(|refusal| Reply::Failure(refused(&refusal)))) }
}

fn directory_page(entries: Vec<bramah_machine::DirectoryEntry>, more: bool) -> Reply {
    let mut bytes = 0;
    let asked = entries.len();
    let entries: Vec<_> = entries
        .into_iter()
        .map(|entry| v1::DirectoryEntry { name: entry.name, stat: Some(stat(&entry.stat)) })
        .take_while(|entry| {
            bytes += entry.name.len() + STAT_BYTES;
            bytes <= MAX_PAGE_BYTES
        })
        .collect();
    let more = more || entries.len() < asked;
    Reply::Directory(v1::DirectoryPage { entries, more })
}

fn stat(stat: &Stat) -> v1::Stat {
    let kind = match stat.kind {
        NodeKind::Directory => v1::Kind::Directory,
        NodeKind::File => v1::Kind::File,
        NodeKind::Counter => v1::Kind::Counter,
    };
    v1::Stat {
        kind: kind.into(),
        instance: stat.instance,
        content_generation: stat.content_generation,
        lock_generation: stat.lock_generation,
        acl_generation: stat.acl_generation,
        checksum: stat.checksum,
        length: stat.length,
        children: stat.children,
        created_revision: stat.created_revision,
        modified_revision: stat.modified_revision,
    }
}

/// What the machine said, as it travels. `tried_before`: another copy of the command may have been done.
pub(crate) fn outcome(outcome: Outcome, tried_before: bool) -> v1::Outcome {
    let reply = match outcome {
        Ok(Answer::Written { generation, revision, created }) => {
            Reply::Written(v1::Written { generation, revision, created })
        }
        Ok(Answer::Deleted { revision }) => Reply::Deleted(v1::Deleted { revision }),
        Ok(Answer::Counter { value, revision }) => Reply::Counter(v1::CounterValue { value, revision }),
        Ok(Answer::SessionOpened { .. } | Answer::SessionEnded) => Reply::Failure(failure(
            Code::Internal,
            "an answer about a session where none was asked for".to_owned(),
        )),
        Err(refusal) => {
            // Only the end of the session hides what became of the other copy: else its answer came again.
            let hidden = tried_before && matches!(refusal, Refusal::SessionExpired { .. });
            let failure = refused(&refusal);
            Reply::Failure(v1::Failure {
                may_have_been_done: failure.may_have_been_done || hidden,
                ..failure
            })
        }
    };
    v1::Outcome { outcome: Some(reply) }
}

/// A failure as an outcome.
pub(crate) fn failed(failure: v1::Failure) -> v1::Outcome {
    v1::Outcome { outcome: Some(Reply::Failure(failure)) }
}

/// A failure for an argument that can't be.
pub(crate) fn invalid(message: &str) -> v1::Failure {
    failure(Code::InvalidArgument, message.to_owned())
}

pub(crate) fn failure(code: Code, message: String) -> v1::Failure {
    v1::Failure { code: code.into(), message, ..v1::Failure::default() }
}

/// A refusal of the machine as it travels: nothing was done.
pub(crate) fn refused(refusal: &Refusal) -> v1::Failure {
    let code = match refusal {
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
    };
    let mut failure = failure(code, refusal.to_string());
    match refusal {
        Refusal::GenerationMismatch { current, .. } => failure.current_generation = Some(*current),
        Refusal::ValueMismatch { current, .. } | Refusal::OutOfRange { current, .. } => {
            failure.current_value = Some(*current);
        }
        Refusal::TooManyKeys { retry_after_ms, .. } => {
            failure.retry_after_ms = u32::try_from(*retry_after_ms).unwrap_or(u32::MAX);
        }
        Refusal::TooManyUnconfirmed { .. }
        | Refusal::TooManyAnswers { .. }
        | Refusal::TooManySessions { .. } => {
            failure.retry_after_ms = 100;
        }
        // Its first copy was done.
        Refusal::StaleDuplicate { .. } => failure.may_have_been_done = true,
        _ => {}
    }
    failure
}

/// Why the cell has no outcome, as it travels.
pub(crate) fn undone(error: &ProposeError) -> v1::Failure {
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

/// Until when the cell tries.
pub(crate) fn deadline(deadline_ms: u32) -> Instant {
    let asked = match deadline_ms {
        0 => DEFAULT_DEADLINE,
        ms => Duration::from_millis(ms.into()).min(MAX_DEADLINE),
    };
    Instant::now() + asked
}

/// The key under which a session's opening is remembered. Callers can't choose its prefix.
pub(crate) fn session_key(nonce: &[u8]) -> Identity {
    Identity::Key([b"session:", nonce].concat())
}

/// The key under which a single call is remembered.
pub(crate) fn caller_key(key: &[u8]) -> Identity {
    Identity::Key([b"call:", key].concat())
}
