//! A TCP forwarder with faults: every connection between replicas, and from clients to them, goes through it, and each
//! direction between two places has a weather of its own.
//!
//! All replicas of a cell know each other by the same list of addresses, so an address says where a connection goes
//! but not where it comes from. Each replica is made to connect from an address of its own in `127.0.0.0/8` for that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::network::{CLIENTS, Host};

/// Most bytes taken at once: about what one packet carries, so that weather meets packets, not floods.
const PIECE_BYTES: usize = 4096;
/// Most pieces on their way in one direction of a connection: then the sender has to wait, as with TCP's window.
const MOST_PIECES: usize = 256;
/// Replicas connect from the addresses `127.0.0.101` and up, clients from `127.0.0.1`.
const FIRST_ADDRESS: u8 = 100;
/// What a lost piece costs: TCP sends again after 200 ms at least.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The address that this replica connects from, with `BRAMAH_FAULTS_SOURCE` set to it.
pub(crate) fn address_of(replica: Host) -> String {
    format!("127.0.0.{}", FIRST_ADDRESS as usize + replica)
}

/// Who connects from there.
fn host_at(address: IpAddr) -> Host {
    match address {
        IpAddr::V4(address) => Host::from(address.octets()[3].saturating_sub(FIRST_ADDRESS)),
        IpAddr::V6(_) => CLIENTS,
    }
}

/// What one place experiences when it sends to another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Nothing gets through. What is sent waits, as TCP keeps it, until this ends.
    pub(crate) cut: bool,
    /// How long everything takes,
    pub(crate) delay: Duration,
    /// and up to how much longer some takes.
    pub(crate) jitter: Duration,
    /// How many of a hundred pieces are lost, and so come late, with all behind them.
    pub(crate) stalled_percent: u32,
    /// After how many of a thousand pieces the connection breaks.
    pub(crate) reset_per_mille: u32,
    /// What the line carries.
    pub(crate) bytes_per_second: Option<u32>,
}

/// The forwarder of one cell. Dropping it ends all connections.
pub(crate) struct Forwarder {
    paths: Arc<Paths>,
    // A runtime of its own: no test that is busy delays it. Taken out to be dropped where one may block or not.
    runtime: Option<Runtime>,
}

struct Paths {
    weather: HashMap<(Host, Host), watch::Sender<Weather>>,
    /// Pieces that some weather has held back, and connections that it broke.
    troubled: AtomicU64,
}

