//! Uniform random choice.

use std::sync::Arc;

use super::{Ask, Policy};
use crate::{Chance, Set};

/// Each instance with the same probability (spec P-2). Weights don't count.
///
/// Use it where no two callers may be in step, and as a yardstick: with `n` calls for `n` instances the busiest gets about
/// `ln n / ln ln n` of them (Raab and Steger, *Balls into bins*, 1998), which is why two choices are better.
#[derive(Debug)]
pub struct Random {
    set: Arc<Set>,
    chance: Chance,
}

impl Random {
    /// Over no instances yet.
    pub fn seeded(seed: u64) -> Self {
        Random { set: Arc::default(), chance: Chance::seeded(seed) }
    }
}

impl Policy for Random {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        Box::new(Random { set: set.clone(), chance: self.chance.fork() })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        if self.set.is_empty() {
            return None;
        }
        let place =
            admitted(&self.set, ask, &self.chance, || self.chance.below(self.set.len() as u64) as usize);
        self.set[place].begin();
        Some(place)
    }
}

/// So often another is drawn when one that warms up was, before it is taken all the same.
const DRAWS: u32 = 8;

/// What `draw` gives, drawn again for instances that warm up as their share demands.
pub(super) fn admitted(set: &Set, ask: &Ask<'_>, chance: &Chance, draw: impl Fn() -> usize) -> usize {
    let mut place = draw();
    for _ in 0..DRAWS {
        if set.admits(place, ask.now, chance) {
            break;
        }
        place = draw();
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    /// Spec P-2: chi-squared with 99 degrees of freedom is below 148.2 in 99.9 % of cases, and above 61.1 in as many.
    #[test]
    fn picks_are_uniform() {
        let set = Set::new((0..100).map(|i| Instance::new(format!("{i:02}"))));
        let policy = Random::seeded(42).over(&set);
        (0..100_000).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        let squares = set.members().iter().map(|member| (f64::from(member.in_flight()) - 1_000.0).powi(2));
        let chi_squared = squares.sum::<f64>() / 1_000.0;
        assert!((61.1..148.2).contains(&chi_squared), "{chi_squared}");
    }
}
