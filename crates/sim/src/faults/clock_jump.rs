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
        "no wall clock decides anything: leases and elections go by monotonic clocks, and keys by the cell's own time"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_replica();
        let by_ms = storm.random().random_range(-86_400_000..=86_400_000);
        storm.jump_wall_clock(replica, by_ms);
        storm.fired(self.name());
        Some(format!("replica {} sets its wall clock by {by_ms} ms", replica + 1))
    }
}
