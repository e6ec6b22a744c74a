//! How sessions live on and end (spec S-1, S-4).

use std::time::Duration;

use bramah_client::{Error, Route};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use tokio::time::{Instant, sleep};

use crate::fake::{Act, Cell, LEASE, Open, address, expired, failure, leader};

/// Spec S-1, S-4: a lease is asked for every third of it, and counted with a margin.
#[tokio::test(start_paused = true)]
async fn keep_alives_keep_the_lease() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    let mut least = LEASE;
    for _ in 0..500 {
        sleep(Duration::from_millis(100)).await;
        least = least.min(client.session().unwrap().lease_left);
    }
    assert!(least > LEASE / 2 && least < LEASE * 2 / 3, "{least:?}");
    let asked = cell.state().seen.iter().filter(|seen| seen.keep_alive).count();
    assert!((11..=13).contains(&asked), "{asked} in 50 s");

    cell.kill(1);
    sleep(Duration::from_secs(8)).await;
    assert!(client.session().unwrap().lease_left < Duration::from_secs(4));
    sleep(Duration::from_secs(1)).await;
    assert!(!client.session().unwrap().connected);
}

/// Spec S-4: a replica that answers calls but extends no lease is left while there is lease to save.
#[tokio::test(start_paused = true)]
async fn a_replica_that_extends_nothing_is_left() {
    let cell = Cell::start(2).await;
    let client = cell.client().route(Route::Any).connect().await.unwrap();
    cell.behave(1, |replica| replica.extends_nothing = true);
    for value in 1..=40 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(client.counter("/c").increment(1).await.unwrap(), value);
        assert!(!client.session().unwrap().lease_left.is_zero());
    }
    let info = client.session().unwrap();
    assert_eq!((info.session, info.replica), (1, 2));
    assert!(info.lease_left > LEASE / 2, "{:?}", info.lease_left);
}

/// Spec S-4: the lease counts from when it was asked for, not from when the answer came.
#[tokio::test(start_paused = true)]
async fn a_slow_opening_costs_its_time_of_the_lease() {
    let cell = Cell::start(1).await;
    cell.behave(1, |replica| replica.opens.push_back(Open::AcceptLate(Duration::from_secs(2))));
    let client = cell.client().connect().await.unwrap();
    let left = client.session().unwrap().lease_left;
    assert!(left > Duration::from_secs(9) && left < Duration::from_secs(10), "{left:?}");
}

/// Spec S-4: a lease that ran out without a connection is jeopardy, not the end: calls wait, and go on.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ran_out_is_no_end_until_the_cell_says_so() {
    let cell = Cell::start(1).await;
    let client = cell.client().deadline(Duration::from_secs(60)).connect().await.unwrap();
    let session = client.session().unwrap().session;
    cell.kill(1);
    let waiting = tokio::spawn({
        let counter = client.counter("/c");
        async move { counter.increment(1).await }
    });
    sleep(Duration::from_secs(20)).await;
    assert_eq!(client.session().unwrap().lease_left, Duration::ZERO, "jeopardy");
    cell.start_replica(1).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    assert_eq!(client.session().unwrap().session, session);
}

/// Spec S-4: the session expired while nothing was under way: the next call goes to a new one.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_never_sent_goes_to_a_new_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    cell.kill(1);
    cell.expire_sessions();
    let waiting = tokio::spawn({
        let counter = client.counter("/c");
        async move { counter.increment(1).await }
    });
    sleep(Duration::from_secs(1)).await;
    cell.start_replica(1).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 2);
    assert_eq!(client.session().unwrap().session, 2);
    let last = cell.messages().pop().unwrap();
    assert_eq!((last.session, last.numbers, last.confirmed), (2, vec![1], 0), "numbers begin anew");
}

/// Spec S-4, S-6: sent once and refused because the session expired: certainly not done, so it is made in a new one.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_refused_by_an_expired_session_goes_to_a_new_one() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.expire_sessions();
    let (first, second) = (client.counter("/c"), client.counter("/c"));
    let (first, second) = tokio::join!(first.increment(1), second.increment(1));
    assert_eq!(first.unwrap() + second.unwrap(), 3);
    assert_eq!(cell.counter("/c"), 2);
    let sessions: Vec<_> = cell.messages().iter().map(|seen| seen.session).collect();
    assert_eq!(sessions, [1, 2]);
}

