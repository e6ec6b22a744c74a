//! Asking an instance whether it is well: TCP, HTTP, or the gRPC health protocol (spec R-3).

use std::sync::Arc;

use bramah_wire::grpc_health::HealthCheckRequest;
use bramah_wire::grpc_health::health_check_response::ServingStatus;
use bramah_wire::grpc_health::health_client::HealthClient;
use bramah_wire::registry::{Check, Health, Instance, Probe};
use bramah_wire::transport::{self, Tcp, Timeouts};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::with_causes;

/// Most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// What a check saw.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// As well as this it seems.
    pub health: Health,
    /// In words.
    pub note: String,
}

impl Observed {
    fn new(health: Health, note: impl Into<String>) -> Self {
        Self { health, note: note.into() }
    }
}

/// Checks an instance once. No answer in time is one that fails.
pub async fn probe(instance: &Instance, check: &Check) -> Observed {
    let authority = instance.authority();
    let asked = async {
        match &check.probe {
            Probe::Tcp => tcp(&authority).await,
            Probe::Http { path } => http(&authority, path).await,
            Probe::Grpc { service } => grpc(&authority, service, check).await,
        }
    };
    match tokio::time::timeout(check.timeout(), asked).await {
        Ok(Ok(observed)) => observed,
        Ok(Err(problem)) => Observed::new(Health::Critical, format!("{authority}: {problem}")),
        Err(_) => {
            Observed::new(Health::Critical, format!("{authority}: no answer within {} ms", check.timeout_ms))
        }
    }
}

async fn connect(authority: &str) -> Result<TcpStream, String> {
    TcpStream::connect(authority).await.map_err(|error| format!("no connection: {error}"))
}

async fn tcp(authority: &str) -> Result<Observed, String> {
    connect(authority).await?;
    Ok(Observed::new(Health::Passing, "it takes connections"))
}

async fn http(authority: &str, path: &str) -> Result<Observed, String> {
    let stream = connect(authority).await?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| with_causes(&error))?;
    let request = http::Request::get(path)
        .header(http::header::HOST, authority)
        .header(http::header::USER_AGENT, "bramah-check")
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let answered = tokio::select! {
        answered = &mut answer => answered,
        // It may have ended with the answer, or without.
        _ = connection => answer.await,
    };
    // The connection is dropped, whatever more would come: only the status counts.
    let status = answered.map_err(|error| with_causes(&error))?.status();
    let health = match status.as_u16() {
        200..300 => Health::Passing,
        429 => Health::Warning,
        _ => Health::Critical,
    };
    Ok(Observed::new(health, format!("GET {path}: {status}")))
}

async fn grpc(authority: &str, service: &str, check: &Check) -> Result<Observed, String> {
    let timeouts = Timeouts { connect: check.timeout(), ..Timeouts::default() };
    let channel = transport::channel(Arc::new(Tcp), authority, timeouts).await;
    let channel = channel.map_err(|error| with_causes(&error))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| with_causes(&status))?;
    let status = answer.get_ref().status();
    let health = if status == ServingStatus::Serving { Health::Passing } else { Health::Critical };
    Ok(Observed::new(health, format!("grpc.health.v1: {}", status.as_str_name())))
}
