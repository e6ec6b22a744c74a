//! A gRPC channel that follows a service by name (spec F-1).

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bramah_balance::{Outcome, key_of};
use futures_util::future::BoxFuture;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::balanced::{Balanced, CallSettings};
use super::call_error::CallError;
use super::connector::{BoxError, Connector, InFlight, Verdict};
use super::follow::Follower;
use super::grpc_body::{RequestBody, Tracked, outcome};
use super::snapshot::Registered;

/// A connection that says nothing is asked whether it lives, and given up without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Marks a request that may be done twice, so that it is tried again at another instance when one fails, and hedged if that is
/// [set](CallSettings::hedging):
///
/// ```
/// # use bramah_client::discovery::Repeatable;
/// let mut request = tonic::Request::new("what is in the cart?");
/// request.extensions_mut().insert(Repeatable);
/// ```
///
/// A request that streams is never repeated, nor is one over 256 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeatable;

/// For policies of consistent hashing: the header of a request that says what it is about.
pub const KEY_HEADER: &str = "bramah-key";

/// A channel for tonic's generated clients that sends each call to an instance of a service; made by
/// [`Registry::grpc`](super::Registry::grpc). Clones share its connections.
///
/// A call is in flight at its instance until its answer has ended. A request's `grpc-timeout` is its deadline if that comes before
/// the [setting](CallSettings::deadline); it bounds how long the answer may take to begin.
#[derive(Clone, Debug)]
pub struct GrpcChannel {
    balanced: Balanced<GrpcConnector, GrpcRequest>,
}

impl GrpcChannel {
    /// To the instances of `service`, which the follower knows.
    pub fn new(service: &str, follower: Follower, settings: CallSettings) -> Self {
        let timeout = settings.connect;
        Self { balanced: Balanced::new(service, follower, GrpcConnector { timeout }, settings) }
    }

    /// What is behind it.
    #[must_use]
    pub fn balanced(&self) -> &Balanced<GrpcConnector, GrpcRequest> {
        &self.balanced
    }
}

impl Service<http::Request<Body>> for GrpcChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let balanced = self.balanced.clone();
        let (head, body) = request.into_parts();
        let request = GrpcRequest { head, body: RequestBody::gather(body) };
        Box::pin(async move { balanced.send(request).await.map_err(status) })
    }
}

/// Certainly not done is `UNAVAILABLE`, as it is for tonic's own channel; what may have been done is so too, but says so.
fn status(error: CallError) -> Status {
    let code = match &error {
        CallError::TimedOut { .. } => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    };
    let message = error.to_string();
    let mut status = Status::new(code, message);
    status.set_source(Arc::new(error));
    status
}

/// A gRPC call, on its way to an instance.
#[derive(Debug)]
pub struct GrpcRequest {
    head: http::request::Parts,
    body: RequestBody,
}

/// Speaks gRPC to instances, over HTTP/2 without TLS.
#[derive(Clone, Debug)]
pub struct GrpcConnector {
    timeout: Duration,
}

/// The connection to one instance.
#[derive(Clone, Debug)]
pub struct GrpcConnection {
    sender: http2::SendRequest<Body>,
    authority: http::uri::Authority,
}

/// Why a connection gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct GrpcError {
    #[source]
    error: BoxError,
    /// It was not sent. In a lock only because an error is to be shared between threads, and a body can't be.
    request: Mutex<Option<Box<GrpcRequest>>>,
}

impl GrpcError {
    fn of(error: impl Into<BoxError>, request: Option<Box<GrpcRequest>>) -> Self {
        Self { error: error.into(), request: Mutex::new(request) }
    }
}

impl Connector<GrpcRequest> for GrpcConnector {
    type Service = GrpcConnection;
    type Response = http::Response<Body>;
    type Error = GrpcError;

