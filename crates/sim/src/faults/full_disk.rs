//! A disk has no space left, for a while.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct FullDisk;

impl Fault for FullDisk {
    fn name(&self) -> &'static str {
        "full disk"
    }

    fn why(&self) -> &'static str {
        "writes are refused with a clear error, reads and elections go on, and it recovers by itself (spec G-8)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let lasts = storm.random().random_range(500..6_000);
        let spare = storm.random().random_range(0..40_000);
        let shortage = storm.disk(replica).leave_only(spare);
        storm.later(lasts, move |storm| {
            let hit = storm.disk(replica).give_space(shortage);
            storm.fired_if("full disk", hit);
        });
        Some(format!("replica {}'s disk has {spare} bytes left, for {lasts} ms", replica + 1))
    }
}
