//! Bytes in both directions: upgrades such as WebSocket, and the mode `tcp`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bramah_balance::Outcome;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::answer::Answer;
use crate::endpoint::{Carrier, Http1};
use crate::exchange::{Client, InFlight, source_key};
use crate::forward::Plan;
use crate::head;
use crate::idle::Idle;
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::proxy::{Permit, Stage};
use crate::request_body::RequestBody;
use crate::response_body::{Recipient, Relayed, ResponseBody};
use crate::settings::HashBy;
use crate::wire::{Stream, Wire};
use crate::worker::{Worker, reached};

/// Asks an instance whether it goes over to the protocol that the client wants, and if so, becomes a tunnel.
pub(crate) async fn upgrade(
    client: Arc<Client>,
    mut request: Request<Incoming>,
    plan: Plan,
    mut in_flight: InFlight,
) -> Result<Response<ResponseBody>, Answer> {
    let worker = &client.worker;
    let of_client = hyper::upgrade::on(&mut request);
    let (mut response, lease, sender) = match ask(worker, request, &plan).await {
        Ok(answered) => answered,
        Err(answer) => {
            in_flight.answered();
            return Err(answer);
        }
    };
    let to = response.headers().get(header::UPGRADE).cloned();
    let of_instance = hyper::upgrade::on(&mut response);
    let (mut head, incoming) = response.into_parts();
    head::strip(&mut head.headers);
    head.extensions.clear();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        let failed = head.status.is_server_error();
        let relayed = Relayed {
            incoming,
            call: Some((lease, Carrier::Http1(sender))),
            idle: Idle::new(worker.shared.settings.times.stream_idle),
            outcome: if failed { Outcome::Failure } else { Outcome::Success },
            grpc: false,
            in_flight,
            to: Recipient::Http1,
        };
        return Ok(Response::from_parts(head, ResponseBody::Relayed(Box::new(relayed))));
    }
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(to) = to {
        head.headers.insert(header::UPGRADE, to);
    }
    in_flight.answered();
    worker.counts().tunnels.fetch_add(1, Relaxed);
    let permit = Permit::take(&worker.shared, |shared| &shared.requests, usize::MAX);
    tokio::spawn(async move {
        tunnel(&client, of_client, of_instance, lease).await;
        drop(permit);
    });
    Ok(Response::from_parts(head, ResponseBody::Text(bytes::Bytes::new())))
}

/// Has one instance answer the request, on a connection that it has for itself.
async fn ask(
    worker: &Arc<Worker>,
    request: Request<Incoming>,
    plan: &Plan,
) -> Result<(Response<Incoming>, Lease, Http1), Answer> {
    let (head, body) = request.into_parts();
    if !http_body::Body::is_end_stream(&body) {
        let why = "a request with a body can't be an upgrade; send it without one";
        return Err(Answer::new(StatusCode::BAD_REQUEST, why).closing());
    }
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    worker.shared.budget.earn(worker.clock().now());
    let (mut lease, mut sender) = connected(worker, plan.key, |lease| async {
        let connected = lease.endpoint.connect_for_upgrade(worker).await;
        (lease, connected.map_err(|error| error.to_string()))
    })
    .await?;
    let sent = timeout(plan.limit, sender.send_request(request)).await;
    match sent {
        Ok(Ok(response)) => {
            lease.answered();
            Ok((response, lease, sender))
        }
        Ok(Err(error)) => {
            lease.end(Outcome::Failure);
            Err(Answer::new(StatusCode::BAD_GATEWAY, format!("the instance gave no answer: {error}")))
        }
        Err(_) => {
            lease.end(Outcome::Failure);
            worker.counts().timed_out.fetch_add(1, Relaxed);
            Err(Answer::new(StatusCode::GATEWAY_TIMEOUT, "the instance gave no answer in time"))
        }
    }
}

async fn tunnel(client: &Client, of_client: OnUpgrade, of_instance: OnUpgrade, lease: Lease) {
    let worker = &client.worker;
    let both = async { tokio::try_join!(of_client, of_instance) };
    let Ok(Ok((of_client, of_instance))) = timeout(worker.shared.settings.times.head, both).await else {
        return;
    };
    client.ledger.becomes_tunnel();
    let outcome = carry(worker, &client.ledger, TokioIo::new(of_client), TokioIo::new(of_instance)).await;
    lease.end(outcome);
}

