//! Watches: told in order, once, over all connections, by readers that read and by those that don't (spec E-1 to E-4).

use std::time::Duration;

use bramah_client::{Change, Client, Error, EventKind, Watch, WatchEvent};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use tokio::time::{sleep, timeout};

use crate::fake::{Cell, failure};

async fn connected() -> (Cell, Client) {
    let cell = Cell::start(2).await;
    let client = cell.client().connect().await.unwrap();
    (cell, client)
}

async fn next(watch: &mut Watch) -> WatchEvent {
    timeout(Duration::from_secs(5), watch.next()).await.expect("in time").expect("it goes on")
}

/// The revisions of the next events.
async fn revisions(watch: &mut Watch, count: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    for _ in 0..count {
        match next(watch).await {
            WatchEvent::Happened(event) => revisions.push(event.revision),
            other => panic!("{other:?}"),
        }
    }
    revisions
}

async fn silent(watch: &mut Watch) {
    let told = timeout(Duration::from_secs(3), watch.next()).await;
    assert!(told.is_err(), "{told:?}");
}

fn set(cell: &Cell, path: &str) {
    cell.act(|world| {
        world.set(path, "x");
    });
}

/// Spec E-1: events have kinds, paths and revisions; a watch chooses what it is told.
#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_happens() {
    let (cell, client) = connected().await;
    set(&cell, "/before");
    let mut node = client.watch("/a").await.unwrap();
    assert_eq!(node.begun_at(), 1);
    let mut tree = client.watch("/a").subtree().kinds([EventKind::Created]).await.unwrap();
    for path in ["/a", "/a/b", "/ab", "/a"] {
        set(&cell, path);
    }
    cell.act(|world| world.delete("/a"));
    let mut told = Vec::new();
    for _ in 0..3 {
        let WatchEvent::Happened(event) = next(&mut node).await else { panic!("a gap") };
        told.push((event.revision, event.change.clone()));
    }
    assert!(matches!(told[0], (2, Change::Created { .. })), "{told:?}");
    assert_eq!(told[1..], [(5, Change::ContentsModified { generation: 2 }), (6, Change::Deleted)]);
    assert_eq!(revisions(&mut tree, 2).await, [2, 3]);
    silent(&mut node).await;
    drop(node);
    sleep(Duration::from_millis(10)).await;
    set(&cell, "/a");
    assert_eq!(revisions(&mut tree, 1).await, [7]);
}

/// Spec E-3: a watch goes on where it stopped, over connections and sessions: none twice, none missed, in order.
#[tokio::test(start_paused = true)]
async fn a_watch_resumes() {
    let (cell, client) = connected().await;
    set(&cell, "/");
    let mut watch = client.watch("/").subtree().await.unwrap();
    for round in 0..20_u64 {
        set(&cell, "/a");
        match round % 4 {
            0 => cell.network.cut("replica-1:1"),
            1 => cell.network.cut("replica-2:1"),
            2 => {
                cell.kill(1);
                cell.kill(2);
                set(&cell, "/b");
                sleep(Duration::from_millis(100)).await;
                cell.start_replica(1).await;
                cell.start_replica(2).await;
            }
            _ => {
                cell.expire_sessions();
                cell.network.cut("replica-1:1");
                cell.network.cut("replica-2:1");
            }
        }
        set(&cell, "/c");
        sleep(Duration::from_millis(300 * round)).await;
    }
    assert_eq!(revisions(&mut watch, 45).await, (2..=46).collect::<Vec<_>>());
    silent(&mut watch).await;
    assert!(client.session().unwrap().session > 4, "sessions did end");
}

/// Spec E-3: the events of one revision may come in parts; the part that was told is not told again.
#[tokio::test(start_paused = true)]
async fn a_revision_told_by_half_is_finished() {
    let (cell, client) = connected().await;
    let mut watch = client.watch("/").subtree().await.unwrap();
    set(&cell, "/a");
    assert_eq!(revisions(&mut watch, 1).await, [1]);
    cell.state().mute = true;
    cell.act(|world| {
        let event = |path: &str| v1::Event { revision: 2, path: path.into(), kind: 1, ..Default::default() };
        world.events.extend(["/p", "/p/q", "/p/q/r"].map(event));
        world.revision = 2;
    });
    let mut events = cell.state().world.events[1..3].to_vec();
    events.iter_mut().for_each(|event| event.watches = vec![1]);
    cell.tell(1, &v1::SessionReply { events, ..Default::default() });
    sleep(Duration::from_millis(10)).await;
    cell.network.cut("replica-1:1");
    sleep(Duration::from_secs(1)).await;
    cell.unmute();
    let mut paths = Vec::new();
    for _ in 0..3 {
        let WatchEvent::Happened(event) = next(&mut watch).await else { panic!("a gap") };
        paths.push(event.path.clone());
    }
    assert_eq!(paths, ["/p", "/p/q", "/p/q/r"]);
    silent(&mut watch).await;
}

