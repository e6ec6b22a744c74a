//! Consistent hashing on a ring.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::{Ask, Policy, bounded};
use crate::chance::mixed;
use crate::{Chance, Set};

/// Points on the ring for each unit of weight: as many as ketama has, so that shares differ by about 8 %.
const POINTS: u32 = 160;
/// More points than this (96 MiB) are halved. Envoy's bound.
const MOST_POINTS: u64 = 1 << 23;

/// The same key goes to the same instance: the one of the next of many points on a ring (spec P-6).
///
/// Source: Karger et al., *Consistent hashing and random trees*, 1997, with many points an instance as in ketama (Last.fm, 2007);
/// points are XXH3 of names, so this is no drop-in for memcached clients. When one of `n` instances comes or goes, the keys
/// of its points move and no other: exactly its share. Shares are less even than [`Maglev`](super::Maglev)'s.
///
/// A call without a key goes anywhere. Slow start doesn't apply.
#[derive(Debug)]
pub struct Ring {
    set: Arc<Set>,
    chance: Chance,
    points_each: u32,
    most_points: u64,
    excess: Option<f64>,
    points: Points,
}

impl Ring {
    /// With 160 points for each unit of weight, and no bound on the load. The seed is for calls without a key alone.
    pub fn seeded(seed: u64) -> Self {
        let (set, chance) = (Arc::default(), Chance::seeded(seed));
        let points = Points::default();
        Ring { set, chance, points_each: POINTS, most_points: MOST_POINTS, excess: None, points }
    }

    /// So many points for each unit of weight: more make shares more even. All callers must say the same.
    #[must_use]
    pub fn with_points(self, points_each: u32) -> Self {
        Ring { points_each: points_each.max(1), ..self }
    }

    /// No more points than this in all (8 million unless said otherwise, which are 96 MiB and a second to build): weights that
    /// are all great would make a great ring. All callers must say the same.
    #[must_use]
    pub fn of_at_most(self, points: u64) -> Self {
        Ring { most_points: points.clamp(1, MOST_POINTS), ..self }
    }

    /// No instance gets more than `1 + excess` of its share of the calls in flight; what is too much goes to the next.
    #[must_use]
    pub fn bounded(self, excess: f64) -> Self {
        Ring { excess: Some(excess.max(0.0)), ..self }
    }

    /// The instance of a key, as long as no bound is reached.
    pub fn place_of(&self, key: u64) -> Option<usize> {
        self.points.from(mixed(key)).next()
    }
}

impl Policy for Ring {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let points = Points::of(set, self.points_each, self.most_points);
        Box::new(Ring { set: set.clone(), chance: self.chance.fork(), points, ..*self })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let key = ask.key.unwrap_or_else(|| self.chance.next());
        bounded::begin(&self.set, ask, self.excess, self.points.from(mixed(key)))
    }
}

/// Points in their order, and for each piece of the ring, of about one point, where its points begin.
#[derive(Debug, Default)]
struct Points {
    at: Vec<u64>,
    places: Vec<u32>,
    begins: Vec<u32>,
    /// A hash without so many low bits is its piece.
    piece_bits: u32,
}

impl Points {
    fn of(set: &Set, each: u32, most: u64) -> Self {
        let total = u128::from(set.total_weight()) * u128::from(each);
        let halvings = (0..64).find(|halvings| total >> halvings <= u128::from(most)).unwrap_or(64);
        let mut points = Vec::new();
        for (place, member) in set.members().iter().enumerate() {
            let wanted = u64::from(set.weight(place)) * u64::from(each);
            // The first points of an instance are the same however many it has.
            for number in 0..(wanted >> halvings).max(1) {
                points.push((XxHash3_64::oneshot_with_seed(number, member.id().as_bytes()), place as u32));
            }
        }
        points.sort_unstable();
        Self::in_order(points)
    }

    fn in_order(points: Vec<(u64, u32)>) -> Self {
        let (at, places): (Vec<u64>, Vec<u32>) = points.into_iter().unzip();
        let pieces = at.len().next_power_of_two().max(2);
        let piece_bits = u64::BITS - pieces.trailing_zeros();
        let mut begins = Vec::with_capacity(pieces);
        let mut point = 0;
        for piece in 0..pieces as u64 {
            while point < at.len() && at[point] >> piece_bits < piece {
                point += 1;
            }
            begins.push(point as u32);
        }
        Points { at, places, begins, piece_bits }
    }

    /// Places in the order of the ring from `hash` on.
    fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = if self.at.is_empty() { 0 } else { self.first(hash) };
        self.places[first..].iter().chain(&self.places[..first]).map(|&place| place as usize)
    }

    /// The first point at or after `hash`; their number if there is none.
    fn first(&self, hash: u64) -> usize {
        let mut point = self.begins[(hash >> self.piece_bits) as usize] as usize;
        while point < self.at.len() && self.at[point] < hash {
            point += 1;
        }
        point
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    #[test]
    fn pieces_find_what_a_search_finds() {
        let chance = Chance::seeded(3);
        for count in [1_usize, 2, 3, 64, 1_000] {
            let mut points: Vec<(u64, u32)> = (0..count).map(|place| (chance.next(), place as u32)).collect();
            points.push((u64::MAX, 7));
            points.push((0, 8));
            points.sort_unstable();
            let points = Points::in_order(points);
            for hash in (0..1_000).map(|_| chance.next()).chain([0, 1, u64::MAX - 1, u64::MAX]) {
                assert_eq!(points.first(hash), points.at.partition_point(|&at| at < hash));
            }
        }
    }

    /// Spec P-6: shares are within what 160 points give, 1/√160 as a standard deviation.
    #[test]
    fn shares_are_about_as_the_weights() {
        let set = Set::new((0..50).map(|i| Instance::new(format!("{i}")).weighing(1 + i % 2)));
        let ring = Ring { points: Points::of(&set, POINTS, MOST_POINTS), ..Ring::seeded(0) };
        let mut keys = [0.0; 50];
        (0..100_000_u64).for_each(|key| keys[ring.place_of(key).unwrap()] += 1.0);
        for (place, keys) in keys.iter().enumerate() {
            let expected = 100_000.0 * f64::from(set.weight(place)) / 75.0;
            assert!((keys / expected - 1.0).abs() < 0.35, "{place}: {keys} of {expected}");
        }
    }

    #[test]
    fn great_weights_make_no_great_ring() {
        let set = Set::new(["a", "b"].map(|id| Instance::new(id).weighing(u32::MAX)));
        let points = Points::of(&set, POINTS, MOST_POINTS).at.len() as u64;
        assert!((MOST_POINTS / 2..=MOST_POINTS).contains(&points), "{points}");
    }
}
