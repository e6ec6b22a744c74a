//! The cell's face: propose, pass a barrier, read, watch, status, stop. Behind it run the tasks of consensus
//! on a thread of their own, so that a busy front can't starve a heartbeat.

mod ending;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{BatchError, Outcome, Request, SessionId, State};
use bramah_wire::transport::{Listener, Transport};
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::admission::{self, Admission};
use crate::barrier::{Barrier, BarrierRequest, Barriers};
use crate::bootstrap;
use crate::changes::Changes;
use crate::clock::{CellTime, WallClock};
use crate::comparison::{self, Comparison};
use crate::config::{CellConfig, Tuning};
use crate::consensus::{Member, ReplicaId, TypeConfig};
use crate::data_folder::{DataFolder, Entrance, Owner};
use crate::disk::{self, Disk};
use crate::duties;
use crate::error::{ProposeError, StartError};
use crate::health::{self, Health};
use crate::hub::{Bounds, EventStream, Follower};
use crate::identity;
use crate::keeper;
use crate::leadership::{self, LastHeard, Leadership};
use crate::leases::{self, Leases};
use crate::log::Log;
use crate::machine_store::{Machine, MachineStore};
use crate::peers::{Forwarders, PeerNetwork, PeerService, serve};
use crate::roster::Roster;
use crate::router::{Router, RouterTask, UnderWay, Waiting};
use crate::snapshot_store::SnapshotStore;
use crate::status::{Digest, Status};
use crate::submission::{Done, Requests, Submission};
use crate::upkeep;

pub(crate) type CellRaft = Raft<TypeConfig, MachineStore>;

/// Members and whether each votes.
pub type Members = Vec<(ReplicaId, Member, bool)>;

/// What the cell stands on: the parts of the world that a simulation replaces.
#[derive(Clone)]
pub struct World {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Connections.
    pub transport: Arc<dyn Transport>,
    /// Labels for entries.
    pub clock: WallClock,
}

/// One replica of a cell, running. Clones are handles to the same replica.
#[derive(Clone)]
pub struct Cell {
    inner: Arc<Inner>,
}

struct Inner {
    config: CellConfig,
    world: World,
    cell_id: u64,
    peer_address: std::net::SocketAddr,
    raft: CellRaft,
    machine: Arc<Machine>,
    log: Log,
    router: Router,
    leadership: watch::Receiver<Leadership>,
    leases: Arc<Leases>,
    time: Arc<Mutex<CellTime>>,
    stop: watch::Sender<bool>,
    started: Instant,
    admission: Arc<Admission>,
    changes: Arc<Changes>,
    network: PeerNetwork,
    members: watch::Sender<Members>,
    comparison: Arc<Comparison>,
    health: Arc<Health>,
    /// Why this replica has ended for good.
    retired: OnceLock<String>,
    /// It has asked another one to take over, because it stops.
    handed_over: AtomicBool,
    // Held so that no second process uses the folder while this replica runs.
    folder: DataFolder,
}

impl Cell {
    /// Starts a replica on the runtime it is called on, which should be a thread of its own.
    ///
    /// # Errors
    /// When the settings, the data folder or the peers' port can't be used; each error says what to do.
    pub async fn start(config: CellConfig, world: World) -> Result<Cell, StartError> {
        config.check()?;
        let (owner, entrance) = identity::identify(&config, &world).await?;
        let cell_id = owner.cell_id;
        let mut opened = open(&config, &world, owner, entrance).await?;
        // It asks those whom the settings name, and they must be those that the cell was to begin with.
        if opened.folder.entrance() == Some(Entrance::Founding) && cell_id != config.cell_id() {
            opened.log.close().await;
            return Err(StartError::OtherFounders(config.data.display().to_string()));
        }
        // Others belong to a cell that lives: they begin when the leader takes them in.
        if matches!(opened.folder.entrance(), None | Some(Entrance::Founding)) {
            bootstrap::begin(&config, &mut opened.log).await?;
        }
        let experienced = bootstrap::has_history(&mut opened.log).await?;
        let listener = world
            .transport
            .listen(&config.peers_listen)
            .await
            .map_err(|error| StartError::Listen { address: config.peers_listen.clone(), error })?;
        let peer_address = listener
            .local_address()
            .map_err(|error| StartError::Listen { address: config.peers_listen.clone(), error })?;
        let (cell, tasks) = assemble(config, world, cell_id, experienced, peer_address, opened).await?;
        cell.publish_members();
        tasks.spawn(&cell, listener);
        Ok(cell)
    }

