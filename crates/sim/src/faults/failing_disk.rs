//! Writes, syncs or reads of a disk fail with an error.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct FailingDisk;

impl Fault for FailingDisk {
    fn name(&self) -> &'static str {
        "failing disk"
    }

    fn why(&self) -> &'static str {
        "after a failed sync nobody knows what is on the disk: the replica must stop, and must not have promised anything"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_up()?;
        let after = storm.random().random_range(0..30);
        storm.disk(replica).fail_after(after);
        Some(format!("replica {}'s disk fails once, {after} operations from now", replica + 1))
    }
}
