//! Making checks again and again, and writing what they add up to (spec ).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::registry::{Check, Health, Instance, ROOT};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::Registry;
use super::follow::Follower;
use super::health::HealthState;
use super::probe::probe;
use super::snapshot::{Registered, Snapshot};
use crate::client::Client;
use crate::error::Error;
use crate::files::SetOptions;

/// Checks that one process makes at once.
const PROBES_AT_ONCE: usize = 64;
/// After an error of the cell.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Checks an instance for ever, as it is each time. Whenever its health is another than the `registered` one it is to be
/// written; what could not be written comes again after the next check.
pub(super) async fn run<F: Future<Output = ()>>(
    instance: impl Fn() -> Instance,
    check: &Check,
    permits: &Semaphore,
    registered: impl Fn() -> Health,
    mut write: impl FnMut(Health) -> F,
) {
    let mut state = HealthState::new(instance().health, check.rise, check.fall);
    let mut ticks = tokio::time::interval_at(first_tick(check), check.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(permit) = permits.acquire().await else { return };
        let instance = instance();
        let observed = probe(&instance, check).await;
        drop(permit);
        if let Some(health) = state.observe(observed.health) {
            info!(authority = %instance.authority(), %health, note = %observed.note, "the health of an instance changed");
        }
        if state.health() != registered() {
            write(state.health()).await;
        }
    }
}

/// Many who begin together don't check together for ever.
fn first_tick(check: &Check) -> Instant {
    Instant::now() + check.interval().mul_f64(rand::random::<f64>())
}

/// Where those who would check a service agree on who does.
fn lock_path(service: &str) -> String {
    // No name of a service begins with a dot.
    format!("{ROOT}/.checks/{service}")
}

pub(super) async fn check_all(registry: &Registry, service: &Arc<str>) -> Result<(), Error> {
    loop {
        let error = match check_under_lock(registry, service).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if !error.is_retryable() && !matches!(error, Error::NodeDeleted { .. } | Error::LockNotHeld { .. }) {
            return Err(error);
        }
        warn!(%service, %error, "the service cannot be checked from here now; it is tried again");
        tokio::time::sleep(LONG_PAUSE).await;
    }
}

/// Ends when the lock is lost.
async fn check_under_lock(registry: &Registry, service: &Arc<str>) -> Result<(), Error> {
    let lock = registry.client.lock(lock_path(service)).parents().await?;
    let follower = registry.follow(service).await?;
    tokio::select! {
        reason = lock.lost() => {
            info!(%service, ?reason, "somebody else may check the service now");
            Ok(())
        }
        ended = keep_checking(registry, service, follower) => ended,
    }
}

/// A check that runs, and what it is for.
struct Running {
    instance: Instance,
    /// As it is registered.
    health: watch::Sender<Health>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_checking(registry: &Registry, service: &Arc<str>, mut follower: Follower) -> Result<(), Error> {
    let permits = Arc::new(Semaphore::new(PROBES_AT_ONCE));
    let mut running: BTreeMap<Arc<str>, Running> = BTreeMap::new();
    let mut snapshot = Some(follower.snapshot());
    while let Some(now) = snapshot {
        adapt(registry, service, &now, &mut running, &permits);
        snapshot = follower.changed().await;
    }
    Err(Error::closed(false))
}

/// Begins and ends checks, so that those run that should.
fn adapt(
    registry: &Registry,
    service: &Arc<str>,
    snapshot: &Snapshot,
    running: &mut BTreeMap<Arc<str>, Running>,
    permits: &Arc<Semaphore>,
) {
    // Those that registered themselves are checked where they are.
    let wanted = |one: &&Arc<Registered>| one.permanent && one.instance.check.is_some();
    running.retain(|id, running| {
        let now = snapshot.get(service, id).filter(wanted);
        let stays = now.filter(|now| alike(&now.instance, &running.instance) && !running.task.is_finished());
        if let Some(now) = stays {
            running.health.send_replace(now.instance.health);
        }
        stays.is_some()
    });
    for registered in snapshot.instances(service).filter(wanted) {
        if !running.contains_key(&registered.id) {
            let (health, known) = watch::channel(registered.instance.health);
            let checked = check_one(registry.client.clone(), registered.clone(), permits.clone(), known);
            let instance = registered.instance.clone();
            running.insert(registered.id.clone(), Running { instance, health, task: tokio::spawn(checked) });
        }
    }
}

/// Whether both are checked in the same way; what it found before makes no difference.
fn alike(one: &Instance, other: &Instance) -> bool {
    (one.authority(), &one.check) == (other.authority(), &other.check)
}

async fn check_one(
    client: Client,
    registered: Arc<Registered>,
    permits: Arc<Semaphore>,
    known: watch::Receiver<Health>,
) {
    let Some(check) = &registered.instance.check else { return };
    let write = |health| write(&client, &registered, health);
    run(|| registered.instance.clone(), check, &permits, || *known.borrow(), write).await;
}

async fn write(client: &Client, registered: &Registered, health: Health) {
    let (service, id) = (&registered.service, &registered.id);
    if let Err(error) = write_once(client, registered, health).await {
        warn!(%service, %id, %health, %error, "the health of an instance was not written; it is tried again");
    }
}

async fn write_once(client: &Client, registered: &Registered, health: Health) -> Result<(), Error> {
    let path = super::instance_path(&registered.service, &registered.id)?;
    let file = client.get(&*path).await?;
    let mut instance = Instance::decode(&file.contents)?;
    if instance.health == health || !alike(&instance, &registered.instance) {
        return Ok(());
    }
    instance.health = health;
    // An operator may change it at the same moment: that counts.
    let unchanged = SetOptions { if_generation: Some(file.stat.content_generation), ..SetOptions::default() };
    client.set_with(path, instance.encode()?, unchanged).await.map(drop)
}
