//! Two replicas don't hear each other, but both hear a third.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct Partial;

impl Fault for Partial {
    fn name(&self) -> &'static str {
        "partial partition"
    }

    fn why(&self) -> &'static str {
        "there is a majority around the third, and it must find a leader that all of it can hear"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let (one, other) = storm.two_replicas()?;
        let lasts = storm.random().random_range(200..6_000);
        storm.block("partial partition", vec![(one, other), (other, one)], lasts);
        Some(format!("hosts {one} and {other} don't hear each other for {lasts} ms"))
    }
}
