//! Members come, go, vote and move while the cell works (spec G-7, B-4).

use std::collections::BTreeSet;
use std::time::Duration;

use bramah_cell::{Cell, Change, ChangeError, FolderError, Member, ReplicaId, StartError, Tuning};
use tokio::time::Instant;

use crate::repair::{replace, write_much};
use crate::trio::{LIMIT, Trio, add, free_ports, hits, small};

fn ids<const COUNT: usize>(ids: [ReplicaId; COUNT]) -> BTreeSet<ReplicaId> {
    ids.into()
}

/// Waits for a leader, too: an election may take long where many tests run.
async fn change(cell: &Cell, change: Change) -> Result<(), ChangeError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match cell.change_members(change.clone(), deadline).await {
            Err(error)
                if matches!(error.cause(), ChangeError::NoLeader { .. }) && Instant::now() < deadline => {}
            ended => return ended,
        }
    }
}

async fn change_soon(cell: &Cell, change: Change) -> Result<(), ChangeError> {
    cell.change_members(change, Instant::now() + Duration::from_secs(2)).await
}

/// Starts a replica that joins, and adds it as a learner through a follower.
async fn take_in(trio: &mut Trio, id: ReplicaId) {
    let (at, member) = (trio.follower_id().await, trio.member(id));
    trio.start_replica(id).await.expect("it finds its cell");
    change(trio.cell(at), Change::Add { id, member }).await.expect("it is added");
}

fn voters(cell: &Cell) -> BTreeSet<ReplicaId> {
    cell.members().into_iter().filter(|(_, _, votes)| *votes).map(|(id, ..)| id).collect()
}

/// Waits for something that is to come by itself.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for_voters(trio: &Trio, expected: BTreeSet<ReplicaId>) {
    until(&format!("voters {expected:?}"), || trio.running().all(|id| voters(trio.cell(id)) == expected))
        .await;
}

/// The replica says that it was removed, has ended, and does not start again.
async fn assert_removed(trio: &mut Trio, id: ReplicaId) {
    tokio::time::timeout(LIMIT, trio.cell(id).failed()).await.expect("it ends by itself");
    let status = trio.cell(id).status();
    assert!(status.trouble.contains(&format!("replica {id} was removed")), "{status:?}");
    let deadline = Instant::now() + Duration::from_millis(300);
    trio.cell(id).barrier(Vec::new(), deadline).await.expect_err("it does not serve");
    trio.kill(id).await;
    let error = trio.start_replica(id).await.expect_err("it was removed");
    assert!(matches!(error, StartError::Folder(FolderError::Removed { .. })), "{error}");
}

/// Spec G-7: a learner is added, learns, votes after its promotion and counts in a majority; it may be demoted and
/// removed; each step can be repeated, and a number is never used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_joins_votes_and_leaves() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    let follower = trio.follower_id().await;
    trio.start_replica(4).await.expect("it finds its cell");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let status = trio.cell(4).status();
    assert!(status.trouble.starts_with("joining: waits to be added"), "{status:?}");
    assert!(status.trouble.contains("bramah member add 4="), "{status:?}");
    assert!(status.leadership.leader.is_none(), "{status:?}");

    let member = trio.member(4);
    let adds = || Change::Add { id: 4, member: member.clone() };
    let asked = Instant::now();
    let error = trio.cell(4).change_members(adds(), asked + LIMIT).await.expect_err("it knows no leader");
    assert!(matches!(error, ChangeError::NoLeader { .. }), "{error}");
    assert!(asked.elapsed() < LIMIT / 2, "another replica could have been asked");
    change(trio.cell(follower), adds()).await.expect("it is added");
    change(trio.cell(follower), adds()).await.expect("it is added already");
    assert_eq!(hits(trio.cell(4)).await, 1, "a learner answers reads");
    add(trio.cell(4), "through a learner", 1).await.expect("it is added");
    assert_eq!(voters(trio.cell(4)), ids([1, 2, 3]));
    until("it has joined", || trio.cell(4).status().trouble.is_empty()).await;

    for _ in 0..2 {
        change(trio.cell(4), Change::Promote { ids: ids([4]) }).await.expect("it has caught up");
        wait_for_voters(&trio, ids([1, 2, 3, 4])).await;
    }
    // Three of four are a majority with the new one, and none without it.
    let gone = trio.follower_id().await;
    trio.kill(gone).await;
    add(trio.cell(4), "with the new one", 1).await.expect("three are a majority");
    trio.start_replica(gone).await.expect("its folder is whole");

    change(trio.cell(1), Change::Demote { ids: ids([4]) }).await.expect("three stay");
    wait_for_voters(&trio, ids([1, 2, 3])).await;
    for _ in 0..2 {
        change(trio.cell(2), Change::Remove { ids: ids([4]) }).await.expect("it goes");
    }
    assert_removed(&mut trio, 4).await;
    let error = change(trio.cell(3), adds()).await.expect_err("its number was used");
    assert_eq!(error, ChangeError::Removed { id: 4 });
    // An empty folder does not make it a new replica.
    std::fs::remove_dir_all(trio.data(4)).expect("it is nobody's");
    let error = trio.start_replica(4).await.expect_err("its number was used");
    assert!(matches!(error, StartError::RemovedReplica { replica: 4 }), "{error}");
    assert_eq!(hits(trio.cell(1)).await, 3);
}

