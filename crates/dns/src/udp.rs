//! UDP: a thread a socket, which takes and sends many datagrams at a time.

use std::array::from_fn;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::answer::{MOST_UDP, Reply, Responder, Transport};
use crate::counts::Counters;
use crate::forward::Forwarder;
use crate::table::Table;

/// The most datagrams of one system call.
const BATCH: usize = 32;
/// Longer queries are cut: none has use for more.
const LONGEST_QUERY: usize = 2048;
/// How long a socket waits before it looks whether it is to stop.
pub(crate) const WAIT: Duration = Duration::from_millis(250);
/// After an error of the socket, so that a lasting one doesn't take a core.
const PAUSE: Duration = Duration::from_millis(20);

/// What a thread for UDP works with.
pub(crate) struct Listener {
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) tables: watch::Receiver<Arc<Table>>,
    pub(crate) forwarder: Option<Arc<Forwarder>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Where forwarded queries wait for their answers.
    pub(crate) runtime: Handle,
}

/// A datagram's length and whom it is from or for.
type Envelope = (usize, SockaddrStorage);

/// Buffers of one direction. The headers keep pointers to the addresses of the last call: those for receiving and those
/// for sending are not to be mixed.
struct Batch<const LENGTH: usize> {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; LENGTH]; BATCH]>,
    envelopes: Vec<Envelope>,
}

impl Listener {
    /// Serves until it is to stop.
    pub(crate) fn run(mut self) {
        let mut responder = Responder::new();
        let mut inbox = Batch::<LONGEST_QUERY>::new();
        let mut outbox = Batch::<MOST_UDP>::new();
        let mut table = self.tables.borrow_and_update().clone();
        while !self.stop.load(Ordering::Relaxed) {
            match inbox.receive(&self.socket) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => {
                    tracing::warn!(%error, "DNS can't receive over UDP");
                    std::thread::sleep(PAUSE);
                    continue;
                }
            }
            // An error means that there will be no other table.
            if self.tables.has_changed().unwrap_or(false) {
                table = self.tables.borrow_and_update().clone();
            }
            self.answer(&table, &mut responder, &inbox, &mut outbox);
            responder.counts.udp_queries += inbox.envelopes.len() as u64;
            self.counters.add(&std::mem::take(&mut responder.counts));
            outbox.send(&self.socket);
        }
    }

    fn answer(
        &self,
        table: &Table,
        responder: &mut Responder,
        inbox: &Batch<LONGEST_QUERY>,
        outbox: &mut Batch<MOST_UDP>,
    ) {
        for (buffer, &(length, client)) in inbox.buffers.iter().zip(&inbox.envelopes) {
            let packet = &buffer[..length];
            let answer = &mut outbox.buffers[outbox.envelopes.len()];
            match responder.respond(table, packet, Transport::Udp, answer) {
                Reply::Send(length) => outbox.envelopes.push((length, client)),
                Reply::Forward(length) => {
                    if !self.forward(packet, &mut answer[..length], client, responder) {
                        outbox.envelopes.push((length, client));
                    }
                }
                Reply::Nothing => {}
            }
        }
    }

    /// `false` if `refusal`, as it is then, is to be sent.
    fn forward(
        &self,
        packet: &[u8],
        refusal: &mut [u8],
        client: SockaddrStorage,
        responder: &mut Responder,
    ) -> bool {
        let client = standard(client);
        let served = |forwarder: &&Arc<Forwarder>| client.is_some_and(|client| forwarder.serves(client.ip()));
        let (Some(forwarder), Some(client)) = (self.forwarder.as_ref().filter(served), client) else {
            responder.counts.refused += 1;
            return false;
        };
        let Some(place) = forwarder.place() else {
            forwarder.fail(refusal);
            return false;
        };
        let (forwarder, socket) = (forwarder.clone(), self.socket.clone());
        let (packet, refusal) = (packet.to_vec(), refusal.to_vec());
        self.runtime.spawn(async move {
            let answer = forwarder.answer(place, &packet, Transport::Udp, &refusal).await;
            // It blocks only as long as the kernel has no room for a datagram; who isn't there gets none.
            let _ = socket.send_to(&answer, client);
        });
        true
    }
}

fn standard(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|&address| SocketAddr::V4(address.into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|&address| SocketAddr::V6(address.into())))
}

impl<const LENGTH: usize> Batch<LENGTH> {
    fn new() -> Batch<LENGTH> {
        Batch {
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: Box::new([[0; LENGTH]; BATCH]),
            envelopes: Vec::with_capacity(BATCH),
        }
    }

    /// Waits for one datagram, and takes those that came too.
    fn receive(&mut self, socket: &UdpSocket) -> Result<(), Errno> {
        self.envelopes.clear();
        let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None)?;
        for datagram in received {
            // Without an address it can't be answered: nobody sends such over UDP.
            let Some(client) = datagram.address else { continue };
            self.envelopes.push((datagram.bytes, client));
        }
        Ok(())
    }

    /// Sends all that it has. A datagram that can't be sent is passed over: its client asks again.
    fn send(&mut self, socket: &UdpSocket) {
        let count = self.envelopes.len();
        let envelope = |at: usize| self.envelopes.get(at);
        let length = |at| envelope(at).map_or(0, |&(length, _)| length);
        let slices: [_; BATCH] = from_fn(|at| [IoSlice::new(&self.buffers[at][..length(at)])]);
        let clients: [_; BATCH] = from_fn(|at| envelope(at).map(|&(_, client)| client));
        let mut sent = 0;
        while sent < count {
            let (slices, clients) = (slices[sent..count].iter(), &clients[sent..count]);
            let flags = MsgFlags::empty();
            let result = sendmmsg(socket.as_raw_fd(), &mut self.headers, slices, clients, [], flags);
            sent += result.map_or(1, |sent| sent.count().max(1));
        }
        self.envelopes.clear();
    }
}