    fn connect(
        &self,
        instance: &Registered,
    ) -> impl Future<Output = Result<GrpcConnection, BoxError>> + Send + 'static {
        let (authority, timeout) = (instance.instance.authority(), self.timeout);
        async move { connect(authority, timeout).await }
    }

    fn is_alive(&self, connection: &GrpcConnection) -> bool {
        !connection.sender.is_closed()
    }

    fn copy(&self, request: &GrpcRequest) -> Option<GrpcRequest> {
        Some(GrpcRequest { head: request.head.clone(), body: request.body.copy()? })
    }

    fn may_repeat(&self, request: &GrpcRequest) -> bool {
        request.head.extensions.get::<Repeatable>().is_some()
    }

    fn key(&self, request: &GrpcRequest) -> Option<u64> {
        Some(key_of(request.head.headers.get(KEY_HEADER)?.as_bytes()))
    }

    fn allowed(&self, request: &GrpcRequest) -> Option<Duration> {
        timeout(request.head.headers.get("grpc-timeout")?.to_str().ok()?)
    }

    fn unsent(&self, mut error: GrpcError) -> Result<GrpcRequest, GrpcError> {
        error.request.get_mut().take().map(|request| *request).ok_or(error)
    }

    fn was_refused(&self, error: &GrpcError) -> bool {
        error.request.lock().is_some() || refused(&*error.error)
    }

    fn judge(&self, response: &http::Response<Body>) -> Verdict {
        let failed = match outcome(response.headers()) {
            Some(outcome) => outcome == Outcome::Failure,
            // What a proxy says that is not gRPC.
            None => response.status().is_server_error(),
        };
        if failed { Verdict::Failed } else { Verdict::Well }
    }

    fn finish(&self, response: http::Response<Body>, call: InFlight) -> http::Response<Body> {
        if outcome(response.headers()).is_some() {
            call.end(Outcome::Success);
            return response;
        }
        response.map(|body| Body::new(Tracked::new(body, call)))
    }
}

impl Service<GrpcRequest> for GrpcConnection {
    type Response = http::Response<Body>;
    type Error = GrpcError;
    type Future = BoxFuture<'static, Result<http::Response<Body>, GrpcError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), GrpcError>> {
        self.sender.poll_ready(context).map_err(|error| GrpcError::of(error, None))
    }

    fn call(&mut self, mut request: GrpcRequest) -> Self::Future {
        let path = request.head.uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = path.or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
        match http::Uri::from_parts(parts) {
            Ok(uri) => request.head.uri = uri,
            Err(error) => {
                let error = GrpcError::of(error, None);
                return Box::pin(std::future::ready(Err(error)));
            }
        }
        request.head.version = http::Version::HTTP_2;
        let request = http::Request::from_parts(request.head, request.body.into_body());
        let answer = self.sender.try_send_request(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(mut error) => {
                    let request = error.take_message().map(|request| {
                        let (head, body) = request.into_parts();
                        Box::new(GrpcRequest { head, body: RequestBody::Stream(body) })
                    });
                    Err(GrpcError::of(error.into_error(), request))
                }
            }
        })
    }
}

async fn connect(authority: String, timeout: Duration) -> Result<GrpcConnection, BoxError> {
    let connecting = async {
        let stream = TcpStream::connect(&*authority).await?;
        stream.set_nodelay(true)?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream));
        Ok::<_, BoxError>(handshake.await?)
    };
    let (sender, connection) =
        tokio::time::timeout(timeout, connecting).await.map_err(|_| "it takes too long")??;
    let there = authority.clone();
    // It ends with the last sender, once its calls have ended.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, instance = %there, "a connection to an instance broke");
        }
    });
    Ok(GrpcConnection { sender, authority: authority.parse()? })
}

/// Whether the other side says that it did not begin: a refused stream, or one that came after its orderly goodbye
/// (RFC 9113 §6.8, §8.7).
fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let goodbye =
                error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            return goodbye || error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = error.source();
    }
    false
}

/// As gRPC writes it: at most 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = ["1H", "99999999M", "5S", "20m", "7u", "1n"].map(|text| timeout(text).unwrap().as_nanos());
        let hour = 3_600_000_000_000;
        assert_eq!(read, [hour, 99_999_999 * hour / 60, 5_000_000_000, 20_000_000, 7_000, 1]);
        for text in ["", "S", "-1S", "1", "123456789S", "1s", "1é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}