/// Spec G-7: each mistake is refused with its reason, and nothing is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_refused() {
    let mut trio = Trio::start(Tuning::default()).await;
    let (leader, follower) = (trio.leader_id().await, trio.follower_id().await);
    let other = (1..=3).find(|id| ![leader, follower].contains(id)).expect("there are three");
    let at = trio.cell(follower).clone();
    let nobody = |port: u16| Member {
        peer_address: format!("127.0.0.1:{port}"),
        client_address: format!("127.0.0.2:{port}"),
    };
    let refused = |wrong: Change| {
        let at = at.clone();
        async move { change_soon(&at, wrong).await.expect_err("it is refused") }
    };
    assert_eq!(refused(Change::Promote { ids: ids([9]) }).await, ChangeError::Unknown { id: 9 });
    assert_eq!(refused(Change::Remove { ids: ids([9]) }).await, ChangeError::Unknown { id: 9 });
    assert_eq!(refused(Change::Voters { ids: ids([]) }).await, ChangeError::NoVoterLeft);
    assert_eq!(refused(Change::Remove { ids: ids([1, 2, 3]) }).await, ChangeError::NoVoterLeft);
    assert_eq!(refused(Change::Add { id: 0, member: nobody(9) }).await, ChangeError::Zero);
    for member in [None, Some(trio.member(other))] {
        let itself = Change::Replace { old: other, new: other, member };
        assert_eq!(refused(itself).await, ChangeError::SameReplica { id: other });
    }
    let replace = Change::Replace { old: 8, new: 9, member: Some(nobody(9)) };
    assert!(matches!(refused(replace).await, ChangeError::Unknown { .. }));
    let member = trio.member(2);
    assert_eq!(
        refused(Change::Add { id: 1, member: nobody(9) }).await,
        ChangeError::Exists { id: 1, member: trio.member(1) }
    );
    let taken = ChangeError::AddressTaken { address: member.peer_address.clone(), id: 2 };
    assert_eq!(refused(Change::Add { id: 9, member: member.clone() }).await, taken);
    assert_eq!(refused(Change::SetAddress { id: 1, member }).await, taken);
    let wrong = Member { peer_address: "nowhere".to_owned(), client_address: "a:1".to_owned() };
    let error = refused(Change::Add { id: 9, member: wrong }).await;
    assert_eq!(error, ChangeError::BadAddress { address: "nowhere".to_owned() });

    // Nobody is there: it never catches up.
    change(&at, Change::Add { id: 9, member: nobody(9) }).await.expect("it is added");
    let error = refused(Change::Promote { ids: ids([9]) }).await;
    assert!(matches!(error, ChangeError::NotCaughtUp { id: 9, .. }), "{error}");
    // What was done before the refusal stays done, and is said to be.
    let replace = Change::Replace { old: other, new: 10, member: Some(nobody(10)) };
    let error = refused(replace).await;
    assert!(matches!(error.cause(), ChangeError::NotCaughtUp { id: 10, .. }), "{error}");
    assert!(error.may_have_been_done() && at.members().iter().any(|(id, ..)| *id == 10), "{error}");
    for id in 11..=14 {
        change(&at, Change::Add { id, member: nobody(id as u16) }).await.expect("there is room");
    }
    assert_eq!(refused(Change::Add { id: 15, member: nobody(15) }).await, ChangeError::TooMany);
    change(&at, Change::Remove { ids: (9..=14).collect() }).await.expect("they learn only");

    trio.kill(other).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let error = refused(Change::Demote { ids: ids([follower]) }).await;
    assert_eq!(error, ChangeError::NoLiveMajority { voters: 2, silent: ids([other]) });
    assert_eq!(voters(&at), ids([1, 2, 3]));
    trio.kill(leader).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = refused(Change::Remove { ids: ids([other]) }).await;
    assert!(matches!(error, ChangeError::NoLeader { .. }), "{error}");
}

