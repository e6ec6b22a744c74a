//! Queries for other domains: to a resolver of our own, one that is silent, and none.

use std::net::SocketAddr;
use std::time::Duration;

use bramah_dns::{Forward, Server, Settings};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::registry::{DEADLINE, example, query, settings, started, view};

async fn over_udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("in time").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let message = query.to_vec().unwrap();
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(&message).await.unwrap();
    let mut answer =
        vec![0; usize::from(timeout(DEADLINE, stream.read_u16()).await.expect("in time").unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A server of another zone, in front of which the resolver stands.
async fn forwarding_to(resolvers: Vec<SocketAddr>) -> Server {
    let forward = Forward { timeout: Duration::from_millis(300), ..Forward::to(resolvers) };
    let settings = Settings { cell: "paris".to_owned(), forward: Some(forward), ..settings() };
    started(settings, view(1, Vec::new())).await.0
}

/// Spec F-3: what is outside of the domain is forwarded if so configured, over UDP and TCP.
#[tokio::test]
async fn other_domains_are_forwarded() {
    let (other, _registry) = started(settings(), example()).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = forwarding_to(vec![silent.local_addr().unwrap(), other.addresses()[0]]).await;
    let address = server.addresses()[0];
    let web = query("Web.service.berlin.example.", RecordType::A, Some(1232));
    for answer in [over_udp(address, &web).await, over_tcp(address, &web).await] {
        assert_eq!((answer.metadata.id, answer.answers.len()), (0x1234, 2));
        assert!(answer.queries[0].name().eq_case(web.queries[0].name()));
    }
    let many = query("many.service.berlin.example.", RecordType::A, None);
    assert!(over_udp(address, &many).await.metadata.truncation);
    assert_eq!(over_tcp(address, &many).await.answers.len(), 300);

    let mut own = query("paris.example.", RecordType::SOA, None);
    assert!(over_udp(address, &own).await.metadata.authoritative, "its own zone is its own affair");
    own = query("web.service.berlin.example.", RecordType::A, None);
    own.metadata.recursion_desired = false;
    assert_eq!(over_udp(address, &own).await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(server.counts().forwarding_failed, 0);
    server.stop().await;
    other.stop().await;
}

/// Within the time limit of each resolver it is said that none answered.
#[tokio::test]
async fn silence_is_a_failure() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = forwarding_to(vec![silent.local_addr().unwrap()]).await;
    let answer = over_udp(server.addresses()[0], &query("a.org.", RecordType::A, None)).await;
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x1234, ResponseCode::ServFail));
    assert_eq!(server.counts().forwarding_failed, 1);
    server.stop().await;
}

/// With as many on their way as may be, the next is told at once.
#[tokio::test]
async fn what_is_too_much_fails_at_once() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forward = Forward { most: 1, timeout: DEADLINE, ..Forward::to(vec![silent.local_addr().unwrap()]) };
    let (server, _registry) = started(Settings { forward: Some(forward), ..settings() }, example()).await;
    let address = server.addresses()[0];
    let asked = query("a.org.", RecordType::A, None);
    let first = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    first.send_to(&asked.to_vec().unwrap(), address).await.unwrap();
    timeout(DEADLINE, silent.recv(&mut [0; 512])).await.expect("in time").unwrap();
    for answer in [over_udp(address, &asked).await, over_tcp(address, &asked).await] {
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    server.stop().await;
}

/// An answer with another id, or from another port, is not taken.
#[tokio::test]
async fn forged_answers_are_not_taken() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = forwarding_to(vec![resolver.local_addr().unwrap()]).await;
    let forge = async {
        let mut buffer = vec![0; 4096];
        let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
        assert_ne!(buffer[..2], [0x12, 0x34], "the id is our own");
        buffer[2] |= 0x80;
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        other.send_to(&buffer[..length], from).await.unwrap();
        buffer[0] ^= 1;
        resolver.send_to(&buffer[..length], from).await.unwrap();
    };
    let asked = query("a.org.", RecordType::A, None);
    let ((), answer) = tokio::join!(forge, over_udp(server.addresses()[0], &asked));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}
