//! Machines lose power, one or all at once: what was not synced is lost, kept or torn.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct PowerCut;

impl Fault for PowerCut {
    fn name(&self) -> &'static str {
        "power cut"
    }

    fn why(&self) -> &'static str {
        "what was acknowledged is on a majority's disks, synced, and survives a power failure of all (spec G-1)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let all = storm.random().random_ratio(1, 4);
        let one = storm.leader_or_any()?;
        let victims: Vec<usize> = if all { (0..storm.replica_count()).collect() } else { vec![one] };
        for replica in &victims {
            let pause = storm.time_away();
            storm.cut_power(*replica);
            storm.restart_later(*replica, pause);
        }
        storm.fired(self.name());
        Some(if all {
            "all lose power at once".to_owned()
        } else {
            format!("replica {} loses power", one + 1)
        })
    }
}
