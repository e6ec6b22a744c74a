//! `bramah session ls`: who has a session, and what it holds.

use serde_json::{Value, json};

use super::connect::client;
use super::lock::since;
use super::table;
use crate::bench::report::with_separators;
use crate::cli::{SessionCommand, Shared};
use crate::output::{Failure, Printer};

/// Does it.
pub async fn run(shared: &Shared, command: SessionCommand) -> Result<(), Failure> {
    let SessionCommand::Ls = command;
    let client = client(shared).await?;
    let sessions = client.list_sessions().await;
    client.close().await;
    let sessions = sessions?;
    let mut table = table::new(["session", "client", "principal", "handles", "holds", "waits", "for"]);
    for session in &sessions {
        table.add_row([
            session.session.to_string(),
            session.client.clone(),
            session.principal.clone(),
            with_separators(session.handles),
            with_separators(session.holding),
            with_separators(session.waiting),
            since(session.open_for),
        ]);
    }
    let listed: Vec<Value> = sessions
        .iter()
        .map(|session| {
            json!({
                "session": session.session,
                "client": session.client,
                "principal": session.principal,
                "lease_ms": session.lease.as_millis() as u64,
                "handles": session.handles,
                "holding": session.holding,
                "waiting": session.waiting,
                "open_for_ms": session.open_for.as_millis() as u64,
            })
        })
        .collect();
    Printer { json: shared.is_json() }.answer(table.trim_fmt(), json!({ "sessions": listed }))
}
