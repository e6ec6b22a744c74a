//! Three replicas agree: writes and reads at any of them, leaders that die, replicas that were away.

use std::io::Write;
use std::time::Duration;

use bramah_cell::{ProposeError, Requests, StartError, Tuning};
use bramah_machine::{Answer, Change, Command, Identity, OpenSession, Request, SetContents};
use tokio::time::Instant;

use crate::trio::{LIMIT, Trio, add, hits, increment, path, small};

/// Spec G-2: what was acknowledged anywhere is seen by a read that begins later anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_linearizable_at_every_replica() {
    let trio = Trio::start(Tuning::default()).await;
    trio.leader().await;
    for round in 1..=30 {
        let writer = 1 + round % 3;
        add(trio.cell(writer), &format!("round {round}"), 1).await.expect("it is added");
        for reader in 1..=3 {
            assert_eq!(hits(trio.cell(reader)).await, round as i64, "written at {writer}, read at {reader}");
        }
    }
}

/// Spec K-3: many at once through every replica; each counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_through_all_replicas_add_up() {
    let trio = Trio::start(Tuning::default()).await;
    let mut tasks = Vec::new();
    for worker in 0..30_u64 {
        let cell = trio.cell(1 + worker % 3).clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..100 {
                add(&cell, &format!("{worker}/{i}"), 2).await.expect("it is added");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no worker panics");
    }
    assert_eq!(hits(trio.cell(2)).await, 30 * 100 * 2);
    let digests = trio.digests().await;
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

/// Spec S-6, K-2: the same command again, through another replica and after the leader died, counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_through_a_new_leader_counts_once() {
    let mut trio = Trio::start(Tuning::default()).await;
    let leader = trio.leader_id().await;
    let first = add(trio.cell(leader), "once", 5).await.expect("it is added");
    trio.kill(leader).await;
    for id in trio.running().collect::<Vec<_>>() {
        assert_eq!(add(trio.cell(id), "once", 5).await.expect("it is found again"), first);
        assert_eq!(hits(trio.cell(id)).await, 5);
    }
}

/// Spec G-1: what was acknowledged is there after all replicas died at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_all_die() {
    let mut trio = Trio::start(small()).await;
    for round in 0..3 {
        for i in 0..50 {
            add(trio.cell(1 + i % 3), &format!("{round}/{i}"), 1).await.expect("it is added");
        }
        for id in 1..=3 {
            trio.kill(id).await;
        }
        for id in 1..=3 {
            trio.start_replica(id).await.expect("a folder of this cell");
        }
        assert_eq!(hits(trio.cell(1)).await, 50 * (round + 1));
    }
}

/// Spec G-5: the log's space is bounded, and a replica that was away longer than the log reaches back is
/// brought up by a snapshot, with the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_gets_a_snapshot() {
    let mut trio = Trio::start(small()).await;
    let away = trio.follower_id().await;
    add(trio.cell(away), "before", 1).await.expect("it is added");
    trio.kill(away).await;
    let leader = trio.leader_id().await;
    for i in 0..1_500 {
        write_file(&trio, leader, i).await;
    }
    let deadline = Instant::now() + LIMIT;
    while trio.cell(leader).status().purged_index < 100 {
        assert!(Instant::now() < deadline, "the log is not purged: {:?}", trio.cell(leader).status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = trio.cell(leader).status();
    assert!(status.log_bytes <= 2 << 20, "1.5 MB were written, in segments of 128 KiB: {status:?}");
    trio.start_replica(away).await.expect("it comes back");
    let digests = trio.digests().await;
    assert_eq!(digests.len(), 3);
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    let status = trio.cell(away).status();
    assert!(status.snapshot_index >= 100, "it came by snapshot: {status:?}");
    // And its snapshot is one that it can start from.
    trio.kill(away).await;
    trio.start_replica(away).await.expect("it starts from the snapshot that it got");
    assert!(trio.digests().await.windows(2).all(|pair| pair[0] == pair[1]));
}

async fn write_file(trio: &Trio, at: u64, i: usize) {
    let command = Command::SetContents(SetContents {
        path: path(&format!("/file-{}", i % 10)),
        contents: vec![i as u8; 1_000].into(),
        if_generation: None,
        parents: false,
    });
    let request = Request { identity: Identity::Key(format!("write {i}").into_bytes()), command };
    trio.cell(at)
        .propose(&request, Instant::now() + LIMIT)
        .await
        .expect("a majority runs")
        .expect("it is written");
}

/// Spec G-6: a leader that stops in good order hands over; a replica that comes back deposes nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_not_taken() {
    let mut trio = Trio::start(Tuning::default()).await;
    let before = trio.leader().await;
    let old = before.leader.expect("there is a leader").0;
    trio.stop(old).await;
    let after = trio.leader().await;
    assert_eq!(after.term, before.term + 1, "one election, won at once by the successor");
    trio.start_replica(old).await.expect("it comes back");
    add(trio.cell(old), "from the one that came back", 1).await.expect("it is added");
    // Longer than any election timeout: it had every chance to campaign.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = trio.leader().await;
    assert_eq!((later.term, later.leader), (after.term, after.leader));
}

