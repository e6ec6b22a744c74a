//! Which replica a session is at, and when it moves.

use std::sync::Arc;
use std::time::Duration;

use bramah_client::{Client, Error, Route};
use bramah_wire::v1;
use tokio::time::{Instant, sleep};

use crate::fake::{Act, Cell, address, leader};

async fn settle() {
    sleep(Duration::from_secs(1)).await;
}

/// The session moves to the leader while a call waits, and the call doesn't notice.
#[tokio::test(start_paused = true)]
async fn a_session_moves_to_the_leader_without_failing_calls() {
    let cell = Cell::start(3).await;
    cell.behave(1, |replica| replica.then = Act::Ignore);
    let client = cell.client().connect().await.unwrap();
    let session = client.session().unwrap().session;
    let waiting = tokio::spawn({
        let counter = client.counter("/c");
        async move { counter.increment(1).await }
    });
    sleep(Duration::from_millis(100)).await;
    cell.tell(1, &v1::SessionReply { leader: Some(leader(2, 5)), ..Default::default() });
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    let info = client.session().unwrap();
    assert_eq!((info.session, info.replica, info.address), (session, 2, address(2)));
    let numbers: Vec<_> = cell.messages().into_iter().map(|seen| (seen.replica, seen.numbers)).collect();
    assert_eq!(numbers, [(1, vec![1]), (2, vec![1])]);
}

/// A leader is followed wherever it is named, and an older one's name doesn't lead back.
#[tokio::test(start_paused = true)]
async fn the_newest_leader_is_followed() {
    let cell = Cell::start(3).await;
    cell.behave(1, |replica| replica.leader = Some(leader(2, 5)));
    cell.behave(2, |replica| replica.leader = Some(leader(3, 6)));
    cell.behave(3, |replica| replica.leader = Some(leader(2, 5)));
    let client = cell.client().connect().await.unwrap();
    settle().await;
    assert_eq!(client.session().unwrap().replica, 3);
    settle().await;
    assert_eq!(cell.state().opened.len(), 3, "and there it stays");
}

#[tokio::test(start_paused = true)]
async fn a_leader_out_of_reach_leaves_the_session_where_it_is() {
    let cell = Cell::start(2).await;
    cell.network.swallow(&address(2));
    cell.behave(1, |replica| replica.leader = Some(leader(2, 5)));
    let client = cell.client().connect().await.unwrap();
    for value in 1..=50 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(client.counter("/c").increment(1).await.unwrap(), value);
    }
    assert_eq!(client.session().unwrap().replica, 1);
    assert_eq!(cell.network.attempts(&address(2)), 1, "it isn't tried all the time");
    settle().await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cell.network.attempts(&address(2)), 2, "but again later");
}

