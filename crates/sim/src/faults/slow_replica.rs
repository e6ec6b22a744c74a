//! A machine has too much to do: its process runs in bursts.

use rand::RngExt;

use super::Fault;
use crate::engine::Pace;
use crate::storm::Storm;

pub(super) struct SlowReplica;

impl Fault for SlowReplica {
    fn name(&self) -> &'static str {
        "slow replica"
    }

    fn why(&self) -> &'static str {
        "a process that is late with everything may lose leadership, but must not harm the others"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let every = storm.random().random_range(5..150);
        let lasts = storm.random().random_range(500..6_000);
        storm.pace_for(replica, Pace::Bursts(every), lasts);
        storm.fired(self.name());
        Some(format!("replica {} runs every {every} ms only, for {lasts} ms", replica + 1))
    }
}