    /// Hands over requests to be done together, in their order, by the leader, wherever it is. `done` gets
    /// an outcome a request, or why there is none.
    pub fn submit(&self, requests: Requests, deadline: Instant, done: Done) {
        self.inner.router.submit(requests.submission(deadline, done));
    }

    /// Has one request done.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::may_have_been_done`] says whether it certainly was not.
    pub async fn propose(&self, request: &Request, deadline: Instant) -> Result<Outcome, ProposeError> {
        let mut requests = Requests::default();
        if requests.push(request).is_err() {
            let limit = bramah_machine::MAX_BATCH_BYTES;
            return Err(ProposeError::TooLarge { bytes: limit, limit });
        }
        let (sender, receiver) = oneshot::channel();
        self.submit(requests, deadline, Box::new(move |outcomes| drop(sender.send(outcomes))));
        let stopping = || ProposeError::Stopping { why: "it was told to".to_owned(), under_way: true };
        let outcomes = receiver.await.unwrap_or_else(|_| Err(stopping()))?;
        outcomes.list.into_iter().next().ok_or_else(stopping)
    }

    /// Has one request done by this replica as leader, without waiting for the answer.
    pub(crate) fn propose_detached(&self, request: &Request, deadline: Instant) -> Result<(), BatchError> {
        let mut requests = Requests::default();
        requests.push(request)?;
        let submission = requests.submission(deadline, Box::new(|_| {}));
        self.inner.router.submit(Submission {
            forwarded: !planted::is(Bug::ExpiryByDeposedLeader),
            own: true,
            retriable: false,
            ..submission
        });
        Ok(())
    }

    /// Has requests done by this replica as leader, or not at all.
    pub(crate) async fn propose_here(
        &self,
        requests: Requests,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let submission = requests.submission(deadline, Box::new(move |outcomes| drop(sender.send(outcomes))));
        self.inner.router.submit(Submission { forwarded: true, own: true, retriable: false, ..submission });
        let stopping = || ProposeError::Stopping { why: "it was told to".to_owned(), under_way: true };
        Ok(receiver.await.unwrap_or_else(|_| Err(stopping()))?.list)
    }

    /// Waits until this replica's state holds everything that was acknowledged before the call: what is
    /// read after it is linearizable (spec G-2). `sessions_alive` get new leases from the leader.
    ///
    /// # Errors
    /// When no leader confirms it before the deadline.
    pub async fn barrier(
        &self,
        sessions_alive: Vec<SessionId>,
        deadline: Instant,
    ) -> Result<Barrier, ProposeError> {
        let (done, passed) = oneshot::channel();
        let asked = Instant::now();
        self.inner.router.barrier(BarrierRequest {
            sessions_alive,
            forwarded: false,
            asked,
            deadline,
            done,
            _place: None,
        });
        let members = || self.inner.network.roster.describe();
        match tokio::time::timeout_at(deadline, passed).await {
            // A replica that ends for good may be one whose state is wrong: nothing is read from it any more.
            Ok(Ok(_)) if *self.inner.stop.borrow() => {
                Err(ProposeError::Stopping { why: "it ends".to_owned(), under_way: false })
            }
            Ok(Ok(passed)) => passed,
            Ok(Err(_)) => Err(ProposeError::Stopping { why: "it was told to".to_owned(), under_way: false }),
            Err(_) => Err(ProposeError::NoLeader { waited: asked.elapsed(), members: members() }),
        }
    }