/// Spec G-6, and the truth in errors: without a majority a call ends at its deadline, certainly not done,
/// and says which members there should be; with one it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_calls_end_at_their_deadline() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "first", 1).await.expect("it is added");
    let left = trio.follower_id().await;
    for id in (1..=3).filter(|id| *id != left) {
        trio.kill(id).await;
    }
    // Let the follower notice: until then it may hope for the leader's answer.
    let cell = trio.cell(left).clone();
    cell.leadership().wait_for(|leadership| leadership.leader.is_none()).await.expect("the replica runs");
    let request = increment(Identity::Key(b"second".to_vec()), 1);
    let deadline = Instant::now() + Duration::from_millis(700);
    let error = cell.propose(&request, deadline).await.expect_err("nobody leads");
    assert!(matches!(error, ProposeError::NoLeader { .. }), "{error}");
    assert!(!error.may_have_been_done());
    let text = error.to_string();
    assert!(text.starts_with("unavailable: no leader") && text.contains("members 1 (127.0.0.1:"), "{text}");
    let deadline = Instant::now() + Duration::from_millis(300);
    let error = cell.barrier(Vec::new(), deadline).await.expect_err("nobody leads");
    assert!(matches!(error, ProposeError::NoLeader { .. }), "{error}");
    let again = (1..=3).find(|id| *id != left).expect("three were there");
    trio.start_replica(again).await.expect("it comes back");
    add(trio.cell(left), "third", 1).await.expect("a majority is back");
    assert_eq!(hits(trio.cell(left)).await, 2);
}

/// Spec G-6: a replica that was cut off for many election timeouts deposes nobody when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_cut_off_deposes_nobody() {
    let trio = Trio::start(Tuning::default()).await;
    let before = trio.leader().await;
    let away = trio.follower_id().await;
    trio.cable(away).pull();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let leader = before.leader.as_ref().expect("there is a leader").0;
    add(trio.cell(leader), "meanwhile", 1).await.expect("it is added");
    trio.cable(away).plug();
    assert_eq!(hits(trio.cell(away)).await, 1, "it is back");
    let after = trio.leader().await;
    assert_eq!((after.term, after.leader), (before.term, before.leader));
}

/// Spec G-6: a leader that is cut off has ceased to be one before another leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_steps_down_first() {
    let trio = Trio::start(Tuning::default()).await;
    let old = trio.leader_id().await;
    add(trio.cell(old), "before", 1).await.expect("it is added");
    trio.cable(old).pull();
    let mut others: Vec<_> = (1..=3).filter(|id| *id != old).map(|id| trio.cell(id).leadership()).collect();
    let (first, second) = others.split_at_mut(1);
    let elected = async {
        tokio::select! {
            elected = first[0].wait_for(|now| now.here) => elected.map(|_| ()),
            elected = second[0].wait_for(|now| now.here) => elected.map(|_| ()),
        }
    };
    tokio::time::timeout(LIMIT, elected).await.expect("another is elected").expect("the replicas run");
    let of_old = trio.cell(old).leadership().borrow().clone();
    assert!(!of_old.here && of_old.role != "leader", "two replicas call themselves the leader: {of_old:?}");
    trio.cable(old).plug();
    add(trio.cell(old), "after", 1).await.expect("it follows now");
    assert_eq!(hits(trio.cell(old)).await, 2);
}

