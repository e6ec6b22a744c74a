//! A bit of a file is not what was written.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Fault;
use crate::storm::Storm;

pub(super) struct FlippedBit;

impl Fault for FlippedBit {
    fn name(&self) -> &'static str {
        "flipped bit"
    }

    fn why(&self) -> &'static str {
        "damage is recognised by checksums, stops that replica, and is repaired from the others (spec G-4)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.any_up()?;
        if !storm.may_damage(replica) {
            return None;
        }
        storm.kill(replica);
        let mut random = StdRng::seed_from_u64(storm.random().random());
        let what = storm.disk(replica).flip_a_bit(&mut random)?;
        storm.restart_later(replica, 100);
        storm.fired(self.name());
        Some(format!("replica {}: {what}", replica + 1))
    }
}
