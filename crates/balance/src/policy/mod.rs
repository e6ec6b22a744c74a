//! The policies: each picks one of a set of instances.

mod bounded;
mod least_request;
mod locality;
mod maglev;
mod random;
mod ring;
mod round_robin;
mod two_choices;
mod weighted;

use std::fmt::Debug;
use std::sync::Arc;

use twox_hash::XxHash3_64;

pub use least_request::LeastRequest;
pub use locality::Locality;
pub use maglev::Maglev;
pub use random::Random;
pub use ring::Ring;
pub use round_robin::RoundRobin;
pub use two_choices::TwoChoices;
pub use weighted::{SmoothWeighted, WeightedRandom};

use crate::{Chance, Member, Set, Time};

/// What is known of a call before an instance is picked for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Now.
    pub now: Time,
    /// The hash of what the call is about ([`key_of`]), for policies that send the same key to the same instance.
    pub key: Option<u64>,
    /// Instances that had their chance, such as in an earlier try. Another is picked if there is one.
    pub avoid: &'a [&'a str],
}

impl Ask<'static> {
    /// Asks at this moment, for no key.
    pub fn at(now: Time) -> Self {
        Ask { now, key: None, avoid: &[] }
    }
}

impl Ask<'_> {
    /// The same, for this key.
    #[must_use]
    pub fn about(self, key: &[u8]) -> Self {
        Ask { key: Some(key_of(key)), ..self }
    }

    /// Whether the call should not go there if it can go elsewhere.
    pub fn avoids(&self, member: &Member) -> bool {
        self.avoid.contains(&member.id())
    }
}

/// The hash of a key: XXH3 of 64 bits. It is the same in each process, and stays so.
pub fn key_of(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

/// Picks one instance for a call, over and over.
///
/// How calls end is told to the [`Member`](crate::Member) (`end`), whose live state all policies see. A policy is made over
/// one [`Set`]. When the set changes, [`over`](Policy::over) makes the same policy for the new one; what it remembers, such as
/// whose turn it is, goes along.
///
/// A policy of your own needs these two methods. They are called from many threads at once.
pub trait Policy: Debug + Send + Sync {
    /// The same policy over another set. Tables are built here; it may take time in proportion to the set.
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy>;

    /// The place in the set of the instance for this call, which is [begun](crate::Member::begin) there, so that two
    /// threads see each other's picks. `None` if the set is empty.
    fn pick(&self, ask: &Ask<'_>) -> Option<usize>;
}

/// For policies that are chosen while the program runs.
impl Policy for Box<dyn Policy> {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        (**self).over(set)
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        (**self).pick(ask)
    }
}

/// Up to this many instances, all are looked at for each call.
const FEW: usize = 32;

/// The policy for `count` instances if nothing else is known: [`LeastRequest`] for up to 32, [`TwoChoices`] by calls in
/// flight for more.
///
/// To look at all of 32 takes three to four times as long as to look at two, and is better for the slowest calls; for ten times as
/// many it takes ten times as long, while two choices take the same for any number (`docs/balancing.md` has the figures).
pub fn default_policy(count: usize, seed: u64) -> Box<dyn Policy> {
    if count <= FEW {
        Box::new(LeastRequest::seeded(seed))
    } else {
        Box::new(TwoChoices::least_request(seed))
    }
}

/// [`default_policy`] for as many instances as there are at the moment.
#[derive(Debug)]
pub struct Automatic {
    chance: Chance,
    policy: Box<dyn Policy>,
}

impl Automatic {
    /// Over no instances yet.
    pub fn seeded(seed: u64) -> Self {
        Automatic { chance: Chance::seeded(seed), policy: default_policy(0, seed) }
    }
}

impl Policy for Automatic {
    fn over(&self, set: &Arc<Set>) -> Box<dyn Policy> {
        let policy = default_policy(set.len(), self.chance.next()).over(set);
        Box::new(Automatic { chance: self.chance.fork(), policy })
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        self.policy.pick(ask)
    }
}