/// Copies in both directions until both have ended, or nothing moves any more.
async fn carry(
    worker: &Worker,
    ledger: &Ledger,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut instance: impl AsyncRead + AsyncWrite + Unpin,
) -> Outcome {
    let limit = worker.shared.settings.times.stream_idle;
    let mut stage = worker.shared.stage.subscribe();
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut instance) => {
            if copied.is_ok() { Outcome::Success } else { Outcome::Cancelled }
        }
        () = still(ledger, limit) => Outcome::Cancelled,
        () = reached(&mut stage, Stage::Stopped) => Outcome::Cancelled,
    }
}

/// Ends when nothing has moved on a connection for too long.
async fn still(ledger: &Ledger, limit: Duration) {
    loop {
        let still = ledger.still_for();
        if still >= limit {
            return;
        }
        tokio::time::sleep(limit - still).await;
    }
}

/// Connects to one instance after another until one accepts, as far as tries and budget go: nothing was sent yet.
async fn connected<T, F, Fut>(
    worker: &Arc<Worker>,
    key: Option<u64>,
    connect: F,
) -> Result<(Lease, T), Answer>
where
    F: Fn(Lease) -> Fut,
    Fut: Future<Output = (Lease, Result<T, String>)>,
{
    let shared = &worker.shared;
    let mut tried: Vec<Arc<str>> = Vec::new();
    loop {
        let picked = shared.directory.pick(key, &tried);
        let (call, endpoint) = picked.map_err(|error| {
            worker.counts().no_instance.fetch_add(1, Relaxed);
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, error).later()
        })?;
        let (lease, connected) = connect(Lease::new(call, endpoint, Arc::clone(worker))).await;
        let why = match connected {
            Ok(connection) => return Ok((lease, connection)),
            Err(why) => why,
        };
        tried.push(Arc::clone(&lease.endpoint.id));
        lease.end(Outcome::Failure);
        let more = tried.len() < shared.settings.retries.tries as usize;
        if !more || !shared.budget.take(shared.clock.now()) {
            worker.counts().retries_denied.fetch_add(u64::from(more), Relaxed);
            return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, why).later());
        }
        worker.counts().retries.fetch_add(1, Relaxed);
    }
}

/// Serves a connection of the mode `tcp`.
pub(crate) async fn serve_tcp(worker: Arc<Worker>, tcp: TcpStream, address: SocketAddr) {
    let shared = &worker.shared;
    let counts = worker.counts();
    counts.requests.fetch_add(1, Relaxed);
    let limit = shared.settings.limits.requests;
    let Some(_permit) = Permit::take(shared, |shared| &shared.requests, limit) else {
        counts.over_limit.fetch_add(1, Relaxed);
        return;
    };
    let stream = match &shared.tls {
        None => Stream::Plain(tcp),
        Some(tls) => match timeout(shared.settings.times.head, tls.0.accept(tcp)).await {
            Ok(Ok(stream)) => Stream::Tls(Box::new(TlsStream::Server(stream))),
            Ok(Err(_)) => return,
            Err(_) => {
                counts.connections_overdue.fetch_add(1, Relaxed);
                return;
            }
        },
    };
    // A header is nothing that a connection has.
    let key = matches!(shared.settings.hash_by, Some(HashBy::Source)).then(|| source_key(address.ip()));
    shared.budget.earn(shared.clock.now());
    let connected = connected(&worker, key, |lease| async {
        let connected = lease.endpoint.connect(&worker, b"").await;
        (lease, connected.map_err(|error| error.to_string()))
    });
    let (mut lease, instance) = match connected.await {
        Ok(connected) => connected,
        Err(answer) => {
            tracing::debug!(client = %address, why = answer.reason, "a connection has no instance");
            return;
        }
    };
    lease.answered();
    let ledger = Arc::new(Ledger::new(worker.clock()));
    ledger.becomes_tunnel();
    let wire = Wire::new(stream, Arc::clone(&ledger));
    let outcome = carry(&worker, &ledger, wire, instance).await;
    lease.end(outcome);
}
