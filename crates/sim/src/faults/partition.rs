//! The machines fall into two groups that don't hear each other.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct Partition;

impl Fault for Partition {
    fn name(&self) -> &'static str {
        "partition"
    }

    fn why(&self) -> &'static str {
        "the greater group goes on, the smaller one acknowledges nothing and answers no read as if it were current (spec G-1, G-2)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let alone = storm.leader_or_any()?;
        let also = storm.any_replica();
        let lasts = storm.random().random_range(200..8_000);
        let inside: Vec<usize> = [alone, also].into_iter().map(|it| storm.host_of(it)).collect();
        // Some applications are on either side.
        let near = storm.any_application();
        let mut cuts = Vec::new();
        for other in storm.hosts().into_iter().filter(|it| !inside.contains(it) && *it != near) {
            for host in &inside {
                cuts.extend([(*host, other), (other, *host)]);
            }
        }
        storm.block("partition", cuts, lasts);
        Some(format!("hosts {inside:?} are cut off for {lasts} ms"))
    }
}
