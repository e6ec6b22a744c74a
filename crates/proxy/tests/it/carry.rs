//! What is carried: HTTP of all versions, gRPC, bodies, where it comes from.

use std::collections::BTreeSet;

use bramah_proxy::{HashBy, PolicyKind, Settings, UpstreamHttp};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::support::*;

/// A body that comes frame by frame, as the test sends them.
fn streamed(frames: mpsc::Receiver<Frame<Bytes>>) -> Body {
    let stream = futures_util::stream::unfold(frames, |mut frames| async move {
        frames.recv().await.map(|frame| (Ok(frame), frames))
    });
    StreamBody::new(stream).boxed()
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

/// Spec F-2: each version of HTTP on either side, with a body of a length that is known or not.
#[tokio::test]
async fn f_2_http_of_all_versions() {
    for upstream_http in [UpstreamHttp::Http1, UpstreamHttp::Http2] {
        let server = Server::mirror(upstream_http == UpstreamHttp::Http2).await;
        let settings = Settings { upstream_http, ..Settings::default() };
        let running = Running::start(settings, &[server.address]).await;
        let version = if upstream_http == UpstreamHttp::Http1 { "HTTP/1.1" } else { "HTTP/2.0" };
        let target = if upstream_http == UpstreamHttp::Http1 { "/x?y" } else { "http://a.example/x?y" };

        let mut client = running.client().await;
        client.send("PUT /x?y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(&format!("PUT {target} {version}\n")), "{answer:?}");
        assert!(answer.body.contains("content-length: 5\n") && answer.body.ends_with("Ok(b\"hello\")"));
        client
            .send("PUT /x?y HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
        assert!(client.answer().await.body.ends_with("Ok(b\"hello\")"));
        // A GET may have a body, too.
        client
            .send("GET /x?y HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
        assert!(client.answer().await.body.ends_with("Ok(b\"hello\")"));
        client.send("GET http://a.example/x?y HTTP/1.1\r\nHost: other\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(answer.body.starts_with(&format!("GET {target} {version}\n")), "{answer:?}");
        assert!(!answer.body.contains("other"), "{answer:?}");
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let (rest, _) = client.rest().await;
        assert_eq!(rest.matches("200 OK").count(), 2, "{rest}");

        let mut client = http2(running.address()).await;
        let request = Request::put("http://a.example/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(full("hello"))
            .expect("a request");
        let answer = read(within(client.send_request(request)).await.expect("an answer")).await;
        assert!(answer.starts_with(&format!("PUT {target} {version}\n")), "{answer}");
        assert!(answer.ends_with("Ok(b\"hello\")"), "{answer}");
        if upstream_http == UpstreamHttp::Http1 {
            assert!(
                answer.contains("cookie: a=1; b=2\n") && answer.contains("host: a.example\n"),
                "{answer}"
            );
        }
    }
}

/// Spec F-2: what is for one hop is not passed on, in either direction; where a request comes from is.
#[tokio::test]
async fn f_2_heads_are_made_ready_for_the_next_hop() {
    let server = Server::mirror(false).await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = running.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             TE: trailers\r\nProxy-Authorization: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-End: 1\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    let names: BTreeSet<&str> =
        answer.body.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(
        names,
        BTreeSet::from(["host", "x-end", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"])
    );
    assert!(answer.body.contains("x-forwarded-for: 127.0.0.1\n"), "{answer:?}");

    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        let answer = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nhi";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, answer.as_bytes()).await;
    })
    .await;
    running.tell(&[address]);
    until("it is told", || running.figures().instances[0].address == address.to_string()).await;
    let answer = client.get("/").await;
    assert_eq!((header(&answer.head, "x-hop"), header(&answer.head, "x-end")), (None, Some("1")));
    assert_eq!(header(&answer.head, "connection"), None, "the client's own connection goes on");
    assert_eq!(client.get("/").await.status, 200);
}

/// Spec F-2: gRPC goes by HTTP/2 whatever else does, keeps `te: trailers`, and its trailers come through, as errors do in its own
/// way.
#[tokio::test]
async fn f_2_grpc_with_trailers() {
    let server = Server::start(true, |request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let failing = request.uri().path() == "/a.B/Fail";
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if failing { "14" } else { "0" }.parse().expect("a value"));
        let frames = vec![Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
        Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(futures_util::stream::iter(frames)).boxed())
            .expect("a response")
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = http2(running.address()).await;
    let mut call = async |path: &str| {
        let request = Request::post(format!("http://a{path}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(full("message"))
            .expect("a request");
        let response = within(client.send_request(request)).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = within(body.collect()).await.expect("a whole body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        (head, trailers, body.to_bytes())
    };
    let (head, trailers, body) = call("/a.B/C").await;
    assert_eq!(
        (head.status.as_u16(), &trailers["grpc-status"], &*body),
        (200, &"0".parse().unwrap(), &b"message"[..])
    );
    let (_, trailers, _) = call("/a.B/Fail").await;
    assert_eq!(trailers["grpc-status"], "14");
    until("it counts as the instance's failure", || running.figures().instances[0].failures == 1).await;
    running.tell(&[]);
    until("it is told", || running.figures().instances.is_empty()).await;
    let (head, _, _) = call("/a.B/C").await;
    assert_eq!((head.status.as_u16(), &head.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    assert!(head.headers["grpc-message"].to_str().expect("text").contains("no instance"));
}

/// Spec F-2: bodies stream: each piece is there before the next is sent, both ways at once, on each version.
#[tokio::test]
async fn f_2_bodies_are_streamed_and_not_gathered() {
    for upstream_http in [UpstreamHttp::Http1, UpstreamHttp::Http2] {
        let echo = Server::start(upstream_http == UpstreamHttp::Http2, |request| async move {
            let body = request.into_body().map_err(|error| panic!("{error}"));
            Response::new(body.boxed())
        })
        .await;
        let settings = Settings { upstream_http, ..Settings::default() };
        let running = Running::start(settings, &[echo.address]).await;
        let mut client = http2(running.address()).await;
        let (sender, frames) = mpsc::channel(1);
        let request = Request::post("http://a/").body(streamed(frames)).expect("a request");
        sender.send(data("one")).await.expect("sent");
        let response = within(client.send_request(request)).await.expect("a head before the body's end");
        let mut body = response.into_body();
        for piece in ["one", "two", "three"] {
            let frame = within(body.frame()).await.expect("a frame").expect("a good one");
            assert_eq!(frame.into_data().expect("data"), piece);
            let _ = sender.send(data(if piece == "one" { "two" } else { "three" })).await;
        }
    }
}

/// Spec F-2: a large body passes through in constant memory, both ways, unchanged.
#[tokio::test]
async fn f_2_large_bodies_come_through_whole() {
    let server = Server::start(false, |request| async move {
        let mut body = request.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.expect("a whole body").into_data().map_or(0, |data| data.len());
        }
        text("y".repeat(length))
    })
    .await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    let mut client = http2(running.address()).await;
    let request = Request::post("http://a/").body(full("x".repeat(20_000_000))).expect("a request");
    let answer = read(within(client.send_request(request)).await.expect("an answer")).await;
    assert!(answer.len() == 20_000_000 && answer.bytes().all(|byte| byte == b'y'));
}

/// Spec F-2: connections to instances are used again, by as many requests as there are; those of HTTP/2 by many at once.
#[tokio::test]
async fn f_2_connections_are_pooled() {
    let server = Server::named("a").await;
    let running = Running::start(Settings::default(), &[server.address]).await;
    for _ in 0..3 {
        let mut client = running.client().await;
        for _ in 0..10 {
            assert_eq!(client.get("/").await.body, "a");
        }
    }
    assert_eq!(server.connections(), 1);

    let server = Server::start(true, |_| async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        text("b")
    })
    .await;
    let settings = Settings { upstream_http: UpstreamHttp::Http2, ..Settings::default() };
    let running = Running::start(settings, &[server.address]).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = running.client().await;
        all.spawn(async move { client.get("/").await.body });
    }
    assert!(within(all.join_all()).await.iter().all(|body| body == "b"));
    assert_eq!(server.connections(), 1);
}

/// Spec F-2: connections to instances that have no work are closed after a time.
#[tokio::test]
async fn f_2_idle_connections_to_instances_are_closed() {
    let server = Server::named("a").await;
    let times =
        bramah_proxy::Times { upstream_idle: std::time::Duration::from_millis(300), ..Default::default() };
    let running = Running::start(Settings { times, ..Settings::default() }, &[server.address]).await;
    let mut client = running.client().await;
    client.get("/").await;
    until("it waits", || running.figures().instances[0].waiting_connections == 1).await;
    until("it is closed", || running.figures().instances[0].waiting_connections == 0).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(server.connections(), 2);
}

/// Spec F-2: policies: in turns, and by a header to the same.
#[tokio::test]
async fn f_2_policies_pick() {
    let servers = [Server::named("a").await, Server::named("b").await, Server::named("c").await];
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let settings = Settings { policy: PolicyKind::RoundRobin, ..Settings::default() };
    let running = Running::start(settings, &addresses).await;
    let mut client = running.client().await;
    let mut bodies = Vec::new();
    for _ in 0..30 {
        bodies.push(client.get("/").await.body);
    }
    for name in ["a", "b", "c"] {
        assert_eq!(bodies.iter().filter(|body| *body == name).count(), 10);
    }
    for policy in [PolicyKind::Maglev, PolicyKind::Ring] {
        let hash_by = Some(HashBy::Header("x-user".parse().expect("a name")));
        let settings = Settings { policy, hash_by, ..Settings::default() };
        let running = Running::start(settings, &addresses).await;
        let mut client = running.client().await;
        let mut seen = BTreeSet::new();
        for user in 0..20 {
            let mut ask = async || {
                client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n")).await;
                client.answer().await.body
            };
            let (first, second) = (ask().await, ask().await);
            assert_eq!(first, second);
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "{policy:?}");
    }
}

/// Spec F-2: figures and health on an address of their own.
#[tokio::test]
async fn f_2_figures_are_told() {
    let server = Server::named("a").await;
    let settings = Settings { admin: Some(([127, 0, 0, 1], 0).into()), ..Settings::default() };
    let running = Running::start(settings, &[server.address]).await;
    running.client().await.get("/").await;
    until("it is over", || running.figures().requests_now == 0).await;
    let mut admin = Client::connect(running.proxy.admin_address().expect("an address")).await;
    let metrics = admin.get("/metrics").await;
    assert!(metrics.body.contains("\nbramah_proxy_requests_total 1\n"), "{metrics:?}");
    assert!(metrics.body.contains("\nbramah_proxy_answers_total{class=\"2xx\"} 1\n"), "{metrics:?}");
    let figures: serde_json::Value = serde_json::from_str(&admin.get("/figures").await.body).expect("JSON");
    assert_eq!(figures["instances"][0]["calls"], 1);
    assert_eq!(admin.get("/ready").await.status, 200);
    assert_eq!(admin.get("/other").await.status, 404);
}
