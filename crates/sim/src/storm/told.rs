//! One text for each change, wherever it is told: by a replica, or by the client library.

use bramah_client::{Change as Told, Event as ToldEvent};
use bramah_machine::{Change, Event, NodeKind};

use crate::check::events;

/// As a replica has it.
pub(super) fn by_replica(event: &Event) -> events::Change {
    let what = match &event.change {
        Change::Created { kind } => created(match kind {
            NodeKind::Directory => "directory",
            NodeKind::File => "file",
            NodeKind::Counter => "counter",
        }),
        Change::ContentsModified { generation } => format!("written, generation {generation}"),
        Change::CounterChanged { value } => format!("counts {value}"),
        Change::Deleted => "deleted".to_owned(),
        Change::AclChanged { generation } => format!("ACL changed, generation {generation}"),
        Change::LockAcquired { session, handle, generation, shared, .. } => {
            acquired(session.0, handle.0, *generation, *shared)
        }
        Change::LockWanted { shared } => format!("wanted, shared {shared}"),
        Change::LockReleased { session, handle } => format!("released by {}.{}", session.0, handle.0),
        Change::LockLost { session, handle } => format!("lost by {}.{}", session.0, handle.0),
        Change::HandleClosed { session, handle } => format!("closed for {}.{}", session.0, handle.0),
    };
    events::Change { revision: event.revision, path: event.path.as_str().into(), what }
}

/// As the client library has it.
pub(super) fn by_client(event: &ToldEvent) -> events::Change {
    let what = match &event.change {
        Told::Created { kind } => created(match kind {
            bramah_client::Kind::Directory => "directory",
            bramah_client::Kind::File => "file",
            bramah_client::Kind::Counter => "counter",
            _ => "of an unknown kind",
        }),
        Told::ContentsModified { generation } => format!("written, generation {generation}"),
        Told::CounterChanged { value } => format!("counts {value}"),
        Told::Deleted => "deleted".to_owned(),
        Told::AclChanged { generation } => format!("ACL changed, generation {generation}"),
        Told::LockAcquired { session, handle, generation, shared } => {
            acquired(*session, *handle, *generation, *shared)
        }
        Told::LockWanted { shared } => format!("wanted, shared {shared}"),
        Told::LockReleased { session, handle } => format!("released by {session}.{handle}"),
        Told::LockLost { session, handle } => format!("lost by {session}.{handle}"),
        other => format!("{other:?}, which this storm does not know"),
    };
    events::Change { revision: event.revision, path: event.path.as_str().into(), what }
}

fn created(kind: &str) -> String {
    format!("created, a {kind}")
}

fn acquired(session: u64, handle: u64, generation: u64, shared: bool) -> String {
    format!("acquired by {session}.{handle}, generation {generation}, shared {shared}")
}
