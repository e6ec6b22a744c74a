//! Round robin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Ask, Policy};
use crate::{Chance, Set};

/// One after the other: after `n·k` picks each of `n` instances has `k` (spec P-1). Weights don't count.
///
/// Use it for calls that cost the same at instances that are alike. A slow instance gets as much as the others, and calls pile
/// up there. Source: Nagle, *On packet switches with infinite storage*, RFC 970, 1985.
///
/// An instance that warms up is passed over as often as its share is short of the whole.
#[derive(Debug)]
pub struct RoundRobin {
    set: Arc<Set>,
    next: AtomicU64,
    chance: Chance,
}

impl RoundRobin {
    /// Begins at a place that the seed gives, so that not all callers begin at the same.
    pub fn seeded(seed: u64) -> Self {
        let chance = Chance::seeded(seed);
        RoundRobin { set: Arc::default(), next: AtomicU64::new(chance.next() >> 32), chance }
    }
}

impl Policy for RoundRobin {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let next = AtomicU64::new(self.next.load(Relaxed));
        Box::new(RoundRobin { set: set.clone(), next, chance: self.chance.fork() })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        if self.set.is_empty() {
            return None;
        }
        let mut place = self.turn();
        for _ in 1..self.set.len() {
            if self.set.admits(place, ask.now, &self.chance) {
                break;
            }
            place = self.turn();
        }
        self.set[place].begin();
        Some(place)
    }
}

impl RoundRobin {
    fn turn(&self) -> usize {
        (self.next.fetch_add(1, Relaxed) % self.set.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    /// Spec P-1: also when many threads pick at once.
    #[test]
    fn each_has_k_after_n_times_k_picks() {
        for count in [1_usize, 2, 7, 100] {
            let set = Set::new((0..count).map(|i| Instance::new(format!("{i}"))));
            let policy = RoundRobin::seeded(3).over(&set);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        (0..count * 50).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()))
                    });
                }
            });
            assert!(set.members().iter().all(|member| member.in_flight() == 200));
        }
    }

    #[test]
    fn it_goes_on_where_it_was_when_the_set_changes() {
        let set = |count: usize| Set::new((0..count).map(|i| Instance::new(format!("{i}"))));
        let (three, four) = (set(3), set(4));
        let first = RoundRobin { next: AtomicU64::new(0), ..RoundRobin::seeded(0) }.over(&three);
        (0..5).for_each(|_| assert!(first.pick(&Ask::default()).is_some()));
        assert_eq!(first.over(&four).pick(&Ask::default()), Some(1), "pick number 5 of 4 instances");
    }
}
