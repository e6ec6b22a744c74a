//! The same zone first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Ask, Policy};
use crate::{Chance, Set};

/// A zone keeps all of its calls while 1/1.4 = 71 % of it may be picked: Envoy's overprovisioning factor.
const OVERPROVISIONED: f64 = 1.4;

/// Prefers the caller's own zone while enough of it is healthy, and spills over in proportion (spec P-7). Within a zone
/// another policy picks.
///
/// Source: Envoy's *priority levels*, of two levels, own zone and the others. With `h` the healthy part of a level by weight, the
/// own zone gets `min(1, 1.4·h)` of the calls, and the others at most `min(1, 1.4·h)` of theirs; should both together not reach
/// 1, they are scaled up. Other zones share by healthy weight.
///
/// If it is known where the callers are ([`with_callers`](Self::with_callers)), Envoy's *zone aware routing* is put on top: a
/// zone with a greater part of the callers than of the instances keeps only what its instances can take, and the rest
/// goes where there is room.
#[derive(Debug)]
pub struct Locality {
    zone: Arc<str>,
    inner: Box<dyn Policy>,
    callers: BTreeMap<Arc<str>, f64>,
    chance: Arc<Chance>,
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    name: Arc<str>,
    places: Vec<usize>,
    policy: Box<dyn Policy>,
    /// A random fraction below this, and not below that of the zone before, falls here.
    below: f64,
}

impl Locality {
    /// For a caller in `zone`, with `inner` to pick within a zone.
    pub fn new(zone: impl Into<Arc<str>>, inner: impl Policy + 'static, seed: u64) -> Self {
        Locality {
            zone: zone.into(),
            inner: Box::new(inner),
            callers: BTreeMap::new(),
            chance: Arc::new(Chance::seeded(seed)),
            zones: Vec::new(),
        }
    }

    /// How many callers there are in each zone, or how many calls come from there; only proportions count.
    #[must_use]
    pub fn with_callers<Z: Into<Arc<str>>>(self, callers: impl IntoIterator<Item = (Z, f64)>) -> Self {
        let callers = callers.into_iter().map(|(zone, count)| (zone.into(), count.max(0.0))).collect();
        Locality { callers, ..self }
    }
}

impl Policy for Locality {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, member) in set.members().iter().enumerate() {
            places.entry(member.zone()).or_default().push(place);
        }
        let shares = shares(set, &self.zone, &self.callers);
        let mut below = 0.0;
        let mut zones = Vec::new();
        for (name, places) in places {
            let before = self.zones.iter().find(|zone| &*zone.name == name).map(|zone| &zone.policy);
            let policy = before.unwrap_or(&self.inner).over(&set.part(&places));
            below += shares[name];
            zones.push(Zone { name: name.into(), places, policy, below });
        }
        // The prototype forgets its set: only what it is counts.
        let inner = self.inner.over(&Arc::default());
        let (zone, callers) = (self.zone.clone(), self.callers.clone());
        Box::new(Locality { zone, inner, callers, chance: self.chance.clone(), zones })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let fraction = self.chance.fraction();
        let zone = self.zones.iter().find(|zone| fraction < zone.below).or(self.zones.last())?;
        Some(zone.places[zone.policy.pick(ask)?])
    }
}

/// What part of the calls each zone with an instance in the set gets. They add up to 1.
fn shares<'a>(set: &'a Set, own: &str, callers: &BTreeMap<Arc<str>, f64>) -> BTreeMap<&'a str, f64> {
    let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
    for (place, member) in set.members().iter().enumerate() {
        *weights.entry(member.zone()).or_default() += f64::from(set.weight(place));
    }
    let total: f64 = weights.values().sum();
    let here = weights.get(own).copied().unwrap_or(0.0);
    let wanted = |zone: &str| callers.get(zone).copied().unwrap_or(0.0) / callers.values().sum::<f64>();
    let room = |zone: &str, weight: f64| weight / total - wanted(zone);

    let kept = by_priority(set, own, here, total - here);
    let kept = if callers.is_empty() || here == total || wanted(own) <= 0.0 {
        kept
    } else {
        kept * (here / total / wanted(own)).min(1.0)
    };
    let elsewhere: BTreeMap<&str, f64> =
        weights.iter().filter(|(zone, _)| **zone != own).map(|(&zone, &weight)| (zone, weight)).collect();
    let roomy: BTreeMap<&str, f64> =
        elsewhere.iter().map(|(&zone, &weight)| (zone, room(zone, weight).max(0.0))).collect();
    let by_room = !callers.is_empty() && roomy.values().sum::<f64>() > 0.0;
    let parts = if by_room { roomy } else { elsewhere };
    let all: f64 = parts.values().sum();
    let mut shares: BTreeMap<&str, f64> =
        parts.into_iter().map(|(zone, part)| (zone, (1.0 - kept) * part / all)).collect();
    if let Some((&zone, _)) = weights.get_key_value(own) {
        shares.insert(zone, kept);
    }
    shares
}