/// Spec G-7, G-5: that a number was used is not forgotten when the log that says so is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_remembers_who_was_removed() {
    let mut trio = Trio::start(small()).await;
    let at = trio.leader_id().await;
    let add_it = Change::Add { id: 4, member: trio.member(4) };
    change(trio.cell(at), add_it.clone()).await.expect("it is added");
    change(trio.cell(at), Change::Remove { ids: ids([4]) }).await.expect("it only learns");
    let removed_at = trio.cell(at).status().last_log_index;
    write_much(trio.cell(at)).await;
    until("the log before the snapshots is gone", || {
        trio.running().all(|id| trio.cell(id).status().purged_index > removed_at)
    })
    .await;
    // One starts with a snapshot of its own, one with another one's.
    for id in 1..=3 {
        trio.kill(id).await;
    }
    std::fs::remove_dir_all(trio.data(1)).expect("it is lost");
    for id in 1..=3 {
        trio.start_replica(id).await.expect("its folder is whole, or it is repaired");
    }
    until("it is repaired", || trio.cell(1).status().trouble.is_empty()).await;
    trio.kill(2).await;
    for id in [1, 3] {
        let error = change(trio.cell(id), add_it.clone()).await.expect_err("its number was used");
        assert_eq!(error, ChangeError::Removed { id: 4 });
    }
    trio.start_replica(4).await.expect_err("whoever it asks knows");
}

/// Spec G-7: changes that are asked for at once, of all replicas, are made one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_at_a_time() {
    let trio = Trio::start(Tuning::default()).await;
    trio.leader().await;
    let member = |port: u64| Member {
        peer_address: format!("127.0.0.1:{port}"),
        client_address: format!("127.0.0.2:{port}"),
    };
    let mut changing = Vec::new();
    for id in 10..=15 {
        let at = trio.cell(1 + id % 3).clone();
        let member = member(id);
        changing.push(tokio::spawn(async move { change(&at, Change::Add { id, member }).await }));
    }
    for task in changing {
        task.await.expect("no panic").expect("each is made");
    }
    until("all are members", || trio.running().all(|id| trio.cell(id).members().len() == 9)).await;
}

/// Spec G-7: a replica that joined and died before it noted so goes on where it was, also if it votes by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_joined_and_had_not_noted_it_goes_on() {
    let mut trio = Trio::start(Tuning::default()).await;
    take_in(&mut trio, 4).await;
    until("it has joined", || trio.cell(4).status().trouble.is_empty()).await;
    change(trio.cell(1), Change::Promote { ids: ids([4]) }).await.expect("it has caught up");
    trio.kill(4).await;
    let marker = "This replica joins a cell and has caught up with nobody yet. Leave this file.\n";
    std::fs::write(trio.data(4).join("replacing"), marker).expect("as it was before");
    trio.start_replica(4).await.expect("its folder is whole");
    until("it takes part", || trio.cell(4).status().trouble.is_empty()).await;
    add(trio.cell(4), "after", 1).await.expect("all are there");
    wait_for_voters(&trio, ids([1, 2, 3, 4])).await;
}

