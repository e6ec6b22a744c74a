//! A machine is heard but does not hear, or hears but is not heard.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct OneWay;

impl Fault for OneWay {
    fn name(&self) -> &'static str {
        "one-way partition"
    }

    fn why(&self) -> &'static str {
        "a leader that can't hear its followers must not lead on, and one that can't be heard must be replaced (spec G-6)"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let replica = storm.leader_or_any()?;
        let lasts = storm.random().random_range(200..5_000);
        let deaf = storm.random().random_bool(0.5);
        let host = storm.host_of(replica);
        let cuts: Vec<_> = storm
            .other_hosts(replica)
            .into_iter()
            .map(|it| if deaf { (it, host) } else { (host, it) })
            .collect();
        storm.block("one-way partition", cuts, lasts);
        Some(format!(
            "replica {} {} for {lasts} ms",
            replica + 1,
            if deaf { "hears nobody" } else { "is heard by nobody" }
        ))
    }
}
