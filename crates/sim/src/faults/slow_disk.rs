//! A disk takes long for everything.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct SlowDisk;

impl Fault for SlowDisk {
    fn name(&self) -> &'static str {
        "slow disk"
    }

    fn why(&self) -> &'static str {
        "a slow disk slows its replica; a slow leader's should move to another (spec G-8)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let slowest = storm.random().random_range(10..300);
        let lasts = storm.random().random_range(500..6_000);
        storm.disk(replica).slow_down(slowest);
        storm.later(lasts, move |storm| storm.disk(replica).speed_up(slowest));
        storm.fired(self.name());
        Some(format!("replica {}'s disk takes up to {slowest} ms more, for {lasts} ms", replica + 1))
    }
}
