//! A process dies at once (SIGKILL, out of memory); its machine lives.

use super::Fault;
use crate::storm::Storm;

pub(super) struct Crash;

impl Fault for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn why(&self) -> &'static str {
        "a minority may be gone at any time, and a majority for a while, without anything acknowledged being lost (spec G-1)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let pause = storm.time_away();
        storm.kill(replica);
        storm.restart_later(replica, pause);
        storm.fired(self.name());
        Some(format!("replica {} is killed, back after {pause} ms", replica + 1))
    }
}
