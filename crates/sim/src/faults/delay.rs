//! Packets take long, each a time of its own, so that connections overtake each other.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct Delay;

impl Fault for Delay {
    fn name(&self) -> &'static str {
        "delay"
    }

    fn why(&self) -> &'static str {
        "consensus assumes nothing of how long a message takes or of the order of messages on different connections"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let (from, to) = storm.two_hosts();
        let longest = storm.random().random_range(10..400);
        let lasts = storm.random().random_range(500..6_000);
        let before = storm.network().counts();
        let usual = storm.network().usual().delay_ms;
        storm.network().set_link(from, to, |link| link.delay_ms = (1, longest));
        storm.later(lasts, move |storm| {
            storm.network().set_link(from, to, |link| {
                link.delay_ms = if link.delay_ms == (1, longest) { usual } else { link.delay_ms }
            });
            let after = storm.network().counts();
            storm.fired_if("delay", after.delayed > before.delayed);
            storm.fired_if("reordering", after.overtook > before.overtook);
        });
        Some(format!("packets from host {from} to host {to} take up to {longest} ms, for {lasts} ms"))
    }
}
