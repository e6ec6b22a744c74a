//! How connections are made. Production uses [`Tcp`]; a simulation brings its own [`Transport`].

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// One connection, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Makes connections and waits for them.
pub trait Transport: Send + Sync + 'static {
    /// Connects to `address`, a `host:port`. The caller bounds how long it waits.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;

    /// Starts to listen at `address`, a `host:port`; port 0 picks a free one.
    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// An address that connections arrive at.
pub trait Listener: Send + 'static {
    /// The next connection and where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;

    /// The address that is listened at, with the port that was picked.
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// The network of the operating system, with Nagle's delay off: with it answers came 40 ms late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Transport for Tcp {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let listener = TcpListener::bind(&address).await?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, remote) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, remote))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// How long a [`channel`] waits for a connection, and how it notices that the other side is gone.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection to come about.
    pub connect: Duration,
    /// Between two HTTP/2 pings, sent also while nothing is asked.
    pub keep_alive_interval: Duration,
    /// For a ping's answer; then the connection is given up.
    pub keep_alive_timeout: Duration,
}

impl Default for Timeouts {
    /// 1 s to connect, a ping every 5 s, 5 s for its answer.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// Connects to `address` (`host:port`) over `transport`, for gRPC.
///
/// # Errors
/// When `address` is malformed or nothing answers there within `timeouts.connect`.
pub async fn channel(
    transport: Arc<dyn Transport>,
    address: &str,
    timeouts: Timeouts,
) -> Result<Channel, Error> {
    endpoint(address, timeouts)?.connect_with_connector(Connector::new(transport, address, timeouts)).await
}

/// As [`channel`], but connects at the first call, and again after a connection broke.
///
/// # Errors
/// When `address` is malformed.
pub fn channel_lazy(
    transport: Arc<dyn Transport>,
    address: &str,
    timeouts: Timeouts,
) -> Result<Channel, Error> {
    Ok(endpoint(address, timeouts)?.connect_with_connector_lazy(Connector::new(transport, address, timeouts)))
}

fn endpoint(address: &str, timeouts: Timeouts) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(timeouts.keep_alive_interval)
        .keep_alive_timeout(timeouts.keep_alive_timeout)
        .keep_alive_while_idle(true))
}

/// What tonic asks for connections. The address is kept as it was given: a URI would normalise it.
struct Connector {
    transport: Arc<dyn Transport>,
    address: String,
    timeout: Duration,
}

impl Connector {
    fn new(transport: Arc<dyn Transport>, address: &str, timeouts: Timeouts) -> Self {
        Self { transport, address: address.to_owned(), timeout: timeouts.connect }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.transport.connect(&self.address);
        let (address, timeout) = (self.address.clone(), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(stream) => Ok(TokioIo::new(stream?)),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection to {address} within {} ms", timeout.as_millis()),
                )),
            }
        })
    }
}

/// A connection that arrived; it holds its place among the most that may be open.
pub struct Incoming {
    stream: Box<dyn Stream>,
    remote: SocketAddr,
    local: Option<SocketAddr>,
    _place: OwnedSemaphorePermit,
}

impl Incoming {
    /// Where the connection comes from.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Incoming").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Connected for Incoming {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.local, remote_addr: Some(self.remote) }
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Shortest and longest rest after `accept` failed: long enough not to spin while descriptors are short.
const ACCEPT_REST: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The connections of `listener`, without end, for tonic's `serve_with_incoming_shutdown`.
///
/// A failed accept (no descriptors left, a connection that was reset at once) is logged and followed
/// by a short rest; it never ends the stream. A connection beyond `max_connections` is closed at
/// once, so that its client turns to another replica instead of waiting here.
pub fn incoming(
    listener: Box<dyn Listener>,
    max_connections: usize,
) -> impl stream::Stream<Item = io::Result<Incoming>> + Send {
    let local = listener.local_address().ok();
    let places = Arc::new(Semaphore::new(max_connections));
    stream::unfold((listener, places), move |(mut listener, places)| async move {
        let arrived = next_connection(listener.as_mut(), &places, local).await;
        Some((Ok(arrived), (listener, places)))
    })
}

async fn next_connection(
    listener: &mut dyn Listener,
    places: &Arc<Semaphore>,
    local: Option<SocketAddr>,
) -> Incoming {
    let mut rest = ACCEPT_REST.0;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    return Incoming { stream, remote, local, _place: place };
                }
                Err(_) => tracing::warn!(%remote, "too many connections are open: closed a new one"),
            },
            Err(error) => {
                tracing::warn!(%error, ?local, "could not accept a connection; trying again");
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(ACCEPT_REST.1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
