//! Reaching the cell.

use std::collections::BTreeSet;
use std::time::Duration;

use bramah_client::{Client, Error, ReplicaStatus, Route};
use tokio::task::JoinSet;

use crate::cli::Shared;
use crate::output::{Exit, Failure};

/// How long replicas are asked what is wrong.
const EXPLAIN_LIMIT: Duration = Duration::from_secs(1);

/// A client for one command, whose calls take at most `--timeout`.
pub async fn client(shared: &Shared) -> Result<Client, Failure> {
    // For one call it is not worth going on to the leader: every replica takes every call.
    connect(shared, "bramah command line", Route::Fixed(0), Duration::ZERO).await
}

/// A client for a command that goes on for long. `what` it does is seen by whoever lists sessions.
pub async fn long_client(shared: &Shared, what: &str) -> Result<Client, Failure> {
    client_with_lease(shared, what, Duration::ZERO).await
}

/// The same, whose session outlives its last sign of life by this lease; zero: by what the cell gives.
pub async fn client_with_lease(shared: &Shared, what: &str, lease: Duration) -> Result<Client, Failure> {
    let name = format!("{what} ({}, process {})", host_name(), std::process::id());
    connect(shared, &name, Route::Leader, lease).await
}

/// This host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn connect(shared: &Shared, name: &str, route: Route, lease: Duration) -> Result<Client, Failure> {
    let mut builder = Client::builder().addresses(&shared.addresses[..]).route(route).lease(lease);
    if let Some(file) = &shared.token_file {
        builder = builder.token_file(file);
    }
    match builder.name(name).deadline(shared.timeout).connect().await {
        Ok(client) => Ok(client),
        Err(error) => Err(explain(error, &shared.addresses).await),
    }
}

/// Looks at the replicas themselves when no session could be opened: those that answer know what is missing.
async fn explain(error: Error, addresses: &[String]) -> Failure {
    let mut failure = Failure::from(error);
    if failure.exit != Exit::Unavailable {
        return failure;
    }
    let replies = status_of_all(addresses, false, EXPLAIN_LIMIT).await;
    let members = replies.iter().find_map(|(_, reply)| Some(&reply.as_ref().ok()?.members));
    let leads = |(_, reply): &(String, Result<ReplicaStatus, Error>)| {
        reply.as_ref().is_ok_and(|status| status.role == "leader")
    };
    let Some(members) = members.filter(|_| !replies.iter().any(leads)) else { return failure };
    let seen: Vec<String> = members
        .iter()
        .map(|member| {
            let reply = replies.iter().find(|(address, _)| *address == member.client_address);
            let role = reply
                .and_then(|(_, reply)| reply.as_ref().ok())
                .map_or("does not answer", |status| status.role.as_str());
            format!("{} at {} ({role})", member.replica, member.client_address)
        })
        .collect();
    failure.message = format!("unavailable: no leader, members {}", seen.join(", "));
    failure.next = Some("nothing was done; a majority of the members must run and reach each other".into());
    failure
}

/// What each replica answers when it is asked how it is: those at `addresses`, and the members these tell of. In the
/// order of the addresses, the others after them.
pub async fn status_of_all(
    addresses: &[String],
    digest: bool,
    timeout: Duration,
) -> Vec<(String, Result<ReplicaStatus, Error>)> {
    let mut replies = ask(addresses.iter().cloned(), digest, timeout).await;
    let members: BTreeSet<String> = replies
        .iter()
        .filter_map(|(_, reply)| reply.as_ref().ok())
        .flat_map(|status| status.members.iter().map(|member| member.client_address.clone()))
        .collect();
    let further = members.into_iter().filter(|address| !addresses.contains(address));
    replies.extend(ask(further, digest, timeout).await);
    replies
}

/// Asks all at once, and returns the answers in the order of the addresses.
async fn ask(
    addresses: impl Iterator<Item = String>,
    digest: bool,
    timeout: Duration,
) -> Vec<(String, Result<ReplicaStatus, Error>)> {
    let mut asking = JoinSet::new();
    for (index, address) in addresses.enumerate() {
        asking.spawn(async move {
            let reply = Client::status_of(&address, digest, timeout).await;
            (index, address, reply)
        });
    }
    let mut replies = asking.join_all().await;
    replies.sort_by_key(|(index, ..)| *index);
    replies.into_iter().map(|(_, address, reply)| (address, reply)).collect()
}
