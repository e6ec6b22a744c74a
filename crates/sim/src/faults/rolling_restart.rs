//! All replicas are stopped and started again, one after the other, as for an upgrade.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct RollingRestart;

impl Fault for RollingRestart {
    fn name(&self) -> &'static str {
        "rolling restart"
    }

    fn why(&self) -> &'static str {
        "a stop hands leadership over and finishes what is under way: clients hardly notice (spec G-12)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let step = storm.random().random_range(500..1_500);
        for replica in 0..storm.replica_count() {
            storm.later(step * replica as u64, move |storm| storm.stop(replica));
        }
        storm.fired(self.name());
        Some(format!("each replica is stopped and started, every {step} ms"))
    }
}
