//! A replica that is told to stop while calls are under way.

use std::time::Duration;

use bramah_cell::{Cell, ProposeError, Tuning};
use bramah_machine::Identity;
use tokio::time::Instant;

use crate::trio::{LIMIT, Trio, hits, increment};

/// No election comes sooner after a heartbeat.
const ELECTION: Duration = Duration::from_secs(6);

/// The times that a stop is made of: handing over, finishing what is under way, ending the engine, and a second for the
/// log.
const STOP_LIMIT: Duration = Duration::from_secs(2 + 1 + 5 + 1);

/// What a caller has heard.
#[derive(Default)]
struct Heard {
    done: i64,
    /// Keys of calls that may have been done.
    unsure: Vec<String>,
    refused: usize,
}

/// Calls one after the other until the replica has stopped or the time is over.
async fn call(cell: Cell, name: String, until: Instant) -> Heard {
    let mut heard = Heard::default();
    for i in 0.. {
        let key = format!("{name}/{i}");
        let request = increment(Identity::Key(key.clone().into_bytes()), 1);
        match cell.propose(&request, Instant::now() + LIMIT).await {
            Ok(outcome) => heard.done += outcome.map(|_| 1).expect("the counter has no bounds"),
            Err(error) => {
                assert!(matches!(error, ProposeError::Stopping { .. }), "{error}");
                match error.may_have_been_done() {
                    true => heard.unsure.push(key),
                    false => heard.refused += 1,
                }
                return heard;
            }
        }
        if Instant::now() >= until {
            break;
        }
    }
    heard
}

/// Spec G-12: a leader that is told to stop with calls under way hands over sooner than any election could come, ends in
/// its time, and each call is answered or fails truthfully: what is said to be done, and what proves to be, add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stops_under_load() {
    let tuning = Tuning { election_min: ELECTION, election_max: ELECTION * 2, ..Tuning::default() };
    let mut trio = Trio::start(tuning).await;
    let before = trio.leader().await;
    let old = before.leader.expect("there is a leader").0;
    let until = Instant::now() + Duration::from_secs(3);
    let callers: Vec<_> = (0..60)
        .map(|i| tokio::spawn(call(trio.cell(1 + i % 3).clone(), format!("caller {i}"), until)))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;

    let other = (1..=3).find(|id| *id != old).expect("there are three");
    let mut seen = trio.cell(other).leadership();
    let told = Instant::now();
    let moved = tokio::spawn(async move {
        let another = |id: u64| id != old;
        let now = seen.wait_for(|now| now.leader.as_ref().is_some_and(|(id, _)| another(*id))).await;
        (now.expect("the replica runs").term, told.elapsed())
    });
    trio.stop(old).await;
    let stopped = told.elapsed();
    let (term, moved) =
        tokio::time::timeout(LIMIT, moved).await.expect("leadership moves").expect("no panic");
    assert_eq!(term, before.term + 1, "handed over, and no further election");
    assert!(moved < ELECTION, "leadership moved after {moved:?}, which may have been an election");
    assert!(stopped < STOP_LIMIT, "it took {stopped:?} to stop");

    let (mut done, mut refused, mut unsure) = (0, 0, Vec::new());
    for caller in callers {
        let heard = tokio::time::timeout(LIMIT, caller).await.expect("each call ends").expect("no panic");
        done += heard.done;
        refused += heard.refused;
        unsure.extend(heard.unsure);
    }
    assert!(refused + unsure.len() <= 20, "only callers of the replica that stopped are turned away");
    assert!(done > 60, "calls were under way");
    for key in unsure {
        // Either way it counts once now.
        let request = increment(Identity::Key(key.into_bytes()), 1);
        let again = trio.cell(other).propose(&request, Instant::now() + LIMIT).await;
        again.expect("a majority runs").expect("the counter has no bounds");
        done += 1;
    }
    assert_eq!(hits(trio.cell(other)).await, done, "done, and said to be");
}
