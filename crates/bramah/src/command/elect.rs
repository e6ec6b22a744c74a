//! `bramah elect`: a command that runs while this process leads; or who leads.

use bramah_client::{Client, Elected};
use serde_json::json;

use super::child;
use super::connect::long_client;
use super::lock::{MAX_LOCK_DELAY, after, told_to_end, why};
use crate::cli::{ElectArgs, Shared};
use crate::output::{Failure, Printer};

/// Does it.
pub async fn run(shared: &Shared, args: ElectArgs) -> Result<(), Failure> {
    let client = long_client(shared, "bramah elect").await?;
    let done = match args.observe {
        true => observe(shared, &client, &args).await,
        false => lead(&client, &args).await,
    };
    client.close().await;
    done
}

async fn lead(client: &Client, args: &ElectArgs) -> Result<(), Failure> {
    let value = args.value.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{host}/{}", std::process::id())
    });
    let election = client.election(&args.name).lock_delay(args.grace.min(MAX_LOCK_DELAY));
    let Some(leadership) = child::unless_told(election.campaign(value)).await? else {
        return Err(told_to_end());
    };
    let leadership = leadership?;
    let environment = [
        ("BRAMAH_TERM", leadership.term().to_string()),
        ("BRAMAH_SEQUENCER", leadership.sequencer().to_string()),
    ];
    let lost = child::lost_or_in_jeopardy(client, async { why(&leadership.lost().await) });
    let ended = child::run(&args.command_line, &environment, args.grace, lost).await;
    // If this fails the end of the session resigns.
    let _ = leadership.resign().await;
    after(ended?, &format!("leadership of {}", args.name))
}

async fn observe(shared: &Shared, client: &Client, args: &ElectArgs) -> Result<(), Failure> {
    let mut observer = client.election(&args.name).observe().await?;
    let mut lines = 0;
    while args.lines.is_none_or(|most| lines < most) {
        let leader = observer.next().await?;
        let (text, value) = match &leader {
            Some(leader) => shown(leader),
            None => ("nobody leads".to_owned(), json!({ "leader": null })),
        };
        Printer { json: shared.is_json() }.answer(text, value)?;
        lines += 1;
    }
    Ok(())
}

fn shown(leader: &Elected) -> (String, serde_json::Value) {
    let Elected { term, value, session, .. } = leader;
    let value = String::from_utf8_lossy(value);
    let text = format!("{value} leads in term {term}");
    (text, json!({ "leader": value, "term": term, "session": session }))
}