    /// Looks at the state as it is here and now. `look` must be short: nothing is applied meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.inner.machine.read(look)
    }

    /// The state as it is here and now, frozen: for long reads, which then stop nobody.
    pub fn view(&self) -> State {
        self.inner.machine.view().state
    }

    /// A look that may take long, at the state as it is here and now: away from async tasks. It is finished even if
    /// nobody waits for it any more.
    ///
    /// # Errors
    /// [`ProposeError::Stopping`].
    pub async fn look_long<R: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, ProposeError> {
        let view = self.view();
        let looked = disk::run(&self.inner.world.disk, move || Ok(look(&view))).await;
        looked.map_err(|error| ProposeError::Stopping { why: error.to_string(), under_way: false })
    }

    /// The events of each entry applied from now on, at this replica.
    pub fn events(&self) -> EventStream {
        self.inner.machine.hub().stream(self.inner.machine.applied_index())
    }

    /// Follows the events for one session's stream: those that its watches want, and those that speak of its handles.
    /// Nothing comes unless [`Cell::dispatch_events`] runs.
    pub fn follow(&self, session: SessionId) -> Follower {
        self.inner.machine.hub().follow(session)
    }

    /// The task that hands events to followers, until the replica stops: spawn it once, on the fronts' runtime.
    pub fn dispatch_events(&self) -> impl Future<Output = ()> + Send + 'static {
        let machine = &self.inner.machine;
        let dispatch = Arc::clone(machine.hub()).dispatch(machine.answered_index());
        until_stop(self.inner.stop.subscribe(), dispatch)
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The members that this replica knows, and whether each votes.
    pub fn members(&self) -> Members {
        let view = self.inner.machine.view();
        let membership = view.membership.membership();
        let mut members: Vec<_> = membership
            .nodes()
            .filter(|(_, member)| !member.is_leaving())
            .map(|(id, member)| (*id, member.clone(), membership.voter_ids().any(|voter| voter == *id)))
            .collect();
        if members.is_empty() {
            members =
                self.inner.config.members.iter().map(|(id, member)| (*id, member.clone(), true)).collect();
        }
        members
    }

    /// Follows the members, as [`Cell::members`] gives them.
    pub fn follow_members(&self) -> watch::Receiver<Members> {
        self.inner.members.subscribe()
    }

    pub(crate) fn publish_members(&self) {
        let now = self.members();
        self.inner.members.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// The cell's name.
    pub fn name(&self) -> &str {
        &self.inner.config.cell
    }

    /// This replica's number.
    pub fn replica(&self) -> ReplicaId {
        self.inner.config.replica
    }

    /// Where this replica listens for its peers.
    pub fn peer_address(&self) -> std::net::SocketAddr {
        self.inner.peer_address
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    /// The cell's time, at the leader of `term`.
    pub(crate) fn time_ms(&self, term: u64) -> u64 {
        let state_ms = self.read(State::time_ms);
        self.inner.time.lock().now_ms(term, state_ms)
    }

    pub(crate) fn tuning(&self) -> &Tuning {
        &self.inner.config.tuning
    }

    pub(crate) fn raft(&self) -> &CellRaft {
        &self.inner.raft
    }

    pub(crate) fn log(&self) -> &Log {
        &self.inner.log
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    pub(crate) fn changes(&self) -> &Changes {
        &self.inner.changes
    }

    pub(crate) fn network(&self) -> &PeerNetwork {
        &self.inner.network
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.inner.stop.borrow()
    }

    /// Whether this replica has ever voted, or has more in its log than every new cell begins with.
    pub(crate) fn has_taken_part(&self) -> bool {
        self.inner.admission.has_taken_part(&self.inner.raft)
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.world.disk
    }

    pub(crate) fn folder(&self) -> &DataFolder {
        &self.inner.folder
    }

    pub(crate) fn configured_members(&self) -> &[(ReplicaId, Member)] {
        &self.inner.config.members
    }

    pub(crate) fn comparison(&self) -> &Comparison {
        &self.inner.comparison
    }

    pub(crate) fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Makes this replica's state another one than it should be. For tests.
    #[cfg(feature = "simulation")]
    pub fn alter_state(&self, change: impl FnOnce(&mut State)) {
        self.inner.machine.alter(change);
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    /// How this replica sees itself.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let view = self.inner.machine.view();
        let index = |log_id: Option<openraft::type_config::alias::LogIdOf<TypeConfig>>| {
            log_id.map_or(0, |id| id.index)
        };
        Status {
            cell: self.inner.config.cell.clone(),
            cell_id: self.inner.cell_id,
            replica: self.inner.config.replica,
            leadership: self.inner.leadership.borrow().clone(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.local_committed),
            applied_index: index(view.last),
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            revision: view.state.revision(),
            nodes: view.state.node_count() as u64,
            sessions: view.state.session_count() as u64,
            log_bytes: self.inner.log.bytes_on_disk(),
            snapshot_bytes: self.inner.machine.snapshot_bytes(),
            disk_free_bytes: self.inner.world.disk.free_bytes(&self.inner.config.data).unwrap_or(0),
            uptime: self.inner.started.elapsed(),
            members: self.members(),
            voter_sets: metrics.membership_config.membership().get_joint_config().clone(),
            trouble: match (self.inner.retired.get(), metrics.running_state) {
                (Some(why), _) => why.clone(),
                (None, Err(fatal)) => fatal.to_string(),
                (None, Ok(())) => self.inner.admission.trouble(),
            },
        }
    }

    /// The digest of the state, computed in the background (spec G-9): two replicas that have applied the
    /// same index have the same digest.
    pub async fn digest(&self) -> Result<Digest, ProposeError> {
        let view = self.inner.machine.view();
        let index = view.last.map_or(0, |log_id| log_id.index);
        disk::run(&self.inner.world.disk, move || Ok(Digest { index, digest: view.state.digest() }))
            .await
            .map_err(|error| ProposeError::Stopping { why: error.to_string(), under_way: false })
    }
}

struct Opened {
    folder: DataFolder,
    log: Log,
    snapshots: SnapshotStore,
    store: MachineStore,
}

/// Opening reads and checks whole files, so it happens off the runtime.
async fn open(
    config: &CellConfig,
    world: &World,
    owner: Owner,
    entrance: Option<Entrance>,
) -> Result<Opened, StartError> {
    let (config, disk) = (config.clone(), Arc::clone(&world.disk));
    let open_all = move || {
        let mut folder = DataFolder::open_by(Arc::clone(&disk), &config.data, owner, entrance)?;
        let log = folder.open_log(config.tuning.log.clone())?;
        let snapshots = folder.open_snapshots().map_err(StartError::Snapshot)?;
        let (events, bytes) = (config.tuning.events_kept, config.tuning.events_kept_bytes);
        let bounds = Bounds { events, bytes, ..Bounds::default() };
        let store = MachineStore::open(disk, snapshots.clone(), bounds).map_err(StartError::Snapshot)?;
        Ok(Opened { folder, log, snapshots, store })
    };
    let opened = disk::run(&world.disk, move || Ok(open_all())).await;
    opened.map_err(|error| StartError::Engine(error.to_string()))?
}

/// The tasks of a replica, made but not started.
struct Tasks {
    router: RouterTask,
    barriers: Barriers,
    barriers_asked: mpsc::UnboundedReceiver<BarrierRequest>,
    leadership: watch::Sender<Leadership>,
    heard: Arc<LastHeard>,
    service: PeerService,
}

impl Tasks {
    fn spawn(self, cell: &Cell, listener: Box<dyn Listener>) {
        let stop = cell.inner.stop.subscribe();
        let max_connections = cell.tuning().max_peer_connections;
        let followed = self.leadership.subscribe();
        let lease = cell.tuning().election_max;
        tokio::spawn(leadership::follow(cell.inner.raft.clone(), self.heard, lease, self.leadership));
        tokio::spawn(self.router.run());
        tokio::spawn(until_stop(stop.clone(), self.barriers.run(self.barriers_asked)));
        tokio::spawn(serve(self.service, listener, max_connections, stop.clone()));
        tokio::spawn(until_stop(stop.clone(), leases::expire_sessions(cell.clone(), followed)));
        tokio::spawn(until_stop(stop.clone(), duties::end_lock_delays(cell.clone())));
        tokio::spawn(until_stop(stop.clone(), duties::close_handles(cell.clone())));
        if let Some(entrance) = entrance_of(cell.folder()) {
            let entering = admission::enter(cell.clone(), cell.network().clone(), entrance);
            tokio::spawn(until_stop(stop.clone(), entering));
        }
        tokio::spawn(until_stop(stop.clone(), keeper::keep(cell.clone())));
        tokio::spawn(until_stop(stop.clone(), comparison::compare(cell.clone())));
        tokio::spawn(until_stop(stop.clone(), comparison::obey(cell.clone())));
        tokio::spawn(until_stop(stop.clone(), health::watch(cell.clone())));
        tokio::spawn(until_stop(stop.clone(), cell.clone().end_with_the_log()));
        tokio::spawn(until_stop(stop, upkeep::bound_the_log(cell.clone())));
    }
}

/// What is left to do before the replica takes part in all.
fn entrance_of(folder: &DataFolder) -> Option<Entrance> {
    let forgets = |entrance: &Entrance| *entrance == Entrance::Replacing && planted::is(Bug::AmnesiacVoter);
    folder.entrance().filter(|entrance| !forgets(entrance))
}

async fn until_stop(mut stop: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = task => {}
    }
}

async fn assemble(
    config: CellConfig,
    world: World,
    cell_id: u64,
    experienced: bool,
    peer_address: std::net::SocketAddr,
    opened: Opened,
) -> Result<(Cell, Tasks), StartError> {
    let Opened { folder, log, snapshots, store } = opened;
    let machine = store.machine();
    let roster = Roster::new(&config.members, &config.join);
    let network = PeerNetwork {
        cell_id,
        transport: Arc::clone(&world.transport),
        disk: Arc::clone(&world.disk),
        roster: roster.clone(),
    };
    let admission = Arc::new(Admission::new(entrance_of(&folder), experienced));
    // It stands for election only when it is known to have forgotten nothing.
    let engine = Config { enable_elect: entrance_of(&folder).is_none(), ..engine_config(&config)? };
    let raft: CellRaft = Raft::new(config.replica, Arc::new(engine), network.clone(), log.clone(), store)
        .await
        .map_err(|error| StartError::Engine(error.to_string()))?;

    let (router, submitted, barriers_asked) = Router::new(&config.tuning);
    let (publish, leadership) = watch::channel(Leadership { role: "follower", ..Leadership::default() });
    let (return_to, returned) = mpsc::unbounded_channel();
    let forwarders = Forwarders::new(network.clone(), return_to);
    let changes = Arc::new(Changes::new(raft.clone(), Arc::clone(&machine), roster.clone(), config.replica));
    let stop = watch::Sender::new(false);
    let leases = Arc::new(Leases::default());
    let heard = Arc::new(LastHeard::default());
    let comparison = Arc::new(Comparison::new(Arc::clone(&machine), Arc::clone(&world.disk)));
    let health = Arc::new(Health::new(log.clone(), config.tuning.slow_disk));
    let time = Arc::new(Mutex::new(CellTime::new(world.clock.clone())));
    let tasks = Tasks {
        router: RouterTask {
            raft: raft.clone(),
            log: log.clone(),
            machine: Arc::clone(&machine),
            time: Arc::clone(&time),
            submitted,
            leadership: leadership.clone(),
            forwarders: forwarders.clone(),
            returned,
            roster: roster.clone(),
            max_batches: config.tuning.batches_in_flight,
            waiting: Waiting::default(),
            under_way: UnderWay::default(),
            pause_until: Instant::now(),
            stop: stop.subscribe(),
        },
        barriers: Barriers {
            raft: raft.clone(),
            machine: Arc::clone(&machine),
            leadership: leadership.clone(),
            forwarders,
            leases: Arc::clone(&leases),
            roster,
        },
        barriers_asked,
        leadership: publish,
        heard: Arc::clone(&heard),
        service: PeerService {
            cell: config.cell.clone(),
            cell_id,
            raft: raft.clone(),
            disk: Arc::clone(&world.disk),
            log: log.clone(),
            snapshots,
            router: router.clone(),
            heard,
            network: network.clone(),
            admission: Arc::clone(&admission),
            changes: Arc::clone(&changes),
            comparison: Arc::clone(&comparison),
            health: Arc::clone(&health),
            replica: config.replica,
        },
    };
    let inner = Inner {
        config,
        world,
        cell_id,
        peer_address,
        raft,
        machine,
        log,
        router,
        leadership,
        leases,
        time,
        stop,
        started: Instant::now(),
        admission,
        changes,
        network,
        members: watch::Sender::default(),
        comparison,
        health,
        retired: OnceLock::new(),
        handed_over: AtomicBool::new(false),
        folder,
    };
    Ok((Cell { inner: Arc::new(inner) }, tasks))
}

fn engine_config(config: &CellConfig) -> Result<Config, StartError> {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let tuning = &config.tuning;
    Config {
        cluster_name: config.cell.clone(),
        heartbeat_interval: ms(tuning.heartbeat),
        election_timeout_min: ms(tuning.election_min),
        election_timeout_max: ms(tuning.election_max),
        max_payload_entries: 64,
        // Snapshots and purges go by bytes, which `upkeep` counts; the engine counts entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        // A restarted leader must be elected again: what it forgot may have been overruled meanwhile.
        enable_leader_restore: Some(planted::is(Bug::LeaderRestore)),
        // A member that lost entries it had acknowledged gets them again at once: until then one less has them.
        allow_log_reversion: Some(true),
        // A replica that was cut off must not depose a healthy leader when it comes back (thesis §9.6).
        enable_pre_vote: Some(true),
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Config(error.to_string()))
}
