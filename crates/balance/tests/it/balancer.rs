//! Picking, ending, errors, panic and second tries.

use std::time::Duration;

use bramah_balance::{
    Ask, Balancer, Instance, LeastRequest, Locality, Outcome, PickError, RoundRobin, Settings, TwoChoices,
};

use crate::{at, instances, name};

fn round_robin() -> Settings {
    Settings::with(RoundRobin::seeded(0))
}

#[test]
fn nobody_to_pick_is_an_error_that_says_why() {
    let balancer = Balancer::new(round_robin(), at(0));
    let error =
        |balancer: &Balancer| balancer.pick(&Ask::at(at(0))).map(|call| call.id().to_owned()).unwrap_err();
    assert_eq!(error(&balancer), PickError::NoInstances);
    balancer.update(at(0), []);
    assert_eq!(error(&balancer), PickError::NoInstances);
    balancer.update(at(0), instances(3).into_iter().map(|one| one.weighing(0)));
    assert_eq!(error(&balancer), PickError::AllDrained { count: 3 });
    assert!(error(&balancer).to_string().contains("all 3 of the service are being drained"));
    let strict = Balancer::new(Settings { panic_below: 0.0, ..round_robin() }, at(0));
    strict.update(at(0), instances(3).into_iter().map(Instance::unhealthy));
    assert_eq!(error(&strict), PickError::NoneHealthy { count: 3 });
}

#[test]
fn a_call_is_in_flight_until_it_ends_or_is_dropped() {
    let balancer = Balancer::new(round_robin(), at(0));
    balancer.update(at(0), instances(1));
    let set = balancer.set();
    let (one, other) = (balancer.pick(&Ask::at(at(0))).unwrap(), balancer.pick(&Ask::at(at(0))).unwrap());
    assert_eq!((set[0].in_flight(), set.in_flight()), (2, 2));
    one.end(at(20), Outcome::Success);
    assert_eq!(set[0].latency(at(20)), Some(20e6));
    drop(other);
    assert_eq!((set[0].in_flight(), set.in_flight()), (0, 0));
    assert_eq!(set[0].latency(at(20)), Some(20e6), "a dropped call says nothing");
    balancer.pick(&Ask::at(at(20))).unwrap().end(at(60), Outcome::Cancelled);
    assert_eq!(set[0].latency(at(60)), Some(40e6), "one that was given up says that it takes longer");
    balancer.pick(&Ask::at(at(60))).unwrap().end(at(61), Outcome::Failure);
    assert!(set[0].latency(at(61)).unwrap() > 39e6, "a fast failure is no fast answer");
}

/// Spec P-8: of ten instances five are enough; with four all are used.
#[test]
fn below_the_floor_health_is_ignored() {
    let balancer = Balancer::new(round_robin(), at(0));
    let healthy = |count: usize| {
        let of = |(i, one): (usize, Instance)| Instance { healthy: i < count, ..one };
        instances(10).into_iter().enumerate().map(of).collect::<Vec<_>>()
    };
    for (count, used) in [(10, 10), (9, 9), (5, 5), (4, 10), (0, 10), (5, 5)] {
        balancer.update(at(0), healthy(count));
        assert_eq!((balancer.set().len(), balancer.panics()), (used, used != count), "{count} healthy");
    }
    let drained = healthy(0).into_iter().map(|one| one.weighing(0)).chain([Instance::new("z").unhealthy()]);
    balancer.update(at(0), drained);
    assert_eq!(balancer.pick(&Ask::at(at(0))).unwrap().id(), "z", "weight 0 is never ignored");
}

#[test]
fn a_second_try_goes_elsewhere_whatever_the_policy() {
    let settings = [
        round_robin(),
        Settings::with(LeastRequest::seeded(1)),
        Settings::with(TwoChoices::peak_ewma(1)),
        Settings::seeded(1),
    ];
    for settings in settings {
        let balancer = Balancer::new(settings, at(0));
        balancer.update(at(0), instances(3));
        for _ in 0..100 {
            let first = balancer.pick(&Ask::at(at(0))).unwrap();
            let avoid = [first.id()];
            let second = balancer.pick(&Ask { avoid: &avoid, ..Ask::at(at(0)) }).unwrap();
            assert_ne!(first.id(), second.id());
            let avoid = [first.id(), second.id()];
            let third = balancer.pick(&Ask { avoid: &avoid, ..Ask::at(at(0)) }).unwrap();
            assert!(!avoid.contains(&third.id()));
        }
        let all = [name(0), name(1), name(2)];
        let all = [&*all[0], &*all[1], &*all[2]];
        assert!(balancer.pick(&Ask { avoid: &all, ..Ask::at(at(0)) }).is_ok(), "better than none");
        assert_eq!(balancer.set().in_flight(), 0, "what was looked at and not taken was given back");
    }
}

/// Spec P-7: ejected and unhealthy instances make a zone weaker, and it spills over in proportion: 1.4 · 5/10 stays.
#[test]
fn a_zone_spills_over_what_it_lost() {
    let policy = Locality::new("north", RoundRobin::seeded(1), 1);
    let balancer = Balancer::new(Settings { panic_below: 0.0, ..Settings::with(policy) }, at(0));
    let of = |(i, one): (usize, Instance)| {
        let zone = if i < 10 { "north" } else { "south" };
        Instance { healthy: i >= 4, ..one }.in_zone(zone)
    };
    balancer.update(at(0), instances(20).into_iter().enumerate().map(of));
    for ms in 0..1_000 {
        let call = balancer.pick(&Ask::at(at(ms))).unwrap();
        let outcome = if call.id() == name(4) { Outcome::Failure } else { Outcome::Success };
        call.end(at(ms), outcome);
    }
    assert_eq!(*balancer.ejected(), [name(4).into()]);
    let at_home =
        (0..10_000).filter(|_| balancer.pick(&Ask::at(at(1_000))).unwrap().member().zone() == "north");
    let at_home = at_home.count();
    assert!((6_800..7_200).contains(&at_home), "{at_home}");
}

/// The default looks at all of 32, and at two of 33: two of 33 idle ones get two calls before all have one.
#[test]
fn the_default_policy_depends_on_the_number() {
    for (count, even) in [(1, true), (32, true), (33, false), (1_000, false)] {
        let balancer = Balancer::new(Settings::seeded(1), at(0));
        balancer.update(at(0), instances(count));
        let calls: Vec<_> = (0..count).map(|_| balancer.pick(&Ask::at(at(0))).unwrap()).collect();
        assert_eq!(calls.iter().all(|call| call.member().in_flight() == 1), even, "{count}");
    }
}

/// Threads pick, end, change the set and let time pass; afterwards nothing is in flight, and no call went to a stranger.
#[test]
fn threads_may_do_everything_at_once() {
    let balancer = Balancer::new(Settings::seeded(1), at(0));
    balancer.update(at(0), instances(40));
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let balancer = &balancer;
            scope.spawn(move || {
                for step in 0..20_000 {
                    let call = balancer.pick(&Ask::at(at(step))).unwrap();
                    let fails = call.id() == name(3) || (step + thread).is_multiple_of(50);
                    let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                    call.end(at(step) + Duration::from_micros(300), outcome);
                }
            });
        }
        for step in 0..200 {
            balancer.update(at(step * 100), instances(30 + step as usize % 20));
        }
    });
    assert_eq!(balancer.set().in_flight(), 0);
    assert!(balancer.set().members().iter().all(|member| member.in_flight() == 0));
}
