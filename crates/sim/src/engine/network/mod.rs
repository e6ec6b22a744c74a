//! A network of byte streams, as TCP gives them: in order, flow-controlled, late, and sometimes never.
//!
//! A lost packet is sent again after a pause, and everything behind it in its connection waits, as with TCP; a
//! blocked link holds a connection until it is unblocked. A process that dies resets its connections; a machine
//! without power says nothing, and resets connections it doesn't know when it is back.

mod link;
mod pipe;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use bramah_wire::transport::Transport;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use twox_hash::XxHash3_64;

pub use link::Link;
use pipe::{Connection, ConnectionId, Packet, Side};

use super::HostId;

/// The first pause before a lost packet is sent again, and the longest.
const RETRANSMIT_MS: (u64, u64) = (200, 1_600);
/// How much of what a client says is kept, so that it can be said again.
const RECORDED_BYTES: usize = 64 << 10;
/// Connections whose beginnings are kept.
const RECORDED_CONNECTIONS: usize = 64;

/// How often each thing happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that arrived.
    pub delivered: u64,
    /// Packets that were lost and sent again.
    pub lost: u64,
    /// Packets that met a blocked link.
    pub blocked: u64,
    /// Packets that came later than the link's usual delay.
    pub delayed: u64,
    /// Packets that overtook an earlier one of another connection between the same hosts.
    pub overtook: u64,
    /// Connections whose beginning was played to the server a second time.
    pub replayed: u64,
}

/// The network; clones share it.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
struct Place {
    /// A process runs.
    up: bool,
    /// The machine answers for processes that are gone.
    powered: bool,
    /// Counts the processes that ran here: what belongs to an earlier one is void.
    incarnation: u64,
    next_port: u16,
}