/// Spec S-4, S-6: sent, and the session expired before the answer: only the caller can know what to do.
#[tokio::test(start_paused = true)]
async fn a_call_of_unknown_outcome_fails_with_the_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    client.counter("/c").increment(1).await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::Ignore));
    let (write, read) = (client.counter("/c"), client.counter("/c"));
    let breaking = async {
        sleep(Duration::from_millis(100)).await;
        cell.kill(1);
        cell.expire_sessions();
        cell.start_replica(1).await;
    };
    let (write, read, ()) = tokio::join!(write.increment(1), read.get(), breaking);
    let error = write.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: true, .. }), "{error:?}");
    for part in
        ["session 1 of cell fake is over: its lease ran out", "increment /c was sent and may have been done"]
    {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
    assert_eq!(read.unwrap(), 1, "a read is made again");
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 2, "in a new session");
}

/// Spec S-4: the word that the session is over, on a stream that had no answer yet.
#[tokio::test(start_paused = true)]
async fn an_end_on_the_stream_ends_the_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::End(expired())));
    cell.expire_sessions();
    let error = client.counter("/c").increment(1).await.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: true, .. }), "{error:?}");
    assert!(client.session().is_none());
    assert_eq!(cell.state().opened.len(), 1, "without a call there is no need for a session");
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
}

/// A replica that can't go on says so; the session is not over.
#[tokio::test(start_paused = true)]
async fn a_replica_that_steps_back_is_only_left() {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    let stopping = failure(Code::Unavailable, "this replica is being stopped");
    cell.behave(1, |replica| replica.acts.push_back(Act::End(stopping)));
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    let info = client.session().unwrap();
    assert_eq!((info.session, info.replica), (1, 2));
}

/// A cell that refuses the client as such is believed at once.
#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_is_not_tried_again() {
    let cell = Cell::start(1).await;
    let refusal = failure(Code::InvalidArgument, "a lease of 1 ms can't be");
    cell.behave(1, |replica| replica.opens.push_back(Open::Refuse(refusal)));
    let start = Instant::now();
    let error = cell.client().connect().await.unwrap_err();
    assert_eq!(error, Error::InvalidArgument { message: "a lease of 1 ms can't be".into() });
    assert!(start.elapsed() < Duration::from_millis(100));
}

/// A replica that is set up wrongly keeps nobody from the others: not at the beginning, not after a break, not on the
/// way to the leader.
#[tokio::test(start_paused = true)]
async fn one_replica_that_refuses_is_not_the_cell() {
    let cell = Cell::start(2).await;
    let words = failure(Code::Unauthenticated, "a token of another cell");
    let refuse = |replica| {
        let always = std::iter::repeat_n(Open::Refuse(words.clone()), 100_000);
        cell.behave(replica, |replica| replica.opens = always.collect());
    };
    refuse(1);
    let client = cell.client().addresses([address(1), address(2)]).connect().await.unwrap();
    assert_eq!(client.session().unwrap().replica, 2);
    let session = client.session().unwrap().session;

    cell.tell(2, &v1::SessionReply { leader: Some(leader(1, 5)), ..Default::default() });
    sleep(Duration::from_secs(3)).await;
    let info = client.session().expect("the session lives on");
    assert_eq!((info.session, info.replica, info.connected), (session, 2, true));

    cell.network.cut(&address(2));
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert_eq!(client.session().unwrap().session, session);

    refuse(2);
    cell.network.cut(&address(2));
    let error = client.counter("/c").increment(1).await.unwrap_err();
    assert!(error.to_string().contains("a token of another cell"), "{error}");
    assert!(client.session().is_none(), "all refuse it");
    let start = Instant::now();
    let both = || cell.client().addresses([address(1), address(2)]);
    let error = both().connect().await.unwrap_err();
    assert!(matches!(error, Error::Unauthenticated { .. }) && start.elapsed() < Duration::from_millis(100));
    cell.kill(2);
    let error = both().deadline(Duration::from_secs(1)).connect().await.unwrap_err();
    assert!(matches!(error, Error::Unauthenticated { .. }), "the cell's word in the end: {error}");
}

