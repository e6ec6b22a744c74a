//! Bodies of gRPC calls: requests that can be sent again, and answers that tell how the call ended.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bramah_balance::Outcome;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::connector::InFlight;

/// Longer requests are sent as they come, and can't be sent again.
const MAX_WHOLE_BYTES: usize = 256 << 10;

/// A request's body.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// All of it.
    Whole(Bytes),
    /// What is still to come.
    Stream(Body),
}

impl RequestBody {
    /// Takes what is there at once: all of a unary call's message. It never waits, so that a caller who streams can hear the
    /// answers to what it sent before it sends more.
    pub(super) fn gather(mut body: Body) -> Self {
        let mut context = Context::from_waker(Waker::noop());
        let mut parts = Vec::new();
        let mut bytes = 0;
        while bytes <= MAX_WHOLE_BYTES {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(None) => return Self::Whole(joined(parts)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        bytes += data.len();
                        parts.push(data);
                    }
                    // Clients of gRPC send no trailers.
                    Err(_) => return Self::Whole(joined(parts)),
                },
                Poll::Ready(Some(Err(error))) => return Self::rest(parts, body, Some(error)),
                Poll::Pending => break,
            }
        }
        Self::rest(parts, body, None)
    }

    fn rest(parts: Vec<Bytes>, body: Body, error: Option<Status>) -> Self {
        Self::Stream(Body::new(Begun {
            first: Some(joined(parts)).filter(|first| !first.is_empty()),
            error,
            body,
        }))
    }

    pub(super) fn copy(&self) -> Option<Self> {
        match self {
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Stream(_) => None,
        }
    }

    pub(super) fn into_body(self) -> Body {
        match self {
            Self::Whole(bytes) => Body::new(http_body_util::Full::new(bytes)),
            Self::Stream(body) => body,
        }
    }
}

fn joined(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts
            .iter()
            .fold(BytesMut::new(), |mut all, part| {
                all.extend_from_slice(part);
                all
            })
            .freeze(),
    }
}

/// A body of which the first part was taken out.
struct Begun {
    first: Option<Bytes>,
    error: Option<Status>,
    body: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.error.is_none() && self.body.is_end_stream()
    }
}

/// An answer's body: the call is in flight until it ends.
pub(super) struct Tracked {
    body: Body,
    call: Option<InFlight>,
}

impl Tracked {
    pub(super) fn new(body: Body, call: InFlight) -> Self {
        Self { body, call: Some(call) }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(call) = self.call.take() {
            call.end(outcome);
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            None => self.end(Outcome::Success),
            Some(Err(_)) => self.end(Outcome::Failure),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(outcome(trailers).unwrap_or(Outcome::Success));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the status of a call says of its instance; none: there is no status here.
pub(super) fn outcome(headers: &HeaderMap) -> Option<Outcome> {
    use tonic::Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
    let code = tonic::Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    // As Envoy counts them: what HTTP would call 5xx.
    let failed = matches!(code, Unknown | DeadlineExceeded | Internal | Unavailable | DataLoss);
    Some(if failed { Outcome::Failure } else { Outcome::Success })
}
