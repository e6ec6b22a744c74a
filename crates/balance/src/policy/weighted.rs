//! Shares as the weights are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::random::admitted;
use super::{Ask, Policy};
use crate::chance::scaled;
use crate::{Chance, Set};

/// Weights are counted in these parts, for those that are warming up.
const PARTS: f64 = 128.0;

/// Smooth weighted round robin (spec P-3): shares exactly as the weights, and no bursts: of weights 5, 1, 1 come
/// `a a b a c a a` and not `a a a a a b c`.
///
/// Source: nginx (I. Sysoev, *Upstream: smooth weighted round-robin balancing*, 2012). For each pick it looks at all instances,
/// under a lock that is held for just so long; for hundreds and more [`WeightedRandom`] is faster.
#[derive(Debug)]
pub struct SmoothWeighted {
    set: Arc<Set>,
    current: Mutex<Vec<i64>>,
}

impl Default for SmoothWeighted {
    fn default() -> Self {
        Self::new()
    }
}

impl SmoothWeighted {
    /// Over no instances yet.
    pub fn new() -> Self {
        SmoothWeighted { set: Arc::default(), current: Mutex::default() }
    }

    /// The credit of each instance by name.
    fn credits(&self) -> BTreeMap<&str, i64> {
        let current = self.current.lock();
        self.set.members().iter().map(|member| member.id()).zip(current.iter().copied()).collect()
    }
}

impl Policy for SmoothWeighted {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let credits = self.credits();
        let of = |id: &str| credits.get(id).copied().unwrap_or(0);
        let current = set.members().iter().map(|member| of(member.id())).collect();
        Box::new(SmoothWeighted { set: set.clone(), current: Mutex::new(current) })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let mut current = self.current.lock();
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (place, credit) in current.iter_mut().enumerate() {
            let weight = (self.set.warm_weight(place, ask.now) * PARTS) as i64;
            *credit = credit.saturating_add(weight);
            total += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((place, *credit));
            }
        }
        let (place, credit) = best?;
        current[place] = credit.saturating_sub(total);
        self.set[place].begin();
        Some(place)
    }
}

/// Random with the weights as probabilities (spec P-3), in constant time.
///
/// Source: the alias method (A. J. Walker, 1974, built as by Vose, *A linear algorithm for generating random numbers with a
/// given distribution*, 1991): each of `n` columns of the same height holds at most two instances.
#[derive(Debug)]
pub struct WeightedRandom {
    set: Arc<Set>,
    chance: Chance,
    columns: Vec<Column>,
}

/// The column's own instance fills it up to `height` of 2^64, and `alias` the rest.
#[derive(Clone, Copy, Debug)]
struct Column {
    height: u64,
    alias: u32,
}

impl WeightedRandom {
    /// Over no instances yet.
    pub fn seeded(seed: u64) -> Self {
        WeightedRandom { set: Arc::default(), chance: Chance::seeded(seed), columns: Vec::new() }
    }

    fn draw(&self) -> usize {
        let drawn = self.chance.next();
        let place = scaled(drawn, self.columns.len() as u64) as usize;
        let Column { height, alias } = self.columns[place];
        // What the multiplication left over says where in the column.
        let within = drawn.wrapping_mul(self.columns.len() as u64);
        if within < height { place } else { alias as usize }
    }
}

impl Policy for WeightedRandom {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let weights: Vec<u32> = (0..set.len()).map(|place| set.weight(place)).collect();
        Box::new(WeightedRandom { set: set.clone(), chance: self.chance.fork(), columns: columns(&weights) })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        if self.set.is_empty() {
            return None;
        }
        let place = admitted(&self.set, ask, &self.chance, || self.draw());
        self.set[place].begin();
        Some(place)
    }
}

