//! One answer: look up, copy the encoded records, say so if they don't fit.

use std::net::IpAddr;

use rand::rngs::SmallRng;

use crate::counts::Counts;
use crate::query::{self, Bad, CLASS_ANY, CLASS_IN, HEADER, Query, code, flag, kind};
use crate::table::service::{Encoded, Piece, RECORD_HEAD, Records, Set, TO_TARGET};
use crate::table::{Found, Table};
use crate::view::UNKNOWN;

/// The most bytes of an answer over UDP without EDNS (RFC 1035 §4.2.1).
pub(crate) const LEAST_UDP: usize = 512;
/// The most bytes of an answer over UDP whatever was asked for: what passes everywhere in one piece.
pub(crate) const MOST_UDP: usize = 1232;
/// The most bytes of a message over TCP.
pub(crate) const MOST_TCP: usize = 65_535;
/// The size of our OPT record.
const OPT: usize = 11;
/// The highest place that a pointer can point to.
const MOST_POINTED: usize = 0x3fff;
/// The SOA's times in seconds: nobody transfers the zone, so they mean little.
const REFRESH_RETRY_EXPIRE: [u32; 3] = [3600, 600, 86_400];

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// An answer is as large as the query allows.
    Udp,
    /// An answer is as large as a message can be.
    Tcp,
}

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// So many bytes of the buffer are to be sent.
    Send(usize),
    /// It is not ours to answer: the buffer has a refusal of so many bytes, should it not be forwarded.
    Forward(usize),
    /// Nothing is to be sent.
    Nothing,
}

/// Answers queries. Each thread has its own.
#[derive(Debug)]
pub struct Responder {
    random: SmallRng,
    pub(crate) counts: Counts,
}

impl Default for Responder {
    fn default() -> Responder {
        Responder::new()
    }
}

impl Responder {
    /// With a random order of answers.
    pub fn new() -> Responder {
        Responder { random: rand::make_rng(), counts: Counts::default() }
    }

    /// Writes the answer to `packet` into `buffer`, which must have 1232 bytes for UDP and 65,535 for TCP.
    pub fn respond(
        &mut self,
        table: &Table,
        packet: &[u8],
        transport: Transport,
        buffer: &mut [u8],
    ) -> Reply {
        match query::parse(packet) {
            Ok(query) => self.answer(table, &query, transport, buffer),
            Err(bad) => {
                self.counts.malformed += 1;
                refusal(packet, bad, buffer)
            }
        }
    }

    fn answer(&mut self, table: &Table, query: &Query<'_>, transport: Transport, buffer: &mut [u8]) -> Reply {
        let mut message = Message::new(query, &table.zone.wire, allowed(query, transport), buffer);
        if query.edns.is_some_and(|edns| edns.version > 0) {
            message.code = code::UNKNOWN_EDNS;
            return Reply::Send(message.finish(query, table));
        }
        let found = table.find(&query.name);
        let internet = matches!(query.class, CLASS_IN | CLASS_ANY);
        let of_queries = (kind::FIRST_OF_QUERIES..kind::ANY).contains(&query.kind);
        if !internet || of_queries || matches!(found, Found::Outside) {
            return self.refuse(message, query, table, internet && !of_queries);
        }
        if table.revision == UNKNOWN {
            message.code = code::SERVER_FAILURE;
            return Reply::Send(message.finish(query, table));
        }
        message.flags |= flag::AUTHORITATIVE;
        self.fill(&mut message, table, query.kind, found);
        if message.truncated {
            self.counts.truncated += 1;
        }
        Reply::Send(message.finish(query, table))
    }

    fn refuse(&mut self, mut message: Message<'_>, query: &Query<'_>, table: &Table, forward: bool) -> Reply {
        message.code = code::REFUSED;
        let length = message.finish(query, table);
        if forward && table.zone.forwards && query.flags & flag::RECURSION_DESIRED != 0 {
            return Reply::Forward(length);
        }
        self.counts.refused += 1;
        Reply::Send(length)
    }

    fn fill(&mut self, message: &mut Message<'_>, table: &Table, asked: u16, found: Found<'_>) {
        match found {
            Found::Set(service, set) => match of_kind(set, asked) {
                Some(records) => self.records(message, table, service, records),
                None => message.negative(table),
            },
            Found::Alias(service, set) if asked == kind::SRV || asked == kind::ANY => {
                self.records(message, table, service, &set.srv);
            }
            Found::Apex => message.apex(table, asked),
            Found::Server(place) => message.server(table, place, asked),
            Found::Alias(..) | Found::Empty => message.negative(table),
            Found::Absent | Found::Outside => {
                message.code = code::NAME_ERROR;
                message.negative(table);
            }
        }
    }

