//! A machine's clock goes too fast or too slow.

use rand::RngExt;

use super::Fault;
use crate::engine::Pace;
use crate::storm::Storm;

pub(super) struct ClockRate;

impl Fault for ClockRate {
    fn name(&self) -> &'static str {
        "clock rate"
    }

    fn why(&self) -> &'static str {
        "leases allow for clocks that differ by a few percent; more must cost availability only, never an acknowledged write"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_up()?;
        let rate = storm.random().random_range(0.90..1.10);
        let lasts = storm.random().random_range(1_000..8_000);
        storm.pace_for(replica, Pace::Rate(rate), lasts);
        storm.fired(self.name());
        Some(format!("replica {}'s clock goes at {rate:.3} for {lasts} ms", replica + 1))
    }
}
