//! `bramah lock`: a command that runs while a lock is held; and who holds what.

use std::time::Duration;

use bramah_client::{Client, Error, LockInfo, LockParty, LostReason};
use serde_json::json;

use super::child::{self, Ended};
use super::connect::{client, long_client};
use super::table;
use crate::cli::{LockArgs, LockCommand, Shared};
use crate::output::{Exit, Failure, Printer};

/// The longest lock-delay (spec L-5).
pub(super) const MAX_LOCK_DELAY: Duration = Duration::from_secs(60);

/// Locks or sessions that are asked for at a time.
pub(super) const PAGE: u32 = 1_000;

/// Does it.
pub async fn run(shared: &Shared, args: LockArgs) -> Result<(), Failure> {
    match (&args.command, &args.name, args.count) {
        (Some(LockCommand::Ls { below }), ..) => list(shared, below).await,
        (None, Some(name), Some(count)) => hold_permit(shared, &args, name, count).await,
        (None, Some(name), None) => hold(shared, &args, name).await,
        (None, None, _) => Err(Failure::usage("which lock? name a node, as /jobs/backup, or `ls`")),
    }
}

async fn hold(shared: &Shared, args: &LockArgs, name: &str) -> Result<(), Failure> {
    let client = long_client(shared, "bramah lock").await?;
    let done = run_under_lock(&client, args, name).await;
    client.close().await;
    done
}

async fn run_under_lock(client: &Client, args: &LockArgs, name: &str) -> Result<(), Failure> {
    let mut request = client.lock(name).parents().lock_delay(lock_delay(args));
    if args.shared {
        request = request.shared();
    }
    let request = match args.wait {
        None => request,
        Some(Duration::ZERO) => request.try_(),
        Some(wait) => request.within(wait),
    };
    let Some(lock) = child::unless_told(request.into_future()).await? else { return Err(told_to_end()) };
    let lock = lock?;
    let sequencer = lock.sequencer().to_string();
    let environment = [("BRAMAH_LOCK", name.to_owned()), ("BRAMAH_SEQUENCER", sequencer)];
    let lost = child::lost_or_in_jeopardy(client, async { why(&lock.lost().await) });
    let ended = child::run(&args.run.command_line, &environment, args.run.grace, lost).await;
    // If this fails the end of the session releases it.
    let _ = lock.release().await;
    after(ended?, &format!("the lock {name}"))
}

/// Unless asked otherwise the next holder waits as long as the command of this one may take to end.
fn lock_delay(args: &LockArgs) -> Duration {
    args.lock_delay.unwrap_or(args.run.grace).min(MAX_LOCK_DELAY)
}

async fn hold_permit(shared: &Shared, args: &LockArgs, name: &str, count: usize) -> Result<(), Failure> {
    let client = long_client(shared, "bramah lock").await?;
    let done = run_under_permit(&client, args, name, count).await;
    client.close().await;
    done
}

async fn run_under_permit(client: &Client, args: &LockArgs, name: &str, count: usize) -> Result<(), Failure> {
    let semaphore = client.semaphore(name, count)?;
    let acquire = async {
        match args.wait {
            None => semaphore.acquire().await.map(Some),
            Some(Duration::ZERO) => semaphore.try_acquire().await,
            Some(wait) => tokio::time::timeout(wait, semaphore.acquire()).await.ok().transpose(),
        }
    };
    let Some(permit) = child::unless_told(acquire).await? else { return Err(told_to_end()) };
    let Some(permit) = permit? else {
        let message = format!("all {count} permits of {name} are taken; wait longer, or try again");
        return Err(Failure::refused(message));
    };
    let environment =
        [("BRAMAH_LOCK", name.to_owned()), ("BRAMAH_SEQUENCER", permit.sequencer().to_string())];
    let lost = child::lost_or_in_jeopardy(client, async { why(&permit.lost().await) });
    let ended = child::run(&args.run.command_line, &environment, args.run.grace, lost).await;
    // As above.
    let _ = permit.release().await;
    after(ended?, &format!("a permit of {name}"))
}

/// A signal came before there was anything to hold.
pub(super) fn told_to_end() -> Failure {
    Failure::refused("this process was told to end while it waited; the command was not run")
}

/// Why something is held no more.
pub(super) fn why(reason: &LostReason) -> String {
    match reason {
        LostReason::SessionExpired => "the session expired: the cell was out of reach for too long",
        LostReason::NodeDeleted => "its node was deleted",
        LostReason::HandleClosed => "an ACL does not allow it any more",
        _ => "the cell says that it is not held",
    }
    .to_owned()
}

/// This process ends as its command did, unless that was stopped.
pub(super) fn after(ended: Ended, what: &str) -> Result<(), Failure> {
    match ended {
        Ended::Done(status) => child::exit_like(status),
        Ended::Stopped(why) => Err(Failure {
            exit: Exit::Refused,
            code: "lost".into(),
            message: format!("{what} was lost, and the command was stopped: {why}"),
            next: None,
        }),
    }
}

async fn list(shared: &Shared, below: &str) -> Result<(), Failure> {
    let client = client(shared).await?;
    let locks = all_locks(&client, below).await;
    client.close().await;
    let locks = locks?;
    let mut table = table::new(["lock", "mode", "place", "client", "for"]);
    for lock in &locks {
        let mode = |shared: bool| if shared { "shared" } else { "exclusive" };
        let mut row = |party: &LockParty, mode: &str, place: &str| {
            let cells = [lock.path.clone(), mode.into(), place.into(), who(party), since(party.for_ms)];
            table.add_row(cells);
        };
        lock.holders.iter().for_each(|party| row(party, mode(lock.shared), "holds"));
        lock.waiters.iter().for_each(|party| row(party, mode(party.shared), "waits"));
        let unnamed = lock.waiter_count.saturating_sub(lock.waiters.len() as u64);
        if unnamed > 0 {
            let more = format!("and {unnamed} more");
            table.add_row([lock.path.clone(), String::new(), "wait".into(), more, String::new()]);
        }
        if lock.delay_left_ms > 0 {
            let left = since(lock.delay_left_ms);
            table.add_row([lock.path.clone(), String::new(), "lock-delay".into(), String::new(), left]);
        }
    }
    let answer = json!({ "locks": locks });
    Printer { json: shared.is_json() }.answer(table.trim_fmt(), answer)
}

async fn all_locks(client: &Client, below: &str) -> Result<Vec<LockInfo>, Error> {
    let mut locks: Vec<LockInfo> = Vec::new();
    loop {
        let after = locks.last().map(|lock| lock.path.clone()).unwrap_or_default();
        let page = client.list_locks(below, after, PAGE).await?;
        // An empty page that promises more would never end.
        let last = !page.more || page.locks.is_empty();
        locks.extend(page.locks);
        if last {
            return Ok(locks);
        }
    }
}

fn who(party: &LockParty) -> String {
    let principal = if party.principal.is_empty() { String::new() } else { format!(", {}", party.principal) };
    format!("{} (session {}{principal})", party.client, party.session)
}

/// A duration as people read it.
pub(super) fn since(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let milliseconds = [900, 1_000, 119_999, 120_000, 7_200_000, 172_800_000];
        let texts = milliseconds.map(since);
        assert_eq!(texts, ["900 ms", "1 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