/// What the own zone gets by Envoy's formula for two priority levels.
fn by_priority(set: &Set, own: &str, here: f64, elsewhere: f64) -> f64 {
    let registered: u64 = set.registered().values().sum();
    let registered_here = set.registered().get(own).copied().unwrap_or(0);
    let level = |healthy: f64, all: u64| {
        if healthy > 0.0 { (OVERPROVISIONED * healthy / all.max(1) as f64).min(1.0) } else { 0.0 }
    };
    let kept = level(here, registered_here);
    let spilled = level(elsewhere, registered - registered_here).min(1.0 - kept);
    if kept + spilled > 0.0 { kept / (kept + spilled) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Instance, RoundRobin};

    /// Instances of each zone, and how many of them are healthy.
    fn set(zones: &[(&str, usize, usize)]) -> Arc<Set> {
        Set::new(zones.iter().flat_map(|&(zone, count, healthy)| {
            (0..count).map(move |i| Instance {
                healthy: i < healthy,
                ..Instance::new(format!("{zone}{i}")).in_zone(zone)
            })
        }))
    }

    fn shares_of(zones: &[(&str, usize, usize)], callers: &[(&str, f64)]) -> Vec<f64> {
        let callers = callers.iter().map(|&(zone, count)| (zone.into(), count)).collect();
        let set = set(zones);
        let shares = shares(&set, "a", &callers);
        assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
        shares.into_values().map(|share| (share * 1_000.0).round() / 1_000.0).collect()
    }

    /// Spec P-7: numbers as in Envoy's documentation of priority levels.
    #[test]
    fn it_spills_over_in_proportion() {
        assert_eq!(shares_of(&[("a", 10, 10), ("b", 10, 10), ("c", 10, 10)], &[]), [1.0, 0.0, 0.0]);
        assert_eq!(shares_of(&[("a", 100, 72), ("b", 100, 100)], &[]), [1.0, 0.0], "72 % is enough");
        assert_eq!(shares_of(&[("a", 100, 71), ("b", 100, 100)], &[]), [0.994, 0.006]);
        assert_eq!(
            shares_of(&[("a", 10, 5), ("b", 10, 10), ("c", 20, 20)], &[]),
            [0.7, 0.1, 0.2],
            "as they weigh"
        );
        assert_eq!(shares_of(&[("a", 100, 25), ("b", 100, 25)], &[]), [0.5, 0.5], "scaled up from 35 % each");
        assert_eq!(shares_of(&[("a", 10, 0), ("b", 10, 1)], &[]), [1.0], "all that is left");
        assert_eq!(shares_of(&[("a", 10, 1), ("b", 10, 0)], &[]), [1.0], "all that is left");
    }

    /// Spec P-7: half of the callers, but a quarter of the instances, so the zone keeps half of its calls.
    #[test]
    fn a_zone_with_too_many_callers_keeps_what_it_can_take() {
        let zones = [("a", 10, 10), ("b", 10, 10), ("c", 20, 20)];
        assert_eq!(
            shares_of(&zones, &[("a", 2.0), ("b", 1.0), ("c", 1.0)]),
            [0.5, 0.0, 0.5],
            "c has the room"
        );
        assert_eq!(shares_of(&zones, &[("a", 1.0), ("b", 1.0), ("c", 2.0)]), [1.0, 0.0, 0.0]);
        assert_eq!(shares_of(&zones, &[("b", 1.0)]), [1.0, 0.0, 0.0], "a caller nobody knows of");
    }

    #[test]
    fn picks_fall_as_the_shares_and_in_turn_within_a_zone() {
        let set = set(&[("a", 10, 5), ("b", 10, 10), ("c", 20, 20)]);
        let policy = Locality::new("a", RoundRobin::seeded(1), 2).over(&set);
        let mut counts: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        (0..100_000).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        for member in set.members() {
            counts.entry(member.zone()).or_default().push(member.in_flight());
        }
        for (zone, share) in [("a", 0.7), ("b", 0.1), ("c", 0.2)] {
            let sum = counts[zone].iter().sum::<u32>();
            assert!((f64::from(sum) / 100_000.0 - share).abs() < 0.01, "{zone}: {sum}");
            let (least, most) = (counts[zone].iter().min().unwrap(), counts[zone].iter().max().unwrap());
            assert!(most - least <= 1, "{zone}: {:?}", counts[zone]);
        }
    }

    #[test]
    fn a_caller_in_no_zone_uses_all() {
        let set = set(&[("b", 10, 10), ("c", 30, 30)]);
        assert_eq!(shares(&set, "", &BTreeMap::new()).into_values().collect::<Vec<_>>(), [0.25, 0.75]);
    }
}
