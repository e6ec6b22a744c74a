//! Trying again: only when that is safe, elsewhere, and within a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bramah_balance::{BudgetSettings, OutlierSettings, SlowStart};
use bramah_proxy::{PolicyKind, Retries, Settings, Times};
use http::Request;
use tokio::io::AsyncWriteExt;

use crate::support::*;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

fn in_turns() -> Settings {
    Settings { policy: PolicyKind::RoundRobin, outliers: None, ..Settings::default() }
}

/// An instance that reads the request, closes without a word, and counts how often.
async fn closes() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let address = scripted(move |_, mut tcp| {
        let counted = Arc::clone(&counted);
        async move {
            read_head(&mut tcp).await;
            counted.fetch_add(1, SeqCst);
        }
    })
    .await;
    (address, count)
}

/// Spec F-2, P-8: what never reached an instance goes to another, whatever it is.
#[tokio::test]
async fn f_2_what_was_not_sent_is_sent_elsewhere() {
    let server = Server::mirror(false).await;
    let running = Running::start(in_turns(), &[nobody().await, server.address, nobody().await]).await;
    let mut client = running.client().await;
    for _ in 0..10 {
        client.send(POST).await;
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.body.ends_with("Ok(b\"hello\")"), "{answer:?}");
    }
    assert!(running.figures().retries >= 5);
}

/// Spec F-2, P-8: what may have been done is done again only if that changes nothing.
#[tokio::test]
async fn f_2_only_idempotent_requests_are_sent_twice() {
    let (bad, count) = closes().await;
    let server = Server::mirror(false).await;
    let running = Running::start(in_turns(), &[bad, server.address]).await;
    let mut client = running.client().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        client.send(POST).await;
        statuses.push(client.answer().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    assert_eq!((count.load(SeqCst), running.figures().retries), (2, 0), "each was sent once");
    for _ in 0..4 {
        client.send(PUT).await;
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.body.ends_with("Ok(b\"hello\")"), "{answer:?}");
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(running.figures().retries as usize, count.load(SeqCst) - 2);
}

/// Spec F-2: a body that was longer than what is kept of it can't be sent again.
#[tokio::test]
async fn f_2_a_long_body_is_sent_once() {
    let (bad, _) = closes().await;
    let server = Server::named("a").await;
    let retries = Retries { kept_body: 4, ..Retries::default() };
    let running = Running::start(Settings { retries, ..in_turns() }, &[bad, server.address]).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut client = running.client().await;
        client.send(PUT).await;
        statuses.push(client.answer().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

/// Spec F-2, P-8: when an instance dies that has many connections which wait, and least in flight, none of them is tried after
/// another: the request goes elsewhere.
#[tokio::test]
async fn f_2_a_dead_instance_is_not_tried_again() {
    let good = Server::start(false, |request| async move {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
        text("good")
    })
    .await;
    // It answers once on each connection, and is not there any more for the next request.
    let dying = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndying").await;
        read_head(&mut tcp).await;
    })
    .await;
    let settings = Settings {
        policy: PolicyKind::LeastRequest,
        outliers: None,
        slow_start: SlowStart { window: Duration::ZERO, ..SlowStart::default() },
        ..Settings::default()
    };
    let running = Running::start(settings, &[good.address]).await;
    let mut holding = Vec::new();
    for _ in 0..20 {
        let mut client = running.client().await;
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        holding.push(client);
    }
    until("the good one is busy", || running.figures().requests_now == 20).await;
    running.tell(&[good.address, dying]);
    until("both are known", || running.figures().instances.len() == 2).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = running.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.body, "dying");
    }
    let waiting = || running.figures().instances.iter().map(|one| one.waiting_connections).sum::<usize>();
    until("its connections wait", || waiting() == 8).await;
    let answer = clients[0].get("/").await;
    assert_eq!((answer.status, &*answer.body), (200, "good"));
    assert_eq!((running.figures().retries, waiting()), (1, 1), "the good one's is the only one left");
}

/// Spec P-8: when all fail, retries end with the budget.
#[tokio::test]
async fn f_2_the_budget_bounds_retries() {
    let (bad, count) = closes().await;
    let budget = BudgetSettings { per_call: 0.2, per_second: 0.0, window: Duration::from_secs(1_000) };
    let retries = Retries { budget, ..Retries::default() };
    let running = Running::start(Settings { retries, ..in_turns() }, &[bad, nobody().await]).await;
    let mut client = running.client().await;
    for _ in 0..50 {
        assert!([502, 503].contains(&client.get("/").await.status));
    }
    let figures = running.figures();
    assert_eq!(figures.retries, 10, "a fifth of 50");
    assert!(figures.retries_denied > 0 && count.load(SeqCst) <= 60);
}

/// Spec P-8: a try has its own time, and a slow instance doesn't use up the request's.
#[tokio::test]
async fn f_2_each_try_has_its_time() {
    let slow = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
    })
    .await;
    let server = Server::named("a").await;
    let times = Times { each_try: Some(Duration::from_millis(100)), ..Times::default() };
    let running = Running::start(Settings { times, ..in_turns() }, &[slow, server.address]).await;
    for _ in 0..4 {
        assert_eq!(running.client().await.get("/").await.status, 200);
    }
    assert!(running.figures().timed_out >= 2);
}

