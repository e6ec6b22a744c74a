//! One instance's address, with the connections that each worker keeps to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::lease::Lease;
use crate::metrics::EndpointCounts;
use crate::request_body::RequestBody;
use crate::tls::UpstreamTls;
use crate::wire::Stream;
use crate::worker::Worker;

pub(crate) type Http1 = http1::SendRequest<RequestBody>;
type Http2 = http2::SendRequest<RequestBody>;

/// An instance at an address. One that moves is another.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: Arc<str>,
    pub(crate) address: SocketAddr,
    gone: AtomicBool,
    workers: Box<[OfWorker]>,
}

/// What one worker has of an endpoint. The locks are for the thread that closes what is gone; else nobody waits.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct OfWorker {
    idle: Mutex<Vec<Idle>>,
    multiplexed: Mutex<Vec<Multiplexed>>,
    /// Held by the one that connects; others wait to share what it gets.
    connecting: tokio::sync::Mutex<()>,
    failures: AtomicUsize,
    pub(crate) counts: EndpointCounts,
}

#[derive(Debug)]
struct Idle {
    sender: Http1,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Multiplexed {
    sender: Http2,
    streams: Arc<AtomicUsize>,
    used: Instant,
}

/// Why a request didn't get an answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of it reached the instance, and here it is again.
    Unsent(Box<Request<RequestBody>>, ConnectError),
    /// It may have been done.
    Lost {
        error: hyper::Error,
        /// The instance said that it did nothing of it.
        unprocessed: bool,
        /// The connection had been waiting, and the instance may have been about to close it.
        stale: bool,
    },
    /// It took too long.
    TimedOut,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to {0}: {1}")]
    Io(SocketAddr, std::io::Error),
    #[error("{0} didn't accept a connection within {1:?}")]
    TimedOut(SocketAddr, Duration),
    #[error("{0} doesn't speak the HTTP version that is wanted: {1}")]
    Handshake(SocketAddr, hyper::Error),
    #[error("cannot connect to {0}, as others found out while this request waited for them")]
    Shared(SocketAddr),
    #[error("the connection to {0} was closed again and again before the request was sent")]
    Closed(SocketAddr),
}

/// The connection that carries an answer.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// Its own, for as long.
    Http1(Http1),
    /// One among other streams.
    Http2(#[expect(dead_code, reason = "its place is taken for as long as it is there")] StreamSlot),
}

/// A place among the streams of a connection.
#[derive(Debug)]
pub(crate) struct StreamSlot(Arc<AtomicUsize>);

impl StreamSlot {
    fn take(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Relaxed);
        StreamSlot(Arc::clone(streams))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection whose answer is over should be free at once; one that isn't is of no use.
const FREE_WITHIN: Duration = Duration::from_secs(1);
/// So many connections may turn out to be closed before a request is given back.
const MOST_CLOSED: usize = 3;

impl Carrier {
    /// The answer is over.
    pub(crate) fn give_back(self, lease: &Lease) {
        let Carrier::Http1(mut sender) = self else { return };
        let (endpoint, worker) = (&lease.endpoint, &lease.worker);
        if sender.is_ready() {
            endpoint.keep(worker, sender);
        } else if !sender.is_closed() && !endpoint.is_gone() {
            let (endpoint, worker) = (Arc::clone(endpoint), Arc::clone(worker));
            tokio::spawn(async move {
                if let Ok(Ok(())) = timeout(FREE_WITHIN, sender.ready()).await {
                    endpoint.keep(&worker, sender);
                }
            });
        }
    }
}

impl Endpoint {
    pub(crate) fn new(id: Arc<str>, address: SocketAddr, workers: usize) -> Self {
        let workers = (0..workers).map(|_| OfWorker::default()).collect();
        Endpoint { id, address, gone: AtomicBool::new(false), workers }
    }

