//! A connection as bytes: plain or TLS, with what watches over a client's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsStream;

use crate::guard::Guard;
use crate::ledger::Ledger;

/// Plain or TLS, on either side.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The TCP connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether both sides agreed on HTTP/2 in their handshake.
    pub(crate) fn agreed_on_h2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// A head and a small body are joined: the kernel takes longer over two pieces than this copy does.
const JOINED: usize = 1_024;

/// Joins small pieces; `None` if they are too long together.
fn joined(slices: &[IoSlice<'_>], room: &mut [u8; JOINED]) -> Option<usize> {
    let mut length = 0;
    for slice in slices {
        room.get_mut(length..length + slice.len())?.copy_from_slice(slice);
        length += slice.len();
    }
    Some(length)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(tcp) => {
                let mut room = [0; JOINED];
                match joined(slices, &mut room) {
                    Some(length) => Pin::new(tcp).poll_write(cx, &room[..length]),
                    None => Pin::new(tcp).poll_write_vectored(cx, slices),
                }
            }
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A client's connection. What moves on it is noted in its ledger, and what it sends goes past the guard.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    ledger: Arc<Ledger>,
    /// Bytes that were read already to see what the client speaks.
    first: Vec<u8>,
    guard: Option<Guard>,
    closing: Option<Closing>,
}

/// Our half is closed, and what the client sends still is thrown away: if it were not read, the kernel would reset the connection,
/// and the client would lose the answer that it has not read yet.
#[derive(Debug)]
struct Closing {
    ends: Pin<Box<Sleep>>,
    bytes_left: usize,
}

/// How long and how much is thrown away.
const CLOSING_LASTS: Duration = Duration::from_secs(1);
const CLOSING_BYTES: usize = 256 * 1024;

impl Closing {
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 4_096];
        while self.bytes_left > 0 && self.ends.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.bytes_left = self.bytes_left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl Wire {
    pub(crate) fn new(stream: Stream, ledger: Arc<Ledger>) -> Self {
        Wire { stream, ledger, first: Vec::new(), guard: None, closing: None }
    }

    /// The same, with bytes that come before what is read next.
    pub(crate) fn after(mut self, first: Vec<u8>) -> Self {
        self.first = first;
        self
    }

    /// The same, with a guard over HTTP/1.
    pub(crate) fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    fn look_at(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.ledger.moved();
        if let Some(guard) = &mut self.guard {
            if let Err((request, fault)) = guard.feed(bytes) {
                self.ledger.distrust(request, fault);
            }
            self.ledger.within_head(guard.is_within_head());
        }
    }

    fn note<T>(&self, written: &Poll<io::Result<T>>) {
        match written {
            Poll::Ready(Ok(_)) => self.ledger.moved(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.ledger.blocked(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let taken = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..taken]);
            this.first.drain(..taken);
        }
        this.look_at(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ledger.is_to_abort() {
            // The client would take an orderly end for the answer's.
            return Poll::Ready(this.stream.tcp().set_zero_linger());
        }
        if this.ledger.is_tunnel() {
            // What the client still sends is for the instance.
            return Pin::new(&mut this.stream).poll_shutdown(cx);
        }
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let begin = || Closing { ends: Box::pin(sleep(CLOSING_LASTS)), bytes_left: CLOSING_BYTES };
        this.closing.get_or_insert_with(begin).poll(&mut this.stream, cx).map(Ok)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.ledger.is_to_abort() {
            // The kernel resets the connection all the same if bytes are left to read.
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}
