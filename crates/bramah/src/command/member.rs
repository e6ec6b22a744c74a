//! `bramah member …`: who the replicas of the cell are.

use std::time::{Duration, Instant};

use bramah_client::{Client, Code, Error, Member, MemberAddresses, MemberChange};
use serde_json::{Value, json};

use super::connect::status_of_all;
use super::table;
use crate::cli::{MemberCommand, MemberIds, Shared};
use crate::output::{Exit, Failure, Printer};
use crate::settings::value;

/// Between rounds of asking all replicas.
const PAUSE: Duration = Duration::from_millis(100);

/// A replica that wants to be asked again before that waits for a leader only.
const SOON: Duration = Duration::from_millis(500);

/// Does it and prints the members.
pub async fn run(shared: &Shared, command: MemberCommand) -> Result<(), Failure> {
    let (change, done) = match command {
        MemberCommand::Ls => return list(shared).await,
        MemberCommand::Add { member } => {
            let done = format!("replica {} learns; let it vote with `bramah member promote {0}`", member.id);
            (MemberChange::Add(addresses(member)), done)
        }
        MemberCommand::Promote(MemberIds { ids }) => (MemberChange::Promote(ids.clone()), says(&ids, "vote")),
        MemberCommand::Demote(MemberIds { ids }) => {
            (MemberChange::Demote(ids.clone()), says(&ids, "only learn"))
        }
        MemberCommand::Remove(MemberIds { ids }) => {
            let done =
                says(&ids, "removed; stop their processes if they still run, their data is not needed");
            (MemberChange::Remove(ids), done)
        }
        MemberCommand::Replace { old, new } => {
            let addresses = new.addresses.map(|member| (member.peers, member.clients));
            return replace(shared, old, new.id, addresses).await;
        }
        MemberCommand::SetAddress { member } => {
            let done = format!(
                "replica {} is reached at {}, by clients at {}",
                member.id, member.peers, member.clients
            );
            (MemberChange::SetAddress(addresses(member)), done)
        }
        MemberCommand::Voters(MemberIds { ids }) => (MemberChange::Voters(ids.clone()), says(&ids, "vote")),
    };
    let members = change_at_any(shared, &change).await?;
    print(shared, done, &members)
}

async fn replace(
    shared: &Shared,
    old: u64,
    new: u64,
    addresses: Option<(String, String)>,
) -> Result<(), Failure> {
    let members = change_at_any(shared, &MemberChange::Replace { old, new, addresses }).await?;
    let votes = members.iter().any(|member| member.replica == new && member.voter);
    let part = if votes { "votes" } else { "learns" };
    print(shared, format!("replica {new} {part} in the place of {old}, which is removed"), &members)
}

fn print(shared: &Shared, done: String, members: &[Member]) -> Result<(), Failure> {
    Printer { json: shared.is_json() }.answer(done, json!({ "members": as_json(members) }))
}

fn addresses(member: value::MemberAddresses) -> MemberAddresses {
    MemberAddresses { replica: member.id, peer_address: member.peers, client_address: member.clients }
}

fn says(ids: &[u64], what: &str) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("{} {}: {what}", if ids.len() == 1 { "replica" } else { "replicas" }, ids.join(", "))
}

/// Asks the replicas in turn until one has passed the change on: each of them can that knows a leader.
async fn change_at_any(shared: &Shared, change: &MemberChange) -> Result<Vec<Member>, Failure> {
    let until = Instant::now() + shared.timeout;
    let (mut begun, mut last) = (false, None);
    loop {
        let mut again = false;
        for address in &shared.addresses {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match Client::change_members(address, change.clone(), left).await {
                Ok(members) => return Ok(members),
                Err(error) => {
                    begun |= error.may_have_been_done();
                    again |= waits_for_a_leader(&error);
                    let is_elsewhere = error.code() == Code::Unavailable;
                    last = Some(error);
                    if !is_elsewhere {
                        again = false;
                        break;
                    }
                }
            }
        }
        if !again || Instant::now() + PAUSE >= until {
            return Err(last.map_or_else(
                || Failure::usage("--addresses names no replica"),
                |error| failed(error, begun),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The replica that was asked knows of no leader for now: another round may find one.
fn waits_for_a_leader(error: &Error) -> bool {
    matches!(error, Error::Unavailable { retry_after, .. } if !retry_after.is_zero() && *retry_after < SOON)
}

/// An earlier replica may have begun what a later one refused.
fn failed(error: Error, begun: bool) -> Failure {
    let failure = Failure::from(error);
    if begun { Failure { exit: Exit::Unknown, ..failure } } else { failure }
}

async fn list(shared: &Shared) -> Result<(), Failure> {
    let replies = status_of_all(&shared.addresses, false, shared.timeout).await;
    let statuses = replies.iter().filter_map(|(_, reply)| reply.as_ref().ok());
    let Some(newest) = statuses.clone().max_by_key(|status| status.applied_index) else {
        let first = replies.into_iter().find_map(|(_, reply)| reply.err());
        let message = format!("no replica answers at {}", shared.addresses.join(", "));
        let next = first.map(|error| error.to_string());
        return Err(Failure { exit: Exit::Unavailable, code: "unavailable".into(), message, next });
    };
    let leader = newest.leader.as_ref().map_or(0, |leader| leader.replica);
    let is_up = |member: &Member| statuses.clone().any(|status| status.replica == member.replica);
    let mut text = table::new(["replica", "part", "peers", "clients", "answers"]);
    for member in &newest.members {
        let part = match member.voter {
            _ if member.replica == leader => "leader",
            true => "voter",
            false => "learner",
        };
        let row = [
            member.replica.to_string(),
            part.to_owned(),
            member.peer_address.clone(),
            member.client_address.clone(),
            if is_up(member) { "yes" } else { "no" }.to_owned(),
        ];
        text.add_row(row);
    }
    let members = json!({ "cell": newest.cell, "leader": leader, "members": as_json(&newest.members) });
    Printer { json: shared.is_json() }.answer(text.trim_fmt(), members)
}

fn as_json(members: &[Member]) -> Vec<Value> {
    let member = |member: &Member| {
        json!({
            "replica": member.replica,
            "voter": member.voter,
            "peer_address": member.peer_address,
            "client_address": member.client_address,
        })
    };
    members.iter().map(member).collect()
}
