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

/// Host names with ports, and what they stand for.
type Names = HashMap<String, SocketAddr>;

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
        let names = Names::new();
        let (lists, told) = watch::channel(Arc::new(chosen.list(&follower.snapshot(), &names)));
        (Followed(tokio::spawn(keep_up(follower, chosen, names, lists))), told)
    }
}

async fn keep_up(
    mut follower: Follower,
    chosen: Chosen,
    mut names: Names,
    lists: watch::Sender<Arc<Upstreams>>,
) {
    let mut again = interval(LOOK_UP_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looking, mut all_due) = (None, false);
    loop {
        tokio::select! {
            changed = follower.changed() => if changed.is_none() {
                // The client was closed: what was known stays.
                return;
            },
            // The first tick comes at once.
            _ = again.tick() => all_due = true,
            // Changes are told meanwhile.
            found = async { looking.as_mut().expect("it is looked up").await }, if looking.is_some() => {
                looking = None;
                note(found, &mut names);
                tell(&lists, chosen.list(&follower.snapshot(), &names));
                continue;
            }
            () = lists.closed() => return,
        }
        let snapshot = follower.snapshot();
        tell(&lists, chosen.list(&snapshot, &names));
        if looking.is_none() {
            let wanted = chosen.names(&snapshot);
            names.retain(|name, _| wanted.contains(name));
            let all = std::mem::take(&mut all_due);
            let open = wanted.into_iter().filter(|name| all || !names.contains_key(name)).collect::<Vec<_>>();
            looking = (!open.is_empty()).then(|| Box::pin(look_up(open)));
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

async fn look_up(open: Vec<String>) -> Vec<(String, Vec<SocketAddr>)> {
    let found = futures_util::stream::iter(open).map(|name| async move {
        let found = timeout(LOOK_UP_LIMIT, tokio::net::lookup_host(name.clone())).await;
        let addresses = found.ok().and_then(Result::ok).map_or_else(Vec::new, Iterator::collect);
        (name, addresses)
    });
    found.buffer_unordered(LOOK_UPS).collect().await
}

/// A name keeps the address that it has as long as that is among those found, or none is.
fn note(found: Vec<(String, Vec<SocketAddr>)>, names: &mut Names) {
    for (name, addresses) in found {
        let keeps = names.get(&name).is_some_and(|known| addresses.contains(known));
        match addresses.first() {
            Some(_) if keeps => {}
            Some(address) => drop(names.insert(name, *address)),
            None => {
                tracing::warn!(%name, "the instance's host name can't be looked up now; it is tried again")
            }
        }
    }
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

    fn list(&self, snapshot: &Snapshot, names: &Names) -> Upstreams {
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
