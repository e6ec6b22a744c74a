//! Tests of the hub alone: events that nobody applied are pushed, and followers are told of them.

mod model;

use std::time::Duration;

use bramah_machine::{Change, HandleId, NodeKind, Path};
use tokio::time::timeout;

use super::*;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn path(text: &str) -> Path {
    Path::parse(text).expect("a good path")
}

pub(super) fn event(revision: u64, at: &str, change: Change) -> Event {
    Event { revision, path: path(at), change }
}

/// A change of contents.
fn written(revision: u64, at: &str) -> Event {
    event(revision, at, Change::ContentsModified { generation: revision })
}

/// After revision 0: from now on.
fn interest(number: u64, at: &str, after: u64) -> Interest {
    let after = (after > 0).then_some(after);
    Interest { number, path: path(at), subtree: false, kinds: Kinds::OF_THE_NODE, after }
}

fn subtree(number: u64, at: &str, after: u64) -> Interest {
    Interest { subtree: true, ..interest(number, at, after) }
}

/// A hub whose dispatch task runs.
struct Replica {
    hub: Arc<Hub>,
    applied: watch::Sender<u64>,
}

impl Replica {
    fn start(bounds: Bounds, revision: u64) -> Self {
        let (hub, applied) = (Hub::new(bounds, revision), watch::Sender::new(0));
        tokio::spawn(Arc::clone(&hub).dispatch(applied.subscribe()));
        Self { hub, applied }
    }

    fn apply(&self, events: Vec<Event>) {
        self.hub.push(events);
        self.applied.send_modify(|index| *index += 1);
    }

    fn write(&self, revisions: std::ops::RangeInclusive<u64>, at: &str) {
        revisions.for_each(|revision| self.apply(vec![written(revision, at)]));
    }
}

async fn next(follower: &mut Follower, most: usize) -> Told {
    timeout(LIMIT, follower.next(most)).await.expect("something comes")
}

/// Everything up to a revision, each event's revision with its watches.
async fn until(follower: &mut Follower, revision: u64) -> Vec<(u64, Vec<u64>)> {
    let mut all = Vec::new();
    while all.last().is_none_or(|(last, _)| *last < revision) {
        let told = next(follower, 100).await;
        assert!(told.lagged.is_empty() && !told.own_lagged, "{told:?}");
        all.extend(told.events.into_iter().map(|delivery| (delivery.event.revision, delivery.watches)));
    }
    all
}

