//! The proxy as a whole: starting, following the instances, stopping.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use bramah_balance::{Chance, RetryBudget};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::admin;
use crate::clock::Clock;
use crate::metrics::{Counts, Figures};
use crate::settings::Settings;
use crate::tls::{self, TlsError, UpstreamTls};
use crate::upstreams::{Directory, Upstreams};
use crate::worker::{self, Worker, reached};

/// How far a proxy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serving,
    /// No more connections; what is under way goes on.
    Draining,
    /// Nothing goes on.
    Stopped,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) directory: Directory,
    pub(crate) budget: RetryBudget,
    pub(crate) chance: Chance,
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    pub(crate) counts: Box<[Counts]>,
    pub(crate) tls: Option<ShownAcceptor>,
    pub(crate) upstream_tls: Option<UpstreamTls>,
    pub(crate) stage: watch::Sender<Stage>,
}

/// A TLS acceptor, which has no `Debug` of its own.
pub(crate) struct ShownAcceptor(pub(crate) TlsAcceptor);

impl std::fmt::Debug for ShownAcceptor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("TlsAcceptor")
    }
}

/// One of so many that there may be at once.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    of: fn(&Shared) -> &AtomicUsize,
}

impl Permit {
    pub(crate) fn take(shared: &Arc<Shared>, of: fn(&Shared) -> &AtomicUsize, most: usize) -> Option<Self> {
        if of(shared).fetch_add(1, Relaxed) >= most {
            of(shared).fetch_sub(1, Relaxed);
            return None;
        }
        Some(Permit { shared: Arc::clone(shared), of })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.of)(&self.shared).fetch_sub(1, Relaxed);
    }
}

/// Why a proxy doesn't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}: {error}; choose another address, or end what listens there")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A thread can't be started.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A setting can't work.
    #[error("{0}")]
    Setting(&'static str),
}

/// How a proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All that was under way has ended.
    Drained,
    /// The limit was over, and what was left was broken off.
    BrokenOff {
        /// So many connections.
        connections: usize,
    },
}

/// A running proxy. Dropping it stops it at once.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    all_ended: mpsc::Receiver<()>,
}

/// How often the balancer is asked whether time demands anything: an instance that fails is left out after at most so long.
const MAINTAIN: Duration = Duration::from_millis(50);
/// What dropping a worker's tasks may take.
const BREAK_OFF_WITHIN: Duration = Duration::from_secs(5);

