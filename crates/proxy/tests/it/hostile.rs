//! Clients and instances that mean no good: refused or bounded, and nobody else notices.

use std::time::Duration;

use bramah_proxy::{Limits, Settings};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// Somebody else is served as if nothing was.
async fn others_are_served(running: &Running) {
    assert_eq!(running.client().await.get("/").await.status, 200);
}

/// Spec F-2: what could be read as other requests than those that were meant is refused, reaches no instance, and ends the
/// connection.
#[tokio::test]
async fn f_2_smuggled_requests_reach_nobody() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let cases = [
        format!("Content-Length: 6\r\n{chunked}\r\n0\r\n\r\nG"),
        format!("{chunked}Content-Length: 6\r\n\r\n0\r\n\r\nG"),
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".into(),
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello".into(),
        "Content-Length: +5\r\n\r\nhello".into(),
        "X: y\r\n Content-Length: 5\r\n\r\nhello".into(),
        "X: y\nContent-Length: 5\r\n\r\nhello".into(),
        "Transfer-Encoding: identity\r\n\r\n".into(),
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into(),
        "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n".into(),
        format!("{chunked}Transfer-Encoding: x\r\n\r\n0\r\n\r\n"),
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n".into(),
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(),
        "Host: b\r\n\r\n".into(),
    ];
    for case in &cases {
        let mut client = running.client().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{case}{smuggled}")).await;
        let (answer, _) = client.rest().await;
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(["400", "501"].contains(&&*status), "{case:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case:?}: {answer}");
    }
    assert_eq!(running.figures().instances[0].calls, 0);
    others_are_served(&running).await;
}

/// Spec F-2: a bad request behind good ones doesn't spoil those, and is the last.
#[tokio::test]
async fn f_2_a_pipelined_bad_request_is_the_last() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = running.client().await;
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client.send(&format!("{good}{good}{bad}{good}")).await;
    let (answers, _) = client.rest().await;
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answers}");
}

/// Spec F-2: chunks that are not well-formed break the request off, for the instance too.
#[tokio::test]
async fn f_2_bad_chunks_break_the_request() {
    let server = Server::mirror(false).await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    for chunks in ["x\r\n", "5\r\nhello!\r\n0\r\n\r\n", "5\nhello\n0\n\n", "fffffffffffffffff\r\n"] {
        let mut client = running.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.send(chunks).await;
        let (answer, _) = client.rest().await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{chunks:?}: {answer}");
    }
    let long = "1;".to_owned() + &"x".repeat(40_000);
    let mut client = running.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    // The proxy may have closed before all of it is written.
    let _ = client.tcp.write_all(long.as_bytes()).await;
    let (answer, _) = client.rest().await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    others_are_served(&running).await;
}

/// Spec F-2: what chunks may say besides is understood, and goes no further.
#[tokio::test]
async fn f_2_chunk_extensions_are_not_passed_on() {
    let server = Server::mirror(false).await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = running.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(
        answer.status == 200 && answer.body.contains("hello") && !answer.body.contains("a=b"),
        "{answer:?}"
    );
    assert_eq!(client.get("/next").await.status, 200, "the connection goes on");
}

/// Spec F-2: heads that don't end, of too many or too long headers, and names too long.
#[tokio::test]
async fn f_2_endless_heads_are_refused() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let many = "a: b\r\n".repeat(101) + "\r\n";
    let long = format!("a: {}\r\n\r\n", "b".repeat(17_000));
    for headers in [many, long] {
        let mut client = running.client().await;
        let _ = client.tcp.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}").as_bytes()).await;
        let (answer, _) = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let mut client = running.client().await;
    let mut sent = 0;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    while client.tcp.write_all(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa: b\r\n").await.is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "it is taken without end");
    }
    others_are_served(&running).await;
}

/// Spec F-2: a head that comes byte by byte (slow loris), none at all, and a connection that asks nothing more.
#[tokio::test]
async fn f_2_slow_heads_and_idle_connections_are_closed() {
    let server = Server::named("a").await;
    let settings = impatient(|times| (times.head, times.idle) = (SHORT, SHORT));
    let running = Running::start(settings, &[server.address]).await;
    let mut silent = running.client().await;
    let mut slow = running.client().await;
    let mut preface = running.client().await;
    preface.send("PRI * HT").await;
    let mut idle = running.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let dripping = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
            if slow.tcp.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(dripping).await;
    for client in [&mut silent, &mut idle, &mut preface] {
        assert_eq!(client.rest().await.0, "");
    }
    until("all four are counted", || running.figures().connections_overdue == 4).await;
}

