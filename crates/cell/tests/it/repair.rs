//! A replica that lost its data folder is repaired from the others, and does no harm until it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bramah_cell::log::LogError;
use bramah_cell::{Cell, FolderError, ReplicaId, StartError, Tuning};
use bramah_machine::{Command, Identity, Request, SetContents};
use tokio::time::Instant;

use crate::trio::{LIMIT, Trio, add, hits, path, small};

/// Longer than several election timeouts: whoever could be elected has been.
const ELECTIONS: Duration = Duration::from_secs(2);

fn marker(trio: &Trio, id: ReplicaId) -> PathBuf {
    trio.data(id).join("replacing")
}

pub(crate) async fn replace(trio: &mut Trio, id: ReplicaId) {
    trio.start_replica_with(id, |config| config.replace = true).await.expect("the folder is empty");
}

/// Waits until the replica is well and says that it votes.
pub(crate) async fn repaired(trio: &Trio, id: ReplicaId) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = trio.cell(id).status();
        if status.trouble.is_empty()
            && status.members.iter().any(|(member, _, votes)| *member == id && *votes)
        {
            assert!(!marker(trio, id).exists(), "a repaired replica is marked as one that isn't");
            return;
        }
        assert!(Instant::now() < deadline, "not repaired within {LIMIT:?}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Changes a byte of a record half-way through the oldest segment.
fn damage(data: &Path) -> PathBuf {
    let names =
        std::fs::read_dir(data.join("log")).expect("there is a log").flatten().map(|entry| entry.path());
    let is_segment = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"segment-"))
    };
    let segment = names.filter(is_segment).min().expect("the log has a segment");
    let mut bytes = std::fs::read(&segment).expect("it can be read");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    let middle = (4_096 + end) / 2;
    let at = (middle..).find(|at| bytes[*at] != 0).expect("the last one is not 0");
    bytes[at] ^= 0x10;
    std::fs::write(&segment, bytes).expect("it can be written");
    segment
}

/// Enough for snapshots to be written and the log before them to be dropped.
pub(crate) async fn write_much(cell: &Cell) {
    for i in 0..300_usize {
        let command = Command::SetContents(SetContents {
            path: path(&format!("/file-{}", i % 10)),
            contents: vec![i as u8; 4_000].into(),
            if_generation: None,
            parents: false,
        });
        let request = Request { identity: Identity::Key(format!("write {i}").into_bytes()), command };
        let written = cell.propose(&request, Instant::now() + LIMIT).await.expect("a majority runs");
        written.expect("it is written");
    }
}

/// Adds one after the other until told to stop; gives back how many.
pub(crate) async fn keep_adding(cell: Cell, stop: Arc<AtomicBool>) -> i64 {
    let mut added = 0;
    while !stop.load(Ordering::Relaxed) {
        add(&cell, &format!("{}/{added}", cell.replica()), 1).await.expect("it is added");
        added += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    added
}

/// Spec G-4: a damaged replica does not start; with its folder moved away and one option it is repaired from the
/// others, which go on meanwhile, and counts again in a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_repaired_from_the_others() {
    let mut trio = Trio::start(small()).await;
    let damaged = trio.leader_id().await;
    write_much(trio.cell(damaged)).await;
    trio.kill(damaged).await;
    let segment = damage(&trio.data(damaged));
    let error = trio.start_replica(damaged).await.expect_err("the log is damaged");
    assert!(matches!(error, StartError::Log(LogError::Damaged { .. })), "{error}");
    let text = error.to_string();
    let way_out =
        format!("move the folder {} away, start it again with --replace", trio.data(damaged).display());
    assert!(text.contains(&format!("{} at byte ", segment.display())) && text.contains(&way_out), "{text}");

    let stop = Arc::new(AtomicBool::new(false));
    let adding: Vec<_> =
        trio.running().map(|id| tokio::spawn(keep_adding(trio.cell(id).clone(), stop.clone()))).collect();
    std::fs::rename(trio.data(damaged), trio.folder.path().join("away")).expect("it is nobody's now");
    replace(&mut trio, damaged).await;
    repaired(&trio, damaged).await;
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for task in adding {
        total += task.await.expect("the others go on");
    }
    assert!(total > 0, "nothing was added meanwhile");
    assert_eq!(hits(trio.cell(damaged)).await, total);
    let digests = trio.digests().await;
    assert!(digests.len() == 3 && digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");

    // With one of the others gone, nothing is done without the one that was repaired.
    let other = (1..=3).find(|id| *id != damaged).expect("there are three");
    trio.kill(other).await;
    add(trio.cell(damaged), "after", 1).await.expect("two are a majority");
    assert_eq!(hits(trio.cell(damaged)).await, total + 1);
    // And it is one that can be started again.
    trio.kill(damaged).await;
    trio.start_replica(damaged).await.expect("it is whole");
    assert_eq!(hits(trio.cell(damaged)).await, total + 1);
}

/// Spec G-4: a replica that forgot its votes neither leads nor elects anybody, also after a restart without the
/// option half-way, and is repaired once the others are a majority without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_forgot_gives_no_votes() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    for id in 1..=3 {
        trio.kill(id).await;
    }
    std::fs::remove_dir_all(trio.data(1)).expect("it is lost");
    // Replica 2 alone lacks one vote. It says which cell this is.
    trio.start_replica(2).await.expect("its folder is whole");
    replace(&mut trio, 1).await;
    tokio::time::sleep(ELECTIONS).await;
    assert_waits(&trio);
    trio.kill(1).await;
    assert!(marker(&trio, 1).exists());
    trio.start_replica(1).await.expect("it goes on where it was");
    tokio::time::sleep(ELECTIONS).await;
    assert_waits(&trio);
    let leadership = trio.cell(2).leadership().borrow().clone();
    assert!(leadership.leader.is_none(), "elected by one that forgot its votes: {leadership:?}");

    trio.start_replica(3).await.expect("its folder is whole");
    repaired(&trio, 1).await;
    add(trio.cell(1), "after", 1).await.expect("all are there");
    assert_eq!(hits(trio.cell(1)).await, 2);
    trio.kill(2).await;
    add(trio.cell(1), "with one less", 1).await.expect("two are a majority");
    assert_eq!(hits(trio.cell(3)).await, 3);
}

