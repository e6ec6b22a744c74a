//! Who the instances are: as they are told, and as workers find them.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bramah_balance::{Ask, Balancer, Call, Instance, PickError, Settings as BalancerSettings};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::metrics::InstanceFigures;
use crate::settings::Settings;

/// The instances of a service, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// In any order; of instances of the same name the last counts.
    pub instances: Vec<Upstream>,
}

/// One instance and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What the balancer is told.
    pub instance: Instance,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Upstreams {
    /// A list that doesn't change: each address is an instance named after it.
    pub fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let upstream =
            |address: SocketAddr| Upstream { instance: Instance::new(address.to_string()), address };
        Upstreams { instances: addresses.into_iter().map(upstream).collect() }
    }
}

type Table = HashMap<Arc<str>, Arc<Endpoint>>;

/// The balancer, and where its instances are.
#[derive(Debug)]
pub(crate) struct Directory {
    balancer: Balancer,
    table: ArcSwap<Table>,
    clock: Clock,
    workers: usize,
    ejections: AtomicU64,
    /// Those that were ejected when it was looked last.
    ejected: Mutex<BTreeSet<Arc<str>>>,
}

/// An instance that was picked may be gone before it is looked up, but not often in a row.
const PICKS: usize = 4;

impl Directory {
    pub(crate) fn new(settings: &Settings, clock: Clock) -> Self {
        let balancing = BalancerSettings {
            policy: settings.policy.policy(settings.seed),
            outliers: settings.outliers.clone(),
            slow_start: settings.slow_start,
            // `maintain` does that: tables of consistent hashing are too much work for a request.
            picks_maintain: false,
            ..BalancerSettings::default()
        };
        Directory {
            balancer: Balancer::new(balancing, clock.now()),
            table: ArcSwap::default(),
            clock,
            workers: settings.workers,
            ejections: AtomicU64::new(0),
            ejected: Mutex::default(),
        }
    }

    /// These are the instances from now on. Calls under way end where they are.
    pub(crate) fn update(&self, upstreams: &Upstreams) {
        let before = self.table.load_full();
        let mut after = Table::new();
        for upstream in &upstreams.instances {
            let id = &upstream.instance.id;
            let known = before.get(id).filter(|known| known.address == upstream.address).cloned();
            let endpoint =
                known.unwrap_or_else(|| Arc::new(Endpoint::new(id.clone(), upstream.address, self.workers)));
            after.insert(id.clone(), endpoint);
        }
        // First all that can be picked before or after, so that whoever is picked is found.
        let mut both = Table::clone(&before);
        both.extend(after.iter().map(|(id, endpoint)| (id.clone(), endpoint.clone())));
        self.table.store(Arc::new(both));
        let instances = upstreams.instances.iter().map(|upstream| upstream.instance.clone());
        self.balancer.update(self.clock.now(), instances);
        let after = Arc::new(after);
        self.table.store(Arc::clone(&after));
        for (id, endpoint) in before.iter() {
            if !after.get(id).is_some_and(|stays| Arc::ptr_eq(stays, endpoint)) {
                endpoint.leave();
            }
        }
    }

    /// Does what time demands of the balancer.
    pub(crate) fn maintain(&self) {
        self.balancer.maintain(self.clock.now());
        let now: BTreeSet<Arc<str>> = self.balancer.ejected().into_iter().collect();
        let mut before = self.ejected.lock();
        self.ejections.fetch_add(now.difference(&before).count() as u64, Relaxed);
        *before = now;
    }

    /// Picks an instance that is not among `avoid` if there is another.
    pub(crate) fn pick(
        &self,
        key: Option<u64>,
        avoid: &[Arc<str>],
    ) -> Result<(Call, Arc<Endpoint>), PickError> {
        let avoid: Vec<&str> = avoid.iter().map(|id| &**id).collect();
        for _ in 0..PICKS {
            let call = self.balancer.pick(&Ask { now: self.clock.now(), key, avoid: &avoid })?;
            if let Some(endpoint) = self.table.load().get(call.id()) {
                return Ok((call, Arc::clone(endpoint)));
            }
        }
        Err(PickError::NoInstances)
    }

    /// How many instances can be picked.
    pub(crate) fn choices(&self) -> usize {
        self.balancer.set().len()
    }

    pub(crate) fn endpoints(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub(crate) fn panics(&self) -> bool {
        self.balancer.panics()
    }

    /// In the order of names.
    pub(crate) fn figures(&self) -> Vec<InstanceFigures> {
        let (now, set, ejected) = (self.clock.now(), self.balancer.set(), self.balancer.ejected());
        let table = self.table.load();
        let mut all: Vec<_> = table
            .values()
            .map(|endpoint| {
                let member = set.members().iter().find(|member| *member.id() == *endpoint.id);
                let mut figures = InstanceFigures {
                    id: endpoint.id.to_string(),
                    address: endpoint.address.to_string(),
                    in_flight: member.map_or(0, |member| member.in_flight()),
                    ejected: ejected.contains(&endpoint.id),
                    waiting_connections: endpoint.waiting(),
                    latency_us: member
                        .and_then(|member| member.latency(now))
                        .map(|nanos| (nanos / 1e3) as u64),
                    ..InstanceFigures::default()
                };
                endpoint.counts().for_each(|counts| figures.add(counts));
                figures
            })
            .collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn at(id: &str, port: u16) -> Upstream {
        Upstream { instance: Instance::new(id), address: address(port) }
    }

    /// Spec F-2: an instance that stays keeps its connections; one that moved is another.
    #[test]
    fn an_instance_is_a_name_at_an_address() {
        let directory = Directory::new(&Settings::default(), Clock::start());
        assert!(directory.pick(None, &[]).is_err());
        directory.update(&Upstreams { instances: vec![at("a", 1), at("b", 2)] });
        let before = directory.endpoints();
        directory.update(&Upstreams { instances: vec![at("a", 1), at("b", 3)] });
        let after = directory.endpoints();
        assert!(Arc::ptr_eq(&before["a"], &after["a"]) && !Arc::ptr_eq(&before["b"], &after["b"]));
        let (_call, endpoint) = directory.pick(None, &["a".into()]).unwrap();
        assert_eq!(endpoint.address, address(3));
    }
}