/// Spec G-7: whoever replaces a learner is a learner; who has replaced a voter votes; asked for again it stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_the_part_of_the_one_it_replaces() {
    let mut trio = Trio::start(Tuning::default()).await;
    take_in(&mut trio, 4).await;
    let at = trio.follower_id().await;
    trio.start_replica(5).await.expect("it finds its cell");
    let member = Some(trio.member(5));
    for _ in 0..2 {
        let replacing = Change::Replace { old: 4, new: 5, member: member.clone() };
        change(trio.cell(at), replacing).await.expect("it learns");
        wait_for_voters(&trio, ids([1, 2, 3])).await;
        assert_eq!(trio.cell(at).members().len(), 4);
    }
    assert_removed(&mut trio, 4).await;
    let leader = trio.leader_id().await;
    for _ in 0..2 {
        let replacing = Change::Replace { old: leader, new: 5, member: None };
        change(trio.cell(5), replacing).await.expect("it has caught up");
        wait_for_voters(&trio, &(&ids([1, 2, 3]) - &ids([leader])) | &ids([5])).await;
    }
    assert_removed(&mut trio, leader).await;
    // That the one which is to be replaced is gone is what is wrong here.
    let replacing = Change::Replace { old: leader, new: 6, member: Some(trio.member(6)) };
    let error = change(trio.cell(5), replacing).await.expect_err("there is nobody to replace");
    assert_eq!(error, ChangeError::Removed { id: leader });
}

/// Spec G-7: a learner that comes back with an empty folder votes afterwards only if there is room for its vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_taken_in_again_is_not_one_too_many() {
    let mut trio = Trio::start(Tuning::default()).await;
    for id in 4..=8 {
        take_in(&mut trio, id).await;
    }
    change(trio.cell(1), Change::Voters { ids: (1..=7).collect() }).await.expect("they have caught up");
    wait_for_voters(&trio, (1..=7).collect()).await;
    trio.kill(8).await;
    std::fs::remove_dir_all(trio.data(8)).expect("it is lost");
    replace(&mut trio, 8).await;
    until("it is a full member", || trio.cell(8).status().trouble.is_empty()).await;
    wait_for_voters(&trio, (1..=7).collect()).await;
    add(trio.cell(8), "after", 1).await.expect("a learner takes calls");
    assert_eq!(hits(trio.cell(8)).await, 1);
}

/// Spec G-7: the leader removes itself: it hands over first, says what became of it, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_removed() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    let leader = trio.leader_id().await;
    change(trio.cell(leader), Change::Remove { ids: ids([leader]) }).await.expect("two stay");
    let left: BTreeSet<_> = &ids([1, 2, 3]) - &ids([leader]);
    assert_removed(&mut trio, leader).await;
    wait_for_voters(&trio, left.clone()).await;
    for id in left {
        add(trio.cell(id), &format!("after, at {id}"), 1).await.expect("two of two");
    }
    let id = trio.leader_id().await;
    assert_eq!(hits(trio.cell(id)).await, 3);
}

/// Spec G-7: all voters are replaced by one joint change, the leader among them, and then removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_voters_change_at_once() {
    let mut trio = Trio::start(small()).await;
    for id in 4..=6 {
        take_in(&mut trio, id).await;
    }
    add(trio.cell(4), "before", 1).await.expect("it is added");
    change(trio.cell(4), Change::Voters { ids: ids([4, 5, 6]) }).await.expect("they have caught up");
    wait_for_voters(&trio, ids([4, 5, 6])).await;
    until("one of the new ones leads", || (4..=6).any(|id| trio.cell(id).leadership().borrow().here)).await;
    change(trio.cell(1), Change::Remove { ids: ids([1, 2, 3]) }).await.expect("they only learn");
    for id in 1..=3 {
        assert_removed(&mut trio, id).await;
    }
    add(trio.cell(5), "after", 1).await.expect("the new ones go on");
    assert_eq!(hits(trio.cell(6)).await, 2);
    let digests = trio.digests().await;
    assert!(digests.len() == 3 && digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    // They are a cell of their own: also after all of them were started again.
    for id in 4..=6 {
        trio.kill(id).await;
    }
    for id in 4..=6 {
        trio.start_replica(id).await.expect("its folder is whole");
    }
    assert_eq!(hits(trio.cell(4)).await, 2);
}

