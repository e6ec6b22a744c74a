//! The power goes in the middle of a storage operation: before or right after one of its steps.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct CrashAtStep;

impl Fault for CrashAtStep {
    fn name(&self) -> &'static str {
        "crash at step"
    }

    fn why(&self) -> &'static str {
        "between any two steps of writing a record, a vote, a snapshot or a name, the disk must be such that recovery finds all that was acknowledged"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let steps = storm.disk(replica).step_names();
        if steps.is_empty() {
            return None;
        }
        let step = steps[storm.random().random_range(0..steps.len())].clone();
        let (times, done) = (storm.random().random_range(0..20), storm.random().random_bool(0.5));
        storm.disk(replica).cut_power_at(&step, times, done);
        Some(format!(
            "replica {} loses power {} step {times} of \"{step}\"",
            replica + 1,
            if done { "after" } else { "before" }
        ))
    }
}
