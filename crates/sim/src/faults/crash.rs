//! A process dies at once (SIGKILL, out of memory); its machine lives.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

/// A process that its supervisor starts at once, and that dies again soon.
const CRASHES_IN_A_ROW: u64 = 4;
const BETWEEN_CRASHES_MS: u64 = 90;
const BACK_AFTER_MS: u64 = 10;
const SLOW_MS: u64 = 40;

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
        storm.fired(self.name());
        if storm.random().random_ratio(1, 3) {
            // So that it dies with something under way.
            storm.disk(replica).slow_down(SLOW_MS);
            storm.later(CRASHES_IN_A_ROW * BETWEEN_CRASHES_MS, move |storm| {
                storm.disk(replica).speed_up(SLOW_MS)
            });
            for crash in 0..CRASHES_IN_A_ROW {
                storm.later(crash * BETWEEN_CRASHES_MS, move |storm| {
                    storm.kill(replica);
                    storm.restart_later(replica, BACK_AFTER_MS);
                });
            }
            return Some(format!(
                "replica {} is killed {CRASHES_IN_A_ROW} times, and back at once",
                replica + 1
            ));
        }
        let pause = storm.time_away();
        storm.kill(replica);
        storm.restart_later(replica, pause);
        Some(format!("replica {} is killed, back after {pause} ms", replica + 1))
    }
}
