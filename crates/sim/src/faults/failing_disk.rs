//! Writes, syncs or reads of a disk fail with an error.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;
use crate::storm::disk::{Fails, Failure};

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
        let what = match storm.random().random_range(0..8) {
            0..5 => Fails::Changing,
            5 | 6 => Fails::Reading,
            _ if storm.may_damage(replica) => Fails::ReadingTruly,
            _ => return None,
        };
        let most = if what == Fails::Changing { 30 } else { 8 };
        let (after, landed) = (storm.random().random_range(0..most), storm.random().random_range(0..4096));
        storm.disk(replica).fail(Failure { after, what, landed });
        Some(format!("replica {}'s disk fails once, {after} operations from now: {what:?}", replica + 1))
    }
}
