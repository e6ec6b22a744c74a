//! Leadership is handed to another replica under load.

use super::Fault;
use crate::storm::Storm;

pub(super) struct LeaderChange;

impl Fault for LeaderChange {
    fn name(&self) -> &'static str {
        "leader change"
    }

    fn why(&self) -> &'static str {
        "what is under way is done once, by the old leader or by the new one (spec G-6)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader()?;
        storm.hand_over(replica);
        storm.fired(self.name());
        Some(format!("replica {} hands leadership over", replica + 1))
    }
}
