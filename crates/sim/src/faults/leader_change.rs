//! Leadership is handed to another replica under load.

use super::Fault;
use crate::storm::Storm;

/// After so long another should lead, in milliseconds.
const LONGEST_MS: u64 = 1_000;

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
        storm.later(LONGEST_MS, move |storm| {
            let other = storm.leader().is_some_and(|leader| leader != replica);
            storm.fired_if("leader change", other);
        });
        Some(format!("replica {} hands leadership over", replica + 1))
    }
}