async fn seen(follower: &Follower, revision: u64) {
    let seen = async {
        while follower.seen() < revision {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, seen).await.expect("it is seen");
}

/// Spec E-1, E-4: a watch is told of its node, or of all that is below it too, and of the kinds that it wants; the same
/// event is told once, with the numbers of all watches that it is for.
#[tokio::test]
async fn each_watch_is_told_what_it_wants() {
    let replica = Replica::start(Bounds::default(), 10);
    let mut follower = replica.hub.follow(SessionId(1));
    for interest in [interest(1, "/a", 0), subtree(2, "/a", 0), subtree(3, "/", 0), interest(4, "/a/b", 0)] {
        assert_eq!(follower.watch(interest), Ok(Begun { revision: 10, gap: false }));
    }
    follower.watch(Interest { kinds: Kinds::DELETED, ..subtree(5, "/a", 0) }).expect("there is room");
    replica.apply(vec![
        event(11, "/a", Change::Created { kind: NodeKind::Directory }),
        event(11, "/a/b", Change::Created { kind: NodeKind::File }),
    ]);
    replica.apply(vec![written(12, "/ab"), event(13, "/a/b", Change::LockWanted { shared: false })]);
    replica.apply(vec![event(14, "/a/b", Change::Deleted)]);
    let expected = [(11, vec![1, 2, 3]), (11, vec![2, 3, 4]), (12, vec![3]), (14, vec![2, 3, 4, 5])].to_vec();
    assert_eq!(until(&mut follower, 14).await, expected);
    assert_eq!(follower.seen(), 14);

    follower.unwatch(3);
    follower.unwatch(99);
    replica.apply(vec![written(15, "/c"), written(16, "/a")]);
    assert_eq!(until(&mut follower, 16).await, [(16, vec![1, 2])]);
}

/// Spec E-1: a session is told what becomes of its handles, without a watch, and nobody else is. What its own calls did
/// is in their answers.
#[tokio::test]
async fn a_session_is_told_of_its_own_handles() {
    let replica = Replica::start(Bounds::default(), 1);
    let mut mine = replica.hub.follow(SessionId(1));
    let mut other = replica.hub.follow(SessionId(2));
    other.watch(Interest { kinds: Kinds::LOCK_LOST, ..interest(7, "/l", 0) }).expect("there is room");
    let (session, handle) = (SessionId(1), HandleId(5));
    let changes = [
        Change::LockAcquired { session, handle, generation: 1, shared: false, waited: true },
        Change::LockReleased { session, handle },
        Change::LockLost { session, handle },
        Change::HandleClosed { session, handle },
        Change::LockAcquired { session: SessionId(3), handle, generation: 2, shared: false, waited: true },
        Change::LockAcquired { session, handle, generation: 3, shared: false, waited: false },
    ];
    let events = (2..).zip(changes).map(|(revision, change)| event(revision, "/l", change));
    replica.apply(events.collect());
    let told = next(&mut mine, 100).await;
    let own: Vec<_> = told.events.iter().map(|d| (d.event.revision, d.watches.len(), d.own)).collect();
    assert_eq!(own, [(2, 0, true), (4, 0, true), (5, 0, true)]);
    let told = next(&mut other, 100).await;
    assert_eq!(told.events.len(), 1);
    assert_eq!((told.events[0].watches.as_slice(), told.events[0].own), (&[7][..], false));
    seen(&mine, 7).await;
}

/// Spec E-4: many watches of one session on one node cost one place in its inbox.
#[tokio::test]
async fn watches_of_one_session_share_a_place() {
    let replica = Replica::start(Bounds { inbox: 4, ..Bounds::default() }, 1);
    let mut follower = replica.hub.follow(SessionId(1));
    for number in 1..=1_000 {
        follower.watch(interest(number, "/f", 0)).expect("there is room");
    }
    replica.write(2..=4, "/f");
    seen_by_dispatch(&replica, 4).await;
    let told = next(&mut follower, 10).await;
    assert_eq!(told.events.len(), 3);
    assert!(told.events.iter().all(|delivery| delivery.watches == Vec::from_iter(1..=1_000)));
    assert_eq!(told.revision, 4);
}

async fn seen_by_dispatch(replica: &Replica, revision: u64) {
    seen(&replica.hub.follow(SessionId(u64::MAX)), revision).await;
    let handed_out = async {
        while replica.hub.handed_out_revision.load(Ordering::Acquire) < revision {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, handed_out).await.expect("it is handed out");
}

/// Spec E-3: a revision that was told is one to resume after, also while it is still being handed out to others.
#[test]
fn what_was_told_is_resumed_after_at_once() {
    let hub = Hub::new(Bounds::default(), 1);
    let follower = hub.follow(SessionId(1));
    follower.watch(interest(1, "/f", 0)).expect("there is room");
    let event = written(2, "/f");
    hub.push(vec![event.clone()]);
    let mut found = Vec::new();
    hub.index.read().find(&event, &mut found);
    found.pop().expect("it is wanted").offer(0, &event, &mut None, 10);
    let told = follower.take(10).expect("it was offered");
    assert_eq!((told.events.len(), told.revision, follower.seen()), (1, 2, 2));
}

/// Spec E-3: who resumes at another follower, or another replica, misses nothing and hears nothing twice, whatever is
/// going on there; the replica may be behind.
#[tokio::test]
async fn a_watch_resumes_where_it_stopped() {
    let (here, there) = (Replica::start(Bounds::default(), 0), Replica::start(Bounds::default(), 0));
    let mut first = here.hub.follow(SessionId(1));
    first.watch(subtree(1, "/", 0)).expect("there is room");
    here.write(1..=50, "/f");
    there.write(1..=20, "/f");
    let told = next(&mut first, 30).await;
    let stopped = told.revision;
    assert_eq!(told.events.last().map(|delivery| delivery.event.revision), Some(stopped));
    drop(first);

    let mut again = here.hub.follow(SessionId(1));
    again.watch(interest(2, "/f", 0)).expect("there is room");
    here.write(51..=60, "/f");
    seen_by_dispatch(&here, 60).await;
    assert_eq!(again.watch(subtree(1, "/", stopped)), Ok(Begun { revision: stopped, gap: false }));
    let expected = |revision| (revision, if revision <= 50 { vec![1] } else { vec![1, 2] });
    assert_eq!(until(&mut again, 60).await, Vec::from_iter((stopped + 1..=60).map(expected)));
    assert_eq!(again.seen(), 60);

    let mut behind = there.hub.follow(SessionId(1));
    assert_eq!(behind.watch(subtree(1, "/", 60)), Ok(Begun { revision: 60, gap: false }));
    there.write(21..=62, "/f");
    assert_eq!(until(&mut behind, 62).await, [(61, vec![1]), (62, vec![1])]);
}

/// Spec E-3: past the kept history there is an explicit gap, and after a snapshot too.
#[tokio::test]
async fn what_is_not_kept_is_a_gap() {
    let replica = Replica::start(Bounds { events: 10, ..Bounds::default() }, 100);
    let mut follower = replica.hub.follow(SessionId(1));
    assert_eq!(follower.watch(interest(1, "/f", 99)), Ok(Begun { revision: 100, gap: true }));
    for first in [101, 111, 121] {
        replica.write(first..=first + 9, "/f");
        let told = until(&mut follower, first + 9).await;
        assert_eq!(told, Vec::from_iter((first..=first + 9).map(|revision| (revision, vec![1]))));
    }
    assert_eq!(follower.watch(interest(2, "/f", 119)), Ok(Begun { revision: 130, gap: true }));
    assert_eq!(follower.watch(interest(3, "/f", 120)), Ok(Begun { revision: 120, gap: false }));
    assert_eq!(
        until(&mut follower, 130).await,
        Vec::from_iter((121..=130).map(|revision| (revision, vec![3])))
    );

    replica.hub.begin_anew(200);
    replica.applied.send_modify(|index| *index += 1);
    let told = next(&mut follower, 10).await;
    assert_eq!((told.lagged, told.own_lagged), (vec![(1, 200), (2, 200), (3, 200)], true));
    assert_eq!(follower.watch(interest(4, "/f", 130)), Ok(Begun { revision: 200, gap: true }));
    replica.write(201..=201, "/f");
    assert_eq!(until(&mut follower, 201).await, [(201, vec![1, 2, 3, 4])]);
}

/// Spec E-4: who stops reading while 100,000 changes happen is told *lagged, resume at R*, whatever it watches; the
/// memory for it is bounded, and others are told everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_falls_behind_alone() {
    const CHANGES: u64 = 100_000;
    let replica = Replica::start(Bounds::default(), 0);
    let mut slow = replica.hub.follow(SessionId(1));
    let mut quick = replica.hub.follow(SessionId(2));
    let mut quiet = replica.hub.follow(SessionId(3));
    slow.watch(subtree(1, "/", 0)).expect("there is room");
    slow.watch(interest(2, "/quiet", 0)).expect("there is room");
    quick.watch(subtree(1, "/", 0)).expect("there is room");
    quiet.watch(interest(1, "/quiet", 0)).expect("there is room");
    for round in 0..CHANGES / 1_000 {
        let revisions = round * 1_000 + 1..=round * 1_000 + 999;
        replica.apply(revisions.map(|revision| written(revision, "/hot")).collect());
        replica.apply(vec![written(round * 1_000 + 1_000, "/quiet")]);
        let told = until(&mut quick, round * 1_000 + 1_000).await;
        let first = round * 1_000 + 1;
        assert_eq!(told, Vec::from_iter((first..first + 1_000).map(|revision| (revision, vec![1]))));
        assert_eq!(until(&mut quiet, round * 1_000 + 1_000).await.len(), 1);
        assert!(slow.waiting() <= replica.hub.bounds.inbox);
        let (events, bytes) = replica.hub.ring.lock().kept();
        assert!(events <= replica.hub.bounds.events && bytes <= replica.hub.bounds.bytes);
    }
    let (mut told, mut lagged) = (Vec::new(), Vec::new());
    while lagged.is_empty() {
        let now = next(&mut slow, 1_000).await;
        told.extend(now.events.into_iter().map(|delivery| delivery.event.revision));
        lagged = now.lagged;
    }
    assert_eq!(told, Vec::from_iter(1..=replica.hub.bounds.inbox as u64), "what waited comes first");
    assert_eq!(lagged, [(1, CHANGES), (2, CHANGES)]);
    replica.write(CHANGES + 1..=CHANGES + 1, "/quiet");
    assert_eq!(until(&mut slow, CHANGES + 1).await, [(CHANGES + 1, vec![1, 2])]);
    assert_eq!(slow.seen(), CHANGES + 1);
}

/// Spec E-4: a follower that fell behind by less than is kept loses nothing.
#[tokio::test]
async fn who_is_behind_catches_up() {
    let replica = Replica::start(Bounds { inbox: 2, ..Bounds::default() }, 0);
    let mut follower = replica.hub.follow(SessionId(1));
    follower.watch(subtree(1, "/", 0)).expect("there is room");
    replica.write(1..=5_000, "/f");
    seen_by_dispatch(&replica, 5_000).await;
    assert_eq!(follower.waiting(), 2);
    let told = next(&mut follower, 7).await;
    assert_eq!((told.events.len(), told.revision), (7, 7));
    let told = until(&mut follower, 5_000).await;
    assert_eq!(told, Vec::from_iter((8..=5_000).map(|revision| (revision, vec![1]))));
    replica.write(5_001..=5_001, "/f");
    assert_eq!(until(&mut follower, 5_001).await.len(), 1);
}

/// Every queue has a bound: so have watches.
#[tokio::test]
async fn watches_are_bounded() {
    let hub = Hub::new(Bounds::default(), 0);
    let follower = hub.follow(SessionId(1));
    for number in 0..MAX_WATCHES_OF_ONE as u64 {
        follower.watch(interest(number, "/f", 0)).expect("there is room");
    }
    let refusal = TooManyWatches { watches: MAX_WATCHES_OF_ONE, own: true };
    assert_eq!(follower.watch(interest(1 << 20, "/f", 0)), Err(refusal));
    follower.watch(interest(5, "/g", 0)).expect("it takes the place of another one");
    hub.watches.store(MAX_WATCHES, Ordering::Relaxed);
    let other = hub.follow(SessionId(2));
    let refusal = TooManyWatches { watches: MAX_WATCHES, own: false };
    assert_eq!(other.watch(interest(1, "/f", 0)), Err(refusal));
    hub.watches.store(MAX_WATCHES_OF_ONE, Ordering::Relaxed);
    drop((follower, other));
    assert_eq!(hub.watches.load(Ordering::Relaxed), 0);
    let index = hub.index.read();
    assert!(
        index.exact.is_empty()
            && index.subtree.is_empty()
            && index.sessions.is_empty()
            && index.all.is_empty()
    );
}

/// Nothing is left out silently for whoever wants all events.
#[tokio::test]
async fn a_stream_of_all_events_says_when_it_lagged() {
    let replica = Replica::start(Bounds { events: 10, ..Bounds::default() }, 0);
    let mut stream = replica.hub.stream(replica.applied.subscribe());
    replica.write(1..=3, "/f");
    assert_eq!(stream.recv().await.expect("nothing is left out")[0].revision, 1);
    replica.write(4..=20, "/f");
    assert_eq!(stream.recv().await, Err(RecvError::Lagged(9)));
    for revision in 11..=20 {
        assert_eq!(stream.recv().await.expect("these are kept")[0].revision, revision);
    }
    let Replica { applied, .. } = replica;
    drop(applied);
    assert_eq!(stream.recv().await, Err(RecvError::Closed));
}

/// Spec E-3: with everything running at once, too, a client that reconnects again and again is told each change once,
/// in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_threads() {
    const CHANGES: u64 = 20_000;
    let replica = Replica::start(Bounds { inbox: 8, ..Bounds::default() }, 0);
    let hub = Arc::clone(&replica.hub);
    let clients = (0..4_u64).map(|client| {
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let (mut told, mut turn) = (0, client);
            while told < CHANGES {
                let mut follower = hub.follow(SessionId(client));
                follower.watch(interest(1, "/elsewhere", 0)).expect("there is room");
                // 0 would mean: from now on.
                let after = told.max(1);
                assert_eq!(follower.watch(subtree(2, "/", after)), Ok(Begun { revision: after, gap: false }));
                told = after;
                turn += 1;
                for _ in 0..turn % 7 {
                    if told == CHANGES {
                        break;
                    }
                    let now = next(&mut follower, 1 + turn as usize * 13 % 300).await;
                    assert!(now.lagged.is_empty(), "{:?}", now.lagged);
                    for delivery in now.events {
                        assert_eq!(delivery.event.revision, told + 1);
                        told += 1;
                    }
                    // Who hands out says so a little later than it does.
                    let said = async {
                        while follower.seen() < told {
                            tokio::task::yield_now().await;
                        }
                    };
                    timeout(LIMIT, said).await.expect("in time");
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for revision in 1..=CHANGES {
        replica.write(revision..=revision, "/f");
        if revision % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for client in clients {
        timeout(LIMIT, client).await.expect("in time").expect("no client panics");
    }
}