/// Spec G-7: the leader dies at any moment of a joint change: the cell goes on, and the change asked for again is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joint_change_survives_its_leader() {
    for delay_ms in [0, 2, 5, 10, 25] {
        let mut trio = Trio::start(Tuning::default()).await;
        take_in(&mut trio, 4).await;
        take_in(&mut trio, 5).await;
        add(trio.cell(4), "before", 1).await.expect("it is added");
        let leader = trio.leader_id().await;
        let target: BTreeSet<_> = &ids([1, 2, 3, 4, 5]) - &ids([leader % 3 + 1]);
        let at = trio.cell(4).clone();
        let changing = tokio::spawn({
            let (at, ids) = (at.clone(), target.clone());
            async move { change(&at, Change::Voters { ids }).await }
        });
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        trio.kill(leader).await;
        changing.await.expect("no panic").expect("the next leader makes it");
        wait_for_voters(&trio, target).await;
        add(&at, "after", 1).await.expect("a majority runs");
        assert_eq!(hits(&at).await, 2, "the leader was killed after {delay_ms} ms");
        trio.start_replica(leader).await.expect("its folder is whole");
        trio.leader().await;
    }
}

/// Spec G-7: a replica that was removed while it was away comes back, disturbs nobody, and says what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_that_comes_back_is_harmless() {
    let mut trio = Trio::start(Tuning::default()).await;
    let away = trio.follower_id().await;
    trio.kill(away).await;
    let at = trio.leader_id().await;
    change(trio.cell(at), Change::Remove { ids: ids([away]) }).await.expect("two stay");
    add(trio.cell(at), "meanwhile", 1).await.expect("two of two");
    let before = trio.leader().await;
    trio.start_replica(away).await.expect("it does not know yet");
    assert_removed(&mut trio, away).await;
    let after = trio.leader().await;
    assert_eq!((before.term, before.leader), (after.term, after.leader), "it has disturbed the others");
    // Also with an empty folder, and however it is told to begin.
    std::fs::remove_dir_all(trio.data(away)).expect("it is nobody's");
    trio.start_replica_with(away, |config| config.replace = true).await.expect_err("it was removed");
    let error = trio.start_replica(away).await.expect_err("it asks the others first");
    assert!(matches!(error, StartError::RemovedReplica { .. }), "{error}");
    assert_eq!(voters(trio.cell(at)).len(), 2);
}

/// Spec G-7: one replica after the other moves to other addresses while the cell works; all at once they find each
/// other by their settings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_change() {
    let mut trio = Trio::start(Tuning::default()).await;
    for id in 1..=3 {
        let ports = free_ports(2);
        let moved = Member {
            peer_address: format!("127.0.0.1:{}", ports[0]),
            client_address: format!("127.0.0.1:{}", ports[1]),
        };
        trio.kill(id).await;
        let at = trio.follower_id().await;
        change(trio.cell(at), Change::SetAddress { id, member: moved.clone() }).await.expect("two are there");
        trio.members[id as usize - 1].1 = moved.clone();
        trio.start_replica(id).await.expect("its folder is whole, whatever the list says");
        add(trio.cell(id), &format!("{id} has moved"), 1).await.expect("it finds the leader");
        // It is needed for a majority now.
        let other = trio.follower_id().await;
        let other = if other == id { trio.leader_id().await } else { other };
        trio.kill(other).await;
        add(trio.cell(id), &format!("{id} counts"), 1).await.expect("the others find it");
        trio.start_replica(other).await.expect("its folder is whole");
        trio.leader().await;
        assert!(trio.cell(id).members().contains(&(id, moved, true)));
    }
    for id in 1..=3 {
        trio.kill(id).await;
    }
    for (member, port) in trio.members.iter_mut().zip(free_ports(3)) {
        member.1.peer_address = format!("127.0.0.1:{port}");
    }
    for id in 1..=3 {
        trio.start_replica(id).await.expect("its folder is whole");
    }
    add(trio.cell(1), "all have moved", 1).await.expect("they find each other by their settings");
    for id in 1..=3 {
        assert_eq!(hits(trio.cell(id)).await, 7);
        let member = trio.member(id);
        change(trio.cell(id), Change::SetAddress { id, member }).await.expect("the cell learns of it");
    }
}

