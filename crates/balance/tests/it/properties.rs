//! Properties that hold whatever the instances and whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bramah_balance::{
    Ask, Automatic, Balancer, Call, Instance, LeastRequest, Locality, Maglev, Outcome, OutlierSettings,
    PickError, Policy, Random, Ring, RoundRobin, Set, Settings, SlowStart, SmoothWeighted, Time, TwoChoices,
    WeightedRandom,
};
use proptest::prelude::*;

use crate::name;

/// Each policy, small enough to be built thousands of times.
fn policy(number: usize) -> Box<dyn Policy> {
    let seed = number as u64;
    match number {
        0 => Box::new(RoundRobin::seeded(seed)),
        1 => Box::new(Random::seeded(seed)),
        2 => Box::new(SmoothWeighted::new()),
        3 => Box::new(WeightedRandom::seeded(seed)),
        4 => Box::new(LeastRequest::seeded(seed)),
        5 => Box::new(TwoChoices::least_request(seed)),
        6 => Box::new(TwoChoices::peak_ewma(seed)),
        7 => Box::new(Maglev::seeded(seed).with_slots(250).bounded(0.25)),
        8 => Box::new(Ring::seeded(seed).with_points(3).of_at_most(500).bounded(0.25)),
        9 => Box::new(Locality::new("north", LeastRequest::seeded(seed), seed)),
        10 => Box::new(
            Locality::new("south", RoundRobin::seeded(seed), seed)
                .with_callers([("south", 5.0), ("north", 1.0)]),
        ),
        _ => Box::new(Automatic::seeded(seed)),
    }
}
const POLICIES: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<Instance>),
    Pick(Option<u64>),
    PickAnother,
    End(usize, Outcome),
    Drop(usize),
    Pass(Duration),
}

fn instance() -> impl Strategy<Value = Instance> {
    let weight = prop_oneof![Just(0), Just(1), 1..10_u32, Just(u32::MAX)];
    let zone = prop_oneof![Just(""), Just("north"), Just("south")];
    (0..12_usize, weight, zone, any::<bool>()).prop_map(|(number, weight, zone, healthy)| Instance {
        healthy,
        ..Instance::new(name(number)).weighing(weight).in_zone(zone)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Success), Just(Outcome::Failure), Just(Outcome::Cancelled)];
    let pause = prop_oneof![
        (0..50_u64).prop_map(Duration::from_millis),
        (0..60_u64).prop_map(Duration::from_secs),
        Just(Duration::from_secs(u64::MAX / 2_000_000_000)),
    ];
    prop_oneof![
        1 => proptest::collection::vec(instance(), 0..12).prop_map(Step::Update),
        10 => proptest::option::of(any::<u64>()).prop_map(Step::Pick),
        3 => Just(Step::PickAnother),
        8 => (any::<usize>(), outcome).prop_map(|(call, outcome)| Step::End(call, outcome)),
        1 => any::<usize>().prop_map(Step::Drop),
        3 => pause.prop_map(Step::Pass),
    ]
}

/// What is known from outside, to compare with.
#[derive(Default)]
struct Model {
    instances: BTreeMap<Arc<str>, Instance>,
    now: Time,
    calls: Vec<Call>,
}

impl Model {
    fn expected_error(&self) -> Option<PickError> {
        let count = self.instances.len();
        match (count, self.instances.values().all(|one| one.weight == 0)) {
            (0, _) => Some(PickError::NoInstances),
            (_, true) => Some(PickError::AllDrained { count }),
            _ => None,
        }
    }

    fn pick(&mut self, balancer: &Balancer, ask: &Ask<'_>) {
        match balancer.pick(ask) {
            Err(error) => assert_eq!(Some(error), self.expected_error()),
            Ok(call) => {
                assert_eq!(None, self.expected_error());
                assert!(self.instances[call.id()].weight > 0, "{} is drained", call.id());
                let could_avoid = balancer.set().members().iter().any(|member| !ask.avoids(member));
                assert!(!ask.avoids(call.member()) || !could_avoid, "{} was to be avoided", call.id());
                self.calls.push(call);
            }
        }
    }

    fn step(&mut self, balancer: &Balancer, step: Step) {
        match step {
            Step::Update(instances) => {
                self.instances = instances.iter().map(|one| (one.id.clone(), one.clone())).collect();
                balancer.update(self.now, instances);
            }
            Step::Pick(key) => self.pick(balancer, &Ask { key, ..Ask::at(self.now) }),
            Step::PickAnother => {
                let names: Vec<String> = self.calls.iter().take(3).map(|call| call.id().to_owned()).collect();
                let avoid: Vec<&str> = names.iter().map(String::as_str).collect();
                self.pick(balancer, &Ask { avoid: &avoid, ..Ask::at(self.now) });
            }
            Step::End(call, outcome) if !self.calls.is_empty() => {
                self.calls.swap_remove(call % self.calls.len()).end(self.now, outcome);
            }
            Step::Drop(call) if !self.calls.is_empty() => {
                drop(self.calls.swap_remove(call % self.calls.len()));
            }
            Step::Pass(pause) => self.now = self.now + pause,
            Step::End(..) | Step::Drop(_) => {}
        }
        self.check(balancer);
    }