impl Forwarder {
    pub(crate) fn start(replicas: usize) -> Self {
        let pairs = (0..=replicas).flat_map(|from| (0..=replicas).map(move |to| (from, to)));
        let weather = pairs.map(|pair| (pair, watch::Sender::default())).collect();
        let paths = Paths { weather, troubled: AtomicU64::new(0) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self { paths: Arc::new(paths), runtime: Some(runtime.expect("a thread and its poll")) }
    }

    /// Listens for both kinds of connections to each replica, which itself listens at these addresses. Returns the
    /// addresses to use instead.
    pub(crate) fn forward_to(&self, replicas: &[(String, String)]) -> Vec<(String, String)> {
        let forward = |(index, (clients, peers)): (usize, &(String, String))| {
            (self.listen(index + 1, clients), self.listen(index + 1, peers))
        };
        replicas.iter().enumerate().map(forward).collect()
    }

    fn listen(&self, to: Host, address: &str) -> String {
        let runtime = self.runtime.as_ref().expect("it is taken only when this is dropped");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that works");
        let here = listener.local_addr().expect("it is bound").to_string();
        let (paths, address) = (Arc::clone(&self.paths), address.to_owned());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket that works");
            loop {
                // An accept fails when descriptors are short; the next one may not.
                match listener.accept().await {
                    Ok((stream, from)) => {
                        drop(tokio::spawn(Arc::clone(&paths).forward(stream, from.ip(), to, address.clone())))
                    }
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        here
    }

    pub(crate) fn change(&self, from: Host, to: Host, weather: impl Fn(Weather) -> Weather) {
        self.paths.weather[&(from, to)].send_modify(|now| *now = weather(*now));
    }

    pub(crate) fn change_all(&self, weather: impl Fn(Weather) -> Weather) {
        self.paths.weather.keys().for_each(|(from, to)| self.change(*from, *to, &weather));
    }

    pub(crate) fn heal(&self) -> u64 {
        self.change_all(|_| Weather::default());
        self.paths.troubled.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // Dropped plainly it would wait, which a test that is async may not.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Paths {
    /// One connection, from its beginning to its end.
    async fn forward(self: Arc<Self>, stream: TcpStream, from: IpAddr, to: Host, address: String) {
        let source = host_at(from);
        // Its first packets would be lost.
        for pair in [(source, to), (to, source)] {
            self.wait_until_open(pair).await;
        }
        let Ok(target) = TcpStream::connect(&address).await else { return };
        // Without it small messages wait for the answers to others; a socket that is gone says so when it is read.
        let _ = (stream.set_nodelay(true), target.set_nodelay(true));
        let ((from_source, to_source), (from_target, to_target)) = (stream.into_split(), target.into_split());
        tokio::select! {
            () = self.carry((source, to), from_source, to_target) => {}
            () = self.carry((to, source), from_target, to_source) => {}
        }
    }

    /// Carries one direction until it ends or breaks.
    async fn carry(&self, pair: (Host, Host), mut reader: OwnedReadHalf, mut writer: OwnedWriteHalf) {
        let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(MOST_PIECES);
        let mut due = Due::new();
        let read = async {
            let mut piece = vec![0; PIECE_BYTES];
            while let Ok(length @ 1..) = reader.read(&mut piece).await {
                let weather = *self.weather[&pair].borrow();
                let (when, troubled, breaks) = due.next(weather, length);
                self.troubled.fetch_add(troubled.into(), Ordering::Relaxed);
                if breaks || sender.send((when, piece[..length].to_vec())).await.is_err() {
                    break;
                }
            }
            drop(sender);
            // What is still on its way arrives, and then the connection ends.
            std::future::pending().await
        };
        let write = async {
            while let Some((when, piece)) = pieces.recv().await {
                sleep_until(when).await;
                self.wait_until_open(pair).await;
                if writer.write_all(&piece).await.is_err() {
                    break;
                }
            }
            // The end of a connection doesn't get through either.
            self.wait_until_open(pair).await;
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    }

    async fn wait_until_open(&self, pair: (Host, Host)) {
        let mut weather = self.weather[&pair].subscribe();
        if weather.borrow_and_update().cut {
            self.troubled.fetch_add(1, Ordering::Relaxed);
            // The sender lives as long as `self`.
            let _ = weather.wait_for(|weather| !weather.cut).await;
        }
    }
}

/// When the next piece arrives.
struct Due {
    random: SmallRng,
    last: Instant,
    line_free: Instant,
}

impl Due {
    fn new() -> Self {
        let now = Instant::now();
        Self { random: SmallRng::seed_from_u64(rand::random()), last: now, line_free: now }
    }

    /// When it arrives, whether it would have earlier without the weather, and whether the connection breaks.
    fn next(&mut self, weather: Weather, length: usize) -> (Instant, bool, bool) {
        let now = Instant::now();
        let mut when = now + weather.delay;
        if !weather.jitter.is_zero() {
            when += weather.jitter.mul_f64(self.random.random::<f64>());
        }
        if self.random.random_ratio(weather.stalled_percent, 100) {
            when += RETRANSMISSION;
        }
        if let Some(rate) = weather.bytes_per_second {
            let takes = Duration::from_secs_f64(length as f64 / f64::from(rate));
            self.line_free = self.line_free.max(now) + takes;
            when = when.max(self.line_free);
        }
        // Within one connection nothing overtakes.
        self.last = self.last.max(when);
        let breaks = self.random.random_ratio(weather.reset_per_mille, 1000);
        (self.last, self.last > now, breaks)
    }
}
