//! The registry of services as DNS tells it (spec F-3): what is under `/services` and may be read by everybody.
//!
//! A task follows the events of this replica and looks up the instances that changed, so that one of thousands costs
//! as much as one of two. DNS gets one unchanging view after another, which share what is alike.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bramah_cell::Cell;
use bramah_dns::{Instance, Service, View};
use bramah_machine::{Event, Kind, Path, Principal, State};
use bramah_wire::registry::{self, ROOT};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;

/// Names of a service's directory have two components, those of an instance three.
const SERVICE_DEPTH: usize = 2;
const INSTANCE_DEPTH: usize = 3;

/// A replica that has just begun may know an old state: how long it asks for the newest one before it tells what it has.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(50);

/// Sends a view after each change, until the replica stops. The first one holds all that there is in the cell; of a cell that is
/// away, what this replica has.
pub(crate) async fn follow(cell: Cell, views: watch::Sender<View>) {
    catch_up(&cell).await;
    // Before the look at all of it: what changes meanwhile is looked up again.
    let mut events = cell.events();
    while let Ok(view) = cell.look_long(all).await {
        views.send_replace(view);
        loop {
            match events.recv().await {
                Ok(changed) if changed.iter().any(Event::changes_acls) => break,
                Ok(changed) => update(&cell, &changed, &views),
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

async fn catch_up(cell: &Cell) {
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    while let Err(error) = cell.barrier(Vec::new(), deadline).await {
        if Instant::now() >= deadline {
            tracing::warn!(%error, "DNS tells what this replica knows, which may be old");
            return;
        }
        tokio::time::sleep(CATCH_UP_PAUSE).await;
    }
}

fn update(cell: &Cell, events: &[Event], views: &watch::Sender<View>) {
    let of_services = events.iter().filter(|event| event.change.is_of_the_node() && is_below(&event.path));
    let changed: BTreeSet<&Path> = of_services.map(|event| &event.path).collect();
    if changed.is_empty() {
        return;
    }
    let state = cell.view();
    views.send_modify(|view| {
        changed.into_iter().for_each(|path| look_up(&state, path, view));
        // Not the state's: that may be ahead, of events that come next and must give another revision.
        view.revision = events.last().map_or(view.revision, |event| view.revision.max(event.revision));
    });
}

fn is_below(path: &Path) -> bool {
    path.as_str().strip_prefix(ROOT).is_some_and(|rest| rest.starts_with('/'))
}

fn all(state: &State) -> View {
    let mut view = View { revision: state.revision(), ..View::default() };
    for service in children(state, ROOT) {
        look_up(state, &service, &mut view);
        for instance in children(state, service.as_str()) {
            look_up(state, &instance, &mut view);
        }
    }
    view
}

fn children(state: &State, directory: &str) -> Vec<Path> {
    let Ok(path) = Path::parse(directory) else { return Vec::new() };
    let Ok((entries, _)) = state.read_directory(&path, None, usize::MAX) else { return Vec::new() };
    entries.iter().filter_map(|entry| Path::parse(&format!("{directory}/{}", entry.name)).ok()).collect()
}

/// Puts into the view what the state has at this name.
fn look_up(state: &State, path: &Path, view: &mut View) {
    match (path.depth(), path.parent()) {
        (SERVICE_DEPTH, _) => drop(service(state, path, view)),
        (INSTANCE_DEPTH, Some(directory)) => {
            let Some(service) = service(state, &directory, view) else { return };
            match instance(state, path) {
                Some(instance) => drop(service.instances.insert(path.name().into(), Arc::new(instance))),
                None => drop(service.instances.remove(path.name())),
            }
        }
        _ => {}
    }
}

/// The service of a directory, in the view as long as the directory is there.
fn service<'a>(state: &State, directory: &Path, view: &'a mut View) -> Option<&'a mut Service> {
    let node = state.node(directory).filter(|node| matches!(node.kind, Kind::Directory { .. }));
    if node.is_none() {
        view.services.remove(directory.name());
        return None;
    }
    Some(Arc::make_mut(view.services.entry(directory.name().into()).or_default()))
}

/// None for what is no instance, what not everybody may read, and what has a host name for an address: DNS answers
/// with addresses.
fn instance(state: &State, path: &Path) -> Option<Instance> {
    state.permit_reading(&Principal::default(), path).ok()?;
    let file = state.get_contents(path).ok()?;
    dns_instance(&registry::Instance::decode(&file.contents).ok()?)
}

/// An instance of the registry as DNS tells it; none for one with a host name.
pub fn dns_instance(registered: &registry::Instance) -> Option<Instance> {
    let address: IpAddr = registered.address.parse().ok()?;
    Some(Instance {
        addresses: vec![address],
        port: registered.port,
        weight: registered.weight.try_into().unwrap_or(u16::MAX),
        tags: registered.tags.iter().cloned().collect(),
        metadata: registered.metadata.clone(),
        healthy: registered.health.serves(),
    })
}