/// Spec F-2: a body that is announced or comes too long, and one that stops coming.
#[tokio::test]
async fn f_2_bodies_have_a_limit() {
    let server = Server::mirror(false).await;
    let limits = Limits { body_bytes: 100_000, ..Limits::default() };
    let running = Running::start(with_limits(limits), &[server.address]).await;

    let mut announced = running.client().await;
    announced.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n").await;
    assert_eq!(announced.answer().await.status, 413);

    let mut chunked = running.client().await;
    chunked.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let mut sent = 0;
    while sent < 1_000 && chunked.tcp.write_all(chunk.as_bytes()).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 1_000, "16 MB were taken");

    others_are_served(&running).await;

    for settings in [impatient(|times| times.request = SHORT), impatient(|times| times.stream_idle = SHORT)] {
        let running = Running::start(settings, &[server.address]).await;
        let mut stops = running.client().await;
        stops.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhel").await;
        let (answer, _) = stops.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        until("it is over", || running.figures().requests_now == 0).await;
        assert_eq!(running.figures().instances[0].failures, 0, "it's not to blame");
    }
}

/// Spec F-2: a client that vanishes half-way takes its request at the instance with it.
#[tokio::test]
async fn f_2_a_client_that_vanishes_leaves_nothing_behind() {
    let (told, mut ended) = tokio::sync::mpsc::channel(8);
    let address = scripted(move |_, mut tcp| {
        let told = told.clone();
        async move {
            let head = read_head(&mut tcp).await;
            let mut rest = Vec::new();
            // It never answers; it ends when the proxy closes.
            let _ = tcp.read_to_end(&mut rest).await;
            told.send(head).await.expect("the test listens");
        }
    })
    .await;
    let running = Running::start(Settings::default(), &[address]).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = running.client().await;
        client.send(request).await;
        until("the instance has it", || running.figures().instances[0].in_flight == 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(client);
        assert!(within(ended.recv()).await.is_some());
        until("it is over", || running.figures().requests_now == 0).await;
    }
    let figures = running.figures();
    assert_eq!((figures.instances[0].in_flight, figures.instances[0].failures), (0, 0), "it's not to blame");
}

/// Spec F-2: a client that doesn't read holds up its own answer alone, and not for ever.
#[tokio::test]
async fn f_2_a_client_that_does_not_read_is_closed() {
    let big = "x".repeat(50_000_000);
    let server = Server::start(false, move |request| {
        let answer = if request.uri().path() == "/big" { text(big.clone()) } else { text("a") };
        async { answer }
    })
    .await;
    let settings = impatient(|times| times.stream_idle = SHORT);
    let running = Running::start(settings, &[server.address]).await;
    let mut client = running.client().await;
    client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
    others_are_served(&running).await;
    until("it is closed", || running.figures().connections_overdue >= 1).await;
    until("nothing is left of it", || running.figures().requests_now == 0).await;
}

/// Spec F-2: an instance that answers garbage, too much, nothing, or breaks off: an error of the proxy's, or a broken answer, never
/// one that looks whole.
#[tokio::test]
async fn f_2_broken_answers_never_look_whole() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&'static str, Option<u16>); 9] = [
        ("garbage\r\n\r\n", Some(502)),
        ("", Some(502)),
        ("HTTP/1.1 200 OK\r\nContent-Le", Some(502)),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Some(502)),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Some(502)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", None),
        ("chunked 5\r\nhello\r\n", None),
        ("chunked 5\r\nhello\r\nx", None),
        ("chunked 5\r\nhello\r\n0\r\n", None),
    ];
    for (answer, status) in cases {
        let sent = answer.replace("chunked ", chunked);
        let address = scripted(move |_, mut tcp| {
            let sent = sent.clone();
            async move {
                read_head(&mut tcp).await;
                let _ = tcp.write_all(sent.as_bytes()).await;
            }
        })
        .await;
        let running = Running::start(Settings::default(), &[address]).await;
        let mut client = running.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        if let Some(status) = status {
            assert_eq!(client.answer().await.status, status, "{answer:?}");
            continue;
        }
        let (got, _) = client.rest().await;
        let (head, body) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
        let length: Option<usize> = header(head, "content-length").and_then(|length| length.parse().ok());
        assert!(length.is_none_or(|length| body.len() < length), "{answer:?}: {got}");
        assert!(length.is_some() || !body.ends_with("0\r\n\r\n"), "{answer:?}: {got}");
        until("it is counted", || running.figures().broken_answers == 1).await;
        assert_eq!(running.figures().instances[0].failures, 1);
    }
}

