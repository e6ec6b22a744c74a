//! Connections: many queries at once, slow ones, too many of them.

use std::time::Duration;

use bramah_dns::{Server, Settings};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::registry::{DEADLINE, example, query, settings, started};

fn framed(name: &str, id: u16) -> Vec<u8> {
    let mut message = query(name, RecordType::A, None);
    message.metadata.id = id;
    let message = message.to_vec().unwrap();
    [&(message.len() as u16).to_be_bytes()[..], &message].concat()
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Message> {
    let whole = async {
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(Message::from_vec(&answer).unwrap())
    };
    timeout(DEADLINE, whole).await.expect("in time")
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.addresses()[0]).await.unwrap()
}

/// Spec F-3 (RFC 7766 §6.2.1.1): all that was sent is answered, in order, also what came in pieces.
#[tokio::test]
async fn pipelined_queries_are_answered_in_order() {
    let (server, _registry) = started(settings(), example()).await;
    let mut stream = connect(&server).await;
    let all: Vec<u8> = (0..200).flat_map(|id| framed("many.service.berlin.example.", id)).collect();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for piece in all.chunks(77) {
            writer.write_all(piece).await.unwrap();
        }
    };
    let receive = async {
        for id in 0..200 {
            let mut answer = vec![0; usize::from(reader.read_u16().await.unwrap())];
            reader.read_exact(&mut answer).await.unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.metadata.id, answer.answers.len()), (id, 300));
        }
    };
    timeout(DEADLINE, async { tokio::join!(send, receive) }).await.expect("in time");
    server.stop().await;
}

/// A connection on which no whole query comes is ended, however its bytes drip.
#[tokio::test]
async fn idle_connections_are_ended() {
    let settings = Settings { tcp_idle: Duration::from_millis(200), ..settings() };
    let (server, _registry) = started(settings, example()).await;
    let mut stream = connect(&server).await;
    for byte in framed("web.service.berlin.example.", 1) {
        // An error is what is waited for.
        let _ = stream.write_all(&[byte]).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(read(&mut stream).await.is_err(), "it dripped for longer than it may");
    server.stop().await;
}

/// What is no query, or none that needs so much room, ends the connection; a malformed one is told so.
#[tokio::test]
async fn what_is_no_query_ends_the_connection() {
    let (server, _registry) = started(settings(), example()).await;
    for garbage in
        [&b"\xff\xffGET / HTTP/1.1\r\n\r\n"[..], b"\x00\x03abc", b"\x00\x0c\0\0\x80\0\0\0\0\0\0\0\0\0"]
    {
        let mut stream = connect(&server).await;
        stream.write_all(garbage).await.unwrap();
        assert!(read(&mut stream).await.is_err(), "{garbage:?}");
    }
    let mut stream = connect(&server).await;
    stream.write_all(b"\x00\x0c\x12\x34\0\0\0\0\0\0\0\0\0\0").await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap().metadata.id, 0x1234);
    server.stop().await;
}

/// One client can't have all connections.
#[tokio::test]
async fn connections_are_counted_by_client() {
    let settings = Settings { tcp_connections_of_client: 2, ..settings() };
    let (server, _registry) = started(settings, example()).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server).await;
        stream.write_all(&framed("web.service.berlin.example.", 1)).await.unwrap();
        read(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let mut third = connect(&server).await;
    // It may be closed before that.
    let _ = third.write_all(&framed("web.service.berlin.example.", 1)).await;
    assert!(read(&mut third).await.is_err());
    drop(streams);
    let again = async {
        loop {
            let mut stream = connect(&server).await;
            let _ = stream.write_all(&framed("web.service.berlin.example.", 1)).await;
            if read(&mut stream).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, again).await.expect("there is room again");
    server.stop().await;
}

/// A server that was stopped has left its port.
#[tokio::test]
async fn a_stopped_server_can_be_started_again_at_once() {
    let (server, registry) = started(settings(), example()).await;
    let address = server.addresses()[0];
    let second = Server::start(Settings { listen: vec![address], ..settings() }, registry.subscribe()).await;
    assert!(second.unwrap_err().to_string().contains(&address.to_string()), "two on a port are noticed");
    let _open = connect(&server).await;
    server.stop().await;
    let again =
        Server::start(Settings { listen: vec![address], ..settings() }, registry.subscribe()).await.unwrap();
    assert_eq!(again.addresses(), [address]);
    again.stop().await;
}
