//! Nanoseconds a pick, and bytes an instance, against the number of instances.
//!
//! ```text
//! cargo bench -p bramah-balance
//! ```

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bramah_balance::{
    Ask, Balancer, Chance, Instance, LeastRequest, Locality, Maglev, Outcome, Policy, Random, Ring,
    RoundRobin, Set, Settings, SmoothWeighted, Time, TwoChoices, WeightedRandom,
};
use criterion::{BenchmarkId, Criterion};

const COUNTS: [usize; 3] = [10, 1_000, 100_000];

/// Each policy with its name.
fn policies(count: usize) -> Vec<(&'static str, Box<dyn Policy>)> {
    vec![
        ("round robin", Box::new(RoundRobin::seeded(1))),
        ("random", Box::new(Random::seeded(1))),
        ("smooth weighted", Box::new(SmoothWeighted::new())),
        ("weighted random", Box::new(WeightedRandom::seeded(1))),
        ("least request of all", Box::new(LeastRequest::seeded(1))),
        ("two choices, requests", Box::new(TwoChoices::least_request(1))),
        ("two choices, peak EWMA", Box::new(TwoChoices::peak_ewma(1))),
        ("Maglev", Box::new(Maglev::seeded(1).sized_for(count))),
        ("Maglev, bound 1.25", Box::new(Maglev::seeded(1).sized_for(count).bounded(0.25))),
        ("ring", Box::new(Ring::seeded(1))),
        ("ring, bound 1.25", Box::new(Ring::seeded(1).bounded(0.25))),
        ("locality, two choices", Box::new(Locality::new("zone 0", TwoChoices::least_request(1), 1))),
    ]
}

fn instances(count: usize) -> impl Iterator<Item = Instance> {
    let weight = |number: usize| 1 + number as u32 % 3;
    (0..count).map(move |number| {
        Instance::new(format!("10.0.{number}:8080"))
            .weighing(weight(number))
            .in_zone(format!("zone {}", number % 3))
    })
}

/// Instances with a few calls in flight, and a latency.
fn busy_set(count: usize) -> Arc<Set> {
    let set = Set::new(instances(count));
    let chance = Chance::seeded(7);
    for member in set.members() {
        member.begin();
        member.end(Time::ZERO, Time::from_nanos(1_000_000 + chance.below(1_000_000)), Outcome::Success);
        (0..chance.below(4)).for_each(|_| member.begin());
    }
    set
}

fn picks(criterion: &mut Criterion) {
    for count in COUNTS {
        let set = busy_set(count);
        let mut group = criterion.benchmark_group("pick");
        for (name, policy) in policies(count) {
            let policy = policy.over(&set);
            let chance = Chance::seeded(3);
            let mut now = Time::from_nanos(1_000_000_000);
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    now = now + Duration::from_micros(1);
                    let place = policy.pick(&Ask { now, key: Some(chance.next()), avoid: &[] });
                    set[black_box(place).unwrap_or_default()].forget();
                });
            });
        }
        group.finish();
    }
}

/// All of it: the pick of a balancer with its defaults, and the end of the call.
fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    for count in COUNTS {
        let balancer = Balancer::new(Settings::seeded(1), Time::ZERO);
        balancer.update(Time::ZERO, instances(count));
        let mut now = Time::from_nanos(1_000_000_000);
        group.bench_function(BenchmarkId::new("balancer, default policy", count), |bencher| {
            bencher.iter(|| {
                let begun = now;
                now = now + Duration::from_micros(1);
                if let Ok(call) = balancer.pick(&Ask::at(begun)) {
                    black_box(&call);
                    call.end(now, Outcome::Success);
                }
            });
        });
    }
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("change");
    for count in COUNTS {
        let set = busy_set(count);
        for (name, policy) in policies(count) {
            if ["Maglev", "ring", "weighted random", "two choices, requests"].contains(&name) {
                group.bench_function(BenchmarkId::new(name, count), |bencher| {
                    bencher.iter(|| black_box(policy.over(&set)));
                });
            }
        }
        let balancer = Balancer::new(Settings::seeded(1), Time::ZERO);
        let all: Vec<Instance> = instances(count).collect();
        group.bench_function(BenchmarkId::new("balancer, default policy", count), |bencher| {
            bencher.iter(|| balancer.update(Time::ZERO, all.iter().cloned()));
        });
    }
    group.finish();
}

/// What stays allocated, in bytes for each instance.
fn memory() {
    println!("bytes an instance{:>18}{:>10}{:>10}", COUNTS[0], COUNTS[1], COUNTS[2]);
    let names: Vec<&str> = policies(1).into_iter().map(|(name, _)| name).collect();
    for (place, name) in names.iter().enumerate() {
        let each = COUNTS.map(|count| {
            let set = Set::new(instances(count));
            let policy = policies(count).swap_remove(place).1;
            let mut built = None;
            let info = allocation_counter::measure(|| built = Some(policy.over(&set)));
            drop(built);
            info.bytes_current as f64 / count as f64
        });
        println!("{name:<25}{:>10.0}{:>10.0}{:>10.0}", each[0], each[1], each[2]);
    }
    let each = COUNTS.map(|count| {
        let mut built = None;
        let info = allocation_counter::measure(|| {
            let balancer = Balancer::new(Settings::seeded(1), Time::ZERO);
            balancer.update(Time::ZERO, instances(count));
            built = Some(balancer);
        });
        drop(built);
        info.bytes_current as f64 / count as f64
    });
    println!("{:<25}{:>10.0}{:>10.0}{:>10.0}", "balancer, default policy", each[0], each[1], each[2]);
}

fn main() {
    // Without this argument the harness only tries whether everything runs.
    if std::env::args().any(|argument| argument == "--bench") {
        memory();
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    picks(&mut criterion);
    calls(&mut criterion);
    changes(&mut criterion);
    criterion.final_summary();
}