/// Spec G-6, S-6: a leader that loses its majority with a call under way answers at the call's own deadline
/// that it may have been done, stops calling itself the leader, and the retry counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_tells_the_truth() {
    let mut trio = Trio::start(Tuning::default()).await;
    let leader = trio.leader_id().await;
    add(trio.cell(leader), "first", 1).await.expect("it is added");
    for id in (1..=3).filter(|id| *id != leader) {
        trio.kill(id).await;
    }
    let cell = trio.cell(leader).clone();
    let request = increment(Identity::Key(b"second".to_vec()), 1);
    let began = Instant::now();
    let error =
        cell.propose(&request, began + Duration::from_secs(1)).await.expect_err("no majority is left");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    let in_log = cell.status().last_log_index > cell.status().committed_index;
    assert!(error.may_have_been_done() || !in_log, "{error}");
    let deposed = async { cell.leadership().wait_for(|now| !now.here).await.map(|_| ()) };
    tokio::time::timeout(LIMIT, deposed).await.expect("it notices").expect("the replica runs");
    let refused = cell.propose(&request, Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader { .. })), "{refused:?}");
    for id in (1..=3).filter(|id| *id != leader) {
        trio.start_replica(id).await.expect("it comes back");
    }
    add(trio.cell(leader), "second", 1).await.expect("a majority is back");
    assert_eq!(hits(trio.cell(leader)).await, 2);
}

/// Spec S-1, S-2: a session that is heard of lives on, one that isn't ends after its lease, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_their_leases() {
    let trio = Trio::start(Tuning::default()).await;
    let opened = Instant::now();
    let mut sessions = Vec::new();
    for name in ["heard", "silent"] {
        let command =
            Command::OpenSession(OpenSession { lease_ms: 2_000, client: name.to_owned(), secret: [7; 16] });
        let request = Request { identity: Identity::Key(name.into()), command };
        let answer = trio.cell(1).propose(&request, Instant::now() + LIMIT).await.expect("a majority runs");
        let Ok(Answer::SessionOpened { session, .. }) = answer else { panic!("{answer:?}") };
        sessions.push(session);
    }
    let cell = trio.cell(trio.follower_id().await);
    loop {
        let barrier = cell.barrier(vec![sessions[0]], Instant::now() + LIMIT).await.expect("a majority runs");
        assert!(barrier.lapsed.is_empty(), "{barrier:?}");
        if cell.read(|state| state.session(sessions[1]).is_none()) {
            break;
        }
        assert!(opened.elapsed() < LIMIT, "the silent session does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(opened.elapsed() >= Duration::from_secs(2), "ended {:?} after it was opened", opened.elapsed());
    assert!(cell.read(|state| state.session(sessions[0]).is_some()));
    let barrier = cell.barrier(sessions.clone(), Instant::now() + LIMIT).await.expect("a majority runs");
    assert_eq!(barrier.lapsed, vec![sessions[1]]);
}

/// Spec E-1 in part, E-2: every replica tells of every change, in order, and whoever reads after an event sees
/// the change or a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_after_their_change_at_every_replica() {
    let trio = Trio::start(Tuning::default()).await;
    trio.leader().await;
    let listeners: Vec<_> = (1..=3).map(|id| (trio.cell(id).clone(), trio.cell(id).events())).collect();
    for i in 1..=20 {
        add(trio.cell(1 + i % 3), &format!("event {i}"), 1).await.expect("it is added");
    }
    for (cell, mut events) in listeners {
        let mut values = Vec::new();
        while values.last() != Some(&20) {
            let arrived = tokio::time::timeout(LIMIT, events.recv()).await.expect("in time").expect("no gap");
            let now = cell.read(|state| state.get_counter(&path("/hits")).map_or(0, |(value, _)| value));
            for event in arrived.iter() {
                if let Change::CounterChanged { value, .. } = event.change {
                    assert!(value <= now, "the event of {value} came while a read showed {now}");
                    values.push(value);
                }
            }
        }
        assert!(values.is_sorted(), "{values:?}");
    }
}