/// A wrong address never makes one replica count for two: its messages are refused there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_counts_for_nobody() {
    let mut trio = Trio::start(Tuning::default()).await;
    let (leader, follower) = (trio.leader_id().await, trio.follower_id().await);
    let other = (1..=3).find(|id| ![leader, follower].contains(id)).expect("there are three");
    // The other one moves, and its new address leads to the follower, by another name of the same host.
    trio.kill(other).await;
    let peer_address = trio.member(follower).peer_address.replace("127.0.0.1", "localhost");
    let member = Member { peer_address, client_address: "127.0.0.1:1".to_owned() };
    change(trio.cell(leader), Change::SetAddress { id: other, member })
        .await
        .expect("it looks like an address");
    trio.cable(follower).pull();
    tokio::time::sleep(Duration::from_millis(300)).await;
    trio.cable(follower).plug();
    add(trio.cell(leader), "two of three", 1).await.expect("both are there");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let error = change_soon(trio.cell(leader), Change::Demote { ids: ids([follower]) }).await;
    let expected = ChangeError::NoLiveMajority { voters: 2, silent: ids([other]) };
    assert_eq!(error.expect_err("the other one does not answer"), expected);
}

/// Spec G-4: a replica whose folder is emptied and that is started with `bootstrap` all the same asks the others, gives
/// no vote it may have promised to somebody else, and is taken in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_folder_with_bootstrap_gives_no_votes() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    for id in 1..=3 {
        trio.kill(id).await;
    }
    std::fs::remove_dir_all(trio.data(1)).expect("it is lost");
    // Replica 2 has the newest data or 3 has; one of them with a replica that forgot must not be a majority.
    trio.start_replica(1).await.expect("it asks");
    trio.start_replica(2).await.expect("its folder is whole");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in 1..=2 {
        let leadership = trio.cell(id).leadership().borrow().clone();
        assert!(leadership.leader.is_none(), "elected by one that forgot its votes: {leadership:?}");
    }
    let trouble = trio.cell(1).status().trouble;
    assert!(trouble.starts_with("being replaced"), "{trouble}");
    // Started again it is no wiser.
    trio.kill(1).await;
    trio.start_replica(1).await.expect("it asks again");
    trio.start_replica(3).await.expect("its folder is whole");
    until("it is repaired", || trio.cell(1).status().trouble.is_empty()).await;
    assert_eq!(hits(trio.cell(1)).await, 1);
    wait_for_voters(&trio, ids([1, 2, 3])).await;
    trio.kill(2).await;
    add(trio.cell(1), "after", 1).await.expect("two are a majority");
    assert_eq!(hits(trio.cell(3)).await, 2);
}

/// A new cell starts with a majority of its members; who comes later is taken in. One alone starts nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cell_starts_with_a_majority() {
    let founding_wait = Duration::from_millis(500);
    let mut trio = Trio::of_none(Tuning { founding_wait, ..Tuning::default() });
    trio.start_replica(1).await.expect("an empty folder");
    tokio::time::sleep(founding_wait * 3).await;
    let status = trio.cell(1).status();
    assert!(status.trouble.starts_with("new: asks the others"), "{status:?}");
    trio.start_replica(2).await.expect("an empty folder");
    add(trio.cell(1), "two of three", 1).await.expect("two are a majority");
    trio.start_replica(3).await.expect("an empty folder");
    until("it is a full member", || trio.cell(3).status().trouble.is_empty()).await;
    assert_eq!(hits(trio.cell(3)).await, 1);
    wait_for_voters(&trio, ids([1, 2, 3])).await;
    trio.kill(1).await;
    add(trio.cell(3), "with the late one", 1).await.expect("two are a majority");
}

/// All members of a new cell at once: nobody waits, and nobody is taken for one that came late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cell_starts_at_once() {
    for _ in 0..5 {
        let trio = Trio::start(Tuning::default()).await;
        let began = Instant::now();
        add(trio.cell(1), "first", 1).await.expect("all are there");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "it took {took:?}");
        assert_eq!(voters(trio.cell(2)), ids([1, 2, 3]));
        let status = trio.cell(trio.leader_id().await).status();
        // The members' first entry, the leader's own and the increment: no member was taken out and in.
        assert!(status.last_log_index <= 3, "{status:?}");
    }
}
