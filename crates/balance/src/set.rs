//! The instances that a policy picks from.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::member::{Rules, Tally};
use crate::{Chance, Instance, LoadSettings, Member, SlowStart, Time};

/// Instances that may be picked, in the order of their names. It never changes; their live state does.
#[derive(Debug, Default)]
pub struct Set {
    members: Vec<Arc<Member>>,
    weights: Vec<u32>,
    total_weight: u64,
    even: bool,
    warming: bool,
    /// What each zone weighs, together with instances of it that may not be picked.
    registered: BTreeMap<Arc<str>, u64>,
    tallies: Vec<Arc<Tally>>,
}

impl Set {
    /// A set for policies that are used without a [`Balancer`](crate::Balancer): healthy instances that weigh something,
    /// each with fresh state. Of instances of the same name the last counts.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Arc<Set> {
        let rules = Arc::new(Rules::new(LoadSettings::default(), SlowStart::OFF, 0));
        let instances: BTreeMap<_, _> = instances.into_iter().map(|one| (one.id.clone(), one)).collect();
        let mut tallies: BTreeMap<Arc<str>, Arc<Tally>> = BTreeMap::new();
        let mut registered = BTreeMap::new();
        let mut members = Vec::new();
        for instance in instances.values() {
            *registered.entry(instance.zone.clone()).or_insert(0) += u64::from(instance.weight);
            let tally = tallies.entry(instance.zone.clone()).or_default().clone();
            if instance.healthy {
                members.push((Arc::new(Member::new(instance, rules.clone(), tally)), instance.weight));
            }
        }
        Arc::new(Set::of(members, registered, Time::ZERO))
    }

    /// Those of `members` that weigh something. `registered` is what zones weigh with all of their instances.
    pub(crate) fn of(
        members: impl IntoIterator<Item = (Arc<Member>, u32)>,
        registered: BTreeMap<Arc<str>, u64>,
        now: Time,
    ) -> Self {
        let (members, weights): (Vec<_>, Vec<_>) =
            members.into_iter().filter(|(_, weight)| *weight > 0).unzip();
        let mut set = Set { members, weights, registered, ..Set::default() };
        set.total_weight = set.weights.iter().copied().map(u64::from).sum();
        set.even = set.weights.windows(2).all(|pair| pair[0] == pair[1]);
        set.warming = set.members.iter().any(|member| member.warm_at(now).is_some());
        for member in &set.members {
            if !set.tallies.iter().any(|tally| Arc::ptr_eq(tally, member.tally())) {
                set.tallies.push(member.tally().clone());
            }
        }
        set
    }

    /// The set's members at these places, as a set of their own.
    pub fn part(&self, places: &[usize]) -> Arc<Set> {
        let members = places.iter().map(|&place| (self.members[place].clone(), self.weights[place]));
        let mut part = Set::of(members, self.registered.clone(), Time::NEVER);
        part.warming = self.warming;
        Arc::new(part)
    }

    /// How many may be picked.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none may be picked.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All that may be picked, in the order of their names.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// The place of a member.
    pub fn place(&self, id: &str) -> Option<usize> {
        self.members.binary_search_by(|member| member.id().cmp(id)).ok()
    }

    /// The weight of a member, at least 1.
    pub fn weight(&self, place: usize) -> u32 {
        self.weights[place]
    }

    /// What all members weigh.
    pub fn total_weight(&self) -> u64 {
        self.total_weight
    }

    /// Whether all members weigh the same.
    pub fn is_even(&self) -> bool {
        self.even
    }

    /// What a zone's instances weigh, also those that may not be picked now.
    pub(crate) fn registered(&self) -> &BTreeMap<Arc<str>, u64> {
        &self.registered
    }

    /// Calls in flight at all members, and at instances of their zones that may not be picked any more.
    pub fn in_flight(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.0.load(Relaxed)).sum()
    }

    /// The weight of a member as far as it has warmed up.
    pub fn warm_weight(&self, place: usize, now: Time) -> f64 {
        let weight = f64::from(self.weights[place]);
        if self.warming { weight * self.members[place].warmth(now) } else { weight }
    }

    /// Whether a member that was picked by its whole weight should be taken: surely if it is warm, else in proportion.
    pub fn admits(&self, place: usize, now: Time, chance: &Chance) -> bool {
        if !self.warming {
            return true;
        }
        let warmth = self.members[place].warmth(now);
        warmth >= 1.0 || chance.fraction() < warmth
    }

    /// Whether some members are still warming up.
    pub fn is_warming(&self) -> bool {
        self.warming
    }

    /// `load` in proportion to what the member can take.
    pub(crate) fn per_weight(&self, load: f64, place: usize, now: Time) -> f64 {
        if self.even && !self.warming { load } else { load / self.warm_weight(place, now) }
    }
}

impl Index<usize> for Set {
    type Output = Member;

    fn index(&self, place: usize) -> &Member {
        &self.members[place]
    }
}
