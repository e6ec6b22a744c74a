//! What stays when instances come and go.

use bramah_balance::{Ask, Balancer, Instance, LeastRequest, Outcome, RoundRobin, Settings};

use crate::{at, instances, name};

#[test]
fn those_that_stay_keep_their_state() {
    let balancer = Balancer::new(Settings::with(RoundRobin::seeded(0)), at(0));
    balancer.update(at(0), instances(3));
    let calls: Vec<_> = (0..6).map(|_| balancer.pick(&Ask::at(at(0))).unwrap()).collect();
    let mut calls = calls.into_iter();
    (0..3).for_each(|_| calls.next().unwrap().end(at(10), Outcome::Success));

    balancer.update(at(10), instances(4).into_iter().skip(1).map(|one| one.weighing(7)));
    let set = balancer.set();
    assert_eq!(set.place(&name(0)), None);
    for stays in [1, 2] {
        let place = set.place(&name(stays)).unwrap();
        assert_eq!((set[place].in_flight(), set[place].latency(at(10))), (1, Some(10e6)));
        assert_eq!(set.weight(place), 7);
    }
    let new = set.place(&name(3)).unwrap();
    assert_eq!((set[new].in_flight(), set[new].latency(at(10))), (0, None));

    // Calls that began before end at the same members, also at one that left.
    calls.for_each(|call| call.end(at(20), Outcome::Success));
    assert!(set.members().iter().all(|member| member.in_flight() == 0));
    assert_eq!(set.in_flight(), 0);
}

#[test]
fn one_that_leaves_and_returns_begins_anew() {
    let balancer = Balancer::new(Settings::with(LeastRequest::seeded(0)), at(0));
    balancer.update(at(0), instances(1));
    let call = balancer.pick(&Ask::at(at(0))).unwrap();
    balancer.update(at(0), []);
    balancer.update(at(0), instances(1));
    assert_eq!(balancer.set()[0].in_flight(), 0);
    call.end(at(5), Outcome::Success);
    assert_eq!(balancer.set()[0].in_flight(), 0, "the call was at the one that left");
    assert_eq!(balancer.set().in_flight(), 0);
}

#[test]
fn one_that_moves_to_another_zone_is_another() {
    let balancer = Balancer::new(Settings::with(RoundRobin::seeded(0)), at(0));
    balancer.update(at(0), [Instance::new("a").in_zone("north")]);
    let call = balancer.pick(&Ask::at(at(0))).unwrap();
    balancer.update(at(0), [Instance::new("a").in_zone("south")]);
    assert_eq!(balancer.set()[0].zone(), "south");
    assert_eq!(balancer.set()[0].in_flight(), 0);
    call.end(at(1), Outcome::Success);
}

#[test]
fn of_two_with_one_name_the_last_counts() {
    let balancer = Balancer::new(Settings::default(), at(0));
    balancer
        .update(at(0), [Instance::new("a").weighing(1), Instance::new("b"), Instance::new("a").weighing(9)]);
    assert_eq!(balancer.set().len(), 2);
    assert_eq!(balancer.set().weight(0), 9);
}
