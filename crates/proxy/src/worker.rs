//! One worker: a thread with a runtime, a listener and connections of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::connection;
use crate::exchange::Place;
use crate::metrics::Counts;
use crate::proxy::{Permit, Shared, Stage};
use crate::settings::Mode;
use crate::tunnel;

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
}

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4_096;
/// After a failed accept: most likely there are no more file descriptors, and some must be given back.
const REST: Duration = Duration::from_millis(50);
/// How often connections without work are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// A listener beside others on the same address: the kernel spreads connections over them.
pub(crate) fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Worker {
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts[self.number]
    }

    /// Serves until it is told to drain, then finishes what is under way. Whoever ends the runtime sets the limit.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        mut stage: watch::Receiver<Stage>,
    ) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, worker = self.number, "a worker can't listen and serves nothing");
                return;
            }
        };
        let mut sweep = tokio::time::interval(SWEEP);
        let (alive, mut all_gone) = tokio::sync::mpsc::channel::<()>(1);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, client)) => self.take(tcp, client, alive.clone()),
                    Err(error) => self.cannot_accept(error).await,
                },
                _ = sweep.tick() => self.sweep(),
                () = reached(&mut stage, Stage::Draining) => break,
            }
        }
        self.take_what_waits(&listener, &alive).await;
        drop((listener, alive));
        tokio::select! {
            // Nobody sends: it ends when the last connection has dropped its half.
            _ = all_gone.recv() => {}
            () = reached(&mut stage, Stage::Stopped) => {}
        }
    }

    /// Clients that were let in by the kernel would else find their connection reset.
    async fn take_what_waits(
        self: &Arc<Self>,
        listener: &TcpListener,
        alive: &tokio::sync::mpsc::Sender<()>,
    ) {
        for _ in 0..BACKLOG {
            let waiting = std::future::poll_fn(|cx| match listener.poll_accept(cx) {
                std::task::Poll::Ready(accepted) => std::task::Poll::Ready(accepted.ok()),
                std::task::Poll::Pending => std::task::Poll::Ready(None),
            });
            let Some((tcp, client)) = waiting.await else { break };
            self.take(tcp, client, alive.clone());
        }
    }

    async fn cannot_accept(&self, error: io::Error) {
        tracing::warn!(%error, "cannot accept a connection; trying again");
        tokio::time::sleep(REST).await;
    }

    fn take(self: &Arc<Self>, tcp: TcpStream, client: SocketAddr, alive: tokio::sync::mpsc::Sender<()>) {
        let shared = &self.shared;
        let Some(permit) =
            Permit::take(shared, |shared| &shared.connections, shared.settings.limits.connections)
        else {
            self.counts().connections_refused.fetch_add(1, Relaxed);
            return;
        };
        self.counts().connections.fetch_add(1, Relaxed);
        // It fails for a connection that is gone already, which is found out soon enough.
        let _ = tcp.set_nodelay(true);
        let worker = Arc::clone(self);
        let place = Place { _permit: permit, _alive: alive };
        tokio::spawn(async move {
            match worker.shared.settings.mode {
                Mode::Http => connection::serve(worker, tcp, client, place).await,
                Mode::Tcp => {
                    tunnel::serve_tcp(worker, tcp, client).await;
                    drop(place);
                }
            }
        });
    }

    fn sweep(&self) {
        for endpoint in self.shared.directory.endpoints().values() {
            endpoint.sweep(self);
        }
    }
}

/// Waits until the proxy has come to this stage, or is gone.
pub(crate) async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    // An error says that the proxy was dropped.
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}