/// A refusal that may pass is tried again, and told if it doesn't.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_pass_is_tried_again() {
    let cell = Cell::start(1).await;
    let words = failure(Code::Unavailable, "no leader, members 1, 2, 3");
    cell.behave(1, |replica| {
        replica.opens.extend([Open::Refuse(words.clone()), Open::Refuse(words.clone())])
    });
    let client = cell.client().connect().await.unwrap();
    client.close().await;
    cell.behave(1, |replica| replica.opens.extend(std::iter::repeat_n(Open::Refuse(words), 1000)));
    let error = cell.client().deadline(Duration::from_secs(1)).connect().await.unwrap_err();
    assert!(error.to_string().contains("replica-1:1: no leader, members 1, 2, 3"), "{error}");
}

/// Spec S-1: a minute without a call ends the session; the next call opens another.
#[tokio::test(start_paused = true)]
async fn an_idle_minute_ends_the_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    sleep(Duration::from_secs(50)).await;
    client.counter("/c").increment(1).await.unwrap();
    sleep(Duration::from_secs(59)).await;
    assert_eq!(
        (cell.sessions(), client.session().unwrap().session),
        (1, 1),
        "a call counts as a sign of life"
    );
    sleep(Duration::from_secs(2)).await;
    assert!(client.session().is_none());
    assert_eq!(cell.sessions(), 0);
    let last = cell.state().seen.last().unwrap().clone();
    assert!(last.end && last.confirmed == 1, "{last:?}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(cell.state().opened.len(), 1, "nothing happens until there is a call");
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 2);
    assert_eq!((cell.sessions(), client.session().unwrap().session), (1, 2));
}

/// Spec S-1: closing ends the session, after the calls before it; later calls are refused.
#[tokio::test(start_paused = true)]
async fn closing_ends_the_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_millis(300))));
    let (other, counter) = (client.clone(), client.counter("/c"));
    let waiting = tokio::spawn(async move { counter.increment(1).await });
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(waiting.await.unwrap().unwrap(), 1, "the call before it was answered");
    assert_eq!(cell.sessions(), 0);
    let error = other.counter("/c").increment(1).await.unwrap_err();
    assert!(matches!(error, Error::Closed { may_have_been_done: false, .. }), "{error:?}");
}

/// Spec S-1: with the last handle the session ends too.
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    let counter = client.counter("/c");
    drop(client);
    assert_eq!(counter.increment(1).await.unwrap(), 1, "a counter is a handle");
    drop(counter);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cell.sessions(), 0);
}

/// Closing never hangs, whatever the cell does; calls without an answer fail as uncertain.
#[tokio::test(start_paused = true)]
async fn closing_a_client_of_a_stopped_cell_takes_two_seconds() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.stopped = true);
    let counter = client.counter("/c");
    let waiting = tokio::spawn(async move { counter.increment(1).await });
    sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() <= Duration::from_millis(2100), "{:?}", start.elapsed());
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.may_have_been_done(), "{error:?}");
}

/// Spec S-1: a call that comes while the idle session is being ended goes to the next one.
#[tokio::test(start_paused = true)]
async fn a_call_during_the_end_waits_for_the_next_session() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    sleep(Duration::from_secs(59)).await;
    cell.behave(1, |replica| replica.stopped = true);
    sleep(Duration::from_millis(1200)).await;
    assert!(cell.state().seen.last().unwrap().end);
    cell.behave(1, |replica| replica.stopped = false);
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert_eq!(cell.messages().pop().unwrap().session, client.session().unwrap().session);
    assert_eq!(client.session().unwrap().session, 2);
    let unexpected = v1::SessionReply { lease_ms: 5, ..Default::default() };
    cell.tell(1, &unexpected);
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 2);
}
