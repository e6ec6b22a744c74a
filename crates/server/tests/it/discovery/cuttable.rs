//! A network that can be cut: all its connections break, and no new one comes about until it is mended.

use std::io;
use std::sync::Arc;

use bramah_client::transport::{Listener, Stream, Tcp, Transport};
use tokio::sync::watch;

type Boxed<T> = std::pin::Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

#[derive(Clone)]
pub(super) struct Cuttable(Arc<watch::Sender<bool>>);

impl Cuttable {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(super) fn cut(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn mend(&self) {
        self.0.send_replace(false);
    }
}

impl Transport for Cuttable {
    fn connect(&self, address: &str) -> Boxed<Box<dyn Stream>> {
        let (connecting, mut state) = (Tcp.connect(address), self.0.subscribe());
        Box::pin(async move {
            if *state.borrow() {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the network is cut"));
            }
            let mut there = connecting.await?;
            let (ours, mut theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut there, &mut theirs) => {}
                    _ = state.wait_for(|cut| *cut) => {}
                }
            });
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }

    fn listen(&self, address: &str) -> Boxed<Box<dyn Listener>> {
        Tcp.listen(address)
    }
}
