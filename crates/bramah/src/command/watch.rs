//! `bramah watch`: prints what happens to a node, or runs a command each time.

use std::process::Stdio;

use bramah_client::{Change, Event, EventKind, WatchEvent};
use serde_json::{Value, json};

use super::child;
use super::connect::long_client;
use crate::cli::{Shared, WatchArgs};
use crate::output::{Failure, Printer};

const OF_THE_NODE: [EventKind; 5] = [
    EventKind::Created,
    EventKind::ContentsModified,
    EventKind::CounterChanged,
    EventKind::Deleted,
    EventKind::AclChanged,
];
const OF_THE_LOCK: [EventKind; 4] =
    [EventKind::LockAcquired, EventKind::LockWanted, EventKind::LockReleased, EventKind::LockLost];

/// Watches until `--count` is reached, or for ever.
pub async fn run(shared: &Shared, args: WatchArgs) -> Result<(), Failure> {
    let client = long_client(shared, "bramah watch").await?;
    let mut request = client.watch(&args.path);
    if args.subtree {
        request = request.subtree();
    }
    if args.locks {
        request = request.kinds(OF_THE_NODE.into_iter().chain(OF_THE_LOCK));
    }
    if let Some(revision) = args.from {
        request = request.after_revision(revision);
    }
    let watching = async {
        let mut watch = request.await?;
        let mut told = 0;
        while args.count.is_none_or(|count| told < count) {
            let event = watch.next().await?;
            told += u64::from(matches!(event, WatchEvent::Happened(_)));
            tell(shared, &args, &event).await?;
        }
        Ok(())
    };
    // SIGINT and SIGTERM end it as they should, so that the session does not have to expire.
    let result = child::unless_told(watching).await;
    client.close().await;
    result?.unwrap_or(Ok(()))
}

async fn tell(shared: &Shared, args: &WatchArgs, event: &WatchEvent) -> Result<(), Failure> {
    let printer = Printer { json: shared.is_json() };
    match (event, args.command_line.as_slice()) {
        (WatchEvent::Happened(event), []) => printer.answer(text(event), json(event)),
        (WatchEvent::Happened(event), command_line) => react(command_line, event).await,
        (WatchEvent::Gap { resume }, _) => {
            let text = format!("{resume} gap: events up to this revision may be missing; read anew");
            printer.answer(text, json!({ "gap": true, "revision": resume }))
        }
        _ => Ok(()),
    }
}

/// Runs the command for one event and waits for it. What it makes of the event is its own business.
async fn react(command_line: &[String], event: &Event) -> Result<(), Failure> {
    let status = tokio::process::Command::new(&command_line[0])
        .args(&command_line[1..])
        .env("BRAMAH_PATH", &event.path)
        .env("BRAMAH_EVENT", name(&event.change))
        .env("BRAMAH_REVISION", event.revision.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    let program = &command_line[0];
    status.map(drop).map_err(|error| Failure::usage(format!("cannot run {program}: {error}")))
}

/// A word for each kind of change.
fn name(change: &Change) -> &'static str {
    match change {
        Change::Created { .. } => "created",
        Change::ContentsModified { .. } => "written",
        Change::CounterChanged { .. } => "counts",
        Change::Deleted => "deleted",
        Change::AclChanged { .. } => "acl-changed",
        Change::LockAcquired { .. } => "acquired",
        Change::LockWanted { .. } => "wanted",
        Change::LockReleased { .. } => "released",
        Change::LockLost { .. } => "lost",
        _ => "changed",
    }
}

fn text(event: &Event) -> String {
    let more = match &event.change {
        Change::Created { kind } => match kind {
            bramah_client::Kind::Directory => " (directory)".to_owned(),
            bramah_client::Kind::Counter => " (counter)".to_owned(),
            _ => " (file)".to_owned(),
        },
        Change::ContentsModified { generation } | Change::AclChanged { generation } => {
            format!(" (generation {generation})")
        }
        Change::CounterChanged { value } => format!(" {value}"),
        Change::LockAcquired { session, generation, shared, .. } => {
            let mode = if *shared { "shared, " } else { "" };
            format!(" by session {session} ({mode}generation {generation})")
        }
        Change::LockReleased { session, .. } | Change::LockLost { session, .. } => {
            format!(" by session {session}")
        }
        _ => String::new(),
    };
    format!("{} {} {}{more}", event.revision, name(&event.change), event.path)
}

fn json(event: &Event) -> Value {
    let mut value = json!({ "revision": event.revision, "path": event.path, "event": name(&event.change) });
    match &event.change {
        Change::Created { kind } => value["kind"] = json!(kind),
        Change::ContentsModified { generation } | Change::AclChanged { generation } => {
            value["generation"] = json!(generation);
        }
        Change::CounterChanged { value: counter } => value["value"] = json!(counter),
        Change::LockAcquired { session, handle, generation, shared } => {
            value["session"] = json!(session);
            value["handle"] = json!(handle);
            value["generation"] = json!(generation);
            value["shared"] = json!(shared);
        }
        Change::LockReleased { session, handle } | Change::LockLost { session, handle } => {
            value["session"] = json!(session);
            value["handle"] = json!(handle);
        }
        Change::LockWanted { shared } => value["shared"] = json!(shared),
        _ => {}
    }
    value
}
