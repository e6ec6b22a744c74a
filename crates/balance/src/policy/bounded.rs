//! Consistent hashing with bounded load.

use super::Ask;
use crate::Set;

/// So many candidates are asked in the order of the hash before all instances are asked in turn.
const CANDIDATES: usize = 128;
/// So often all are asked, if other threads begin so many calls meanwhile that everyone is at the bound.
const ROUNDS: u32 = 4;
/// More than what a few operations with floating point are wrong by.
const ROUNDING: f64 = 1e-12;

/// Begins a call at the first of `candidates`, places in the order that the key gives, whose load allows it.
///
/// Source: Mirrokni, Thorup and Zadimoghaddam, *Consistent hashing with bounded loads*, 2016: with `m` calls in flight,
/// this one among them, and `n` instances, none has more than `(1+excess)·m/n`, rounded up; here in proportion to its
/// weight. The sum of these bounds is more than the calls, so somebody always has room.
pub(super) fn begin(
    set: &Set,
    ask: &Ask<'_>,
    excess: Option<f64>,
    candidates: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut candidates = candidates.take(CANDIDATES).peekable();
    let first = *candidates.peek()?;
    let per_weight = |excess: f64| (1.0 + excess) * (set.in_flight() + 1) as f64 / set.total_weight() as f64;
    let bound = excess.map(per_weight);
    for place in candidates {
        if !ask.avoids(&set[place]) && begins(set, place, bound) {
            return Some(place);
        }
    }
    // So many were full, or to be avoided, that the hash doesn't matter any more.
    for round in 0..ROUNDS {
        let bound = excess.map(per_weight);
        for place in (first..set.len()).chain(0..first) {
            if (round > 0 || !ask.avoids(&set[place])) && begins(set, place, bound) {
                return Some(place);
            }
        }
    }
    set[first].begin();
    Some(first)
}

fn begins(set: &Set, place: usize, bound: Option<f64>) -> bool {
    let Some(per_weight) = bound else {
        set[place].begin();
        return true;
    };
    let most = per_weight * f64::from(set.weight(place));
    // What should be a whole number may be a little more by rounding, which must not make one of it.
    set[place].begin_below((most * (1.0 - ROUNDING)).ceil() as u32)
}
