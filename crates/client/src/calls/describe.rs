//! What is known of an operation before it is sent: whether it changes something, its words in error texts.

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation as Op;

/// Whether a call goes on when its caller has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// No: what became of it is for the caller to find out.
    No,
    /// Once it was sent: what it gave must be taken back.
    OnceSent,
    /// Yes: it takes something back.
    Always,
}

impl Lasting {
    pub(crate) fn of(operation: &Op) -> Self {
        match operation {
            Op::OpenNode(_) | Op::Acquire(_) => Self::OnceSent,
            Op::CloseHandles(_) | Op::CancelAcquire(_) | Op::Release(_) => Self::Always,
            _ => Self::No,
        }
    }
}

/// Whether an operation changes anything.
pub(crate) fn has_effect(operation: &Op) -> bool {
    !matches!(
        operation,
        Op::GetContents(_)
            | Op::GetStat(_)
            | Op::ReadDirectory(_)
            | Op::GetCounter(_)
            | Op::ReadOnHandle(_)
            | Op::CheckSequencer(_)
            | Op::ListLocks(_)
            | Op::ListSessions(_)
            | Op::GetQuota(_)
    )
}

/// A call's verb and path, for error texts.
pub(crate) fn describe(operation: &v1::Operation) -> String {
    let (verb, object) = match &operation.operation {
        Some(Op::SetContents(op)) => ("set", op.path.clone()),
        Some(Op::CreateDirectory(op)) => ("mkdir", op.path.clone()),
        Some(Op::Delete(op)) => ("delete", op.path.clone()),
        Some(Op::DeleteTree(op)) => ("delete all of", op.path.clone()),
        Some(Op::Increment(op)) => ("increment", op.path.clone()),
        Some(Op::ResetCounter(op)) => ("reset", op.path.clone()),
        Some(Op::GetContents(op)) => ("get", op.path.clone()),
        Some(Op::GetStat(op)) => ("stat", op.path.clone()),
        Some(Op::ReadDirectory(op)) => ("list", op.path.clone()),
        Some(Op::GetCounter(op)) => ("read counter", op.path.clone()),
        Some(Op::OpenNode(op)) => ("open", op.path.clone()),
        Some(Op::CloseHandles(op)) => ("close", format!("{} handles", op.handles.len())),
        Some(Op::Acquire(op)) => ("acquire the lock of", handle(op.handle)),
        Some(Op::CancelAcquire(op)) => ("cancel the wait of", handle(op.handle)),
        Some(Op::Release(op)) => ("release the lock of", handle(op.handle)),
        Some(Op::SetSequencer(op)) => ("tie", handle(op.handle)),
        Some(Op::OnHandle(op)) => ("write through", handle(op.handle)),
        Some(Op::ReadOnHandle(op)) => ("read through", handle(op.handle)),
        Some(Op::SetAcl(op)) => ("set the ACL of", op.path.clone()),
        Some(Op::SetQuota(op)) => ("set the quota of", op.path.clone()),
        Some(Op::GetQuota(op)) => ("get the quota of", op.path.clone()),
        Some(Op::Txn(op)) => ("do", format!("a transaction of {} operations", op.then.len())),
        Some(Op::CheckSequencer(op)) => {
            ("check a sequencer of", op.sequencer.as_ref().map_or(String::new(), |it| it.path.clone()))
        }
        Some(Op::ListLocks(op)) => ("list locks", op.below.clone()),
        Some(Op::ListSessions(_)) => ("list", "sessions".into()),
        None => ("make", "an empty call".into()),
    };
    format!("{verb} {object}")
}

fn handle(number: u64) -> String {
    format!("handle {number}")
}
