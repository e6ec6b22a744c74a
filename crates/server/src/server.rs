//! One replica: its threads, its ports, its start and its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bramah_cell::disk::RealDisk;
use bramah_cell::{Cell, CellConfig, Member, ReplicaId, StartError, Status, Tuning, WallClock, World};
use bramah_wire::transport::{Listener, Tcp, Transport};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

use crate::front;
use crate::front::grpc::Manner;
use crate::principals::TokenKey;

/// How long clients' streams may take to end at a stop.
pub(crate) const FRONT_STOP_LIMIT: Duration = Duration::from_secs(2);

/// What a replica is told before it starts.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The cell's name, the `<cell>` of `/ls/<cell>/…`.
    pub cell: String,
    /// This replica's number: greater than 0, its own for ever.
    pub replica: ReplicaId,
    /// The folder for the log, the vote and the snapshots.
    pub data: PathBuf,
    /// `host:port` to listen on for clients.
    pub clients_listen: String,
    /// `host:port` to listen on for the other replicas.
    pub peers_listen: String,
    /// The members that the cell starts with, this one among them, by the addresses that others reach them at.
    pub members: Vec<(ReplicaId, Member)>,
    /// Start a new cell of these members if the data folder is empty.
    pub bootstrap: bool,
    /// Begin with an empty data folder and be repaired from the others: the folder was lost or moved away.
    pub replace: bool,
    /// Join a cell that lives, if the data folder is empty: peers' addresses of some of its replicas.
    pub join: Vec<String>,
    /// The most connections of clients at once; one more is closed at once.
    pub max_connections: usize,
    /// The file with the key that tokens of principals are signed with; without it everybody is anonymous.
    pub token_key_file: Option<PathBuf>,
    /// DNS over the registry of services, if it is served here.
    pub dns: Option<bramah_dns::Settings>,
    /// Times and sizes.
    pub tuning: Tuning,
}

/// What a thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    /// Finish what is under way.
    Stop,
    /// Drop everything, as if the process had died.
    Kill,
}

/// One running replica. Dropping it is like [`Server::kill`].
pub struct Server {
    client_address: SocketAddr,
    peer_address: SocketAddr,
    dns_addresses: Vec<SocketAddr>,
    cell: Option<Cell>,
    /// The front's, then that of consensus, each with the end that gives it orders.
    threads: Vec<(watch::Sender<Order>, JoinHandle<()>)>,
    ended: watch::Receiver<bool>,
}

impl Server {
    /// Starts a replica and returns once its ports are open. It finds its peers, and a leader, by itself.
    ///
    /// # Errors
    /// When a port, the data folder, the key of tokens or a setting can't be used; each error says what to do.
    pub async fn start(config: ServerConfig) -> Result<Server, StartError> {
        let manner = manner(&config, WallClock::system())?;
        let (orders, ordered) = watch::channel(Order::Run);
        let (ending, ended) = watch::channel(false);
        let (started, starting) = oneshot::channel();
        let cell_config = cell_config(&config);
        let consensus =
            spawn("consensus", move |runtime| consensus(runtime, cell_config, ordered, started, ending))?;
        let cell = starting.await.unwrap_or_else(|_| Err(engine("the thread of consensus ended")))?;

        let (started, starting) = oneshot::channel();
        let (front_orders, ordered) = watch::channel(Order::Run);
        let front_cell = cell.clone();
        let front = spawn("front", move |runtime| {
            front(runtime, config, manner, front_cell, ordered, started);
        })?;
        let mut server = Server {
            client_address: cell.peer_address(),
            peer_address: cell.peer_address(),
            dns_addresses: Vec::new(),
            cell: Some(cell),
            threads: vec![(front_orders, front), (orders, consensus)],
            ended,
        };
        (server.client_address, server.dns_addresses) =
            starting.await.unwrap_or_else(|_| Err(engine("the fronts' thread ended")))?;
        Ok(server)
    }

    /// Where clients reach it.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where its peers reach it.
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where it answers DNS.
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        &self.dns_addresses
    }

    /// How the replica sees itself.
    pub fn status(&self) -> Status {
        self.cell.as_ref().expect("taken only when the server ends").status()
    }

    /// Resolves when consensus has ended by itself: after damage, when the disk failed for good, or when the cell has
    /// removed this replica. The status's `trouble` says why.
    pub async fn failed(&self) {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Finishes what is under way, hands leadership over and ends (spec G-12).
    pub async fn stop(mut self) {
        self.end(Order::Stop).await;
    }

    /// Drops everything at once, as if the process had died: for tests and examples.
    pub async fn kill(mut self) {
        self.end(Order::Kill).await;
    }

    async fn end(&mut self, order: Order) {
        if let Some(cell) = self.cell.take()
            && order == Order::Stop
        {
            cell.hand_over().await;
        }
        // The front first: what its clients wait for is done while consensus still runs.
        for (orders, thread) in std::mem::take(&mut self.threads) {
            orders.send_replace(order);
            let _ = tokio::task::spawn_blocking(move || drop(thread.join())).await;
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replica at {}", self.client_address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for (orders, _) in &self.threads {
            orders.send_replace(Order::Kill);
        }
    }
}

