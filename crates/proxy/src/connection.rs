//! One client's connection of HTTP: what it speaks, serving it, and ending it in time.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsStream;

use crate::exchange::{Client, Place, handle};
use crate::guard::Guard;
use crate::head;
use crate::ledger::{Ledger, Overdue};
use crate::proxy::Stage;
use crate::settings::{Settings, Times};
use crate::wire::{Stream, Wire};
use crate::worker::{Worker, reached};

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// When the proxy drains, a client that has just connected has so long to ask.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Arc<Worker>, tcp: TcpStream, address: SocketAddr, place: Place) {
    let times = worker.shared.settings.times;
    let mut stage = worker.shared.stage.subscribe();
    let opened = tokio::select! {
        opened = timeout(times.head, open(&worker, tcp)) => opened,
        // It has asked nothing yet, but may be about to.
        () = async { reached(&mut stage, Stage::Draining).await; sleep(LAST_WORDS).await } => return,
    };
    let Ok(Some((stream, first, is_h2))) = opened else {
        worker.counts().connections_overdue.fetch_add(u64::from(opened.is_err()), Relaxed);
        return;
    };
    let ledger = Arc::new(Ledger::new(worker.clock()));
    let tls = matches!(stream, Stream::Tls(_));
    let client = Client {
        worker: Arc::clone(&worker),
        ledger: Arc::clone(&ledger),
        address: address.ip(),
        address_text: head::address(address.ip()),
        tls,
        _place: place,
    };
    let wire = Wire::new(stream, Arc::clone(&ledger)).after(first);
    let overdue = if is_h2 {
        ledger.within_head(false);
        serve_http2(wire, client, &mut stage).await
    } else {
        serve_http1(wire, client, &mut stage).await
    };
    if overdue == Some(Overdue::Stalled) {
        // What the client has not read is lost, and the end must not pass for the answer's.
        ledger.abort(true);
    }
    if let Some(overdue) = overdue {
        worker.counts().connections_overdue.fetch_add(1, Relaxed);
        tracing::debug!(client = %address, ?overdue, "a connection was closed");
    }
}

/// The handshake, if any, and what the client speaks. `None` for one that is gone.
async fn open(worker: &Worker, tcp: TcpStream) -> Option<(Stream, Vec<u8>, bool)> {
    let mut stream = match &worker.shared.tls {
        Some(tls) => Stream::Tls(Box::new(TlsStream::Server(tls.0.accept(tcp).await.ok()?))),
        None => Stream::Plain(tcp),
    };
    if matches!(stream, Stream::Tls(_)) {
        let is_h2 = stream.agreed_on_h2();
        return Some((stream, Vec::new(), is_h2));
    }
    let mut first = Vec::new();
    let mut buffer = [0; PREFACE.len()];
    while PREFACE.starts_with(&first) && first.len() < PREFACE.len() {
        let room = PREFACE.len() - first.len();
        let count = stream.read(&mut buffer[..room]).await.ok().filter(|count| *count > 0)?;
        first.extend_from_slice(&buffer[..count]);
    }
    let is_h2 = first == PREFACE;
    Some((stream, first, is_h2))
}

async fn serve_http1(wire: Wire, client: Client, stage: &mut watch::Receiver<Stage>) -> Option<Overdue> {
    let settings = &client.worker.shared.settings;
    let (limits, times) = (settings.limits, settings.times);
    // A little more than the parser's own limit, whose answer is the better one.
    let wire = wire.guarded(Guard::new(limits.head_bytes + 1_024));
    let mut http = http1::Builder::new();
    http.max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(8_192) * 2)
        .header_read_timeout(None)
        .half_close(false);

    if limits.headers != PARSER_HEADERS {
        // The parser's own number needs no allocation.
        http.max_headers(limits.headers);
    }
    let ledger = Arc::clone(&client.ledger);
    let client = Arc::new(client);
    let service = service_fn(move |request| handle(Arc::clone(&client), request));
    let mut connection = http.serve_connection(TokioIo::new(wire), service).with_upgrades();
    let mut watch = Watch::new(&ledger, times);
    let mut draining = false;
    loop {
        let event = tokio::select! {
            biased;
            () = poll_fn(|cx| Pin::new(&mut connection).poll(cx).map(drop)) => Event::Ended,
            overdue = poll_fn(|cx| watch.poll(cx)) => Event::Overdue(overdue),
            () = reached(stage, Stage::Draining), if !draining => Event::Drain,
        };
        match event {
            Event::Ended => return None,
            Event::Overdue(overdue) => return Some(overdue),
            Event::Drain => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// What hyper's parser has room for on its stack.
const PARSER_HEADERS: usize = 100;

enum Event {
    Ended,
    Overdue(Overdue),
    Drain,
}

/// How far a client may be ahead of what an instance takes.
const WINDOW: u32 = 256 * 1024;
/// Streams that were reset and wait to be taken off: small, or they are an attack (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Resets that the proxy itself causes by errors of the client (CVE-2025-8671).
const OWN_RESETS: usize = 256;
/// What waits to be sent, a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// How often a client that says nothing is asked whether it is there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After a farewell for idleness, a client has so long to end what it began meanwhile.
const FAREWELL: Duration = Duration::from_secs(5);

fn http2_builder(settings: &Settings) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(settings.limits.streams)
        .max_header_list_size(u32::try_from(settings.limits.head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_send_buf_size(SEND_BUFFER)
        // A client that is cut off without a word is noticed, and what it asked ends.
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(OWN_RESETS);
    http
}

async fn serve_http2(wire: Wire, client: Client, stage: &mut watch::Receiver<Stage>) -> Option<Overdue> {
    let settings = &client.worker.shared.settings;
    let times = settings.times;
    let http = http2_builder(settings);
    let ledger = Arc::clone(&client.ledger);
    let client = Arc::new(client);
    let service = service_fn(move |request| handle(Arc::clone(&client), request));
    let mut connection = http.serve_connection(TokioIo::new(wire), service);
    let mut watch = Watch::new(&ledger, times);
    let mut draining = false;
    loop {
        let event = tokio::select! {
            biased;
            () = poll_fn(|cx| Pin::new(&mut connection).poll(cx).map(drop)) => Event::Ended,
            overdue = poll_fn(|cx| watch.poll(cx)) => Event::Overdue(overdue),
            () = reached(stage, Stage::Draining), if !draining => Event::Drain,
        };
        match event {
            Event::Ended => return ledger.is_flooded().then_some(Overdue::Resets),
            Event::Overdue(Overdue::Idle) => {
                Pin::new(&mut connection).graceful_shutdown();
                let _ = timeout(FAREWELL, poll_fn(|cx| Pin::new(&mut connection).poll(cx))).await;
                return Some(Overdue::Idle);
            }
            Event::Overdue(overdue) => return Some(overdue),
            Event::Drain => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// Looks at a connection's ledger now and then.
struct Watch<'a> {
    ledger: &'a Ledger,
    times: Times,
    every: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl<'a> Watch<'a> {
    fn new(ledger: &'a Ledger, times: Times) -> Self {
        // The shortest time is that for heads. Looking twice in it, none takes longer than half as much again.
        let every = times.head.min(times.idle).min(times.stream_idle) / 2;
        Watch { ledger, times, every, sleep: Box::pin(sleep(every)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        // A flood is not left to run until the next look.
        if self.ledger.is_flooded() {
            return Poll::Ready(Overdue::Resets);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if let Some(overdue) = self.ledger.overdue(&self.times) {
                return Poll::Ready(overdue);
            }
            self.sleep.as_mut().reset(tokio::time::Instant::now() + self.every);
        }
        Poll::Pending
    }
}