fn assert_waits(trio: &Trio) {
    let status = trio.cell(1).status();
    assert!(status.trouble.starts_with("being replaced"), "{status:?}");
    assert!(status.leadership.leader.is_none() && status.leadership.role == "learner", "{status:?}");
}

/// Spec G-4: a kill at any moment of the repair only delays it, whether the leader or a follower was lost. A
/// leader that remembers what a follower had is not led to believe that it still has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_survives_kills() {
    let mut trio = Trio::start(Tuning::default()).await;
    for (round, delay_ms) in (1..).zip([0, 20, 50, 100, 200]) {
        let lost = if round % 2 == 0 { trio.leader_id().await } else { trio.follower_id().await };
        trio.kill(lost).await;
        std::fs::remove_dir_all(trio.data(lost)).expect("it is lost");
        replace(&mut trio, lost).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        trio.kill(lost).await;
        trio.start_replica(lost).await.expect("it goes on where it was");
        repaired(&trio, lost).await;
        add(trio.cell(lost), &format!("round {round}"), 1).await.expect("all are there");
        assert_eq!(hits(trio.cell(lost)).await, round);
        let digests = trio.digests().await;
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "round {round}: {digests:?}");
        for id in 1..=3 {
            assert_eq!(trio.cell(id).status().trouble, "", "round {round}, {lost} was lost, replica {id}");
        }
    }
}

/// Spec G-4: the option is refused where it would throw away what a replica knows, and where nobody could help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_replica_is_not_replaced() {
    let mut trio = Trio::start(Tuning::default()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    trio.kill(1).await;
    let error = trio.start_replica_with(1, |config| config.replace = true).await.expect_err("it is healthy");
    assert!(matches!(error, StartError::Folder(FolderError::NotLost { .. })), "{error}");
    assert!(error.to_string().contains("start it without --replace"), "{error}");
    trio.start_replica(1).await.expect("nothing was lost");
    assert_eq!(hits(trio.cell(1)).await, 1);

    trio.kill(1).await;
    std::fs::remove_dir_all(trio.data(1)).expect("it is lost");
    for members in 1..=2 {
        let too_few = trio.start_replica_with(1, |config| {
            config.replace = true;
            config.members.truncate(members);
        });
        let error = too_few.await.expect_err("the others are no majority");
        assert!(matches!(error, StartError::Config(_)), "{error}");
    }
    assert!(!trio.data(1).exists(), "refused before anything was written");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("there is a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

/// A member whose disk forgot what it had synced gets it again from the leader that knew it had it: the entries are
/// on one replica less until then (spec G-1).
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_forgot_is_told_again() {
    let mut trio = Trio::start(small()).await;
    let (leader, forgetful) = (trio.leader_id().await, trio.follower_id().await);
    add(trio.cell(leader), "before", 1).await.expect("it is added");
    trio.digests().await;
    trio.stop(forgetful).await;
    let (data, copy) = (trio.data(forgetful), trio.data(forgetful).with_extension("copy"));
    copy_folder(&data, &copy);
    trio.start_replica(forgetful).await.expect("it starts");
    for i in 0..20 {
        add(trio.cell(leader), &format!("after {i}"), 1).await.expect("it is added");
    }
    trio.digests().await;
    trio.stop(forgetful).await;
    std::fs::remove_dir_all(&data).expect("it can be removed");
    std::fs::rename(&copy, &data).expect("it can be moved");
    trio.start_replica(forgetful).await.expect("it starts");
    let digests = trio.digests().await;
    assert_eq!(digests.len(), 3, "all three have the same");
    assert_eq!(hits(trio.cell(forgetful)).await, 21);
    assert_eq!(trio.leader_id().await, leader, "the leader that knew better led all the time");
}