/// Spec F-2: to a client of HTTP/1.0 the end of the connection is the answer's; so a broken one ends in a reset. And over HTTP/2 in
/// one of the stream.
#[tokio::test]
async fn f_2_broken_answers_are_resets_where_an_end_would_look_whole() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    let running = Running::start(Settings::default(), &[address]).await;
    let mut client = running.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let (answer, orderly) = client.rest().await;
    assert!(!orderly, "{answer}");

    let mut client = http2(running.address()).await;
    let request = Request::get("http://a/").body(full("")).expect("a request");
    let response = within(client.send_request(request)).await.expect("a head");
    assert!(within(http_body_util::BodyExt::collect(response.into_body())).await.is_err());
}

/// Spec F-2: an instance that doesn't answer, or stops in the middle, in time.
#[tokio::test]
async fn f_2_instances_have_so_much_time() {
    let address = scripted(|number, mut tcp| async move {
        read_head(&mut tcp).await;
        if number > 0 {
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
    })
    .await;
    let settings = impatient(|times| (times.request, times.stream_idle) = (SHORT, SHORT));
    let running = Running::start(settings, &[address]).await;
    let mut client = running.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 504);
    let mut client = running.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let (answer, _) = client.rest().await;
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(running.figures().timed_out, 1);
}

/// Spec F-2: too many connections and too many requests are turned away, and there is room again after.
#[tokio::test]
async fn f_2_there_are_so_many_at_once() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("a")
    })
    .await;
    let limits = Limits { connections: 3, requests: 1, ..Limits::default() };
    let running = Running::start(with_limits(limits), &[server.address]).await;
    let (mut one, mut other, third) =
        (running.client().await, running.client().await, running.client().await);
    one.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("the first is under way", || running.figures().requests_now == 1).await;
    let refused = other.get("/").await;
    assert_eq!((refused.status, header(&refused.head, "retry-after")), (503, Some("1")));
    assert_eq!(one.answer().await.status, 200);
    assert_eq!(other.get("/").await.status, 200);

    until("all three are there", || running.figures().connections_now == 3).await;
    assert_eq!(running.client().await.rest().await.0, "");
    drop(third);
    until("there is room", || running.figures().connections_now == 2).await;
    assert_eq!(running.client().await.get("/").await.status, 200);
    assert_eq!((running.figures().connections_refused, running.figures().over_limit), (1, 1));
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET http://a/`, by HPACK's static table but for the authority.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x41\x01a";

/// Sends frames without reading until the proxy closes. Whether it did.
async fn flood(running: &Running, mut next: impl FnMut(u32) -> Vec<u8>) -> bool {
    let tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let (mut reader, mut writer) = tcp.into_split();
    writer.write_all(PREFACE).await.expect("sent");
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let writing = async {
        for number in 0..100_000_u32 {
            if writer.write_all(&next(number)).await.is_err() {
                return true;
            }
        }
        false
    };
    let closed = within(writing).await;
    reading.abort();
    closed
}

/// Spec F-2: requests of HTTP/2 that are begun to be given up (CVE-2023-44487) end the connection.
#[tokio::test]
async fn f_2_rapid_resets_end_the_connection() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        text("a")
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let resets = |number: u32| {
        let stream = number * 2 + 1;
        let mut both = frame(1, 5, stream, GET);
        both.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        both
    };
    assert!(flood(&running, resets).await, "it takes resets without end");
    // One at a time, so that each is begun at the instance.
    let tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let (mut reader, mut writer) = tcp.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    writer.write_all(PREFACE).await.expect("sent");
    let mut closed = false;
    for number in 0..2_000_u32 {
        let stream = number * 2 + 1;
        let sent = writer.write_all(&frame(1, 5, stream, GET)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let reset = writer.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await;
        if sent.is_err() || reset.is_err() {
            closed = true;
            break;
        }
    }
    reading.abort();
    assert!(closed, "2,000 requests were begun and given up");
    others_are_served(&running).await;
}

/// Spec F-2: no more requests at once on a connection of HTTP/2 than there may be; the others are refused.
#[tokio::test]
async fn f_2_too_many_streams_are_refused() {
    let server = Server::start(false, |_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        text("a")
    })
    .await;
    let limits = Limits { streams: 10, ..Limits::default() };
    let running = Running::start(with_limits(limits), &[server.address]).await;
    let mut tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let mut bytes = PREFACE.to_vec();
    for number in 0..30 {
        bytes.extend(frame(1, 5, number * 2 + 1, GET));
    }
    tcp.write_all(&bytes).await.expect("sent");
    until("ten are under way", || running.figures().requests_now == 10).await;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !got.windows(4).any(|code| code == 7_u32.to_be_bytes()) {
        let count = within(tcp.read(&mut buffer)).await.expect("frames");
        assert!(count > 0, "REFUSED_STREAM never came");
        got.extend_from_slice(&buffer[..count]);
    }
    assert!(running.figures().requests <= 10);
}