pub(crate) fn cell_config(config: &ServerConfig) -> CellConfig {
    CellConfig {
        cell: config.cell.clone(),
        replica: config.replica,
        data: config.data.clone(),
        members: config.members.clone(),
        bootstrap: config.bootstrap,
        replace: config.replace,
        join: config.join.clone(),
        peers_listen: config.peers_listen.clone(),
        tuning: config.tuning.clone(),
    }
}

/// How a front is to serve clients.
pub(crate) fn manner(config: &ServerConfig, clock: WallClock) -> Result<Manner, StartError> {
    let token_key = config.token_key_file.as_deref().map(TokenKey::read).transpose();
    let token_key = token_key.map_err(|error| StartError::Config(error.to_string()))?;
    Ok(Manner { max_connections: config.max_connections, token_key, clock })
}

fn engine(why: &str) -> StartError {
    StartError::Engine(why.to_owned())
}

/// A thread with a runtime of its own. Single-threaded runtimes made the largest batches when measured:
/// tasks on one thread don't wake each other across cores.
fn spawn(name: &str, run: impl FnOnce(&Runtime) + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name(format!("{name}-background"))
        .build()
        .map_err(|error| engine(&format!("no runtime for {name}: {error}")))?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            run(&runtime);
            runtime.shutdown_background();
        })
        .map_err(|error| engine(&format!("no thread for {name}: {error}")))
}

async fn ordered(orders: &mut watch::Receiver<Order>) -> Order {
    // Nobody left to give orders: the server was dropped.
    orders.wait_for(|order| *order != Order::Run).await.map_or(Order::Kill, |order| *order)
}

fn consensus(
    runtime: &Runtime,
    config: CellConfig,
    mut orders: watch::Receiver<Order>,
    started: oneshot::Sender<Result<Cell, StartError>>,
    ended: watch::Sender<bool>,
) {
    runtime.block_on(async move {
        let world = World { disk: Arc::new(RealDisk), transport: Arc::new(Tcp), clock: WallClock::system() };
        let cell = match Cell::start(config, world).await {
            Ok(cell) => cell,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(cell.clone()));
        tokio::select! {
            order = ordered(&mut orders) => match order {
                Order::Kill => cell.kill().await,
                _ => cell.stop().await,
            },
            () = cell.failed() => {
                ended.send_replace(true);
                ordered(&mut orders).await;
            }
        }
    });
}

fn front(
    runtime: &Runtime,
    config: ServerConfig,
    manner: Manner,
    cell: Cell,
    mut orders: watch::Receiver<Order>,
    started: oneshot::Sender<Result<(SocketAddr, Vec<SocketAddr>), StartError>>,
) {
    runtime.block_on(async move {
        let (listener, dns) = match open_fronts(&config, &cell).await {
            Ok(opened) => opened,
            Err(error) => return drop(started.send(Err(error))),
        };
        let dns_addresses = dns.as_ref().map_or_else(Vec::new, |dns| dns.addresses().to_vec());
        let address = listener.local_address().map_err(|error| listen_error(&config.clients_listen, error));
        let _ = started.send(address.map(|address| (address, dns_addresses)));
        let mut stop = orders.clone();
        let stopping = async move {
            ordered(&mut stop).await;
        };
        // It ends with this runtime.
        tokio::spawn(cell.dispatch_events());
        let serving = front::grpc::serve(cell, listener, manner, stopping);
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            order = ordered(&mut orders) => if order == Order::Kill { return },
        }
        let _ = tokio::time::timeout(FRONT_STOP_LIMIT, serving).await;
        if let Some(dns) = dns {
            dns.stop().await;
        }
    });
}

/// Opens the ports for clients and for DNS, which follows the registry from then on.
async fn open_fronts(
    config: &ServerConfig,
    cell: &Cell,
) -> Result<(Box<dyn Listener>, Option<bramah_dns::Server>), StartError> {
    let listener = listen(&Tcp, &config.clients_listen).await?;
    let Some(settings) = config.dns.clone() else { return Ok((listener, None)) };
    let (views, directory) = watch::channel(bramah_dns::View::unknown());
    let dns = bramah_dns::Server::start(settings, directory).await;
    let dns = dns.map_err(|error| StartError::Config(error.to_string()))?;
    // It ends with this runtime.
    tokio::spawn(front::directory::follow(cell.clone(), views));
    Ok((listener, Some(dns)))
}

pub(crate) async fn listen(
    transport: &dyn Transport,
    address: &str,
) -> Result<Box<dyn Listener>, StartError> {
    transport.listen(address).await.map_err(|error| listen_error(address, error))
}

fn listen_error(address: &str, error: std::io::Error) -> StartError {
    StartError::Listen { address: address.to_owned(), error }
}
