//! TCP: length-prefixed messages, many a connection, answered in their order (RFC 7766).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::answer::{MOST_TCP, Reply, Responder, Transport};
use crate::counts::Counters;
use crate::forward::Forwarder;
use crate::table::Table;

/// Longer queries end the connection: none has use for more.
const LONGEST_QUERY: usize = 2048;
/// After an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// What connections share.
pub(crate) struct Shared {
    pub(crate) tables: watch::Receiver<Arc<Table>>,
    pub(crate) forwarder: Option<Arc<Forwarder>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) of_client: usize,
    pub(crate) idle: Duration,
    pub(crate) clients: Mutex<HashMap<IpAddr, usize>>,
}

/// Serves until it is dropped, and then ends all connections.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = shared.connections.clone().acquire_owned().await.expect("it is never closed");
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "DNS can't take connections");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::of(client.ip(), &shared) else { continue };
        Counters::one(&shared.counters.tcp_connections);
        connections.spawn(async move {
            // Its end is the client's affair, whatever the reason.
            let _ = Connection::new(stream, client.ip(), &place.shared).serve().await;
            drop((permit, place));
        });
    }
}

/// One of the connections that a client may have.
struct Place {
    client: IpAddr,
    shared: Arc<Shared>,
}

impl Place {
    fn of(client: IpAddr, shared: &Arc<Shared>) -> Option<Place> {
        let mut clients = shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        if *count >= shared.of_client.max(1) {
            return None;
        }
        *count += 1;
        Some(Place { client, shared: shared.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = clients.get_mut(&self.client) else { return };
        *count -= 1;
        if *count == 0 {
            clients.remove(&self.client);
        }
    }
}

struct Connection<'s> {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
    client: IpAddr,
    shared: &'s Shared,
    responder: Responder,
    query: Vec<u8>,
    answer: Vec<u8>,
}

impl<'s> Connection<'s> {
    fn new(stream: TcpStream, client: IpAddr, shared: &'s Shared) -> Connection<'s> {
        // Answers are gathered here already; if it can't be set they come a little later.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        Connection {
            reader: BufReader::with_capacity(4096, reader),
            writer: BufWriter::with_capacity(16 << 10, writer),
            client,
            shared,
            responder: Responder::new(),
            query: Vec::new(),
            answer: vec![0; MOST_TCP],
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        loop {
            timeout(self.shared.idle, self.read()).await??;
            let Some(length) = self.respond().await else { return self.writer.flush().await };
            timeout(self.shared.idle, self.write(length)).await??;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let length = usize::from(self.reader.read_u16().await?);
        if length > LONGEST_QUERY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.query.resize(length, 0);
        self.reader.read_exact(&mut self.query).await?;
        Ok(())
    }

    /// The length of the answer. `None` if it was no query: then this is no client.
    async fn respond(&mut self) -> Option<usize> {
        let table = self.shared.tables.borrow().clone();
        let reply = self.responder.respond(&table, &self.query, Transport::Tcp, &mut self.answer);
        let length = match reply {
            Reply::Send(length) => Some(length),
            Reply::Forward(length) => Some(self.forward(length).await),
            Reply::Nothing => None,
        };
        self.responder.counts.tcp_queries += 1;
        self.shared.counters.add(&std::mem::take(&mut self.responder.counts));
        length
    }

    async fn forward(&mut self, refusal: usize) -> usize {
        let forwarder = self.shared.forwarder.as_ref().filter(|forwarder| forwarder.serves(self.client));
        let Some(forwarder) = forwarder else {
            self.responder.counts.refused += 1;
            return refusal;
        };
        let Some(place) = forwarder.place() else {
            forwarder.fail(&mut self.answer[..refusal]);
            return refusal;
        };
        let answer = forwarder.answer(place, &self.query, Transport::Tcp, &self.answer[..refusal]).await;
        self.answer[..answer.len()].copy_from_slice(&answer);
        answer.len()
    }

    /// Answers are sent together if more queries wait already.
    async fn write(&mut self, length: usize) -> io::Result<()> {
        self.writer.write_u16(length as u16).await?;
        self.writer.write_all(&self.answer[..length]).await?;
        if self.reader.buffer().is_empty() { self.writer.flush().await } else { Ok(()) }
    }
}
