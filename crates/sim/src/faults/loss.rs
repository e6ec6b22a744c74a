//! Packets are lost and sent again.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct Loss;

impl Fault for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn why(&self) -> &'static str {
        "a connection stalls for as long as its packets are lost: deadlines must bound what waits for it"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let (from, to) = storm.two_hosts();
        let loss = storm.random().random_range(0.01..0.5);
        let lasts = storm.random().random_range(500..6_000);
        let before = storm.network().counts().lost;
        storm.network().set_link(from, to, |link| link.loss = loss);
        storm.later(lasts, move |storm| {
            storm
                .network()
                .set_link(from, to, |link| link.loss = if link.loss == loss { 0.0 } else { link.loss });
            let lost = storm.network().counts().lost > before;
            storm.fired_if("loss", lost);
        });
        Some(format!(
            "{:.0} % of packets from host {from} to host {to} are lost, for {lasts} ms",
            loss * 100.0
        ))
    }
}
