//! A cell begins once: whoever lost its folder founds no second one (spec G-4, G-7).

use std::time::Duration;

use bramah_cell::{Cell, CellConfig, Change, StartError, Tuning};
use tokio::time::{Instant, sleep};

use crate::repair::repaired;
use crate::trio::{LIMIT, Trio, add, hits, small};

fn tuning() -> Tuning {
    Tuning { founding_wait: Duration::from_millis(300), ..small() }
}

/// The list with another address for clients of replica 2: the number of a cell that began with it is another one.
fn with_another_list(config: &mut CellConfig) {
    config.members[1].1.client_address.push('0');
}

fn wipe(trio: &Trio, id: u64) {
    std::fs::remove_dir_all(trio.data(id)).expect("it is lost");
}

fn leads_nobody(cell: &Cell) {
    let leadership = cell.leadership().borrow().clone();
    assert!(leadership.leader.is_none(), "{leadership:?}");
}

/// A founder asks all whom the cell is to begin with, whatever its settings say at a later start.
#[tokio::test(flavor = "multi_thread")]
async fn a_founder_keeps_to_its_first_list() {
    let mut trio = Trio::of_none(tuning());
    trio.start_replica(1).await.expect("an empty folder");
    trio.kill(1).await;
    let joins = |config: &mut CellConfig| {
        config.join = vec![config.members[1].1.peer_address.clone()];
        config.members.truncate(1);
        config.bootstrap = false;
    };
    let error = trio.start_replica_with(1, joins).await.expect_err("it would ask nobody");
    assert!(matches!(error, StartError::OtherFounders(_)), "{error}");
    trio.start_replica(1).await.expect("the first list");
    trio.start_replica(2).await.expect("an empty folder");
    add(trio.cell(1), "two of three", 1).await.expect("two are a majority");
}

/// With a newer list than the cell began with, `bootstrap` on an emptied folder is a repair all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_list_founds_no_second_cell() {
    let mut trio = Trio::start(tuning()).await;
    add(trio.cell(1), "before", 1).await.expect("it is added");
    let lost = trio.follower_id().await;
    trio.kill(lost).await;
    wipe(&trio, lost);
    trio.start_replica_with(lost, with_another_list).await.expect("the others know the cell");
    repaired(&trio, lost).await;
    assert_eq!(hits(trio.cell(lost)).await, 1);
}

/// Even if the only member that knows the cell comes after the others began to found another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_knows_the_cell_stops_the_founding_of_another() {
    let mut trio = Trio::start(tuning()).await;
    for id in 1..=3 {
        trio.kill(id).await;
    }
    wipe(&trio, 1);
    trio.start_replica_with(1, with_another_list).await.expect("nobody answers yet");
    trio.start_replica(2).await.expect("its folder is whole");
    sleep(Duration::from_secs(1)).await;
    let trouble = trio.cell(1).status().trouble;
    assert!(trouble.contains("replica 2 says"), "{trouble}");
    leads_nobody(trio.cell(1));
    leads_nobody(trio.cell(2));
}

/// A cell that grew from one member goes on without it when it lost its folder, and it does not begin again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_grew_from_one_is_not_founded_twice() {
    let mut trio = Trio::of_none(tuning());
    let alone = |config: &mut CellConfig| config.members.truncate(1);
    trio.start_replica_with(1, alone).await.expect("it is the cell");
    add(trio.cell(1), "alone", 1).await.expect("one is a majority");
    for id in [4, 5] {
        trio.start_replica(id).await.expect("it finds its cell");
        for change in [Change::Add { id, member: trio.member(id) }, Change::Promote { ids: [id].into() }] {
            trio.cell(1).change_members(change, Instant::now() + LIMIT).await.expect("it is a member");
        }
    }
    trio.kill(1).await;
    wipe(&trio, 1);
    add(trio.cell(4), "without it", 1).await.expect("two of three are a majority");
    trio.start_replica_with(1, alone).await.expect("it listens");
    sleep(Duration::from_secs(2)).await;
    let trouble = trio.cell(1).status().trouble;
    assert!(!trouble.is_empty(), "it takes part");
    assert_eq!(hits(trio.cell(5)).await, 2);
}