/// Spec F-2: headers without end (CONTINUATION, CVE-2024-27316), and garbage instead of frames.
#[tokio::test]
async fn f_2_endless_continuations_and_garbage_end_the_connection() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let literal =
        b"\x00\x01a\x7f\x00".iter().chain([b'x'; 127].iter()).copied().collect::<Vec<u8>>().repeat(100);
    let endless = |number| match number {
        0 => frame(1, 1, 1, GET),
        _ => frame(9, 0, 1, &literal),
    };
    assert!(flood(&running, endless).await, "headers are taken without end");
    for garbage in
        [frame(0, 0, 0, b"x"), frame(1, 5, 2, GET), frame(1, 5, 1, b"\xff\xff\xff"), vec![0xff; 100]]
    {
        let mut tcp = TcpStream::connect(running.address()).await.expect("a connection");
        tcp.write_all(PREFACE).await.expect("sent");
        tcp.write_all(&garbage).await.expect("sent");
        let mut rest = Vec::new();
        // It may end in a reset, for bytes are left that nobody read.
        let _ = within(tcp.read_to_end(&mut rest)).await;
    }
    assert_eq!(running.figures().instances[0].calls, 0);
    others_are_served(&running).await;
}

/// Spec F-2: a connection of HTTP/2 that asks nothing is told farewell, pings or not.
#[tokio::test]
async fn f_2_idle_connections_of_http_2_are_closed() {
    let server = Server::named("a").await;
    let settings = impatient(|times| times.idle = SHORT);
    let running = Running::start(settings, &[server.address]).await;
    let ping = |_| frame(6, 0, 0, &[0; 8]);
    let tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let (mut reader, mut writer) = tcp.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    writer.write_all(PREFACE).await.expect("sent");
    let pinging = async {
        while writer.write_all(&ping(0)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(pinging).await;
    reading.abort();
    assert_eq!(running.figures().connections_overdue, 1);
}

/// Spec F-2: a client of HTTP/2 that grants its answers no room is closed, whatever else it says: what its requests hold is
/// free again.
#[tokio::test]
async fn f_2_answers_that_nobody_takes_are_given_up() {
    let server = Server::start(false, |_| async { text(vec![b'x'; 1_000_000]) }).await;
    let settings = impatient(|times| times.stream_idle = SHORT);
    let running = Running::start(settings, &[server.address]).await;
    let tcp = TcpStream::connect(running.address()).await.expect("a connection");
    let (mut reader, mut writer) = tcp.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let mut bytes = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    bytes.extend(frame(1, 5, 1, GET));
    writer.write_all(&bytes).await.expect("sent");
    until("it is under way", || running.figures().requests_now == 1).await;
    let pinging = async {
        while writer.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(pinging).await;
    reading.abort();
    until("nothing is held", || running.figures().requests_now == 0).await;
    assert_eq!(running.figures().connections_overdue, 1);
    others_are_served(&running).await;
}

/// Spec F-2: a client of HTTP/2 that takes a long answer slowly is served to its end.
#[tokio::test]
async fn f_2_answers_that_are_taken_slowly_are_served() {
    let server = Server::start(false, |_| async { text(vec![b'x'; 100_000]) }).await;
    let settings = impatient(|times| times.stream_idle = SHORT);
    let running = Running::start(settings, &[server.address]).await;
    let mut h2 = http2(running.address()).await;
    let request = http::Request::get("http://a/").body(full("")).expect("a request");
    let mut body = within(h2.send_request(request)).await.expect("an answer").into_body();
    let mut length = 0;
    while let Some(frame) = within(http_body_util::BodyExt::frame(&mut body)).await {
        length += frame.expect("whole").into_data().map_or(0, |data| data.len());
        tokio::time::sleep(SHORT / 3).await;
    }
    assert_eq!(length, 100_000);
}

/// Spec F-2: an answer to HTTP/1.0 whose end is the connection's is broken off visibly also when the proxy stops.
#[tokio::test]
async fn f_2_an_answer_to_http_1_0_does_not_end_with_the_proxy() {
    let instance = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").await;
        tokio::time::sleep(Duration::from_secs(100)).await;
    })
    .await;
    let running = Running::start(Settings::default(), &[instance]).await;
    let mut client = running.client().await;
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let mut got = Vec::new();
    while !got.ends_with(b"part") {
        got.push(within(client.tcp.read_u8()).await.expect("the beginning"));
    }
    within(running.proxy.stop(Duration::from_millis(100))).await;
    assert!(!client.rest().await.1, "it looks whole");
}