impl Proxy {
    /// Starts a proxy to the instances that `upstreams` says. When its sender is gone, the proxy goes on with what it
    /// knew last. It has threads of its own; figures and the list of instances are served by the runtime that calls.
    ///
    /// # Errors
    ///
    /// If an address is taken, a file of TLS is not good, or there are no threads to be had.
    pub async fn start(
        settings: Settings,
        upstreams: watch::Receiver<Arc<Upstreams>>,
    ) -> Result<Self, StartError> {
        if settings.workers == 0 {
            return Err(StartError::Setting("a proxy without workers does nothing; give it at least one"));
        }
        if settings.limits.head_bytes < 8_192 {
            return Err(StartError::Setting("heads of less than 8 KiB are too short for what browsers send"));
        }
        let listeners = listen(&settings)?;
        let address = local_address(&listeners[0], settings.listen)?;
        let admin = settings.admin.map(admin::listen).transpose()?;
        let admin_address = match (&admin, settings.admin) {
            (Some(listener), Some(wanted)) => Some(local_address(listener, wanted)?),
            _ => None,
        };
        let shared = Arc::new(Shared::new(settings)?);
        // Before anyone can connect, so that the first request finds an instance.
        shared.directory.update(&upstreams.borrow());
        let (ended, all_ended) = mpsc::channel(1);
        let mut proxy = Proxy {
            shared: Arc::clone(&shared),
            address,
            admin: admin_address,
            threads: Vec::new(),
            all_ended,
        };
        for (number, listener) in listeners.into_iter().enumerate() {
            let worker = Arc::new(Worker { number, shared: Arc::clone(&shared) });
            proxy.threads.push(start_worker(worker, listener, ended.clone())?);
        }
        tokio::spawn(follow(Arc::clone(&shared), upstreams));
        if let Some(listener) = admin {
            tokio::spawn(admin::serve(shared, listener));
        }
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where figures and health are told.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What it has done and is doing.
    pub fn figures(&self) -> Figures {
        self.shared.figures()
    }

    /// Takes no more connections and no more requests on those there are, finishes what is under way, and ends; after `limit` it
    /// breaks off what is left.
    pub async fn stop(mut self, limit: Duration) -> Stopped {
        self.shared.stage.send_replace(Stage::Draining);
        // Nobody sends: it ends when the last worker has.
        let drained = tokio::time::timeout(limit, self.all_ended.recv()).await.is_ok();
        let connections = self.shared.connections.load(Relaxed);
        self.shared.stage.send_replace(Stage::Stopped);
        if !drained {
            // Their runtimes drop what is left; that takes a moment.
            let _ = tokio::time::timeout(BREAK_OFF_WITHIN, self.all_ended.recv()).await;
        }
        if drained { Stopped::Drained } else { Stopped::BrokenOff { connections } }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stage.send_replace(Stage::Stopped);
    }
}

impl Shared {
    fn new(settings: Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let tls = settings.tls.as_ref().map(|tls| tls::acceptor(tls, settings.mode)).transpose()?;
        let upstream_tls = settings.upstream_tls.as_ref().map(UpstreamTls::new).transpose()?;
        Ok(Shared {
            clock,
            directory: Directory::new(&settings, clock),
            budget: RetryBudget::new(settings.retries.budget),
            chance: Chance::seeded(settings.seed),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            counts: (0..settings.workers).map(|_| Counts::default()).collect(),
            tls: tls.map(ShownAcceptor),
            upstream_tls,
            stage: watch::Sender::new(Stage::Serving),
            settings,
        })
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures {
            connections_now: self.connections.load(Relaxed) as u64,
            requests_now: self.requests.load(Relaxed) as u64,
            ejections: self.directory.ejections(),
            panics: self.directory.panics(),
            instances: self.directory.figures(),
            ..Figures::default()
        };
        self.counts.iter().for_each(|counts| figures.add(counts));
        figures
    }
}

/// A listener for each worker, all on the same port.
fn listen(settings: &Settings) -> Result<Vec<std::net::TcpListener>, StartError> {
    let on = |address| worker::listener(address).map_err(|error| StartError::Listen { address, error });
    let first = on(settings.listen)?;
    let address = local_address(&first, settings.listen)?;
    let mut all = vec![first];
    for _ in 1..settings.workers {
        all.push(on(address)?);
    }
    Ok(all)
}

fn local_address(listener: &std::net::TcpListener, wanted: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Listen { address: wanted, error })
}

fn start_worker(
    worker: Arc<Worker>,
    listener: std::net::TcpListener,
    ended: mpsc::Sender<()>,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Worker)?;
    let stage = worker.shared.stage.subscribe();
    let name = format!("proxy-{}", worker.number);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(worker.run(listener, stage));
        drop(runtime);
        drop(ended);
    });
    thread.map_err(StartError::Worker)
}

/// Keeps the directory as it is told, and does what time demands.
async fn follow(shared: Arc<Shared>, mut upstreams: watch::Receiver<Arc<Upstreams>>) {
    let mut stage = shared.stage.subscribe();
    let mut tick = tokio::time::interval(MAINTAIN);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = true;
    loop {
        tokio::select! {
            changed = upstreams.changed(), if told => match changed {
                Ok(()) => {
                    let now = upstreams.borrow_and_update().clone();
                    shared.directory.update(&now);
                }
                // It goes on with what it knew last.
                Err(_) => told = false,
            },
            _ = tick.tick() => shared.directory.maintain(),
            () = reached(&mut stage, Stage::Stopped) => return,
        }
    }
}
