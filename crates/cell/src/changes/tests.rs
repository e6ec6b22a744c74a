//! The leader's half, where only the engine itself can make the moment that is tested.

use bramah_wire::transport::Tcp;

use super::*;
use crate::admission::waits_to_enter;
use crate::disk::RealDisk;
use crate::{Cell, CellConfig, Tuning, WallClock, World};

const LIMIT: Duration = Duration::from_secs(30);

fn member(port: u16) -> Member {
    Member { peer_address: format!("127.0.0.1:{port}"), client_address: format!("127.0.0.2:{port}") }
}

async fn start(folder: &tempfile::TempDir, replica: ReplicaId, join: Vec<String>) -> Cell {
    let members = if replica == 1 { vec![(1, member(1))] } else { Vec::new() };
    let config = CellConfig {
        cell: "test".to_owned(),
        replica,
        data: folder.path().join(format!("replica-{replica}")),
        members,
        bootstrap: replica == 1,
        replace: false,
        join,
        peers_listen: "127.0.0.1:0".to_owned(),
        tuning: Tuning::default(),
    };
    let world = World { disk: Arc::new(RealDisk), transport: Arc::new(Tcp), clock: WallClock::system() };
    Cell::start(config, world).await.expect("an empty folder")
}

/// A cell of one voter, which leads, and a learner 4 that does not run.
async fn one_and_a_learner(folder: &tempfile::TempDir) -> Cell {
    let cell = start(folder, 1, Vec::new()).await;
    let add = Change::Add { id: 4, member: member(4) };
    cell.change_members(add, Instant::now() + LIMIT).await.expect("it leads");
    cell
}

/// Spec G-7: the leader dies after it has taken a member out that it begins anew: the next one adds it again, where
/// it was, though nobody's settings name it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_begun_anew_is_not_lost_with_the_leader() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cell = one_and_a_learner(&folder).await;
    let gone = ChangeMembers::RemoveNodes(Ids::from([4]));
    cell.raft().change_membership(gone, false).await.expect("it leads");
    let deadline = Instant::now() + LIMIT;
    while !cell.members().contains(&(4, member(4), false)) {
        assert!(Instant::now() < deadline, "lost: {:?}", cell.members());
        sleep(LOOK_AGAIN).await;
    }
    cell.stop().await;
}

/// A change waits for its turn as long as it has time, and says so when it has not.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_its_turn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cell = one_and_a_learner(&folder).await;
    let one = cell.changes().one.lock().await;
    let remove = Change::Remove { ids: Ids::from([4]) };
    let error = cell.change_members(remove.clone(), Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(error.expect_err("it has no turn"), ChangeError::UnderWay);
    let removing = cell.change_members(remove, Instant::now() + LIMIT);
    let ended = async {
        sleep(TURN_LIMIT * 3).await;
        drop(one);
    };
    let (removed, ()) = tokio::join!(removing, ended);
    removed.expect("it is its turn");
    cell.stop().await;
}

/// Spec G-4: a request to take a replica out that it does not wait for any more does nothing, also if it is found out
/// only when it is the request's turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_left_behind_takes_nobody_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cell = one_and_a_learner(&folder).await;
    let before = cell.status().last_log_index;
    let left_behind = async { Err(Status::aborted("it does not wait")) };
    let error = cell.changes().take_out(4, left_behind).await.expect_err("it does not wait");
    assert_eq!((error.code(), cell.status().last_log_index), (tonic::Code::Aborted, before));

    // One that nobody has added waits to enter as long as it runs.
    let joining = start(&folder, 5, vec![cell.peer_address().to_string()]).await;
    let address = joining.peer_address().to_string();
    let error = waits_to_enter(cell.network(), "test", 5, &address, 77).await.expect_err("not for this one");
    assert_eq!(error.code(), tonic::Code::Aborted, "{error}");
    joining.kill().await;
    cell.stop().await;
}
