//! Which instance gets a call: load balancing policies, and what surrounds them. Pure, and usable alone.
//!
//! Nothing here does I/O, has a clock, a thread or a source of randomness of its own. Time comes in as [`Time`], chance from
//! a seed ([`Chance`]). So the same calls give the same picks, and a test or a simulation needs nothing else.
//!
//! ```
//! use std::time::Duration;
//! use bramah_balance::{Ask, Balancer, Instance, Outcome, Settings, Time};
//!
//! let balancer = Balancer::new(Settings::default(), Time::ZERO);
//! balancer.update(Time::ZERO, ["a", "b", "c"].map(Instance::new));
//!
//! let call = balancer.pick(&Ask::at(Time::ZERO))?;
//! println!("speak to {}", call.id());
//! call.end(Time::ZERO + Duration::from_millis(7), Outcome::Success);
//! # Ok::<(), bramah_balance::PickError>(())
//! ```
//!
//! # What is where
//!
//! * A [`Policy`] picks one of a [`Set`] of instances. It sees those that may be picked, with their weights, zones and live
//!   state ([`Member`]): calls in flight, latency, failures. `docs/balancing.md` says which to choose, with figures.
//! * A [`Balancer`] stands around any policy. It keeps the state of instances that stay when the set changes, leaves out the
//!   unhealthy, ejects outliers, warms up newcomers, and ignores health altogether when too little of it is left.
//! * [`Tries`] with a [`RetryBudget`] decide whether a failed call is tried again and how long each try may take;
//!   [`Hedging`] decides when a second try goes out beside the first.
//!
//! All of them may be used from many threads at once. No lock is held across a call, and only what is said to takes one
//! during a pick.

mod balancer;
mod budget;
mod chance;
mod decaying;
mod hedging;
mod member;
mod outliers;
mod policy;
mod set;
mod slow_start;
mod time;
mod tries;

pub use balancer::{Balancer, Call, PickError, Settings};
pub use budget::{BudgetSettings, RetryBudget};
pub use chance::Chance;
pub use hedging::{HedgeSettings, Hedging};
pub use member::{Instance, LoadSettings, Member, Outcome};
pub use outliers::OutlierSettings;
pub use policy::{
    Ask, Automatic, LeastRequest, Locality, Maglev, Policy, Random, Ring, RoundRobin, SmoothWeighted,
    TwoChoices, WeightedRandom, default_policy, key_of,
};
pub use set::Set;
pub use slow_start::SlowStart;
pub use time::Time;
pub use tries::{GiveUp, Retry, Tries, TrySettings};