    fn records(&mut self, message: &mut Message<'_>, table: &Table, service: &Encoded, records: &Records) {
        if records.pieces.is_empty() {
            return message.negative(table);
        }
        let row = records.shares.row(table.zone.order, &mut self.random).take(table.zone.most_answers);
        let answers = message.at;
        for place in row.clone() {
            if !message.push(service.record(records.pieces[place])) {
                message.truncated = true;
                return;
            }
            message.answers += 1;
        }
        if records.pieces[0].extras > 0 {
            let mut record = answers;
            for place in row {
                let piece = records.pieces[place];
                if !message.push_extras(service, piece, record + TO_TARGET) {
                    return;
                }
                record += service.record(piece).len();
            }
        }
    }
}

/// The records of one type. For `ANY` those of one type that there are (RFC 8482 §4.1).
fn of_kind(set: &Set, asked: u16) -> Option<&Records> {
    match asked {
        kind::A => Some(&set.a),
        kind::AAAA => Some(&set.aaaa),
        kind::SRV => Some(&set.srv),
        kind::TXT => Some(&set.txt),
        kind::ANY => [&set.a, &set.aaaa, &set.txt].into_iter().find(|records| !records.pieces.is_empty()),
        _ => None,
    }
}

/// The most bytes that the query allows its answer.
pub(crate) fn allowed(query: &Query<'_>, transport: Transport) -> usize {
    match (transport, query.edns) {
        (Transport::Tcp, _) => MOST_TCP,
        (Transport::Udp, None) => LEAST_UDP,
        (Transport::Udp, Some(edns)) => usize::from(edns.size).clamp(LEAST_UDP, MOST_UDP),
    }
}

/// A header alone: never more than was sent.
fn refusal(packet: &[u8], bad: Bad, buffer: &mut [u8]) -> Reply {
    let Bad::Code(code) = bad else { return Reply::Nothing };
    let kept = u16::from_be_bytes([packet[2], packet[3]]) & (flag::OPCODE | flag::RECURSION_DESIRED);
    buffer[..HEADER].fill(0);
    buffer[..2].copy_from_slice(&packet[..2]);
    buffer[2..4].copy_from_slice(&(flag::RESPONSE | kept | code).to_be_bytes());
    Reply::Send(HEADER)
}

/// An answer as it grows.
struct Message<'b> {
    buffer: &'b mut [u8],
    at: usize,
    /// Where it must end, with room kept for the OPT record.
    limit: usize,
    /// A pointer to the zone's name, which ends the question's.
    zone_pointer: u16,
    flags: u16,
    code: u16,
    truncated: bool,
    answers: u16,
    authority: u16,
    additional: u16,
}

