//! A process stands still and then goes on as if nothing had happened (SIGSTOP, a virtual machine that moves).

use rand::RngExt;

use super::Fault;
use crate::engine::Pace;
use crate::storm::Storm;

pub(super) struct Paused;

impl Fault for Paused {
    fn name(&self) -> &'static str {
        "paused process"
    }

    fn why(&self) -> &'static str {
        "a leader that slept through its successor's election must not answer one read or acknowledge one write (spec G-2)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let lasts = storm.random().random_range(50..5_000);
        storm.pace_for(replica, Pace::Stopped, lasts);
        storm.fired(self.name());
        Some(format!("replica {} stands still for {lasts} ms", replica + 1))
    }
}