impl Place {
    fn pick_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

#[derive(Debug, Default)]
struct Listening {
    arrived: VecDeque<ConnectionId>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Due {
    to: HostId,
    connection: ConnectionId,
    /// Whom the packet is for.
    side: Side,
    packet: Packet,
    sent_ms: u64,
}

/// The beginning of what a client said.
struct Recorded {
    host: HostId,
    port: u16,
    connection: ConnectionId,
    bytes: Vec<u8>,
}

struct State {
    places: Vec<Place>,
    links: BTreeMap<(HostId, HostId), Link>,
    usual: Link,
    listeners: BTreeMap<(HostId, u16), Listening>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    agenda: BTreeMap<(u64, u64), Due>,
    serial: u64,
    random: StdRng,
    counts: Counts,
    newest_arrival: BTreeMap<(HostId, HostId), u64>,
    recorded: VecDeque<Recorded>,
    now_ms: u64,
    trace: XxHash3_64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connections, {} packets under way", self.connections.len(), self.agenda.len())
    }
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            places: Vec::new(),
            links: BTreeMap::new(),
            usual: Link::default(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            agenda: BTreeMap::new(),
            serial: 0,
            random: StdRng::seed_from_u64(seed),
            counts: Counts::default(),
            newest_arrival: BTreeMap::new(),
            recorded: VecDeque::new(),
            now_ms: 0,
            trace: XxHash3_64::with_seed(0),
        })))
    }

    pub(super) fn add_host(&self, id: HostId) {
        assert!(id < 64, "hosts are kept as bits of a number");
        self.0.lock().places.push(Place { up: false, powered: true, incarnation: 0, next_port: 40_000 });
    }

    pub(super) fn process_started(&self, id: HostId) {
        let mut state = self.0.lock();
        (state.places[id].up, state.places[id].powered) = (true, true);
        state.places[id].incarnation += 1;
    }

    /// Everything that the host's process had is void. `tell`: its peers' connections are reset.
    pub(super) fn process_died(&self, id: HostId, tell: bool) {
        let mut state = self.0.lock();
        (state.places[id].up, state.places[id].powered) = (false, tell);
        state.listeners.retain(|(host, _), _| *host != id);
        let of_host = |connection: &Connection| connection.side_of(id);
        let ours: Vec<(ConnectionId, Side)> = state
            .connections
            .iter()
            .filter_map(|(number, connection)| Some((*number, of_host(connection)?)))
            .collect();
        for (number, side) in ours {
            let connection = state.connections.get_mut(&number).expect("listed above");
            connection.abandon(side);
            if tell {
                state.send(number, side.other(), Packet::Reset);
            }
            state.forget_if_over(number);
        }
    }

    /// The network as processes of `host` that start from now on see it.
    pub fn transport(&self, host: HostId) -> Arc<dyn Transport> {
        let incarnation = self.0.lock().places[host].incarnation + 1;
        Arc::new(stream::HostTransport { network: self.clone(), host, incarnation })
    }

    /// Changes the link from one host to another, one way.
    pub fn set_link(&self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        let mut state = self.0.lock();
        let usual = state.usual;
        change(state.links.entry((from, to)).or_insert(usual));
    }

    /// How links are that nothing was done to.
    pub fn usual(&self) -> Link {
        self.0.lock().usual
    }

    /// Makes all links so that nothing was done to.
    pub fn set_usual(&self, usual: Link) {
        self.0.lock().usual = usual;
    }

    /// Makes all links as they were in the beginning.
    pub fn heal(&self) {
        self.0.lock().links.clear();
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.0.lock().trace.finish()
    }

    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.0.lock().agenda.keys().next().map(|(due, _)| *due)
    }

    /// A bit for each host that something reaches by `now_ms`.
    pub(super) fn hosts_reached_by(&self, now_ms: u64) -> u64 {
        let state = self.0.lock();
        state.agenda.range(..=(now_ms, u64::MAX)).fold(0, |bits, (_, due)| bits | 1 << due.to)
    }

    /// Hands the host what has reached it by `now_ms`.
    pub(super) fn deliver(&self, host: HostId, now_ms: u64) {
        let mut state = self.0.lock();
        state.now_ms = now_ms;
        let due: Vec<(u64, u64)> = state
            .agenda
            .range(..=(now_ms, u64::MAX))
            .filter(|(_, due)| due.to == host)
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            if let Some(due) = state.agenda.remove(&key) {
                state.arrive(due);
            }
        }
    }

    /// Plays what some client said to `host` at the beginning of a connection to it a second time, as if a
    /// network had kept a copy. False if nothing was recorded.
    pub fn replay(&self, host: HostId) -> bool {
        let mut state = self.0.lock();
        let known = |recorded: &&Recorded| {
            recorded.host == host
                && !recorded.bytes.is_empty()
                && state.listeners.contains_key(&(host, recorded.port))
        };
        let copies: Vec<(u16, Vec<u8>)> =
            state.recorded.iter().filter(known).map(|it| (it.port, it.bytes.clone())).collect();
        if copies.is_empty() {
            return false;
        }
        let which = state.random.random_range(0..copies.len());
        let (port, bytes) = &copies[which];
        let ghost = Connection::ghost(host, *port, state.places[host].incarnation);
        let number = state.add(ghost);
        state.send(number, Side::Server, Packet::Connect);
        for chunk in bytes.chunks(1 << 14) {
            state.send(number, Side::Server, Packet::Data(chunk.to_vec().into()));
        }
        state.counts.replayed += 1;
        true
    }

    fn parse(address: &str) -> io::Result<(HostId, u16)> {
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is no address here"));
        let address: SocketAddr = address.parse().map_err(|_| malformed())?;
        match address.ip() {
            IpAddr::V4(ip) if ip.octets()[3] > 0 => Ok((usize::from(ip.octets()[3]) - 1, address.port())),
            _ => Err(malformed()),
        }
    }
}

/// The address of a host, as its processes know each other.
pub fn address(host: HostId, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, host as u8 + 1).into(), port)
}

impl State {
    fn add(&mut self, connection: Connection) -> ConnectionId {
        self.next_connection += 1;
        self.connections.insert(self.next_connection, connection);
        self.next_connection
    }

    /// Puts a packet on its way to one side of a connection.
    fn send(&mut self, number: ConnectionId, to: Side, packet: Packet) {
        let now_ms = super::now_ms().max(self.now_ms);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (from, host) = (connection.host(to.other()), connection.host(to));
        let link = self.links.get(&(from, host)).copied().unwrap_or(self.usual);
        let delay = link.delay_ms(&mut self.random);
        self.counts.delayed += u64::from(delay > self.usual.delay_ms.1);
        let due = connection.due(to, now_ms + delay);
        self.schedule(due, Due { to: host, connection: number, side: to, packet, sent_ms: now_ms });
    }

    fn schedule(&mut self, due_ms: u64, due: Due) {
        self.serial += 1;
        self.agenda.insert((due_ms, self.serial), due);
    }

