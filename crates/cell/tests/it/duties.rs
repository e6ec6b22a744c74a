//! What the leader does in nobody's name: lock-delays end, handles are closed that ACLs don't allow any more, and no
//! deposed leader ends a session.

use std::time::Duration;

use bramah_cell::{Cell, Follower, Tuning};
use bramah_machine::{
    AclNames, Acquire, Answer, Change, Command, Creation, ExpireSession, HandleId, Identity, Mode, NodeKind,
    OpenNode, OpenSession, Outcome, Principal, Refusal, Request, SessionId, SetAcl, SetContents,
};
use tokio::time::{Instant, timeout};

use crate::trio::{LIMIT, Trio, path};

/// One client: its session, and the numbers of its commands.
struct Client {
    session: SessionId,
    number: u64,
}

async fn propose(cell: &Cell, identity: Identity, command: Command) -> Outcome {
    cell.propose(&Request { identity, command }, Instant::now() + LIMIT).await.expect("a majority runs")
}

impl Client {
    async fn open(cell: &Cell, name: &str, lease_ms: u32) -> Client {
        let principal = Principal::named(name).expect("a good name");
        let identity = Identity::sessionless(principal, Some(name.into()));
        let open = OpenSession { lease_ms, client: name.to_owned(), secret: [3; 16] };
        match propose(cell, identity, Command::OpenSession(open)).await {
            Ok(Answer::SessionOpened { session, .. }) => Client { session, number: 0 },
            other => panic!("a session opens: {other:?}"),
        }
    }

    async fn call(&mut self, cell: &Cell, command: Command) -> Outcome {
        self.number += 1;
        let identity =
            Identity::Session { session: self.session, number: self.number, confirmed: self.number - 1 };
        propose(cell, identity, command).await
    }

    async fn open_node(&mut self, cell: &Cell, at: &str, lock_delay_ms: u32) -> HandleId {
        let creation = Creation {
            must: false,
            kind: NodeKind::File,
            ephemeral: false,
            contents: Vec::new().into(),
            acl: None,
            parents: true,
        };
        let mode = Mode { read: true, write: true, change_acl: false };
        let open = OpenNode { path: path(at), mode, create: Some(creation), lock_delay_ms, within: None };
        match self.call(cell, Command::OpenNode(open)).await {
            Ok(Answer::NodeOpened { handle, .. }) => handle,
            other => panic!("a node opens: {other:?}"),
        }
    }

    async fn acquire(&mut self, cell: &Cell, handle: HandleId) -> Outcome {
        self.call(cell, Command::Acquire(Acquire { handle, shared: false, wait: true })).await
    }
}

/// Follows a session at a replica that hands events out.
fn follow(cell: &Cell, session: SessionId) -> Follower {
    tokio::spawn(cell.dispatch_events());
    cell.follow(session)
}

/// Waits for a change that the session is told of.
async fn told(follower: &mut Follower, wanted: impl Fn(&Change) -> bool) -> Instant {
    loop {
        let told = timeout(LIMIT, follower.next(100)).await.expect("it is told in time");
        assert!(!told.own_lagged);
        if told.events.iter().any(|delivery| delivery.own && wanted(&delivery.event.change)) {
            return Instant::now();
        }
    }
}

fn acquired(change: &Change) -> bool {
    matches!(change, Change::LockAcquired { .. })
}