impl<'b> Message<'b> {
    fn new(query: &Query<'_>, zone: &[u8], allowed: usize, buffer: &'b mut [u8]) -> Message<'b> {
        let kept = flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
        let at = HEADER + query.question.len();
        buffer[HEADER..at].copy_from_slice(query.question);
        // Meaningless for a name outside of the zone, and not used then.
        let zone_at = (HEADER + query.name.wire().len()).saturating_sub(zone.len());
        Message {
            limit: allowed - query.edns.map_or(0, |_| OPT),
            buffer,
            at,
            zone_pointer: 0xc000 | zone_at as u16,
            flags: flag::RESPONSE | query.flags & kept,
            code: code::NO_ERROR,
            truncated: false,
            answers: 0,
            authority: 0,
            additional: 0,
        }
    }

    /// `false` if it has no room.
    fn push(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.limit - self.at {
            return false;
        }
        self.buffer[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        true
    }

    /// Addresses of an SRV record's target, which stands at `target`. `false` if there is no room for all.
    fn push_extras(&mut self, service: &Encoded, piece: Piece, target: usize) -> bool {
        let start = self.at;
        if target > MOST_POINTED || !self.push(service.extras(piece)) {
            return false;
        }
        let owner = (0xc000 | target as u16).to_be_bytes();
        let mut at = start;
        while at < self.at {
            self.buffer[at..at + 2].copy_from_slice(&owner);
            at += RECORD_HEAD + usize::from(self.buffer[at + RECORD_HEAD - 1]);
        }
        self.additional += piece.extras;
        true
    }

    /// Says how long it may be kept that there is nothing (RFC 2308 §3).
    fn negative(&mut self, table: &Table) {
        if self.push_soa(table, table.zone.negative_ttl) {
            self.authority += 1;
        }
    }

    fn apex(&mut self, table: &Table, asked: u16) {
        match asked {
            kind::SOA | kind::ANY => self.answers += u16::from(self.push_soa(table, table.zone.ttl)),
            kind::NS => self.name_servers(table),
            _ => self.negative(table),
        }
    }

    fn name_servers(&mut self, table: &Table) {
        let servers = &table.zone.servers;
        let mut targets = [0; 16];
        for (server, target) in servers.iter().zip(&mut targets) {
            let length = server.label.len() + 3;
            let start = self.at;
            if !(self.push_head(0xc00c, kind::NS, table.zone.ttl, length) && self.push_in_zone(&server.label))
            {
                self.at = start;
                self.truncated = true;
                return;
            }
            *target = start + RECORD_HEAD;
            self.answers += 1;
        }
        for (server, target) in servers.iter().zip(targets) {
            for &address in &server.addresses {
                if !self.push_address(0xc000 | target as u16, table.zone.ttl, address) {
                    return;
                }
                self.additional += 1;
            }
        }
    }

    fn server(&mut self, table: &Table, place: usize, asked: u16) {
        let is_asked = |address: &&IpAddr| match asked {
            kind::A => address.is_ipv4(),
            kind::AAAA => address.is_ipv6(),
            kind::ANY => true,
            _ => false,
        };
        // At most eight of 28 bytes: they fit beside the longest question that names a server.
        for &address in table.zone.servers[place].addresses.iter().filter(is_asked) {
            self.answers += u16::from(self.push_address(0xc00c, table.zone.ttl, address));
        }
        if self.answers == 0 {
            self.negative(table);
        }
    }

    fn push_soa(&mut self, table: &Table, ttl: u32) -> bool {
        let start = self.at;
        let primary = &table.zone.servers[0].label;
        let length = primary.len() + 3 + b"hostmaster".len() + 3 + 20;
        let [refresh, retry, expire] = REFRESH_RETRY_EXPIRE;
        let numbers = [table.revision as u32, refresh, retry, expire, table.zone.negative_ttl];
        let whole = self.push_head(self.zone_pointer, kind::SOA, ttl, length)
            && self.push_in_zone(primary)
            && self.push_in_zone(b"hostmaster")
            && numbers.iter().all(|number| self.push(&number.to_be_bytes()));
        if !whole {
            self.at = start;
        }
        whole
    }

    fn push_head(&mut self, owner: u16, kind: u16, ttl: u32, length: usize) -> bool {
        let mut head = [0; RECORD_HEAD];
        head[..2].copy_from_slice(&owner.to_be_bytes());
        head[2..4].copy_from_slice(&kind.to_be_bytes());
        head[4..6].copy_from_slice(&CLASS_IN.to_be_bytes());
        head[6..10].copy_from_slice(&ttl.to_be_bytes());
        head[10..].copy_from_slice(&(length as u16).to_be_bytes());
        self.push(&head)
    }

    /// `<label>.<zone>`.
    fn push_in_zone(&mut self, label: &[u8]) -> bool {
        let pointer = self.zone_pointer.to_be_bytes();
        self.push(&[label.len() as u8]) && self.push(label) && self.push(&pointer)
    }

    fn push_address(&mut self, owner: u16, ttl: u32, address: IpAddr) -> bool {
        let start = self.at;
        let whole = match address {
            IpAddr::V4(address) => self.push_head(owner, kind::A, ttl, 4) && self.push(&address.octets()),
            IpAddr::V6(address) => self.push_head(owner, kind::AAAA, ttl, 16) && self.push(&address.octets()),
        };
        if !whole {
            self.at = start;
        }
        whole
    }

    /// Writes the header and the OPT record, and gives back the length.
    fn finish(mut self, query: &Query<'_>, table: &Table) -> usize {
        if let Some(edns) = query.edns {
            self.limit += OPT;
            let [size_high, size_low] = (MOST_UDP as u16).to_be_bytes();
            let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
            let extended = (self.code >> 4) as u8;
            self.push(&[0, 0, kind::OPT as u8, size_high, size_low, extended, 0, dnssec_ok, 0, 0, 0]);
            self.additional += 1;
        }
        let mut flags = self.flags | self.code & 0xf;
        flags |= if self.truncated { flag::TRUNCATED } else { 0 };
        flags |= if table.zone.forwards { flag::RECURSION_AVAILABLE } else { 0 };
        for (at, word) in
            [query.id, flags, 1, self.answers, self.authority, self.additional].into_iter().enumerate()
        {
            self.buffer[2 * at..2 * at + 2].copy_from_slice(&word.to_be_bytes());
        }
        self.at
    }
}
