//! The server: sockets, threads, and the task that follows the directory.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::counts::{Counters, Counts};
use crate::forward::Forwarder;
use crate::settings::{Settings, SettingsError};
use crate::table::{Builder, Table};
use crate::tcp;
use crate::udp;
use crate::view::Directory;
use crate::zone::Zone;

/// Ports that are tried until one is free for UDP and TCP both.
const TRIES: usize = 20;
/// The kernel's buffer for datagrams that wait, in bytes; it may give less.
const BUFFER: usize = 1 << 20;
/// After a table is made, nothing is done for so many times as long: a registry that changes without end costs a
/// fifth of a core at most.
const REST: u32 = 4;
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// Serves DNS until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

/// Why it can't serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is wrong with the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An address can't be listened on.
    #[error(
        "DNS can't listen on {address} (UDP and TCP): {error}; take another address or port, or end who has it"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system gives no thread.
    #[error("DNS can't start a thread: {0}")]
    Thread(io::Error),
}

/// Where one address is listened on.
struct Sockets {
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

impl Server {
    /// Serves what the directory knows as soon as this returns. Must be called within a tokio runtime: TCP, forwarding
    /// and the following of the directory are its tasks, and UDP has threads of its own.
    pub async fn start(settings: Settings, directory: impl Directory) -> Result<Server, StartError> {
        let zone = Arc::new(Zone::new(&settings)?);
        let sockets = listen(&settings)?;
        let counters = Arc::new(Counters::default());
        let follower = Follower::new(directory, zone, counters.clone()).await;
        let mut server = Server {
            addresses: sockets.iter().map(|sockets| sockets.address).collect(),
            counters: counters.clone(),
            stop: Arc::default(),
            threads: Vec::new(),
            tasks: JoinSet::new(),
        };
        let forwarder =
            settings.forward.clone().map(|forward| Arc::new(Forwarder::new(forward, counters.clone())));
        let shared = Arc::new(tcp::Shared {
            tables: follower.tables.subscribe(),
            forwarder,
            counters,
            connections: Arc::new(Semaphore::new(settings.tcp_connections.clamp(1, Semaphore::MAX_PERMITS))),
            of_client: settings.tcp_connections_of_client,
            idle: settings.tcp_idle,
            clients: Mutex::new(HashMap::new()),
        });
        for Sockets { udp, tcp, .. } in sockets {
            server.tasks.spawn(tcp::accept(tcp, shared.clone()));
            for socket in udp {
                server.serve_udp(socket, &shared)?;
            }
        }
        server.tasks.spawn(follower.run());
        Ok(server)
    }

    fn serve_udp(&mut self, socket: UdpSocket, shared: &tcp::Shared) -> Result<(), StartError> {
        let listener = udp::Listener {
            socket: Arc::new(socket),
            tables: shared.tables.clone(),
            forwarder: shared.forwarder.clone(),
            counters: self.counters.clone(),
            stop: self.stop.clone(),
            runtime: Handle::current(),
        };
        let builder = thread::Builder::new().name("dns-udp".to_owned());
        self.threads.push(builder.spawn(|| listener.run()).map_err(StartError::Thread)?);
        Ok(())
    }

    /// Where it listens, in the order of the settings, with the ports that it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was asked and answered.
    pub fn counts(&self) -> Counts {
        self.counters.now()
    }

    /// Ends all connections and waits until its sockets are free: a quarter of a second at most.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok()));
        if !ended.await.unwrap_or(false) {
            tracing::error!("a DNS thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(settings: &Settings) -> Result<Vec<Sockets>, StartError> {
    let listen = |&address: &SocketAddr| {
        let tries = if address.port() == 0 { TRIES } else { 1 };
        let mut result = Sockets::bind(address, settings);
        for _ in 1..tries {
            if result.is_ok() {
                break;
            }
            result = Sockets::bind(address, settings);
        }
        result.map_err(|error| StartError::Listen { address, error })
    };
    settings.listen.iter().map(listen).collect()
}

impl Sockets {
    fn bind(address: SocketAddr, settings: &Settings) -> io::Result<Sockets> {
        let many = settings.udp_threads.get() > 1;
        let first = udp_socket(address, many)?;
        let address = first.local_addr()?;
        let mut udp = vec![first];
        for _ in 1..settings.udp_threads.get() {
            udp.push(udp_socket(address, many)?);
        }
        Ok(Sockets { address, udp, tcp: tcp_listener(address)? })
    }
}

fn udp_socket(address: SocketAddr, one_of_many: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Only then: else a second server on this port would not be noticed.
    socket.set_reuse_port(one_of_many)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_read_timeout(Some(udp::WAIT))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Makes a table of each view.
struct Follower<D> {
    directory: D,
    builder: Builder,
    tables: watch::Sender<Arc<Table>>,
    counters: Arc<Counters>,
}

impl<D: Directory> Follower<D> {
    /// Has made the first table.
    async fn new(directory: D, zone: Arc<Zone>, counters: Arc<Counters>) -> Follower<D> {
        let tables = watch::Sender::new(Arc::new(Table::empty(zone.clone())));
        let follower = Follower { directory, builder: Builder::new(zone), tables, counters };
        follower.build().await
    }

    async fn run(mut self) {
        loop {
            let known = self.tables.borrow().revision;
            self.directory.changed(known).await;
            let begun = Instant::now();
            self = self.build().await;
            sleep((begun.elapsed() * REST).min(LONGEST_REST)).await;
        }
    }

    /// On a thread for long work: a registry's first table may take a while.
    async fn build(self) -> Follower<D> {
        let Follower { directory, mut builder, tables, counters } = self;
        let view = directory.view();
        let built = tokio::task::spawn_blocking(move || (Arc::new(builder.build(view)), builder)).await;
        let (table, builder) = match built {
            Ok(built) => built,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and we with it.
                Err(_) => return std::future::pending().await,
            },
        };
        counters.left_out.store(table.left_out() as u64, Ordering::Relaxed);
        counters.revision.store(table.revision, Ordering::Relaxed);
        Counters::one(&counters.tables);
        tables.send_replace(table);
        Follower { directory, builder, tables, counters }
    }
}