    pub(crate) fn of(&self, worker: &Worker) -> &OfWorker {
        &self.workers[worker.number]
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = &EndpointCounts> {
        self.workers.iter().map(|worker| &worker.counts)
    }

    /// It is no instance any more: what is under way ends, and no connection is kept.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Relaxed);
        for worker in &self.workers {
            worker.idle.lock().clear();
            worker.multiplexed.lock().clear();
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// How many connections wait for work.
    pub(crate) fn waiting(&self) -> usize {
        self.workers.iter().map(|worker| worker.idle.lock().len() + worker.multiplexed.lock().len()).sum()
    }

    /// Closes what has been without work for too long.
    pub(crate) fn sweep(&self, worker: &Worker) {
        let limit = worker.shared.settings.times.upstream_idle;
        let of = self.of(worker);
        of.idle.lock().retain(|idle| idle.since.elapsed() < limit && !idle.sender.is_closed());
        of.multiplexed.lock().retain(|one| {
            !one.sender.is_closed() && (one.streams.load(Relaxed) > 0 || one.used.elapsed() < limit)
        });
    }

    fn keep(&self, worker: &Worker, sender: Http1) {
        let mut idle = self.of(worker).idle.lock();
        // Looked at under the lock: who leaves empties it after the mark is set.
        if !self.is_gone() && idle.len() < worker.shared.settings.limits.idle_upstream {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    fn waiting_http1(&self, worker: &Worker) -> Option<Http1> {
        let limit = worker.shared.settings.times.upstream_idle;
        let mut idle = self.of(worker).idle.lock();
        while let Some(one) = idle.pop() {
            if one.sender.is_ready() && one.since.elapsed() < limit {
                return Some(one.sender);
            }
        }
        None
    }

    /// Sends a request by HTTP/1.1, on a connection of its own for as long.
    pub(crate) async fn send_http1(
        &self,
        worker: &Arc<Worker>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Carrier), SendError> {
        for _ in 0..MOST_CLOSED {
            let waiting = self.waiting_http1(worker);
            let stale = waiting.is_some();
            let mut sender = match waiting {
                Some(sender) => sender,
                None => match self.connect_http1(worker).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(SendError::Unsent(Box::new(request), error)),
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Carrier::Http1(sender))),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => {
                        if stale {
                            // Those that waited beside it are no better, most likely: the instance may be gone.
                            self.of(worker).idle.lock().clear();
                        }
                        let error = failed.into_error();
                        return Err(SendError::Lost { error, unprocessed: false, stale });
                    }
                },
            }
        }
        Err(SendError::Unsent(Box::new(request), ConnectError::Closed(self.address)))
    }

    /// Sends a request by HTTP/2, as a stream beside others.
    pub(crate) async fn send_http2(
        &self,
        worker: &Arc<Worker>,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Carrier), SendError> {
        for _ in 0..MOST_CLOSED {
            let (mut sender, slot) = match self.multiplexed(worker).await {
                Ok(taken) => taken,
                Err(error) => return Err(SendError::Unsent(Box::new(request), error)),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Carrier::Http2(slot))),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => {
                        let error = failed.into_error();
                        let unprocessed = is_unprocessed(&error);
                        return Err(SendError::Lost { error, unprocessed, stale: false });
                    }
                },
            }
        }
        Err(SendError::Unsent(Box::new(request), ConnectError::Closed(self.address)))
    }

    fn shared_http2(&self, worker: &Worker) -> Option<(Http2, StreamSlot)> {
        let most = worker.shared.settings.limits.upstream_streams;
        let mut all = self.of(worker).multiplexed.lock();
        all.retain(|one| !one.sender.is_closed());
        // If the instance bears fewer, those that are too many wait in the connection.
        let one = all.iter_mut().find(|one| one.streams.load(Relaxed) < most)?;
        one.used = Instant::now();
        Some((one.sender.clone(), StreamSlot::take(&one.streams)))
    }

    async fn multiplexed(&self, worker: &Arc<Worker>) -> Result<(Http2, StreamSlot), ConnectError> {
        let of = self.of(worker);
        let failures = of.failures.load(Relaxed);
        if let Some(taken) = self.shared_http2(worker) {
            return Ok(taken);
        }
        let _alone = of.connecting.lock().await;
        if let Some(taken) = self.shared_http2(worker) {
            return Ok(taken);
        }
        if of.failures.load(Relaxed) != failures {
            // All that waited would else try in turns, each for as long.
            return Err(ConnectError::Shared(self.address));
        }
        let sender = self.connect_http2(worker).await.inspect_err(|_| {
            of.failures.fetch_add(1, Relaxed);
        })?;
        let streams = Arc::default();
        let slot = StreamSlot::take(&streams);
        let one = Multiplexed { sender: sender.clone(), streams, used: Instant::now() };
        let mut all = of.multiplexed.lock();
        // Looked at under the lock: who leaves empties it after the mark is set.
        if !self.is_gone() {
            all.push(one);
        }
        Ok((sender, slot))
    }

    /// A new connection as bytes.
    pub(crate) async fn connect(&self, worker: &Worker, protocol: &[u8]) -> Result<Stream, ConnectError> {
        let limit = worker.shared.settings.times.connect;
        let counts = worker.counts();
        counts.upstream_connections.fetch_add(1, Relaxed);
        let connected =
            timeout(limit, connect(self.address, worker.shared.upstream_tls.as_ref(), protocol)).await;
        let connected = match connected {
            Ok(connected) => connected.map_err(|error| ConnectError::Io(self.address, error)),
            Err(_) => Err(ConnectError::TimedOut(self.address, limit)),
        };
        if connected.is_err() {
            counts.upstream_refused.fetch_add(1, Relaxed);
        }
        connected
    }

    async fn connect_http1(&self, worker: &Worker) -> Result<Http1, ConnectError> {
        let stream = self.connect(worker, b"http/1.1").await?;
        let handshake = http1::Builder::new()
            .max_header_size(worker.shared.settings.limits.head_bytes * 4)
            .handshake(TokioIo::new(stream));
        let (sender, connection) =
            handshake.await.map_err(|error| ConnectError::Handshake(self.address, error))?;
        tokio::spawn(async move {
            // Whoever waits for an answer gets the error.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// A connection that may become something else than HTTP.
    pub(crate) async fn connect_for_upgrade(&self, worker: &Worker) -> Result<Http1, ConnectError> {
        let stream = self.connect(worker, b"http/1.1").await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| ConnectError::Handshake(self.address, error))?;
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn connect_http2(&self, worker: &Worker) -> Result<Http2, ConnectError> {
        let stream = self.connect(worker, b"h2").await?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            .max_header_list_size(worker.shared.settings.limits.head_bytes as u32 * 4)
            // An instance that is cut off without a word is noticed, and its streams fail.
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(stream));
        let limit = worker.shared.settings.times.connect;
        let handshake = timeout(limit, handshake).await;
        let handshake = handshake.map_err(|_| ConnectError::TimedOut(self.address, limit))?;
        let (sender, connection) = handshake.map_err(|error| ConnectError::Handshake(self.address, error))?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}

const WINDOW: u32 = 1024 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

async fn connect(address: SocketAddr, tls: Option<&UpstreamTls>, protocol: &[u8]) -> std::io::Result<Stream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    match tls {
        Some(tls) => Ok(Stream::Tls(Box::new(tls.connect(address, tcp, protocol).await?))),
        None => Ok(Stream::Plain(tcp)),
    }
}

/// Whether an instance said that it did nothing of a request (RFC 9113 §8.7): it refused the stream, or went away and left
/// it out.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            let by_peer = h2.is_remote();
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let left_out = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return by_peer && (refused || left_out);
        }
        cause = error.source();
    }
    false
}