    fn arrive(&mut self, due: Due) {
        let Some(connection) = self.connections.get_mut(&due.connection) else { return };
        let again = matches!(due.packet, Packet::Again);
        if !again && connection.holds(due.side) {
            return connection.hold(due.side, due.packet, due.sent_ms);
        }
        let from = connection.host(due.side.other());
        let link = self.links.get(&(from, due.to)).copied().unwrap_or(self.usual);
        let blocked = link.blocks > 0 || !self.places[due.to].powered;
        let lost = !blocked && link.loses(&mut self.random);
        self.counts.blocked += u64::from(blocked);
        self.counts.lost += u64::from(lost);
        match (blocked || lost, again) {
            (true, _) => self.hold(due),
            (false, true) => self.release(&due),
            (false, false) => self.hand_over(due, from),
        }
    }

    /// The packet did not get through: it and all behind it in its connection come later.
    fn hold(&mut self, due: Due) {
        let Some(connection) = self.connections.get_mut(&due.connection) else { return };
        let pause = connection.next_try(due.side);
        if !matches!(due.packet, Packet::Again) {
            connection.hold(due.side, due.packet, due.sent_ms);
        }
        self.schedule(self.now_ms + pause, Due { packet: Packet::Again, ..due });
    }

    fn release(&mut self, due: &Due) {
        let Some(connection) = self.connections.get_mut(&due.connection) else { return };
        let from = connection.host(due.side.other());
        for (packet, sent_ms) in connection.release(due.side) {
            self.hand_over(Due { packet, sent_ms, ..*due }, from);
        }
    }

    fn hand_over(&mut self, due: Due, from: HostId) {
        self.note(&due, from);
        let incarnation = self.places[due.to].incarnation;
        let up = self.places[due.to].up;
        let Some(connection) = self.connections.get_mut(&due.connection) else { return };
        if !up || !connection.belongs_to(due.side, incarnation) {
            // For a process that is gone: its machine says so.
            return self.send(due.connection, due.side.other(), Packet::Reset);
        }
        match due.packet {
            Packet::Connect => return self.knock(due.connection),
            Packet::Data(ref bytes) if due.side == Side::Server => self.record(due.connection, bytes),
            _ => {}
        }
        let unwanted = connection_of(&mut self.connections, due.connection).take(due.side, due.packet);
        if unwanted {
            self.send(due.connection, due.side.other(), Packet::Reset);
        }
        self.forget_if_over(due.connection);
    }

    fn note(&mut self, due: &Due, from: HostId) {
        self.counts.delivered += 1;
        let newest = self.newest_arrival.entry((from, due.to)).or_default();
        self.counts.overtook += u64::from(due.sent_ms < *newest);
        *newest = due.sent_ms.max(*newest);
        for part in [self.now_ms, due.connection, due.to as u64, due.packet.kind()] {
            self.trace.write_u64(part);
        }
        // Not what is in it: HTTP stamps answers with the real time.
    }

    fn knock(&mut self, number: ConnectionId) {
        let connection = &self.connections[&number];
        let (host, port) = (connection.host(Side::Server), connection.port());
        let ghost = connection.is_ghost();
        let Some(listening) = self.listeners.get_mut(&(host, port)) else {
            return self.send(number, Side::Client, Packet::Reset);
        };
        listening.arrived.push_back(number);
        wake(&mut listening.waker);
        if !ghost {
            if self.recorded.len() == RECORDED_CONNECTIONS {
                self.recorded.pop_front();
            }
            self.recorded.push_back(Recorded { host, port, connection: number, bytes: Vec::new() });
        }
        self.send(number, Side::Client, Packet::Accept);
    }

    fn record(&mut self, number: ConnectionId, bytes: &[u8]) {
        let ours = self.recorded.iter_mut().rev().find(|recorded| recorded.connection == number);
        if let Some(recorded) = ours.filter(|it| it.bytes.len() + bytes.len() <= RECORDED_BYTES) {
            recorded.bytes.extend_from_slice(bytes);
        }
    }

    fn forget_if_over(&mut self, number: ConnectionId) {
        if self.connections.get(&number).is_some_and(Connection::is_over) {
            self.connections.remove(&number);
        }
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

fn connection_of(
    connections: &mut BTreeMap<ConnectionId, Connection>,
    number: ConnectionId,
) -> &mut Connection {
    connections.get_mut(&number).expect("looked up by the caller")
}
