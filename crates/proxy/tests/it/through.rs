//! Bytes in both directions: upgrades and the mode `tcp`.

use std::time::Duration;

use bramah_proxy::{HashBy, Mode, PolicyKind, Settings, Stopped, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// An instance that goes over to a protocol in which everything comes back.
async fn goes_over() -> std::net::SocketAddr {
    scripted(|_, mut tcp| async move {
        let head = read_head(&mut tcp).await;
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        assert_eq!(header(&head, "sec-websocket-key"), Some("x"));
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nhello";
        tcp.write_all(answer.as_bytes()).await.expect("sent");
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

async fn read_exactly(client: &mut Client, length: usize) -> String {
    let mut bytes = vec![0; length];
    within(client.tcp.read_exact(&mut bytes)).await.expect("all of it");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Spec F-2: WebSocket and its like become a tunnel, in which bytes that are no HTTP pass both ways.
#[tokio::test]
async fn f_2_upgrades_become_tunnels() {
    let running = Running::start(Settings::default(), &[goes_over().await]).await;
    let mut client = running.client().await;
    client.send(UPGRADE).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, header(&answer.head, "upgrade")), (101, Some("websocket")));
    assert_eq!(header(&answer.head, "x"), Some("y"));
    assert_eq!(read_exactly(&mut client, 5).await, "hello");
    for message in ["\u{81}\u{0}", "GET / HTTP/1.1\nno http\n\n"] {
        client.send(message).await;
        assert_eq!(read_exactly(&mut client, message.len()).await, message);
    }
    assert_eq!((running.figures().tunnels, running.figures().requests_now), (1, 1));
    client.tcp.shutdown().await.expect("its half is closed");
    assert_eq!(client.rest().await, (String::new(), true));
    until("it is over", || running.figures().requests_now == 0).await;
    assert_eq!(running.figures().instances[0].in_flight, 0);
}

/// Spec F-2: an instance may refuse; then it's an answer like others. One that can't be reached is passed over.
#[tokio::test]
async fn f_2_an_upgrade_may_be_refused() {
    let server = Server::named("no").await;
    let settings = Settings { policy: PolicyKind::RoundRobin, ..Settings::default() };
    let running = Running::start(settings, &[server.address, nobody().await]).await;
    for _ in 0..4 {
        let mut client = running.client().await;
        client.send(UPGRADE).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, "no"));
    }
    until("all is over", || running.figures().requests_now == 0).await;
}

/// Spec F-2: an offer to go over to HTTP/2 is not passed on, for its requests would pass by all checks.
#[tokio::test]
async fn f_2_h2c_is_not_smuggled() {
    let server = Server::mirror(false).await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = running.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("upgrade") && !answer.body.contains("http2-settings"), "{answer:?}");
}

/// Spec F-2: a tunnel in which nothing moves is closed.
#[tokio::test]
async fn f_2_silent_tunnels_are_closed() {
    let times = Times { stream_idle: Duration::from_millis(200), ..Times::default() };
    let running = Running::start(Settings { times, ..Settings::default() }, &[goes_over().await]).await;
    let mut client = running.client().await;
    client.send(UPGRADE).await;
    client.answer().await;
    for _ in 0..5 {
        client.send("x").await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(client.rest().await.0, "helloxxxxx");
    until("it is over", || running.figures().requests_now == 0).await;
}

fn tcp_mode() -> Settings {
    Settings { mode: Mode::Tcp, policy: PolicyKind::RoundRobin, ..Settings::default() }
}

async fn echo(name: &'static str) -> std::net::SocketAddr {
    scripted(move |_, mut tcp| async move {
        tcp.write_all(name.as_bytes()).await.expect("sent");
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

/// Spec F-2: plain TCP: bytes both ways, either end closed alone, instances that can't be reached passed over.
#[tokio::test]
async fn f_2_plain_tcp() {
    let running = Running::start(tcp_mode(), &[echo("a").await, nobody().await, echo("b").await]).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        let mut client = running.client().await;
        names.push(read_exactly(&mut client, 1).await);
        client.send("GET\n\n\0garbage").await;
        assert_eq!(read_exactly(&mut client, 13).await, "GET\n\n\0garbage");
        client.tcp.shutdown().await.expect("its half is closed");
        assert_eq!(client.rest().await, (String::new(), true));
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["a", "b"]);
    until("all is over", || running.figures().requests_now == 0).await;
}

/// Spec F-2: the same client to the same instance; nobody there; silence.
#[tokio::test]
async fn f_2_plain_tcp_by_source_and_its_ends() {
    let settings = Settings { policy: PolicyKind::Maglev, hash_by: Some(HashBy::Source), ..tcp_mode() };
    let running = Running::start(settings, &[echo("a").await, echo("b").await]).await;
    let first = read_exactly(&mut running.client().await, 1).await;
    for _ in 0..5 {
        assert_eq!(read_exactly(&mut running.client().await, 1).await, first);
    }
    let running = Running::start(tcp_mode(), &[nobody().await]).await;
    assert_eq!(running.client().await.rest().await.0, "");
    let times = Times { stream_idle: Duration::from_millis(200), ..Times::default() };
    let running = Running::start(Settings { times, ..tcp_mode() }, &[echo("a").await]).await;
    assert_eq!(running.client().await.rest().await.0, "a");
}

/// Spec F-2: an instance that has no more to say still gets all that the client sends.
#[tokio::test]
async fn f_2_an_instance_may_end_its_half_first() {
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let instance = scripted(move |_, mut tcp| {
        let told = told.clone();
        async move {
            tcp.write_all(b"bye").await.expect("sent");
            tcp.shutdown().await.expect("its half is closed");
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.expect("what the client sends, to its end");
            told.send(all).await.expect("the test waits");
        }
    });
    let running = Running::start(tcp_mode(), &[instance.await]).await;
    let mut client = running.client().await;
    assert_eq!(client.rest().await.0, "bye");
    client.send("the first").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send(" and the last").await;
    client.tcp.shutdown().await.expect("its half is closed");
    assert_eq!(within(heard.recv()).await.as_deref(), Some(&b"the first and the last"[..]));
}

/// Spec F-2: a proxy that stops waits for tunnels as for requests.
#[tokio::test]
async fn f_2_tunnels_are_waited_for() {
    let running = Running::start(Settings::default(), &[goes_over().await]).await;
    let mut client = running.client().await;
    client.send(UPGRADE).await;
    client.answer().await;
    assert_eq!(read_exactly(&mut client, 5).await, "hello");
    assert_eq!(running.figures().connections_now, 1, "it is a connection still");
    let stopping = tokio::spawn(running.proxy.stop(Duration::from_secs(20)));
    client.send("still here").await;
    assert_eq!(read_exactly(&mut client, 10).await, "still here");
    client.tcp.shutdown().await.expect("its half is closed");
    assert_eq!(within(stopping).await.expect("no panic"), Stopped::Drained);
}