/// Spec F-2: an instance may close a connection that waits at any moment; nobody notices, and it isn't to blame.
#[tokio::test]
async fn f_2_connections_that_went_stale_are_no_failures() {
    let address = scripted(|_, mut tcp| async move {
        // One answer a connection, and no word that it is the last.
        read_head(&mut tcp).await;
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
        // The second request is read, or not.
    })
    .await;
    let running = Running::start(Settings::default(), &[address]).await;
    let mut client = running.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(running.figures().instances[0].failures, 0);
}

/// Spec P-8: an instance that fails again and again is left out, and that is counted.
#[tokio::test]
async fn f_2_outliers_are_left_out() {
    let bad = Server::start(false, |_| async {
        let mut response = text("bad");
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let good = Server::named("a").await;
    let outliers = Some(OutlierSettings { failures_in_a_row: 3, ..OutlierSettings::default() });
    let settings = Settings { outliers, policy: PolicyKind::RoundRobin, ..Settings::default() };
    let running = Running::start(settings, &[bad.address, good.address]).await;
    let mut client = running.client().await;
    while running.figures().ejections == 0 {
        client.get("/").await;
    }
    let calls = |running: &Running| {
        let figures = running.figures();
        figures
            .instances
            .iter()
            .find(|one| one.address == bad.address.to_string())
            .map(|one| (one.calls, one.ejected))
    };
    let before = calls(&running).expect("the bad one");
    assert!(before.1 && before.0 < 100);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(calls(&running), Some(before));
}

/// Spec F-2: requests that an instance of HTTP/2 turns away as it leaves are done elsewhere, even those that must not be done twice.
#[tokio::test]
async fn f_2_streams_that_were_not_processed_are_sent_elsewhere() {
    for left_out in [true, false] {
        // Settings and their acknowledgement; then GOAWAY that leaves out stream 1, or RST_STREAM that refuses it.
        let leaving = scripted(move |_, mut tcp| async move {
            let mut bytes = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0".to_vec();
            tcp.write_all(&bytes).await.expect("sent");
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            // Until the body, `hello`, has come.
            while !got.windows(5).any(|five| five == b"hello") {
                let count = tokio::io::AsyncReadExt::read(&mut tcp, &mut buffer).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                got.extend_from_slice(&buffer[..count]);
            }
            bytes = match left_out {
                true => b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
                false => b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07".to_vec(),
            };
            tcp.write_all(&bytes).await.expect("sent");
            tokio::time::sleep(Duration::from_secs(100)).await;
        })
        .await;
        let server = Server::mirror(true).await;
        let settings = Settings { upstream_http: bramah_proxy::UpstreamHttp::Http2, ..in_turns() };
        let running = Running::start(settings, &[leaving, server.address]).await;
        let mut client = http2(running.address()).await;
        // Until it was the turn of the one that leaves: it has one answer only.
        while running.figures().retries == 0 {
            let request = Request::post("http://a/").body(full("hello")).expect("a request");
            let response = within(client.send_request(request)).await.expect("an answer");
            let status = response.status();
            let body = read(response).await;
            assert!(status == 200 && body.ends_with("Ok(b\"hello\")"), "left out: {left_out}: {body}");
        }
        let figures = running.figures();
        assert!(figures.instances.iter().all(|instance| instance.failures == 0), "it's not to blame");
    }
}

/// Spec F-2: a connection of HTTP/2 that breaks says nothing of what was done: such a request is not sent twice.
#[tokio::test]
async fn f_2_broken_streams_may_have_been_processed() {
    let breaking = scripted(|_, mut tcp| async move {
        let mut bytes = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0".to_vec();
        tcp.write_all(&bytes).await.expect("sent");
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while !got.windows(5).any(|five| five == b"hello") {
            let count = tokio::io::AsyncReadExt::read(&mut tcp, &mut buffer).await.unwrap_or(0);
            got.extend_from_slice(&buffer[..count]);
            if count == 0 {
                return;
            }
        }
        // GOAWAY that says stream 1 may have been processed; then the end.
        bytes = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0".to_vec();
        tcp.write_all(&bytes).await.expect("sent");
    })
    .await;
    let server = Server::mirror(true).await;
    let settings = Settings { upstream_http: bramah_proxy::UpstreamHttp::Http2, ..in_turns() };
    let running = Running::start(settings, &[breaking, server.address]).await;
    let mut client = http2(running.address()).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let request = Request::post("http://a/").body(full("hello")).expect("a request");
        statuses.push(within(client.send_request(request)).await.expect("an answer").status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, running.figures().retries), (vec![200, 502], 0));
}

/// Spec F-2: nobody to send to is said, with when to come again.
#[tokio::test]
async fn f_2_no_instance_is_said() {
    let running = Running::start(Settings::default(), &[]).await;
    let answer = running.client().await.get("/").await;
    assert_eq!((answer.status, header(&answer.head, "retry-after")), (503, Some("1")));
    assert!(answer.body.contains("the service has none"), "{answer:?}");
    assert_eq!(running.figures().no_instance, 1);
}
