//! Jeopardy, safety and the end, step by step as in figure 2 of the Chubby paper (spec S-1, S-4, E-1).

use std::time::Duration;

use bramah_client::{Client, Error, LockStatus, LostReason, SessionEvent, SessionEvents, SessionState};
use bramah_wire::v1::failure::Code;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{Cell, LEASE, Open, failure, leader};

const GRACE: Duration = Duration::from_secs(45);

/// What comes next; not before `least`, nor after `most`.
async fn next(events: &mut SessionEvents, least: Duration, most: Duration) -> SessionEvent {
    let start = Instant::now();
    let event = timeout(most, events.next()).await.expect("in time").expect("the client lives");
    assert!(start.elapsed() >= least, "{event:?} after {:?}", start.elapsed());
    event
}

async fn connected() -> (Cell, Client, SessionEvents) {
    let cell = Cell::start(2).await;
    let client = cell.client().deadline(Duration::from_secs(60)).connect().await.unwrap();
    let events = client.session_events();
    (cell, client, events)
}

/// Spec S-4, E-1: the old leader dies; the lease runs out; a new leader answers within the grace period; the
/// application's calls have waited, and its handles and locks are as they were.
#[tokio::test(start_paused = true)]
async fn a_new_leader_within_the_grace_period_is_safe() {
    let (cell, client, mut events) = connected().await;
    let session = client.session().unwrap().session;
    let lock = client.lock("/l").await.unwrap();
    assert!(lock.is_held());
    cell.kill(1);
    cell.kill(2);
    let least = LEASE / 2;
    let event = next(&mut events, least, LEASE).await;
    assert!(matches!(event, SessionEvent::Jeopardy { session: told, .. } if told == session), "{event:?}");
    assert_eq!(client.session().unwrap().state, SessionState::Jeopardy);
    assert_eq!((lock.status(), lock.is_held()), (LockStatus::InJeopardy, false));
    let writing = tokio::spawn({
        let file = client.open("/f").write().create();
        async move { file.await }
    });
    sleep(Duration::from_secs(40)).await;
    assert!(!writing.is_finished(), "application calls wait");
    assert_eq!(lock.status(), LockStatus::InJeopardy);
    cell.start_replica(2).await;
    cell.behave(2, |replica| replica.leader = Some(leader(2, 9)));
    assert_eq!(
        next(&mut events, Duration::ZERO, Duration::from_secs(3)).await,
        SessionEvent::Safe { session }
    );
    assert!(writing.await.unwrap().is_ok(), "and all goes on");
    assert_eq!(client.session().unwrap().state, SessionState::Healthy);
    assert!(lock.is_held());
    lock.release().await.unwrap();
}

/// Spec S-4, H-6: nobody answers within the grace period: the session has expired, its handles fail for ever, and
/// the next session has another secret.
#[tokio::test(start_paused = true)]
async fn nobody_within_the_grace_period_is_the_end() {
    let (cell, client, mut events) = connected().await;
    let lock = client.lock("/l").await.unwrap();
    let waiting = client.open("/held").write().create().await.unwrap();
    cell.act(|world| {
        world.stranger_locks("/held");
    });
    let acquiring = tokio::spawn(async move { waiting.acquire(Default::default()).await.unwrap_err() });
    sleep(Duration::from_millis(10)).await;
    cell.kill(1);
    cell.kill(2);
    next(&mut events, LEASE / 2, LEASE).await;
    let event = next(&mut events, GRACE - Duration::from_millis(10), GRACE + Duration::from_millis(10)).await;
    assert!(
        matches!(&event, SessionEvent::Expired { session: 1, reason } if reason.contains("45 s")),
        "{event:?}"
    );
    assert_eq!(lock.status(), LockStatus::Lost(LostReason::SessionExpired));
    assert_eq!(timeout(Duration::ZERO, lock.lost()).await.unwrap(), LostReason::SessionExpired);
    assert!(matches!(acquiring.await.unwrap(), Error::SessionExpired { .. }), "nothing waits for ever");
    assert!(client.session().is_none());
    cell.start_replica(1).await;
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert_eq!(client.session().unwrap().session, 2);
    let error = lock.handle().contents().await.unwrap_err();
    assert!(matches!(error, Error::SessionExpired { may_have_been_done: false, .. }), "{error:?}");
    let opened = cell.state().opened.clone();
    let (first, last) = (&opened[0].1, &opened.last().unwrap().1);
    assert_eq!((first.nonce.len(), last.session), (16, 0));
    assert_ne!(first.nonce, last.nonce, "a new session, a new secret");
}

