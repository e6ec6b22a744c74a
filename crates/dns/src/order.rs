//! Which record comes first.

use std::sync::atomic::{AtomicU32, Ordering};

use rand::{Rng, RngExt};

use crate::settings::Order;

/// What the order of one set of records is drawn from.
#[derive(Debug)]
pub(crate) struct Shares {
    /// For each record the sum of the weights up to and with its own.
    sums: Box<[u32]>,
    turn: AtomicU32,
}

/// The places of some records in the order in which they are to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    count: usize,
    first: usize,
    /// Where the others begin.
    start: usize,
    given: usize,
    passed: usize,
}

impl Shares {
    /// For records of these weights. Of those without weight none comes first, unless all are.
    pub(crate) fn new(weights: impl Iterator<Item = u32>, turn: u32) -> Shares {
        let mut sum = 0_u32;
        let sums = weights.map(|weight| {
            sum = sum.saturating_add(weight);
            sum
        });
        Shares { sums: sums.collect(), turn: AtomicU32::new(turn) }
    }

    pub(crate) fn row(&self, order: Order, random: &mut impl Rng) -> Row {
        let count = self.sums.len();
        let (first, start) = match order {
            _ if count < 2 => (0, 0),
            Order::Rotated => {
                let first = self.turn.fetch_add(1, Ordering::Relaxed) as usize % count;
                (first, first)
            }
            Order::Weighted => (self.drawn(random), random.random_range(0..count)),
        };
        Row { count, first, start, given: 0, passed: 0 }
    }

    fn drawn(&self, random: &mut impl Rng) -> usize {
        match self.sums.last() {
            None | Some(0) => random.random_range(0..self.sums.len()),
            Some(&all) => {
                let at = random.random_range(0..all);
                self.sums.partition_point(|&sum| sum <= at)
            }
        }
    }
}

impl Iterator for Row {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.given == self.count {
            return None;
        }
        self.given += 1;
        if self.given == 1 {
            return Some(self.first);
        }
        loop {
            let place = (self.start + self.passed) % self.count;
            self.passed += 1;
            if place != self.first {
                return Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn rows(weights: &[u32], order: Order, times: usize) -> Vec<Vec<usize>> {
        let shares = Shares::new(weights.iter().copied(), 0);
        let mut random = SmallRng::seed_from_u64(1);
        (0..times).map(|_| shares.row(order, &mut random).collect()).collect()
    }

    fn firsts(weights: &[u32], order: Order, times: usize) -> Vec<usize> {
        let mut counts = vec![0; weights.len()];
        rows(weights, order, times).iter().for_each(|row| counts[row[0]] += 1);
        counts
    }

    /// Spec F-3 and P-1: after n·k answers each of n has come first k times.
    #[test]
    fn rotated_gives_each_its_turn() {
        assert_eq!(firsts(&[1, 9, 0], Order::Rotated, 300), [100, 100, 100]);
        assert_eq!(rows(&[1, 1, 1], Order::Rotated, 2), [[0, 1, 2], [1, 2, 0]]);
    }

    /// Spec F-3 and P-3: shares as the weights, within five standard deviations.
    #[test]
    fn weighted_gives_shares_as_the_weights() {
        let counts = firsts(&[100, 0, 300, 600], Order::Weighted, 10_000);
        assert_eq!(counts[1], 0);
        for (count, expected) in [(counts[0], 1000_usize), (counts[2], 3000), (counts[3], 6000)] {
            assert!(count.abs_diff(expected) < 250, "{counts:?}");
        }
        let none_weighs = firsts(&[0, 0], Order::Weighted, 10_000);
        assert!(none_weighs[0].abs_diff(5000) < 250, "{none_weighs:?}");
    }

    #[test]
    fn a_row_has_each_once() {
        for order in [Order::Rotated, Order::Weighted] {
            for count in 0..9 {
                for mut row in rows(&vec![3; count], order, 50) {
                    row.sort();
                    assert_eq!(row, (0..count).collect::<Vec<_>>());
                }
            }
        }
    }
}
