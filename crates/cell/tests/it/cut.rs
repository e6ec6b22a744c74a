//! A transport whose cable can be pulled: a partition of one replica, there and back.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bramah_wire::transport::{Listener, Stream, Tcp, Transport};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One replica's connections, both ways.
#[derive(Clone, Default)]
pub(crate) struct Cable(Arc<AtomicBool>);

impl Cable {
    /// Everything breaks, and nothing can be connected.
    pub(crate) fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Connections can be made again.
    pub(crate) fn plug(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the cable is pulled")),
            false => Ok(()),
        }
    }
}

impl Transport for Cable {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (cable, connecting) = (self.clone(), Tcp.connect(address));
        Box::pin(async move {
            cable.check()?;
            Ok(Box::new(Wire { stream: connecting.await?, cable }) as Box<dyn Stream>)
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (cable, listening) = (self.clone(), Tcp.listen(address));
        Box::pin(
            async move { Ok(Box::new(Socket { listener: listening.await?, cable }) as Box<dyn Listener>) },
        )
    }
}

struct Socket {
    listener: Box<dyn Listener>,
    cable: Cable,
}

impl Listener for Socket {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, remote) = self.listener.accept().await?;
            let wire = Wire { stream, cable: self.cable.clone() };
            Ok((Box::new(wire) as Box<dyn Stream>, remote))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_address()
    }
}

/// A connection that ends at its next use once the cable is pulled.
struct Wire {
    stream: Box<dyn Stream>,
    cable: Cable,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cable.check()?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.cable.check().is_err() {
            // What arrived meanwhile is lost on the way.
            buffer.set_filled(before);
            self.cable.check()?;
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.cable.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cable.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
