//! What was sent once arrives a second time, on a connection of its own, also long after.

use super::Fault;
use crate::storm::Storm;

pub(super) struct Duplication;

impl Fault for Duplication {
    fn name(&self) -> &'static str {
        "duplication"
    }

    fn why(&self) -> &'static str {
        "a copy of a vote, an append or a command must change nothing (Raft section 5.5; spec S-6)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_up()?;
        let host = storm.host_of(replica);
        if !storm.network().replay(host) {
            return None;
        }
        storm.was_replayed();
        storm.fired(self.name());
        Some(format!("replica {} hears the beginning of an old connection once more", replica + 1))
    }
}
