//! Consistent hashing by a table.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::{Ask, Policy, bounded};
use crate::chance::{mixed, scaled};
use crate::{Chance, Set};

/// The table's length in the paper's small version, and Envoy's default. Good for some 650 instances.
const TABLE: usize = 65_537;
/// Slots an instance for shares that differ by about 1 %.
const SLOTS_EACH: usize = 100;
/// At most so many slots: 64 MiB.
const MOST_SLOTS: usize = 1 << 24;

/// The same key goes to the same instance, by one look into a table (spec P-6).
///
/// Source: Eisenbud et al., *Maglev: a fast and reliable software network load balancer*, NSDI 2016, §3.4; weights as in
/// Envoy. Each instance has an order of all slots, and they take free slots in turns. All callers with the same instances have the same
/// table. When one of `n` instances comes or goes, about 1/n of the keys move, and few others; compared with a [`Ring`](super::Ring)
/// shares are more even and picks faster, but the table takes longer to build and some more keys move.
///
/// A call without a key goes anywhere. Slow start doesn't apply.
#[derive(Debug)]
pub struct Maglev {
    set: Arc<Set>,
    chance: Chance,
    slots: usize,
    excess: Option<f64>,
    table: Vec<u32>,
}

impl Maglev {
    /// With 65,537 slots, and no bound on the load. The seed is for calls without a key alone.
    pub fn seeded(seed: u64) -> Self {
        Maglev {
            set: Arc::default(),
            chance: Chance::seeded(seed),
            slots: TABLE,
            excess: None,
            table: Vec::new(),
        }
    }

    /// With a table for up to so many instances: 100 slots each, but at most 16 million. All callers must say the same,
    /// since another table is another order.
    #[must_use]
    pub fn sized_for(self, instances: usize) -> Self {
        self.with_slots(instances.saturating_mul(SLOTS_EACH).clamp(TABLE, MOST_SLOTS))
    }

    /// With this many slots, or a few more: their number is a prime.
    #[must_use]
    pub fn with_slots(self, slots: usize) -> Self {
        Maglev { slots: next_prime(slots.clamp(3, MOST_SLOTS)), ..self }
    }

    /// No instance gets more than `1 + excess` of its share of the calls in flight; what is too much goes to others.
    #[must_use]
    pub fn bounded(self, excess: f64) -> Self {
        Maglev { excess: Some(excess.max(0.0)), ..self }
    }

    /// The instance of a key, as long as no bound is reached.
    pub fn place_of(&self, key: u64) -> Option<usize> {
        self.from(key).next()
    }

    /// Places in the order of the table, beginning where the key falls.
    fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let first = scaled(mixed(key), self.table.len() as u64) as usize;
        self.table[first..].iter().chain(&self.table[..first]).map(|&place| place as usize)
    }
}

impl Policy for Maglev {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let table = table(set, self.slots);
        Box::new(Maglev { set: set.clone(), chance: self.chance.fork(), table, ..*self })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let key = ask.key.unwrap_or_else(|| self.chance.next());
        bounded::begin(&self.set, ask, self.excess, self.from(key))
    }
}

const FREE: u32 = u32::MAX;

/// The paper's pseudocode 1. One instance takes a slot a turn, lighter ones so much more seldom than the heaviest.
fn table(set: &Set, slots: usize) -> Vec<u32> {
    let mut orders: Vec<Order> =
        set.members().iter().map(|member| Order::of(member.id(), slots as u64)).collect();
    let heaviest = (0..set.len()).map(|place| u64::from(set.weight(place))).max().unwrap_or(0);
    let mut credits = vec![0_u64; set.len()];
    let mut table = if set.is_empty() { Vec::new() } else { vec![FREE; slots] };
    let mut free = table.len();
    while free > 0 {
        for (place, order) in orders.iter_mut().enumerate() {
            credits[place] += u64::from(set.weight(place));
            if credits[place] < heaviest || free == 0 {
                continue;
            }
            credits[place] -= heaviest;
            let slot = order.find(|&slot| table[slot] == FREE).unwrap_or_default();
            table[slot] = place as u32;
            free -= 1;
        }
    }
    table
}

/// All slots in an order that the name gives: `slots` is a prime, so each comes once before any comes again.
struct Order {
    next: u64,
    skip: u64,
    slots: u64,
}

impl Order {
    fn of(id: &str, slots: u64) -> Self {
        let hash = |seed| XxHash3_64::oneshot_with_seed(seed, id.as_bytes());
        Order { next: hash(0) % slots, skip: hash(1) % (slots - 1) + 1, slots }
    }
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let slot = self.next;
        self.next = slot + self.skip;
        if self.next >= self.slots {
            self.next -= self.slots;
        }
        Some(slot as usize)
    }
}

fn next_prime(from: usize) -> usize {
    let is_prime = |number: &usize| (2..).take_while(|d| d * d <= *number).all(|d| !number.is_multiple_of(d));
    (from..).find(is_prime).unwrap_or(TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    fn slots_of(table: &[u32], count: usize) -> Vec<f64> {
        let mut slots = vec![0.0; count];
        table.iter().for_each(|&place| slots[place as usize] += 1.0);
        slots
    }

    /// Spec P-6. The paper, §5.3: with 65,537 slots and 100 instances shares differ by about a percent.
    #[test]
    fn slots_are_as_the_weights() {
        let set = Set::new((0..100).map(|i| Instance::new(format!("{i}"))));
        let slots = slots_of(&table(&set, TABLE), 100);
        assert!(slots.iter().all(|slots| (slots / 655.37 - 1.0).abs() < 0.01), "{slots:?}");
        let weights = [1, 2, 3, 4];
        let set = Set::new(weights.map(|weight| Instance::new(format!("{weight}")).weighing(weight)));
        for (slots, weight) in slots_of(&table(&set, TABLE), 4).iter().zip(weights) {
            assert!((slots / (6_553.7 * f64::from(weight)) - 1.0).abs() < 0.01);
        }
    }

    #[test]
    fn tables_have_prime_lengths() {
        assert_eq!(Maglev::seeded(0).sized_for(10).slots, 65_537);
        assert_eq!(Maglev::seeded(0).sized_for(1_000).slots, 100_003);
        assert_eq!(next_prime(5_000_000), 5_000_011, "Envoy's greatest");
        assert!(Maglev::seeded(0).sized_for(usize::MAX).slots < MOST_SLOTS + 100);
    }
}
