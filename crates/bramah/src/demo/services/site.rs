//! A small HTTP server, registered in the cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bramah_client::Client;
use bramah_client::discovery::{Instance, Registration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::output::Failure;

/// Longest head that it reads.
const MAX_HEAD: usize = 8 << 10;
/// How long it ends what is under way when it leaves in order.
const LINGER: Duration = Duration::from_millis(200);

/// One server. It answers each request with its name.
pub(super) struct Site {
    name: String,
    delay_ms: Arc<AtomicU64>,
    serving: JoinHandle<()>,
    registration: Registration,
}

impl Site {
    pub(super) async fn open(client: &Client, service: &str, number: u32) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(|error| Failure::refused(format!("cannot listen: {error}")))?;
        let address = listener.local_addr().map_err(|error| Failure::refused(error.to_string()))?;
        let (name, delay_ms) = (format!("{service}-{number}"), Arc::new(AtomicU64::new(0)));
        let serving = tokio::spawn(serve(listener, name.clone(), Arc::clone(&delay_ms)));
        let instance = Instance::new(address.ip().to_string(), address.port());
        let registration = client.registry().register(service, &name, instance).await?;
        Ok(Self { name, delay_ms, serving, registration })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes so long for each answer from now on.
    pub(super) fn delay(&self, delay: Duration) {
        self.delay_ms.store(delay.as_millis() as u64, Relaxed);
    }

    /// Ends at once with all its connections, and stays registered.
    pub(super) fn die(&self) {
        self.serving.abort();
    }

    /// Is taken out of the registry first, and ends when what is under way has ended.
    pub(super) async fn leave(self) {
        self.registration.deregister().await;
        tokio::time::sleep(LINGER).await;
        self.serving.abort();
    }
}

/// Its connections end with it.
async fn serve(listener: TcpListener, name: String, delay_ms: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(answer(stream, name.clone(), Arc::clone(&delay_ms)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, name: String, delay_ms: Arc<AtomicU64>) {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    let mut head = Vec::new();
    while let Ok(count) = stream.read_buf(&mut head).await {
        if count == 0 || head.len() > MAX_HEAD {
            return;
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let delay = delay_ms.load(Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
