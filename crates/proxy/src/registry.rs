//! The instances of a service as a cell's registry has them, for a proxy that follows it live (spec F-2).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bramah_balance::Instance;
use bramah_client::discovery::{Follower, Registered, Snapshot};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::upstreams::{Upstream, Upstreams};

/// How long the address of a host name is looked for.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);
/// How often host names are looked up again: what they stand for may move.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(30);
/// Names that are looked up at once.
const LOOK_UPS: usize = 16;

/// Which instances a proxy carries requests to.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Those of this service.
    pub service: String,
    /// Only those with this tag.
    pub tag: Option<String>,
}

/// Follows the registry until it or all receivers are dropped. While the cell is away the last list stays.
#[derive(Debug)]
pub struct Followed(tokio::task::JoinHandle<()>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Followed {
    /// The first list has all instances with an IP address; those with a host name follow once that is looked up.
    pub fn start(follower: Follower, chosen: Chosen) -> (Followed, watch::Receiver<Arc<Upstreams>>) {
        let names = HashMap::new();
        let (lists, told) = watch::channel(Arc::new(chosen.list(&follower.snapshot(), &names)));
        (Followed(tokio::spawn(keep_up(follower, chosen, names, lists))), told)
    }
}

async fn keep_up(
    mut follower: Follower,
    chosen: Chosen,
    mut names: HashMap<String, SocketAddr>,
    lists: watch::Sender<Arc<Upstreams>>,
) {
    let mut again = interval(LOOK_UP_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_due = tokio::select! {
            changed = follower.changed() => match changed {
                Some(_) => false,
                // The client was closed: what was known stays.
                None => return,
            },
            // The first tick comes at once.
            _ = again.tick() => true,
            () = lists.closed() => return,
        };
        let snapshot = follower.snapshot();
        tell(&lists, chosen.list(&snapshot, &names));
        if look_up(&chosen.names(&snapshot), is_due, &mut names).await {
            tell(&lists, chosen.list(&follower.snapshot(), &names));
        }
    }
}

fn tell(lists: &watch::Sender<Arc<Upstreams>>, list: Upstreams) {
    lists.send_if_modified(|told| {
        let changed = **told != list;
        if changed {
            *told = Arc::new(list);
        }
        changed
    });
}

/// Looks up the names that are not known yet, or all. Says whether something is known now that was not. A name that can't
/// be found keeps the address that it had.
async fn look_up(wanted: &[String], all: bool, names: &mut HashMap<String, SocketAddr>) -> bool {
    names.retain(|name, _| wanted.contains(name));
    let open: Vec<_> = wanted.iter().filter(|name| all || !names.contains_key(*name)).cloned().collect();
    let found = futures_util::stream::iter(open).map(|name| async move {
        let found = timeout(LOOK_UP_LIMIT, tokio::net::lookup_host(name.clone())).await;
        let address = found.ok().and_then(Result::ok).and_then(|mut found| found.next());
        (name, address)
    });
    let found: Vec<_> = found.buffer_unordered(LOOK_UPS).collect().await;
    let mut changed = false;
    for (name, address) in found {
        match address {
            Some(address) => changed |= names.insert(name, address) != Some(address),
            None => {
                tracing::warn!(%name, "the instance's host name can't be looked up now; it is tried again")
            }
        }
    }
    changed
}

impl Chosen {
    fn instances<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Registered>> {
        let is_chosen = |one: &&Arc<Registered>| {
            let has_tag = self.tag.as_ref().is_none_or(|tag| one.instance.tags.contains(tag));
            // One of weight 0 is being drained.
            has_tag && one.instance.weight > 0
        };
        snapshot.instances(&self.service).filter(is_chosen)
    }

    fn names(&self, snapshot: &Snapshot) -> Vec<String> {
        let named = self.instances(snapshot).filter(|one| one.instance.address.parse::<IpAddr>().is_err());
        named.map(|one| one.instance.authority()).collect()
    }

    fn list(&self, snapshot: &Snapshot, names: &HashMap<String, SocketAddr>) -> Upstreams {
        let upstream = |one: &Arc<Registered>| {
            let said = &one.instance;
            let address = match said.address.parse::<IpAddr>() {
                Ok(address) => SocketAddr::new(address, said.port),
                Err(_) => *names.get(&said.authority())?,
            };
            let instance = Instance {
                weight: said.weight,
                zone: said.zone.as_deref().unwrap_or_default().into(),
                healthy: said.health.serves(),
                ..Instance::new(Arc::clone(&one.id))
            };
            Some(Upstream { instance, address })
        };
        Upstreams { instances: self.instances(snapshot).filter_map(upstream).collect() }
    }
}