    fn check(&self, balancer: &Balancer) {
        let set = balancer.set();
        let names: Vec<_> = set.members().iter().map(|member| member.id()).collect();
        assert!(names.is_sorted() && names.iter().collect::<BTreeSet<_>>().len() == names.len());
        for member in set.members() {
            assert!(self.instances.contains_key(member.id()));
            // Calls of one that left and came back, or moved, are at another member of that name.
            let calls = self.calls.iter().filter(|call| std::ptr::eq(call.member(), &**member)).count();
            assert_eq!(member.in_flight() as usize, calls, "{}", member.id());
        }
        let weighty = self.instances.values().filter(|one| one.weight > 0).count();
        assert!(set.len() * 2 >= weighty, "below half there is panic, and all are used");
        assert!(!balancer.panics() || set.len() == weighty);
        assert!(balancer.ejected().len() <= self.instances.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, goes, fails or passes: picks are of instances that are there and weigh something, counts of calls in flight
    /// are exact and stay with their instances, panic fills the set, and an empty one is a clear error.
    #[test]
    fn a_balancer_keeps_its_books(number in 0..POLICIES, steps in proptest::collection::vec(step(), 1..80)) {
        let settings = Settings {
            outliers: Some(OutlierSettings { most_ejected: 1.0, failures_in_a_row: 2, ..OutlierSettings::default() }),
            slow_start: SlowStart::default(),
            ..Settings::with(policy(number))
        };
        let balancer = Balancer::new(settings, Time::ZERO);
        let mut model = Model::default();
        for step in steps {
            model.step(&balancer, step);
        }
        model.calls.clear();
        prop_assert_eq!(balancer.set().in_flight(), 0);
    }

    /// One instance gets everything, from each policy, whatever its weight and key.
    #[test]
    fn one_instance_gets_everything(number in 0..POLICIES, weight in 1_u32.., key in any::<Option<u64>>()) {
        let set = Set::new([Instance::new("only").weighing(weight)]);
        let policy = policy(number).over(&set);
        for _ in 0..5 {
            prop_assert_eq!(policy.pick(&Ask { key, ..Ask::default() }), Some(0));
        }
        prop_assert_eq!(set[0].in_flight(), 5);
    }

    /// Of no instances, or none that weighs anything, nobody is picked.
    #[test]
    fn nobody_is_picked_of_none(number in 0..POLICIES, key in any::<Option<u64>>()) {
        for set in [Set::new([]), Set::new([Instance::new("drained").weighing(0)])] {
            prop_assert!(set.is_empty());
            prop_assert_eq!(policy(number).over(&set).pick(&Ask { key, ..Ask::default() }), None);
        }
    }

    /// Spec P-1, for any number of instances and rounds, also when the set changes to one of the same size in between.
    #[test]
    fn round_robin_is_exact(count in 1..50_usize, rounds in 1..20_usize, seed in any::<u64>()) {
        let set = Set::new((0..count).map(|number| Instance::new(name(number))));
        let mut policy = RoundRobin::seeded(seed).over(&set);
        for round in 1..=rounds {
            (0..count).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
            prop_assert!(set.members().iter().all(|member| member.in_flight() as usize == round));
            policy = policy.over(&set);
        }
    }

    /// Spec P-3, for any weights: after as many picks as they add up to, each has its own.
    #[test]
    fn smooth_shares_are_exact(weights in proptest::collection::vec(0..20_u32, 1..10)) {
        let of = |(number, &weight): (usize, &u32)| Instance::new(name(number)).weighing(weight);
        let set = Set::new(weights.iter().enumerate().map(of));
        let policy = SmoothWeighted::new().over(&set);
        (0..set.total_weight()).for_each(|_| assert!(policy.pick(&Ask::default()).is_some()));
        for place in 0..set.len() {
            prop_assert_eq!(set[place].in_flight(), set.weight(place));
        }
    }

    /// Spec P-6: wherever keys are, removing an instance from a ring moves none of the others' keys.
    #[test]
    fn a_ring_moves_no_others(count in 2..20_usize, gone in any::<usize>(), keys in proptest::collection::vec(any::<u64>(), 100)) {
        let mut rest: Vec<Instance> = (0..count).map(|number| Instance::new(name(number))).collect();
        let all = Set::new(rest.clone());
        let gone = rest.remove(gone % count).id;
        let rest = Set::new(rest);
        let (before, after) = (Ring::seeded(1).over(&all), Ring::seeded(2).over(&rest));
        for key in keys {
            let ask = Ask { key: Some(key), ..Ask::default() };
            let (before, after) = (before.pick(&ask).unwrap(), after.pick(&ask).unwrap());
            prop_assert!(all[before].id() == &*gone || all[before].id() == rest[after].id());
        }
    }
}