/// Spec S-4: what a client that was itself stopped believes of its locks is right at once, before its task has run.
#[tokio::test(start_paused = true)]
async fn a_stopped_client_does_not_believe_that_it_holds_a_lock() {
    let (cell, client, _) = connected().await;
    let lock = client.lock("/l").await.unwrap();
    cell.kill(1);
    cell.kill(2);
    tokio::time::advance(LEASE).await;
    assert_eq!(lock.status(), LockStatus::InJeopardy);
    tokio::time::advance(GRACE).await;
    assert_eq!(lock.status(), LockStatus::Lost(LostReason::SessionExpired));
}

/// Spec S-4: a setting.
#[tokio::test(start_paused = true)]
async fn the_grace_period_can_be_set() {
    let cell = Cell::start(1).await;
    let client = cell.client().grace(Duration::from_secs(3)).connect().await.unwrap();
    let mut events = client.session_events();
    cell.kill(1);
    let event = next(&mut events, LEASE / 2, LEASE).await;
    assert!(
        matches!(event, SessionEvent::Jeopardy { grace, .. } if grace <= Duration::from_secs(3)),
        "{event:?}"
    );
    next(&mut events, Duration::from_millis(2900), Duration::from_millis(3100)).await;
    let error = cell.client().grace(Duration::from_secs(601)).connect().await.unwrap_err();
    assert!(error.to_string().contains("grace"), "{error}");
}

/// Spec E-1: who leads is told when it changes.
#[tokio::test(start_paused = true)]
async fn a_new_leader_is_told() {
    let (cell, client, mut events) = connected().await;
    for (replica, term) in [(1, 1), (1, 1), (2, 3)] {
        let told =
            bramah_wire::v1::SessionReply { leader: Some(leader(replica, term)), ..Default::default() };
        cell.tell(1, &told);
    }
    let event = next(&mut events, Duration::ZERO, Duration::from_secs(1)).await;
    assert!(
        matches!(&event, SessionEvent::LeaderChanged { leader } if (leader.replica, leader.term) == (2, 3))
    );
    client.close().await;
    assert_eq!(events.next().await, None);
}

/// Spec S-1: an open handle, or a watch, keeps the session; without them it ends after a minute.
#[tokio::test(start_paused = true)]
async fn handles_and_watches_keep_a_session() {
    let (cell, client, _) = connected().await;
    let handle = client.open("/f").create().await.unwrap();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(client.session().unwrap().session, 1);
    let watch = client.watch("/f").await.unwrap();
    drop(handle);
    sleep(Duration::from_secs(300)).await;
    assert_eq!((client.session().unwrap().session, cell.state().world.handles.len()), (1, 0));
    drop(watch);
    sleep(Duration::from_secs(50)).await;
    assert!(client.session().is_some());
    sleep(Duration::from_secs(15)).await;
    assert!(client.session().is_none());
}

/// Spec A-2: the token goes with each stream; one that is not good is believed at once.
#[tokio::test(start_paused = true)]
async fn a_token_goes_with_each_stream() {
    let cell = Cell::start(1).await;
    let client = cell.client().token("abc.def").connect().await.unwrap();
    assert_eq!(cell.state().tokens, [Some("Bearer abc.def".to_owned())]);
    drop(client);
    let refusal = failure(Code::Unauthenticated, "the token has expired");
    cell.behave(1, |replica| replica.opens.push_back(Open::Refuse(refusal)));
    let error = cell.client().token("old").connect().await.unwrap_err();
    assert_eq!(error, Error::Unauthenticated { message: "the token has expired".into() });
    for token in ["", "a\nb", &"x".repeat(1025)] {
        let error = cell.client().token(token).connect().await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
    }
    let error = cell.client().token_file("/nowhere/token").connect().await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/token"), "{error}");
}

/// Spec S-1, S-4: the answer to an opening was lost, and the session has expired since: another one needs another secret.
#[tokio::test(start_paused = true)]
async fn an_opening_that_expired_is_begun_anew() {
    let cell = Cell::start(1).await;
    let over = failure(Code::SessionExpired, "that session is over");
    cell.behave(1, |replica| replica.opens.extend([Open::Ignore, Open::Refuse(over)]));
    cell.client().connect().await.unwrap();
    let nonces: Vec<_> = cell.state().opened.iter().map(|(_, open)| open.nonce.clone()).collect();
    assert_ne!(nonces.first(), nonces.last(), "{nonces:?}");
}