/// Spec E-3: past the kept history there is an explicit gap, and then what comes after it.
#[tokio::test(start_paused = true)]
async fn what_is_not_kept_is_a_gap() {
    let (cell, client) = connected().await;
    let mut watch = client.watch("/a").await.unwrap();
    set(&cell, "/a");
    assert_eq!(revisions(&mut watch, 1).await, [1]);
    cell.kill(1);
    cell.kill(2);
    for _ in 0..9 {
        set(&cell, "/a");
    }
    cell.state().world.kept_after = 8;
    cell.start_replica(2).await;
    assert_eq!(next(&mut watch).await, WatchEvent::Gap { resume: 8 });
    assert_eq!(revisions(&mut watch, 2).await, [9, 10]);
    let mut late = client.watch("/a").after_revision(3).await.unwrap();
    assert_eq!((late.begun_at(), next(&mut late).await), (8, WatchEvent::Gap { resume: 8 }));
    assert_eq!(revisions(&mut late, 2).await, [9, 10]);
    let mut kept = client.watch("/a").after_revision(9).await.unwrap();
    assert_eq!((kept.begun_at(), revisions(&mut kept, 1).await), (9, vec![10]));
}

/// Spec E-3: begun before the cell had any revision, a watch goes on with the first one.
#[tokio::test(start_paused = true)]
async fn a_watch_of_an_empty_cell_misses_nothing() {
    let (cell, client) = connected().await;
    let mut watch = client.watch("/a").await.unwrap();
    assert_eq!(watch.begun_at(), 0);
    cell.network.cut("replica-1:1");
    sleep(Duration::from_secs(1)).await;
    silent(&mut watch).await;
    cell.kill(1);
    cell.kill(2);
    set(&cell, "/a");
    cell.start_replica(1).await;
    set(&cell, "/a");
    assert_eq!(revisions(&mut watch, 2).await, [1, 2]);
}

/// Spec E-4: a reader that doesn't read is told that it lagged, and costs nobody else anything.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_lags_alone() {
    let (cell, client) = connected().await;
    let mut slow = client.watch("/a").buffer(10).await.unwrap();
    let mut fast = client.watch("/a").buffer(10).await.unwrap();
    for revision in 1..=1000 {
        set(&cell, "/a");
        assert_eq!(revisions(&mut fast, 1).await, [revision]);
    }
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
    assert_eq!(revisions(&mut slow, 10).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(next(&mut slow).await, WatchEvent::Gap { resume: 1000 });
    set(&cell, "/a");
    assert_eq!(revisions(&mut slow, 1).await, [1001], "and it goes on");
}

/// Spec E-4: a cell that left events out says so, in the middle of a stream.
#[tokio::test(start_paused = true)]
async fn a_cell_that_lagged_is_passed_on() {
    let (cell, client) = connected().await;
    let mut watch = client.watch("/a").await.unwrap();
    let lagged = v1::WatchState { number: 1, revision: 40, gap: true, failure: None };
    let event = |revision| v1::Event {
        revision,
        path: "/a".into(),
        kind: 2,
        watches: vec![1, 77],
        ..Default::default()
    };
    let reply =
        v1::SessionReply { events: vec![event(40), event(41)], watches: vec![lagged], ..Default::default() };
    cell.tell(1, &reply);
    assert_eq!(next(&mut watch).await, WatchEvent::Gap { resume: 40 });
    assert_eq!(revisions(&mut watch, 1).await, [41], "what came before the gap's end is not told");
}

/// Spec E-4: many watches share the event, and are begun again in few messages.
#[tokio::test(start_paused = true)]
async fn a_thousand_watches_are_cheap() {
    let (cell, client) = connected().await;
    let mut watches = Vec::new();
    for _ in 0..1000 {
        watches.push(client.watch("/a").await.unwrap());
    }
    cell.state().world.watch_messages = 0;
    cell.network.cut("replica-1:1");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cell.state().world.watch_messages, 2, "500 in a message");
    set(&cell, "/a");
    let mut told = Vec::new();
    for watch in &mut watches {
        match next(watch).await {
            WatchEvent::Happened(event) => told.push(event),
            other => panic!("{other:?}"),
        }
    }
    assert!(told.iter().all(|event| std::sync::Arc::ptr_eq(event, &told[0])), "one event for all");
}

/// A watch that the cell refuses ends with its word, at its beginning or later; one for which it has no time is tried again.
#[tokio::test(start_paused = true)]
async fn a_refused_watch_ends() {
    let (cell, client) = connected().await;
    let mut watch = client.watch("/a").await.unwrap();
    let say = |number, code, words| {
        let state = v1::WatchState { number, failure: Some(failure(code, words)), ..Default::default() };
        cell.tell(1, &v1::SessionReply { watches: vec![state], ..Default::default() });
    };
    say(1, Code::Unavailable, "not now");
    let before = cell.state().world.watch_messages;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cell.state().world.watch_messages, before + 1, "tried again");
    set(&cell, "/a");
    assert_eq!(revisions(&mut watch, 1).await, [1]);
    say(1, Code::PermissionDenied, "not for you");
    for _ in 0..2 {
        let error = timeout(Duration::from_secs(1), watch.next()).await.unwrap().unwrap_err();
        assert_eq!(error, Error::PermissionDenied { message: "not for you".into() });
    }
    let mut open = client.watch("/a").await.unwrap();
    let other = client.clone();
    client.close().await;
    assert!(matches!(open.next().await.unwrap_err(), Error::Closed { .. }));
    assert!(matches!(other.watch("/a").await.unwrap_err(), Error::Closed { .. }));
}

/// Nothing waits for ever: a watch that doesn't begin ends at the client's deadline, and is forgotten.
#[tokio::test(start_paused = true)]
async fn a_watch_begins_in_time_or_not_at_all() {
    let (cell, client) = connected().await;
    cell.kill(1);
    cell.kill(2);
    let error = client.watch("/a").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: false, .. }), "{error:?}");
    cell.start_replica(1).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cell.state().world.watch_messages, 0);
}