#[tokio::test(start_paused = true)]
async fn other_routes_stay_until_the_connection_breaks() {
    for route in [Route::Any, Route::Fixed(1), Route::Fixed(4)] {
        let cell = Cell::start(3).await;
        let addresses = [1, 2, 3].map(address);
        for replica in 1..=3 {
            cell.behave(replica, |behaviour| behaviour.leader = Some(leader(replica % 3 + 1, 5)));
        }
        let client = cell.client().addresses(addresses).route(route).connect().await.unwrap();
        let first = client.session().unwrap().replica;
        if route != Route::Any {
            assert_eq!(first, 2, "the address with the index, counted around");
        }
        client.counter("/c").increment(1).await.unwrap();
        settle().await;
        assert_eq!(client.session().unwrap().replica, first);
        cell.kill(first);
        client.counter("/c").increment(1).await.unwrap();
        assert_ne!(client.session().unwrap().replica, first);
        assert_eq!(cell.counter("/c"), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn any_route_spreads_clients() {
    let cell = Cell::start(3).await;
    let mut replicas = std::collections::HashSet::new();
    for seed in 0..30 {
        let builder = cell.client().addresses([1, 2, 3].map(address)).route(Route::Any).seed(seed);
        replicas.insert(builder.connect().await.unwrap().session().unwrap().replica);
    }
    assert_eq!(replicas.len(), 3);
}

/// One address is enough: the cell names the others.
#[tokio::test(start_paused = true)]
async fn a_client_learns_the_other_addresses() {
    let cell = Cell::start(3).await;
    let client = cell.client().connect().await.unwrap();
    let session = client.session().unwrap().session;
    cell.kill(1);
    cell.kill(2);
    let start = Instant::now();
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert!(start.elapsed() < Duration::from_millis(100), "known addresses are tried at once");
    let info = client.session().unwrap();
    assert_eq!((info.session, info.replica), (session, 3));
}

/// A replica that is connected but stopped (SIGSTOP) is left in good time, also by a session without calls.
#[tokio::test(start_paused = true)]
async fn a_stopped_replica_is_left() {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.stopped = true);
    let start = Instant::now();
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_millis(1100), "{took:?}");
    assert_eq!(client.session().unwrap().replica, 2);

    cell.behave(1, |replica| replica.stopped = false);
    cell.behave(2, |replica| replica.stopped = true);
    sleep(Duration::from_secs(8)).await;
    let info = client.session().unwrap();
    assert_eq!(info.replica, 1, "the keep-alive went unanswered");
    assert!(info.lease_left > Duration::from_secs(4));
}

/// Where it took long to connect, silence is borne longer.
#[tokio::test(start_paused = true)]
async fn a_far_replica_may_be_silent_longer() {
    let cell = Cell::start(2).await;
    cell.network.put_afar(&address(1), Duration::from_millis(200));
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.stopped = true);
    let start = Instant::now();
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2000) && took < Duration::from_millis(2200), "{took:?}");
    assert_eq!(client.session().unwrap().replica, 2);
}

/// A replica that answers slowly but is there is not left, however long it takes.
#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_not_left() {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_secs(9))));
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert_eq!(client.session().unwrap().replica, 1);
    assert_eq!(cell.messages().len(), 1, "sent once");
}

/// Without any replica each call ends at its deadline and names what was tried; nothing was done for certain.
#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_with_all_addresses() {
    let cell = Cell::start(3).await;
    let client = cell.client().deadline(Duration::from_secs(4)).connect().await.unwrap();
    cell.kill(1);
    cell.kill(2);
    cell.kill(3);
    cell.network.swallow(&address(3));
    settle().await;
    let error = client.counter("/c").increment(1).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: false, .. }), "{error:?}");
    let text = error.to_string();
    for part in ["increment /c was not sent within its 4 s", "replica-1:1: ", "connection refused"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(
        text.contains("replica-3:1: transport error: no connection to replica-3:1 within 1000 ms"),
        "{text}"
    );
    let attempts = cell.network.attempts(&address(1));
    assert!(attempts < 40, "{attempts} attempts in 5 s: there are rests between the rounds");

    let start = Instant::now();
    let builder = cell.client().addresses([address(1), address(2)]).deadline(Duration::from_secs(1));
    let error = builder.connect().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(1100));
    assert!(matches!(error, Error::Unavailable { may_have_been_done: false, .. }), "{error:?}");
    assert!(error.to_string().contains("no session was opened within 1 s: replica-1:1: "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_tells_its_status() {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!((status.cell.as_str(), status.replica, status.digest), ("fake", 1, None));
    let transport = Arc::new(cell.network.clone());
    let ask = |replica| {
        Client::status_over(transport.clone(), address(replica).leak(), true, Duration::from_secs(2))
    };
    assert_eq!(ask(2).await.unwrap().digest, Some(99));
    cell.behave(2, |replica| replica.stopped = true);
    let error = ask(2).await.unwrap_err();
    assert!(error.to_string().contains("replica-2:1 did not tell its status within 2 s"), "{error}");
    let error = ask(9).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { message, .. } if message.contains("replica-9:1: ")),
        "{error}"
    );
}
