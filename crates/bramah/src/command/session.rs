//! `bramah session ls`: who has a session, and what it holds.

use bramah_client::{Client, Error, SessionEntry};
use serde_json::json;

use super::connect::client;
use super::lock::{PAGE, since};
use super::table;
use crate::bench::report::with_separators;
use crate::cli::{SessionCommand, Shared};
use crate::output::{Failure, Printer};

/// Does it.
pub async fn run(shared: &Shared, command: SessionCommand) -> Result<(), Failure> {
    let SessionCommand::Ls = command;
    let client = client(shared).await?;
    let sessions = all_sessions(&client).await;
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
            since(session.open_for_ms),
        ]);
    }
    Printer { json: shared.is_json() }.answer(table.trim_fmt(), json!({ "sessions": sessions }))
}

async fn all_sessions(client: &Client) -> Result<Vec<SessionEntry>, Error> {
    let mut sessions: Vec<SessionEntry> = Vec::new();
    loop {
        let after = sessions.last().map_or(0, |session| session.session);
        let page = client.list_sessions(after, PAGE).await?;
        // An empty page that promises more would never end.
        let last = !page.more || page.sessions.is_empty();
        sessions.extend(page.sessions);
        if last {
            return Ok(sessions);
        }
    }
}
