//! A network in memory: addresses that listen, connections that can be cut.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramah_client::transport::{Listener, Stream, Transport};
use futures_util::future::BoxFuture;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

const BUFFER: usize = 256 << 10;

#[derive(Default)]
struct Host {
    arrivals: Option<mpsc::UnboundedSender<DuplexStream>>,
    cables: Vec<AbortHandle>,
    /// Connections neither come about nor fail.
    black_hole: bool,
    /// How long it takes to connect.
    distance: Duration,
    attempts: usize,
}

/// All hosts by address.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<HashMap<String, Host>>>);

impl Network {
    fn with<T>(&self, address: &str, change: impl FnOnce(&mut Host) -> T) -> T {
        change(self.0.lock().unwrap().entry(address.to_owned()).or_default())
    }

    /// Cuts all connections of `address`; new ones may come about.
    pub(crate) fn cut(&self, address: &str) {
        self.with(address, |host| host.cables.drain(..).for_each(|cable| cable.abort()));
    }

    /// Cuts all connections of `address` and refuses new ones.
    pub(crate) fn kill(&self, address: &str) {
        self.cut(address);
        self.with(address, |host| host.arrivals = None);
    }

    /// Swallows connections to `address`.
    pub(crate) fn swallow(&self, address: &str) {
        self.with(address, |host| host.black_hole = true);
    }

    /// Moves `address` away.
    pub(crate) fn put_afar(&self, address: &str, distance: Duration) {
        self.with(address, |host| host.distance = distance);
    }

    /// How often somebody tried to connect to `address`.
    pub(crate) fn attempts(&self, address: &str) -> usize {
        self.with(address, |host| host.attempts)
    }

    fn plug(&self, address: &str) -> Option<io::Result<DuplexStream>> {
        self.with(address, |host| {
            host.attempts += 1;
            if host.black_hole {
                return None;
            }
            let (near, mut near_end) = duplex(BUFFER);
            let (far, mut far_end) = duplex(BUFFER);
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let arrivals = host.arrivals.as_ref();
            if arrivals.is_none_or(|arrivals| arrivals.send(far).is_err()) {
                return Some(Err(refused()));
            }
            let cable = tokio::spawn(async move {
                let _ = copy_bidirectional(&mut near_end, &mut far_end).await;
            });
            host.cables.push(cable.abort_handle());
            Some(Ok(near))
        })
    }
}

impl Transport for Network {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let distance = self.with(address, |host| host.distance);
        match self.plug(address) {
            Some(plugged) => Box::pin(async move {
                tokio::time::sleep(distance).await;
                plugged.map(|stream| Box::new(stream) as Box<dyn Stream>)
            }),
            None => Box::pin(std::future::pending()),
        }
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (sender, arrivals) = mpsc::unbounded_channel();
        self.with(address, |host| host.arrivals = Some(sender));
        Box::pin(async { Ok(Box::new(Arrivals(arrivals)) as Box<dyn Listener>) })
    }
}

struct Arrivals(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Arrivals {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(stream) => Ok((Box::new(stream) as Box<dyn Stream>, ([127, 0, 0, 1], 1).into())),
                None => std::future::pending().await,
            }
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 1).into())
    }
}