/// Columns whose areas are the weights. Whole numbers throughout, so no rounding can lose an instance.
fn columns(weights: &[u32]) -> Vec<Column> {
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let count = weights.len() as u128;
    let mut rest: Vec<u128> = weights.iter().map(|&weight| u128::from(weight) * count).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|&place| rest[place] < total);
    let mut columns: Vec<Column> =
        (0..weights.len()).map(|place| Column { height: u64::MAX, alias: place as u32 }).collect();
    while let (Some(low), Some(&high)) = (small.pop(), large.last()) {
        let height = (rest[low] << 64) / total;
        columns[low] = Column { height: height as u64, alias: high as u32 };
        rest[high] -= total - rest[low];
        if rest[high] < total {
            large.pop();
            small.push(high);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    fn set(weights: &[u32]) -> Arc<Set> {
        Set::new(
            weights.iter().enumerate().map(|(i, &weight)| Instance::new(format!("{i:03}")).weighing(weight)),
        )
    }

    /// Spec P-3: the very sequence that nginx documents.
    #[test]
    fn smooth_shares_come_without_bursts() {
        let policy = SmoothWeighted::new().over(&set(&[5, 1, 1]));
        let picks: Vec<_> = (0..14).filter_map(|_| policy.pick(&Ask::default())).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    /// Spec P-3: after as many picks as all weigh together, each has its weight; and never is one ahead by a whole pick or more.
    #[test]
    fn smooth_shares_are_exact() {
        let weights = [1_u32, 2, 3, 10, 84];
        let policy = SmoothWeighted::new().over(&set(&weights));
        let mut counts = [0_u32; 5];
        for pick in 1..=100_u32 {
            counts[policy.pick(&Ask::default()).unwrap()] += 1;
            for (count, weight) in counts.iter().zip(weights) {
                let ahead = f64::from(*count) - f64::from(pick * weight) / 100.0;
                assert!(ahead < 1.0, "{counts:?} after {pick}");
            }
        }
        assert_eq!(counts, weights);
    }

    #[test]
    fn credits_stay_with_their_instances() {
        let policy = SmoothWeighted::new().over(&set(&[5, 1, 1]));
        (0..2).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        let same = policy.over(&set(&[5, 1, 1]));
        let picks: Vec<_> = (0..5).filter_map(|_| same.pick(&Ask::default())).collect();
        assert_eq!(picks, [1, 0, 2, 0, 0], "it goes on where it was");
    }

    #[test]
    fn the_greatest_weights_overflow_nothing() {
        let policy = SmoothWeighted::new().over(&set(&[u32::MAX; 100]));
        let mut counts = [0; 100];
        (0..10_000).for_each(|_| counts[policy.pick(&Ask::default()).unwrap()] += 1);
        assert_eq!(counts, [100; 100]);
        assert_eq!(columns(&[u32::MAX; 3]).len(), 3);
    }

    /// Spec P-3: chi-squared with 4 degrees of freedom is below 18.5 in 99.9 % of cases.
    #[test]
    fn random_shares_are_as_the_weights() {
        let weights = [1_u32, 2, 3, 10, 84];
        let set = set(&weights);
        let policy = WeightedRandom::seeded(7).over(&set);
        (0..100_000).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        let off = set.members().iter().zip(weights).map(|(member, weight)| {
            let expected = f64::from(weight) * 1_000.0;
            (f64::from(member.in_flight()) - expected).powi(2) / expected
        });
        let chi_squared = off.sum::<f64>();
        assert!(chi_squared < 18.5, "{chi_squared}");
    }

    /// The areas of the columns are the weights, to a part in 2^60.
    #[test]
    fn columns_lose_nothing() {
        for weights in [vec![1], vec![1, 1_000_000], vec![3, 1, 4, 1, 5, 9, 2, 6], vec![1, u32::MAX, 1]] {
            let mut areas = vec![0.0; weights.len()];
            for (place, column) in columns(&weights).iter().enumerate() {
                let own = column.height as f64 / 2_f64.powi(64);
                areas[place] += own;
                areas[column.alias as usize] += 1.0 - own;
            }
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (area, weight) in areas.iter().zip(&weights) {
                let expected = f64::from(*weight) / total * weights.len() as f64;
                assert!((area - expected).abs() < 1e-9, "{weights:?} {areas:?}");
            }
        }
    }
}