/// Spec G-3: requests that wait together share log entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_share_entries() {
    let trio = Trio::start(Tuning::default()).await;
    let leader = trio.leader_id().await;
    add(trio.cell(leader), "warm", 1).await.expect("it is added");
    let before = trio.cell(leader).status().last_log_index;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    for i in 0..2_000 {
        let mut requests = Requests::default();
        requests.push(&increment(Identity::Key(format!("k{i}").into_bytes()), 1)).expect("it is small");
        let sender = sender.clone();
        let done = Box::new(move |outcomes: Result<_, _>| drop(sender.send(outcomes)));
        trio.cell(leader).submit(requests, Instant::now() + LIMIT, done);
    }
    for _ in 0..2_000 {
        receiver.recv().await.expect("each is answered").expect("a majority runs");
    }
    let entries = trio.cell(leader).status().last_log_index - before;
    assert!(entries <= 200, "2,000 requests handed over at once took {entries} entries");
}

/// Spec G-11: more than the queue holds is refused at once, and certainly not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overfull_queue_refuses_at_once() {
    let trio = Trio::start(Tuning { queue_requests: 10, ..Tuning::default() }).await;
    trio.leader().await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut requests = Requests::default();
    for i in 0..11 {
        requests.push(&increment(Identity::Key(format!("k{i}").into_bytes()), 1)).expect("it is small");
    }
    trio.cell(1).submit(
        requests,
        Instant::now() + LIMIT,
        Box::new(move |outcomes| drop(sender.send(outcomes))),
    );
    let error = receiver.recv().await.expect("it is answered").expect_err("eleven do not fit");
    assert!(matches!(error, ProposeError::Overloaded { .. }), "{error}");
    assert!(!error.may_have_been_done());
    assert_eq!(hits(trio.cell(1)).await, 0);
}

/// Garbage and strangers on the peers' port disturb nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_peers_port_disturbs_nobody() {
    let trio = Trio::start(Tuning::default()).await;
    let before = trio.leader().await;
    for id in 1..=3 {
        let address = trio.cell(id).peer_address();
        for garbage in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 100_000],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ] {
            let mut stream = std::net::TcpStream::connect(address).expect("the port is open");
            // The replica may hang up while this is still being written.
            let _ = stream.write_all(&garbage);
        }
    }
    add(trio.cell(1), "after", 1).await.expect("it is added");
    assert_eq!(hits(trio.cell(3)).await, 1);
    let after = trio.leader().await;
    assert_eq!((after.term, after.leader), (before.term, before.leader));
}

/// Spec G-7: a replica of another cell finds neither a folder nor peers here, and founds nothing with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cells_folder_is_refused() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    trio.kill(1).await;
    let other = |config: &mut bramah_cell::CellConfig| config.cell = "other".to_owned();
    let error = trio.start_replica_with(1, other).await.expect_err("the folder is not that of this cell");
    assert!(matches!(error, StartError::Folder(_)), "{error}");
    // A new folder under the same name, but with other members. While the others don't answer it can't know that the
    // cell lives, so it is to found another one: they are strangers when they come.
    trio.kill(2).await;
    trio.kill(3).await;
    std::fs::rename(trio.data(1), trio.folder.path().join("away")).expect("it is nobody's now");
    let other = |config: &mut bramah_cell::CellConfig| {
        config.members[2].1.client_address = "127.0.0.1:1".to_owned();
        config.tuning.founding_wait = Duration::from_millis(100);
    };
    trio.start_replica_with(1, other).await.expect("an empty folder");
    trio.start_replica(2).await.expect("its own folder");
    trio.start_replica(3).await.expect("its own folder");
    add(trio.cell(2), "with two", 1).await.expect("it is added");
    let deadline = Instant::now() + LIMIT;
    while !trio.cell(1).status().trouble.contains("says:") {
        let status = trio.cell(1).status();
        assert!(Instant::now() < deadline, "nobody says that it is a stranger: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = trio.cell(1).status();
    assert!(status.leadership.leader.is_none() && status.committed_index == 0, "{status:?}");
    trio.kill(1).await;
    std::fs::remove_dir_all(trio.data(1)).expect("it is nobody's");
    std::fs::rename(trio.folder.path().join("away"), trio.data(1)).expect("it comes back");
    trio.start_replica(1).await.expect("its own folder");
    assert_eq!(hits(trio.cell(1)).await, 2);
}
