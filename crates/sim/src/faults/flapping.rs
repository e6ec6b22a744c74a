//! A link breaks and heals again and again, a few times a second.

use rand::RngExt;

use super::Fault;
use crate::storm::Storm;

pub(super) struct Flapping;

impl Fault for Flapping {
    fn name(&self) -> &'static str {
        "flapping link"
    }

    fn why(&self) -> &'static str {
        "elections must not be won and lost for ever: each pause in which a majority hears each other is used"
    }

    fn strike(&self, storm: &mut Storm) -> Option<String> {
        let (from, to) = storm.two_replicas()?;
        let times = storm.random().random_range(2..10_u64);
        let period = storm.random().random_range(50..500);
        let before = storm.network().counts().blocked;
        // An even number: each time that it is blocked is over before the end.
        for time in 0..times * 2 {
            let blocked = time % 2 == 0;
            storm.later(time * period, move |storm| {
                for (from, to) in [(from, to), (to, from)] {
                    storm.network().set_link(from, to, |link| link.block(blocked));
                }
            });
        }
        storm.later(2 * times * period, move |storm| {
            let blocked = storm.network().counts().blocked > before;
            storm.fired_if("flapping link", blocked);
        });
        Some(format!("the link between hosts {from} and {to} breaks {times} times, every {period} ms"))
    }
}
