//! A leader whose disk is slow or full hands over to a replica whose disk is well, and only to such a one.

use std::sync::Arc;
use std::time::Duration;

use bramah_cell::disk::Disk;
use bramah_cell::{Cell, Leadership, ReplicaId, Tuning};
use bramah_machine::{Command, Identity, Request, SetContents};
use tokio::time::Instant;

use crate::storage::gated_disk::{Gate, GatedDisk};
use crate::trio::{LIMIT, Trio, add, hits, increment, path, small};

/// Long enough for several looks at the disk, and for the other replicas' answers.
const SEVERAL_LOOKS: Duration = Duration::from_secs(2);

struct Gated {
    trio: Trio,
    disks: [GatedDisk; 3],
}

impl Gated {
    async fn start(tuning: Tuning) -> Gated {
        let disks: [GatedDisk; 3] = Default::default();
        let shared = disks.clone().map(|disk| Arc::new(disk) as Arc<dyn Disk>);
        Gated { trio: Trio::start_on(tuning, shared).await, disks }
    }

    fn gate(&self, id: ReplicaId) -> &Gate {
        &self.disks[id as usize - 1].gate
    }

    fn shut(&self, id: ReplicaId, shut: bool) {
        self.gate(id).change(|state| state.shut = shut);
    }

    /// Waits until another than `old` leads, as a third one sees it too: the old one may wait for its disk.
    async fn moved_from(&self, old: ReplicaId) -> Leadership {
        let deadline = Instant::now() + LIMIT;
        loop {
            let others = (1..=3).filter(|id| *id != old);
            let seen: Vec<Leadership> =
                others.map(|id| self.trio.cell(id).leadership().borrow().clone()).collect();
            if let Some(leading) = seen.iter().find(|now| now.here)
                && seen.iter().all(|now| now.leader == leading.leader)
            {
                return leading.clone();
            }
            assert!(Instant::now() < deadline, "{old} does not hand over: {seen:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        // Threads wait at the gates.
        (1..=3).for_each(|id| self.shut(id, false));
    }
}

/// Something that the replicas' logs must write, whether it can be done or not.
fn write_something(cell: &Cell) {
    let request = increment(Identity::Anonymous, 0);
    let cell = cell.clone();
    tokio::spawn(async move { drop(cell.propose(&request, Instant::now() + LIMIT).await) });
}

fn quick() -> Tuning {
    Tuning { slow_disk: Duration::from_millis(300), ..small() }
}

/// Spec G-8: a leader whose disk is slow hands over; one that was slow a moment ago is not handed to, so leadership
/// does not wander; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_leader_hands_over() {
    let gated = Gated::start(quick()).await;
    let before = gated.trio.leader().await;
    let old = before.leader.expect("there is a leader").0;
    add(gated.trio.cell(old), "before", 1).await.expect("it is added");
    gated.shut(old, true);
    write_something(gated.trio.cell(old));
    let after = gated.moved_from(old).await;
    let new = after.leader.as_ref().expect("there is a leader").0;
    assert_eq!(after.term, before.term + 1, "handed over, and no further election");
    add(gated.trio.cell(new), "meanwhile", 1).await.expect("two are a majority");

    gated.shut(old, false);
    assert_eq!(hits(gated.trio.cell(old)).await, 2, "it follows");
    gated.shut(new, true);
    write_something(gated.trio.cell(new));
    tokio::time::sleep(SEVERAL_LOOKS).await;
    let later = gated.moved_from(old).await;
    assert_eq!((later.term, later.leader), (after.term, after.leader), "{old} was slow a moment ago");
    gated.shut(new, false);
    let digests = gated.trio.digests().await;
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

/// Spec G-8: where no majority is better off, a slow leader leads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_leader_leads_on_if_nobody_is_better() {
    let gated = Gated::start(quick()).await;
    let before = gated.trio.leader().await;
    let leader = before.leader.as_ref().expect("there is a leader").0;
    let other = (1..=3).find(|id| *id != leader).expect("there are three");
    gated.shut(other, true);
    gated.shut(leader, true);
    write_something(gated.trio.cell(leader));
    tokio::time::sleep(SEVERAL_LOOKS).await;
    let after = gated.trio.leader().await;
    assert_eq!((after.term, after.leader), (before.term, before.leader));
    gated.shut(other, false);
    gated.shut(leader, false);
    add(gated.trio.cell(leader), "after", 1).await.expect("all are well");
}

async fn write(cell: &Cell, i: usize) -> bool {
    let contents = vec![i as u8; 4_000].into();
    let command = Command::SetContents(SetContents {
        path: path("/file"),
        contents,
        if_generation: None,
        parents: false,
    });
    let request = Request { identity: Identity::Anonymous, command };
    cell.propose(&request, Instant::now() + LIMIT).await.is_ok_and(|written| written.is_ok())
}

/// Spec G-8: a leader whose disk is full hands over, and writes go on; when there is space it is a replica like any
/// other again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_full_disk_hands_over() {
    // No snapshot comes in between, which would let the log give space back.
    let gated = Gated::start(Tuning { log: small().log, ..Tuning::default() }).await;
    let before = gated.trio.leader().await;
    let old = before.leader.expect("there is a leader").0;
    gated.gate(old).change(|state| state.full = true);
    let follower = (1..=3).find(|id| *id != old).expect("there are three");
    let deadline = Instant::now() + LIMIT;
    let mut i = 0;
    // Until the log's segments are used up.
    while gated.trio.cell(old).leadership().borrow().here {
        assert!(
            Instant::now() < deadline,
            "it leads on with a full disk: {:?}",
            gated.trio.cell(old).status()
        );
        write(gated.trio.cell(follower), i).await;
        i += 1;
    }
    let after = gated.moved_from(old).await;
    assert_eq!(after.term, before.term + 1, "handed over, and no further election");
    for i in 0..100 {
        assert!(write(gated.trio.cell(follower), i).await, "the others have space");
    }
    gated.gate(old).change(|state| state.full = false);
    let digests = gated.trio.digests().await;
    assert!(digests.len() == 3 && digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}
