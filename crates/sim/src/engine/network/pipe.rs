//! One connection: two sides, and what each has received.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::RETRANSMIT_MS;
use crate::engine::HostId;

/// Bytes that may be under way or unread one way.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

pub(super) type ConnectionId = u64;

/// Who a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who asked for the connection.
    Client,
    /// Who was asked.
    Server,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Connect,
    Accept,
    Data(Bytes),
    /// So many bytes were read: as many more may be sent.
    Window(usize),
    /// No more data follows.
    End,
    Reset,
    /// What is held back is tried again.
    Again,
}

impl Packet {
    pub(super) fn kind(&self) -> u64 {
        match self {
            Self::Connect => 1,
            Self::Accept => 2,
            Self::Data(_) => 3,
            Self::Window(_) => 4,
            Self::End => 5,
            Self::Reset => 6,
            Self::Again => 7,
        }
    }
}

/// One side's half.
#[derive(Debug, Default)]
pub(super) struct Half {
    host: HostId,
    incarnation: u64,
    /// Nobody holds this side any more.
    pub(super) gone: bool,
    pub(super) accepted: bool,
    pub(super) reset: bool,
    pub(super) ended: bool,
    pub(super) received: VecDeque<Bytes>,
    /// Bytes that this side may still send.
    pub(super) window: usize,
    /// Bytes read since the other side was last told.
    pub(super) read: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Of what is on its way to this side:
    newest_due_ms: u64,
    held: VecDeque<(Packet, u64)>,
    tries: u32,
}

impl Half {
    fn new(host: HostId, incarnation: u64) -> Self {
        Self { host, incarnation, window: WINDOW_BYTES, ..Self::default() }
    }

    fn wake(&mut self) {
        super::wake(&mut self.reader);
        super::wake(&mut self.writer);
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    port: u16,
    client: Half,
    server: Half,
    ghost: bool,
}

impl Connection {
    pub(super) fn new(client: (HostId, u64), server: HostId, port: u16) -> Self {
        Self { port, client: Half::new(client.0, client.1), server: Half::new(server, 0), ghost: false }
    }

    /// A connection from nobody: what it is told is ignored.
    pub(super) fn ghost(server: HostId, port: u16, incarnation: u64) -> Self {
        let mut ghost = Self::new((server, incarnation), server, port);
        (ghost.ghost, ghost.client.gone) = (true, true);
        ghost
    }

    pub(super) fn is_ghost(&self) -> bool {
        self.ghost
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn half_ref(&self, side: Side) -> &Half {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    pub(super) fn host(&self, side: Side) -> HostId {
        self.half_ref(side).host
    }

    /// The side that a host's process holds, if it holds one.
    pub(super) fn side_of(&self, host: HostId) -> Option<Side> {
        let holds = |half: &Half| half.host == host && !half.gone && half.incarnation > 0;
        if holds(&self.client) && !self.ghost {
            return Some(Side::Client);
        }
        holds(&self.server).then_some(Side::Server)
    }

    /// Whether the process that runs now is the one that this side belongs to. A server's side belongs to the
    /// process that the first packet finds.
    pub(super) fn belongs_to(&mut self, side: Side, incarnation: u64) -> bool {
        let half = self.half(side);
        if side == Side::Server && half.incarnation == 0 {
            half.incarnation = incarnation;
        }
        half.incarnation == incarnation
    }

    pub(super) fn abandon(&mut self, side: Side) {
        let half = self.half(side);
        half.gone = true;
        half.received.clear();
        half.wake();
    }

    /// A packet never arrives before an earlier one of its connection.
    pub(super) fn due(&mut self, to: Side, wanted_ms: u64) -> u64 {
        let half = self.half(to);
        half.newest_due_ms = half.newest_due_ms.max(wanted_ms);
        half.newest_due_ms
    }

    /// Whether something on its way to this side waits to be sent again.
    pub(super) fn holds(&mut self, to: Side) -> bool {
        !self.half(to).held.is_empty()
    }

    pub(super) fn hold(&mut self, to: Side, packet: Packet, sent_ms: u64) {
        self.half(to).held.push_back((packet, sent_ms));
    }

    /// The pause before what is held is sent again.
    pub(super) fn next_try(&mut self, to: Side) -> u64 {
        let half = self.half(to);
        half.tries += 1;
        (RETRANSMIT_MS.0 << (half.tries - 1).min(8)).min(RETRANSMIT_MS.1)
    }

    pub(super) fn release(&mut self, to: Side) -> VecDeque<(Packet, u64)> {
        let half = self.half(to);
        half.tries = 0;
        std::mem::take(&mut half.held)
    }

    /// Takes what arrived; true if the sender must be told that nobody wants it.
    pub(super) fn take(&mut self, side: Side, packet: Packet) -> bool {
        if self.ghost && side == Side::Client {
            return false;
        }
        let half = self.half(side);
        if half.gone && !matches!(packet, Packet::Reset) {
            return matches!(packet, Packet::Data(_));
        }
        match packet {
            Packet::Data(bytes) => half.received.push_back(bytes),
            Packet::Window(bytes) => half.window += bytes,
            Packet::Accept => half.accepted = true,
            Packet::End => half.ended = true,
            Packet::Reset => half.reset = true,
            Packet::Connect | Packet::Again => {}
        }
        half.wake();
        false
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.gone && self.server.gone
    }
}
