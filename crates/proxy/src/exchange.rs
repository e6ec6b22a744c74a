//! One request of HTTP, from its head to the beginning of its answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bramah_balance::{Outcome, key_of};
use http::header::HeaderMap;
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;

use crate::answer::Answer;
use crate::endpoint::Carrier;
use crate::forward::{self, Plan};
use crate::head::{self, Origin};
use crate::idle::Idle;
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::proxy::{Permit, Stage};
use crate::request_body::{BodyLimits, Source};
use crate::response_body::{Recipient, Relayed, ResponseBody, is_failure_of_grpc};
use crate::settings::{HashBy, UpstreamHttp};
use crate::tunnel;
use crate::worker::Worker;

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Arc<Worker>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) address: IpAddr,
    /// The same for each of its requests.
    pub(crate) address_text: http::HeaderValue,
    pub(crate) tls: bool,
    /// Its place among all connections. A tunnel keeps it when HTTP has ended.
    pub(crate) _place: Place,
}

/// What a connection holds as long as it lives: it counts, and a proxy that stops waits for it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) _permit: Permit,
    pub(crate) _alive: tokio::sync::mpsc::Sender<()>,
}

/// A request under way, until its answer has been passed on or given up.
#[derive(Debug)]
pub(crate) struct InFlight {
    client: Arc<Client>,
    permit: Option<Permit>,
    answered: bool,
}

impl InFlight {
    /// The answer is over, whole or not: the client didn't give up.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
        self.permit = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.client.ledger.end(self.answered);
    }
}

/// Answers a request: the error is none, for whatever goes wrong has an answer.
pub(crate) async fn handle(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let counts = client.worker.counts();
    counts.requests.fetch_add(1, Relaxed);
    let mut in_flight = InFlight { client: Arc::clone(&client), permit: None, answered: false };
    let fault = client.ledger.begin();
    let grpc = head::is_grpc(request.headers());
    let version = request.version();
    let answer = match fault {
        Some(fault) => {
            in_flight.answered();
            Err(Answer::from(fault))
        }
        None => match checked(&client, request, &mut in_flight) {
            Ok(Checked::Plain { head, source, plan }) => {
                match forward::forward(&client.worker, &plan, head, source).await {
                    Ok(passed) => Ok(relayed(&client, passed, in_flight, grpc, version)),
                    // It is the proxy's own answer, and none that the client gave up.
                    Err(answer) => {
                        in_flight.answered();
                        Err(answer)
                    }
                }
            }
            Ok(Checked::Upgrade { request, plan }) => {
                Box::pin(tunnel::upgrade(Arc::clone(&client), request, plan, in_flight)).await
            }
            Err(answer) => {
                in_flight.answered();
                Err(answer)
            }
        },
    };
    let response = answer.unwrap_or_else(|answer: Answer| {
        if answer.close && answer.status.is_client_error() {
            counts.refused.fetch_add(1, Relaxed);
        }
        answer.response(grpc)
    });
    counts.answered(response.status());
    Ok(response)
}

/// A request that may be passed on.
enum Checked {
    Plain { head: request::Parts, source: Option<forward::SharedSource>, plan: Plan },
    Upgrade { request: Request<Incoming>, plan: Plan },
}

fn checked(client: &Client, request: Request<Incoming>, in_flight: &mut InFlight) -> Result<Checked, Answer> {
    let shared = &client.worker.shared;
    let limits = &shared.settings.limits;
    let (mut head, body) = request.into_parts();
    let authority = head::check(&head, limits.body_bytes)?;
    let Some(permit) = Permit::take(shared, |shared| &shared.requests, limits.requests) else {
        client.worker.counts().over_limit.fetch_add(1, Relaxed);
        let why = "this proxy has as many requests as it may have at once; try again later";
        return Err(Answer::new(StatusCode::SERVICE_UNAVAILABLE, why).later());
    };
    in_flight.permit = Some(permit);
    let to = head::upgrade(&head);
    let origin =
        Origin { client: &client.address_text, tls: client.tls, trusted: shared.settings.trust_forwarded };
    head::prepare(&mut head, &authority, origin);
    let plan = plan(client, &head, authority);
    if let Some(to) = to {
        head::for_http1(&mut head, &plan.authority);
        head.headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("upgrade"));
        head.headers.insert(http::header::UPGRADE, to);
        return Ok(Checked::Upgrade { request: Request::from_parts(head, body), plan });
    }
    // It holds a handle to the client's connection if the client spoke of an upgrade.
    head.extensions.clear();
    if plan.http2 {
        head::for_http2(&mut head, &plan.authority, shared.upstream_tls.is_some());
    } else {
        head::for_http1(&mut head, &plan.authority);
    }
    let limits = BodyLimits {
        longest: limits.body_bytes,
        kept: shared.settings.retries.kept_body,
        idle: shared.settings.times.stream_idle,
    };
    let source = Source::of(body, limits);
    if !plan.http2 && source.is_some() && !head.headers.contains_key(http::header::CONTENT_LENGTH) {
        // Without it a GET's body would be dropped on the way.
        head.headers.insert(http::header::TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
    }
    Ok(Checked::Plain { head, source, plan })
}

fn plan(client: &Client, head: &request::Parts, authority: Authority) -> Plan {
    let settings = &client.worker.shared.settings;
    let grpc = head::is_grpc(&head.headers);
    let own = if grpc { head::grpc_timeout(&head.headers) } else { None };
    let usual = if grpc { settings.times.stream_idle } else { settings.times.request };
    Plan {
        authority,
        http2: grpc || settings.upstream_http == UpstreamHttp::Http2,
        idempotent: head::is_idempotent(&head.method),
        key: key(client, &head.headers),
        limit: own.unwrap_or(usual),
    }
}

/// What the request is about, for policies that hash.
fn key(client: &Client, headers: &HeaderMap) -> Option<u64> {
    match client.worker.shared.settings.hash_by.as_ref()? {
        HashBy::Header(name) => headers.get(name).map(|value| key_of(value.as_bytes())),
        HashBy::Source => Some(source_key(client.address)),
    }
}

/// The key of a client's address.
pub(crate) fn source_key(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => key_of(&address.octets()),
        IpAddr::V6(address) => key_of(&address.octets()),
    }
}

/// An instance's answer as the client gets it.
fn relayed(
    client: &Client,
    (response, mut lease, carrier): (Response<Incoming>, Lease, Carrier),
    in_flight: InFlight,
    grpc: bool,
    version: Version,
) -> Response<ResponseBody> {
    lease.answered();
    let shared = &client.worker.shared;
    let (mut head, incoming) = response.into_parts();
    head::strip(&mut head.headers);
    head.extensions.clear();
    let failed = is_failure(head.status) || grpc && is_failure_of_grpc(&head.headers);
    head.version = if version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    if version < Version::HTTP_2 && shared.stage() >= Stage::Draining {
        head.headers.insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    let relayed = Relayed {
        incoming,
        call: Some((lease, carrier)),
        idle: Idle::new(shared.settings.times.stream_idle),
        outcome: if failed { Outcome::Failure } else { Outcome::Success },
        grpc,
        in_flight,
        to: Recipient::new(version, &client.ledger),
    };
    Response::from_parts(head, ResponseBody::Relayed(Box::new(relayed)))
}

/// Whether an instance is to blame: by any 5xx but the one that says it knows no such method.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
