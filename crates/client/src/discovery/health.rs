//! From single checks to an instance's health, with hysteresis (spec R-3). Pure: no I/O and no clock.

use bramah_wire::registry::Health;

/// What an instance's checks add up to.
///
/// The health gets worse after `fall` checks in a row that were worse than it, and better after `rise` that were better. So a single
/// failure changes nothing, nor does an instance that flaps: each change takes that many checks. After a run of different
/// ones the change is the smallest that all of them agree on: of a warning and two failures a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    health: Health,
    rise: u32,
    fall: u32,
    run: Option<Run>,
}

/// Checks in a row that were all worse than the health, or all better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    worse: bool,
    checks: u32,
    /// That of them which is nearest to the health.
    nearest: Health,
}

impl HealthState {
    /// Begins with this health.
    #[must_use]
    pub fn new(health: Health, rise: u32, fall: u32) -> Self {
        Self { health, rise: rise.max(1), fall: fall.max(1), run: None }
    }

    /// The health now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// A check was made. The new health, if that changed it.
    pub fn observe(&mut self, seen: Health) -> Option<Health> {
        if seen == self.health {
            self.run = None;
            return None;
        }
        let worse = seen > self.health;
        let before = self.run.filter(|run| run.worse == worse);
        let run = Run {
            worse,
            checks: before.map_or(0, |run| run.checks) + 1,
            nearest: before
                .map_or(seen, |run| if worse { run.nearest.min(seen) } else { run.nearest.max(seen) }),
        };
        if run.checks < if worse { self.fall } else { self.rise } {
            self.run = Some(run);
            return None;
        }
        self.run = None;
        self.health = run.nearest;
        Some(self.health)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Health::{Critical, Passing, Warning};

    fn changes(state: &mut HealthState, seen: &[Health]) -> Vec<Health> {
        seen.iter().filter_map(|seen| state.observe(*seen)).collect()
    }

    /// Spec R-3.
    #[test]
    fn so_many_in_a_row_change_it() {
        let mut state = HealthState::new(Passing, 2, 3);
        assert_eq!(changes(&mut state, &[Critical, Critical, Passing, Critical, Critical]), []);
        assert_eq!(changes(&mut state, &[Critical]), [Critical]);
        assert_eq!(changes(&mut state, &[Passing, Critical, Passing]), []);
        assert_eq!(changes(&mut state, &[Passing]), [Passing]);
        assert_eq!(
            changes(&mut state, &[Warning, Critical, Critical, Critical, Critical, Critical]),
            [Warning, Critical]
        );
        assert_eq!(changes(&mut state, &[Passing, Warning]), [Warning]);
    }

    /// Spec R-3: one that flaps writes nothing.
    #[test]
    fn one_that_flaps_keeps_its_health() {
        let mut state = HealthState::new(Passing, 2, 2);
        for _ in 0..1_000 {
            assert_eq!(changes(&mut state, &[Critical, Passing]), []);
        }
    }

    fn any_health() -> impl Strategy<Value = Health> {
        prop_oneof![Just(Passing), Just(Warning), Just(Critical)]
    }

    proptest! {
        /// Spec R-3: between two changes are as many checks as the thresholds ask for, and a change is always one that all of
        /// those checks bear out.
        #[test]
        fn each_change_is_borne_out(
            first in any_health(),
            rise in 1_u32..6,
            fall in 1_u32..6,
            seen in prop::collection::vec(any_health(), 0..200),
        ) {
            let mut state = HealthState::new(first, rise, fall);
            let (mut before, mut last) = (first, 0);
            for (index, one) in seen.iter().enumerate() {
                let Some(now) = state.observe(*one) else {
                    prop_assert_eq!(state.health(), before);
                    continue;
                };
                let needed = if now > before { fall } else { rise } as usize;
                prop_assert!(now != before && index + 1 - last >= needed);
                let run = &seen[index + 1 - needed..=index];
                let borne_out = run.iter().all(|one| if now > before { *one >= now } else { *one <= now });
                prop_assert!(borne_out);
                prop_assert!(run.contains(&now));
                (before, last) = (now, index + 1);
            }
        }

        /// Whatever was before, enough of the same lead there.
        #[test]
        fn enough_of_the_same_lead_there(
            seen in prop::collection::vec(any_health(), 0..50),
            end in any_health(),
            rise in 1_u32..6,
            fall in 1_u32..6,
        ) {
            let mut state = HealthState::new(Passing, rise, fall);
            for one in seen {
                state.observe(one);
            }
            // A run that was begun may end half-way; then comes one more.
            for _ in 0..2 * rise.max(fall) {
                state.observe(end);
            }
            prop_assert_eq!(state.health(), end);
        }
    }
}
