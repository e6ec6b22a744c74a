//! The wall clock of a machine is set, forward or back.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct ClockJump;

impl Fault for ClockJump {
    fn name(&self) -> &'static str {
        "clock jump"
    }

    fn why(&self) -> &'static str {
        "no wall clock decides anything: it is read once, when a cell begins, and replicas don't agree on it then; leases and elections go by monotonic clocks, keys by the cell's own time"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_replica();
        let by_ms = storm.random().random_range(-86_400_000..=86_400_000);
        storm.jump_wall_clock(replica, by_ms);
        storm.fired(self.name());
        Some(format!("replica {} sets its wall clock by {by_ms} ms", replica + 1))
    }
}
