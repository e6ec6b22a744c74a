//! Random numbers from a seed, for many threads at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An odd number near 2^64 divided by the golden ratio: its multiples are spread evenly.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A source of random numbers: the same seed gives the same numbers, in the order in which they are asked for.
///
/// This is SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014): one atomic
/// addition a number, and no lock. It is fast, and no secret.
#[derive(Debug)]
pub struct Chance {
    state: AtomicU64,
}

impl Chance {
    /// Give each caller another seed, or they all pick the same instances at the same time.
    pub const fn seeded(seed: u64) -> Self {
        Chance { state: AtomicU64::new(seed) }
    }

    /// A random number of 64 bits.
    pub fn next(&self) -> u64 {
        mixed(self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP))
    }

    /// A random number below `bound`, 0 if that is 0.
    ///
    /// Lemire's multiplication without its rejection: what it prefers some numbers by is at most `bound` in 2^64.
    pub fn below(&self, bound: u64) -> u64 {
        scaled(self.next(), bound)
    }

    /// A random number from 0 to 1, without 1.
    pub fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Another source, which gives other numbers.
    pub fn fork(&self) -> Chance {
        Chance::seeded(self.next())
    }
}

/// `random` of 64 bits, brought to what is below `bound`.
pub(crate) fn scaled(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// The bits of `value` stirred so that each depends on all: SplitMix64's finalizer.
pub(crate) fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_paper_and_stay_below_their_bound() {
        // The reference implementation's first numbers for the seed 1234567.
        let chance = Chance::seeded(1_234_567);
        assert_eq!(
            [chance.next(), chance.next(), chance.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
        assert!((0..1_000).all(|bound| chance.below(bound) < bound.max(1)));
        assert!((0..1_000).map(|_| chance.fraction()).all(|fraction| (0.0..1.0).contains(&fraction)));
    }
}
