//! Queries for other domains, passed on to resolvers: a stub with bounds, and no cache.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::answer::{MOST_UDP, Transport, allowed};
use crate::counts::Counters;
use crate::query::{self, HEADER, Query, code, flag, kind};
use crate::settings::Forward;

/// Passes queries on. Shared by all that receive some.
#[derive(Debug)]
pub(crate) struct Forwarder {
    settings: Forward,
    on_their_way: Arc<Semaphore>,
    counters: Arc<Counters>,
}

/// A query of ours for the same question.
struct Asked {
    id: [u8; 2],
    message: Vec<u8>,
    /// Where its question ends.
    question_end: usize,
}

impl Forwarder {
    pub(crate) fn new(settings: Forward, counters: Arc<Counters>) -> Forwarder {
        Forwarder {
            on_their_way: Arc::new(Semaphore::new(settings.most.min(Semaphore::MAX_PERMITS))),
            settings,
            counters,
        }
    }

    /// Whether a client may use it.
    pub(crate) fn serves(&self, client: IpAddr) -> bool {
        self.settings.for_anyone || is_private(client)
    }

    /// A place among those on their way. Nobody waits for one: it would be too late then, and without a bound.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.on_their_way.clone().try_acquire_owned().ok()
    }

    /// The answer to a query that was found to be another's. `refusal` is what it would get otherwise.
    pub(crate) async fn answer(
        &self,
        _place: OwnedSemaphorePermit,
        packet: &[u8],
        transport: Transport,
        refusal: &[u8],
    ) -> Vec<u8> {
        Counters::one(&self.counters.forwarded);
        if let Ok(query) = query::parse(packet) {
            let room = allowed(&query, transport);
            let asked = Asked::new(&query, room.min(MOST_UDP));
            for &resolver in &self.settings.resolvers {
                let answer = timeout(self.settings.timeout, asked.by(transport, resolver)).await;
                if let Ok(Ok(answer)) = answer {
                    return fitted(answer, &query, room);
                }
            }
        }
        let mut failure = refusal.to_vec();
        self.fail(&mut failure);
        failure
    }

    /// Makes a refusal say that it failed.
    pub(crate) fn fail(&self, refusal: &mut [u8]) {
        Counters::one(&self.counters.forwarding_failed);
        refusal[3] = refusal[3] & 0xf0 | code::SERVER_FAILURE as u8;
    }
}

/// With the client's id; if it is too large, only that it is.
fn fitted(mut answer: Vec<u8>, query: &Query<'_>, room: usize) -> Vec<u8> {
    answer[..2].copy_from_slice(&query.id.to_be_bytes());
    if answer.len() > room {
        answer.truncate(HEADER + query.question.len());
        answer[2] |= (flag::TRUNCATED >> 8) as u8;
        answer[6..HEADER].fill(0);
    }
    answer
}

impl Asked {
    /// With an id of its own, and none of the client's options: they are between it and us.
    fn new(query: &Query<'_>, room: usize) -> Asked {
        let id = rand::random::<[u8; 2]>();
        let flags = flag::RECURSION_DESIRED | query.flags & flag::CHECKING_DISABLED;
        let mut message = Vec::with_capacity(HEADER + query.question.len() + 11);
        message.extend_from_slice(&id);
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
        message.extend_from_slice(query.question);
        let question_end = message.len();
        if let Some(edns) = query.edns {
            let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
            message.extend_from_slice(&[0, 0, kind::OPT as u8]);
            message.extend_from_slice(&(room as u16).to_be_bytes());
            message.extend_from_slice(&[0, 0, dnssec_ok, 0, 0, 0]);
        }
        Asked { id, message, question_end }
    }

    async fn by(&self, transport: Transport, resolver: SocketAddr) -> io::Result<Vec<u8>> {
        match transport {
            Transport::Udp => self.over_udp(resolver).await,
            Transport::Tcp => self.over_tcp(resolver).await,
        }
    }

    /// From a socket of its own, whose port the kernel draws by chance, and which hears nobody else.
    async fn over_udp(&self, resolver: SocketAddr) -> io::Result<Vec<u8>> {
        let any: IpAddr =
            if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(resolver).await?;
        socket.send(&self.message).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if self.is_answered_by(&buffer[..length]) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn over_tcp(&self, resolver: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(resolver).await?;
        let mut framed = (self.message.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&self.message);
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        if self.is_answered_by(&answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The same id and the same question, its capitals too: whoever guesses has to guess those as well.
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        answer.len() >= self.question_end
            && answer[..2] == self.id
            && answer[2] & 0xf8 == (flag::RESPONSE >> 8) as u8
            && answer[4..6] == [0, 1]
            && answer[HEADER..self.question_end] == self.message[HEADER..self.question_end]
    }
}

/// Loopback, and networks that are not routed on the internet (RFC 1918, RFC 4193, RFC 3927).
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec F-3: what is forwarded is forwarded for those near, not for the internet.
    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for near in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.31.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0"] {
            assert!(!is_private(far.parse().unwrap()), "{far}");
        }
    }

    /// Spec F-3: no answer is larger than the request allows, also not another's.
    #[test]
    fn an_answer_that_is_too_large_is_cut() {
        let packet = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let query = query::parse(packet).unwrap();
        let asked = Asked::new(&query, 512);
        let mut answer = asked.message.clone();
        answer[2] |= 0x80;
        answer[7] = 40;
        assert!(asked.is_answered_by(&answer));
        answer.resize(513, 0);
        let cut = fitted(answer, &query, 512);
        assert_eq!(cut, b"\0\x07\x83\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01");
    }

    #[test]
    fn what_answers_another_question_is_not_taken() {
        let query = query::parse(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01").unwrap();
        let asked = Asked::new(&query, 512);
        let mut right = asked.message.clone();
        right[2] |= 0x80;
        for at in [0, 1, 2, 5, 13, 16] {
            let mut wrong = right.clone();
            wrong[at] ^= 0x80;
            assert!(!asked.is_answered_by(&wrong), "{at}");
        }
        assert!(!asked.is_answered_by(&right[..18]));
    }
}
