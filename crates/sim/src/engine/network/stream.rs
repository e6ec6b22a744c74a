//! The network as a process uses it: connections that tokio and tonic can't tell from real ones.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bramah_wire::transport::{Listener, Stream, Transport};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pipe::{Connection, ConnectionId, Half, Packet, Side, WINDOW_BYTES};
use super::{Listening, Network, address};
use crate::engine::HostId;

pub(super) struct HostTransport {
    pub(super) network: Network,
    pub(super) host: HostId,
    pub(super) incarnation: u64,
}

impl Transport for HostTransport {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let opened = Network::parse(address).map(|(to, port)| self.open(to, port));
        Box::pin(async move {
            let end = opened?;
            std::future::poll_fn(|context| end.poll_accepted(context)).await?;
            Ok(Box::new(end) as Box<dyn Stream>)
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let listening = Network::parse(address).and_then(|(_, port)| self.bind(port));
        Box::pin(async move { Ok(Box::new(listening?) as Box<dyn Listener>) })
    }
}

impl HostTransport {
    fn open(&self, to: HostId, port: u16) -> End {
        let mut state = self.network.0.lock();
        let number = state.add(Connection::new((self.host, self.incarnation), to, port));
        state.send(number, Side::Server, Packet::Connect);
        End { network: self.network.clone(), number, side: Side::Client, of: (self.host, self.incarnation) }
    }

    fn bind(&self, port: u16) -> io::Result<Bound> {
        let mut state = self.network.0.lock();
        let port = if port == 0 { state.places[self.host].pick_port() } else { port };
        if state.listeners.contains_key(&(self.host, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert((self.host, port), Listening::default());
        Ok(Bound { network: self.network.clone(), port, of: (self.host, self.incarnation) })
    }
}

struct Bound {
    network: Network,
    port: u16,
    of: (HostId, u64),
}

impl Listener for Bound {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(std::future::poll_fn(|context| {
            let mut state = self.network.0.lock();
            let Some(listening) = state.listeners.get_mut(&(self.of.0, self.port)) else {
                return Poll::Pending;
            };
            let Some(number) = listening.arrived.pop_front() else {
                listening.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            let client = state.connections.get(&number).map_or(self.of.0, |it| it.host(Side::Client));
            let end = End { network: self.network.clone(), number, side: Side::Server, of: self.of };
            Poll::Ready(Ok((Box::new(end) as Box<dyn Stream>, address(client, 1))))
        }))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(address(self.of.0, self.port))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut state = self.network.0.lock();
        let (host, incarnation) = self.of;
        if state.places[host].incarnation == incarnation && state.places[host].up {
            state.listeners.remove(&(host, self.port));
        }
    }
}

/// One side of a connection.
struct End {
    network: Network,
    number: ConnectionId,
    side: Side,
    of: (HostId, u64),
}

impl End {
    /// Works on this side's half, unless the process it belonged to is gone.
    fn with<R>(&self, work: impl FnOnce(&mut Half) -> (R, Option<Packet>)) -> Option<R> {
        let mut state = self.network.0.lock();
        let (host, incarnation) = self.of;
        if state.places[host].incarnation != incarnation || !state.places[host].up {
            return None;
        }
        let half = state.connections.get_mut(&self.number)?.half(self.side);
        let (result, packet) = work(half);
        if let Some(packet) = packet {
            state.send(self.number, self.side.other(), packet);
        }
        Some(result)
    }

    fn poll_accepted(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.with(|half| {
            if half.reset {
                return (Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())), None);
            }
            if half.accepted {
                return (Poll::Ready(Ok(())), None);
            }
            half.reader = Some(context.waker().clone());
            (Poll::Pending, None)
        });
        polled.unwrap_or(Poll::Pending)
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.with(|half| {
            let Some(first) = half.received.front_mut() else {
                if half.reset {
                    return (Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())), None);
                }
                if half.ended {
                    return (Poll::Ready(Ok(())), None);
                }
                half.reader = Some(context.waker().clone());
                return (Poll::Pending, None);
            };
            let taken = first.split_to(first.len().min(buffer.remaining()));
            buffer.put_slice(&taken);
            if first.is_empty() {
                half.received.pop_front();
            }
            half.read += taken.len();
            // Told in large steps, as the kernel does.
            let told =
                (half.read >= WINDOW_BYTES / 2).then(|| Packet::Window(std::mem::take(&mut half.read)));
            (Poll::Ready(Ok(())), told)
        });
        polled.unwrap_or(Poll::Pending)
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.with(|half| {
            if half.reset {
                return (Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), None);
            }
            let taken = bytes.len().min(half.window);
            if taken == 0 && !bytes.is_empty() {
                half.writer = Some(context.waker().clone());
                return (Poll::Pending, None);
            }
            half.window -= taken;
            (Poll::Ready(Ok(taken)), Some(Packet::Data(Bytes::copy_from_slice(&bytes[..taken]))))
        });
        polled.unwrap_or(Poll::Pending)
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|_| ((), Some(Packet::End)));
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.with(|half| {
            half.gone = true;
            half.received.clear();
            ((), (!half.reset).then_some(Packet::End))
        });
        self.network.0.lock().forget_if_over(self.number);
    }
}
