//! What the policies and the balancer promise, seen from outside.

mod balancer;
mod hashing;
mod membership;
mod outliers;
mod properties;
mod warming;

use std::time::Duration;

use bramah_balance::{Instance, Time};

/// This many milliseconds after the clock's beginning.
fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

/// So many instances, named so that they are in the order of their numbers.
fn instances(count: usize) -> Vec<Instance> {
    (0..count).map(|number| Instance::new(name(number))).collect()
}

fn name(number: usize) -> String {
    format!("i{number:05}")
}
