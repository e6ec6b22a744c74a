//! The least busy of all.

use std::sync::Arc;

use super::{Ask, Policy};
use crate::{Chance, Set};

/// The instance with the fewest calls in flight in proportion to its weight, of all (spec P-4).
///
/// The best for up to some dozens of instances: it needs no measured latency, and a slow instance gets fewer calls by itself, since
/// it gives fewer back. It looks at each instance for each pick. Ties are broken by beginning anywhere. Source: join the shortest
/// queue (Winston, *Optimality of the shortest line discipline*, 1977); known as *least connections*.
///
/// A failed call counts for a while after its end ([`LoadSettings::failure_lasts`](crate::LoadSettings)).
#[derive(Debug)]
pub struct LeastRequest {
    set: Arc<Set>,
    chance: Chance,
}

/// So often the look is taken again when another thread was faster.
const LOOKS: u32 = 4;

impl LeastRequest {
    /// Over no instances yet.
    pub fn seeded(seed: u64) -> Self {
        LeastRequest { set: Arc::default(), chance: Chance::seeded(seed) }
    }

    /// The place of the least busy, and how many calls it has in flight.
    fn least(&self, ask: &Ask<'_>) -> Option<(usize, u32)> {
        let count = self.set.len();
        let first = self.chance.below(count as u64) as usize;
        let mut least: Option<(usize, u32, f64)> = None;
        for place in (first..count).chain(0..first) {
            let in_flight = self.set[place].in_flight();
            let load = self.set.per_weight(self.set[place].busy(ask.now) + 1.0, place, ask.now);
            if least.is_none_or(|(.., lowest)| load < lowest) {
                least = Some((place, in_flight, load));
            }
        }
        least.map(|(place, in_flight, _)| (place, in_flight))
    }
}

impl Policy for LeastRequest {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        Box::new(LeastRequest { set: set.clone(), chance: self.chance.fork() })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        for _ in 0..LOOKS {
            let (place, in_flight) = self.least(ask)?;
            // Another thread may have picked the same since; then it may not be the least busy any more.
            if self.set[place].begin_below(in_flight.saturating_add(1)) {
                return Some(place);
            }
        }
        let (place, _) = self.least(ask)?;
        self.set[place].begin();
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Instance, Outcome, Time};

    /// Spec P-4: whatever ends in whatever order, the picked one never had more in flight than another.
    #[test]
    fn never_one_with_more_in_flight_than_another() {
        let set = Set::new((0..20).map(|i| Instance::new(format!("{i:02}"))));
        let policy = LeastRequest::seeded(5).over(&set);
        let chance = Chance::seeded(9);
        let mut begun = Vec::new();
        for step in 0..20_000 {
            if begun.is_empty() || chance.below(100) < 52 {
                let least = set.members().iter().map(|member| member.in_flight()).min();
                let place = policy.pick(&Ask::default()).unwrap();
                assert_eq!(Some(set[place].in_flight() - 1), least, "step {step}");
                begun.push(place);
            } else {
                let place = begun.swap_remove(chance.below(begun.len() as u64) as usize);
                set[place].end(Time::ZERO, Time::ZERO, Outcome::Success);
            }
        }
    }

    #[test]
    fn threads_that_pick_at_once_leave_nobody_behind() {
        let set = Set::new((0..8).map(|i| Instance::new(format!("{i}"))));
        let policy = LeastRequest::seeded(5).over(&set);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|_| assert!(policy.pick(&Ask::default()).is_some())));
            }
        });
        let counts: Vec<_> = set.members().iter().map(|member| member.in_flight()).collect();
        // Each thread can be wrong by the picks that the others make during its look.
        assert!(counts.iter().all(|&count| count.abs_diff(1_000) <= 4), "{counts:?}");
    }

    #[test]
    fn calls_in_flight_are_as_the_weights() {
        let set = Set::new([1, 3].map(|weight| Instance::new(format!("{weight}")).weighing(weight)));
        let policy = LeastRequest::seeded(5).over(&set);
        (0..400).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        assert_eq!([set[0].in_flight(), set[1].in_flight()], [100, 300]);
    }

    /// One of ten fails at once, and is asked no more than if each failure took a second.
    #[test]
    fn failures_draw_no_calls() {
        let set = Set::new((0..10).map(|i| Instance::new(format!("{i}"))));
        let policy = LeastRequest::seeded(5).over(&set);
        let mut failed = 0;
        let mut running = std::collections::VecDeque::new();
        for ms in 0..10_000 {
            let now = Time::from_nanos(ms * 1_000_000);
            let place = policy.pick(&Ask::at(now)).unwrap();
            if place == 0 {
                set[0].end(now, now, Outcome::Failure);
                failed += 1;
            } else {
                running.push_back((place, now));
            }
            // Each good call takes 30 ms, so about three are in flight at each of the nine.
            if running.len() == 30 {
                let (place, begun) = running.pop_front().unwrap();
                set[place].end(begun, now, Outcome::Success);
            }
        }
        assert!((10..100).contains(&failed), "{failed} of 10,000");
    }
}