/// Spec L-5: a lock-delay ends by itself, after a change of leader too, and the next in the queue is told at its replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_delays_end_by_themselves() {
    let mut trio = Trio::start(Tuning::default()).await;
    for (round, lock_delay_ms) in [1_u32, 700, 3_000].into_iter().enumerate() {
        let cell = trio.cell(trio.follower_id().await).clone();
        let mut holder = Client::open(&cell, &format!("holder {round}"), 1_000).await;
        let mut waiter = Client::open(&cell, &format!("waiter {round}"), 60_000).await;
        let mut events = follow(&cell, waiter.session);
        let node = format!("/lock-{round}");
        let (held, waiting) =
            (holder.open_node(&cell, &node, lock_delay_ms).await, waiter.open_node(&cell, &node, 0).await);
        assert!(matches!(holder.acquire(&cell, held).await, Ok(Answer::LockAcquired { .. })));
        assert!(matches!(waiter.acquire(&cell, waiting).await, Ok(Answer::LockWaiting { .. })));
        let deadline = Instant::now() + LIMIT;
        while cell.read(|state| state.session(holder.session).is_some()) {
            assert!(Instant::now() < deadline, "the silent session does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let died = Instant::now();
        if lock_delay_ms == 3_000 {
            let leader = trio.leader_id().await;
            trio.kill(leader).await;
        }
        let delay = told(&mut events, acquired).await - died;
        // It was seen up to some milliseconds late that the session is over.
        let least = Duration::from_millis(u64::from(lock_delay_ms).saturating_sub(300));
        assert!(delay >= least, "after {delay:?} instead of {lock_delay_ms} ms");
        assert!(delay < Duration::from_millis(lock_delay_ms.into()) + Duration::from_secs(5), "{delay:?}");
    }
}

async fn write_acl(cell: &Cell, name: &str, lines: &str) {
    let (path, contents) = (path(&format!("/acl/{name}")), lines.as_bytes().to_vec().into());
    let write = SetContents { path, contents, if_generation: None, parents: true };
    propose(cell, Identity::Anonymous, Command::SetContents(write)).await.expect("it is written");
}

async fn set_acl(cell: &Cell, at: &str, write: &str) {
    let names = AclNames { write: write.into(), ..AclNames::default() };
    let set = SetAcl { path: path(at), names, if_generation: None };
    propose(cell, Identity::Anonymous, Command::SetAcl(set)).await.expect("it is set");
}

/// Spec A-3: handles that an ACL does not allow any more are closed soon, those of others stay; whether the node's ACL
/// names changed or who is in one, and also if the leader died right after the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_are_closed_that_are_not_allowed_any_more() {
    let mut trio = Trio::start(Tuning::default()).await;
    let cell = trio.cell(trio.follower_id().await).clone();
    let mut ann = Client::open(&cell, "ann", 60_000).await;
    let mut bob = Client::open(&cell, "bob", 60_000).await;
    write_acl(&cell, "both", "ann\nbob\n").await;
    write_acl(&cell, "ann", "ann\n").await;
    let mut handles = Vec::new();
    for node in ["/by-names", "/by-lines", "/by-successor"] {
        handles.push((ann.open_node(&cell, node, 0).await, bob.open_node(&cell, node, 0).await));
        set_acl(&cell, node, "both").await;
    }
    let mut events = follow(&cell, bob.session);
    let closed = |wanted: HandleId| move |change: &Change| matches!(change, Change::HandleClosed { handle, .. } if *handle == wanted);
    set_acl(&cell, "/by-names", "ann").await;
    told(&mut events, closed(handles[0].1)).await;
    assert!(cell.read(|state| state.handle(bob.session, handles[1].1).is_some()));

    write_acl(&cell, "lines", "ann\nbob\n").await;
    set_acl(&cell, "/by-lines", "lines").await;
    write_acl(&cell, "lines", "ann\n").await;
    told(&mut events, closed(handles[1].1)).await;

    let leader = trio.leader_id().await;
    set_acl(&cell, "/by-successor", "ann").await;
    trio.kill(leader).await;
    told(&mut events, closed(handles[2].1)).await;
    for (anns, _) in handles {
        assert!(cell.read(|state| state.handle(ann.session, anns).is_some()), "hers stay");
    }
}

/// Spec S-8: the end of a session that a deposed leader proposes is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_ends_no_session() {
    let mut trio = Trio::start(Tuning::default()).await;
    let before = trio.leader().await;
    let client = Client::open(trio.cell(1), "ann", 60_000).await;
    trio.kill(before.leader.expect("there is a leader").0).await;
    let after = trio.leader().await;
    assert!(after.term > before.term);
    let cell = trio.cell(trio.follower_id().await);
    // The new leader has spoken.
    Client::open(cell, "bob", 60_000).await;
    let expire = Command::ExpireSession(ExpireSession { session: client.session, term: before.term });
    let refused = propose(cell, Identity::Anonymous, expire).await;
    let refusal = Refusal::Deposed { session: client.session, term: before.term, newer: after.term };
    assert_eq!(refused, Err(refusal));
    let barrier = cell.barrier(vec![client.session], Instant::now() + LIMIT).await.expect("a majority runs");
    assert_eq!(
        (barrier.lapsed, barrier.granted_ms),
        (Vec::new(), 60_000),
        "spec S-2: what was granted is told"
    );
}
