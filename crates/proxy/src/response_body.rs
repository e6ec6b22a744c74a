//! An answer's body on its way to the client: streamed, and told to the balancer when it ends, however it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bramah_balance::Outcome;
use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::endpoint::Carrier;
use crate::exchange::InFlight;
use crate::idle::Idle;
use crate::lease::Lease;
use crate::ledger::{Ledger, Term};

/// Why an answer breaks off. The client's connection, or its stream, breaks with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerFault {
    #[error("the instance broke the answer off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the instance sent nothing of the answer for too long")]
    Idle,
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// The proxy's own words.
    Text(Bytes),
    /// An instance's.
    Relayed(Box<Relayed>),
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) incoming: Incoming,
    /// The call, until it has ended, with what carries it.
    pub(crate) call: Option<(Lease, Carrier)>,
    pub(crate) idle: Idle,
    pub(crate) outcome: Outcome,
    pub(crate) grpc: bool,
    pub(crate) in_flight: InFlight,
    pub(crate) to: Recipient,
}

/// The connection that an answer goes to.
#[derive(Debug)]
pub(crate) enum Recipient {
    /// HTTP/1.1, where an answer that breaks off is seen to.
    Http1,
    /// HTTP/1.0: the client may take the connection's end for the answer's.
    Http10(Arc<Ledger>),
    /// HTTP/2, where each answer waits for its own window.
    Http2 { ledger: Arc<Ledger>, held: Option<Term> },
}

impl Recipient {
    pub(crate) fn new(version: Version, ledger: &Arc<Ledger>) -> Self {
        match version {
            Version::HTTP_2 => Recipient::Http2 { ledger: Arc::clone(ledger), held: Some(ledger.hold(None)) },
            Version::HTTP_10 => {
                ledger.abort(true);
                Recipient::Http10(Arc::clone(ledger))
            }
            _ => Recipient::Http1,
        }
    }

    fn has_something(&mut self, something: bool) {
        if let Recipient::Http2 { ledger, held } = self {
            *held = if something {
                Some(ledger.hold(*held))
            } else {
                ledger.release(*held);
                None
            };
        }
    }

    fn has_all(&self) {
        if let Recipient::Http10(ledger) = self {
            ledger.abort(false);
        }
    }
}

impl Drop for Recipient {
    fn drop(&mut self) {
        self.has_something(false);
    }
}

impl Relayed {
    fn end(&mut self) {
        if let Some((lease, carrier)) = self.call.take() {
            carrier.give_back(&lease);
            lease.end(self.outcome);
        }
        self.in_flight.answered();
        self.to.has_all();
    }

    fn fail(&mut self, fault: AnswerFault) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        if let Some((lease, _carrier)) = self.call.take() {
            lease.broken(&fault);
        }
        self.in_flight.answered();
        Poll::Ready(Some(Err(fault)))
    }
}

/// gRPC says at the end how a call went. Whether an instance is to blame: unknown, internal, unavailable, data loss.
pub(crate) fn is_failure_of_grpc(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status").map(|status| status.as_bytes());
    matches!(status, Some(b"2" | b"13" | b"14" | b"15"))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        let relayed = match self.get_mut() {
            ResponseBody::Text(text) if text.is_empty() => return Poll::Ready(None),
            ResponseBody::Text(text) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            ResponseBody::Relayed(relayed) => relayed,
        };
        let Poll::Ready(frame) = Pin::new(&mut relayed.incoming).poll_frame(cx) else {
            relayed.to.has_something(false);
            ready!(relayed.idle.poll(cx));
            return relayed.fail(AnswerFault::Idle);
        };
        match frame {
            Some(Ok(frame)) => {
                relayed.idle.moved();
                relayed.to.has_something(true);
                if relayed.grpc && frame.trailers_ref().is_some_and(is_failure_of_grpc) {
                    relayed.outcome = Outcome::Failure;
                }
                if relayed.incoming.is_end_stream() {
                    relayed.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => relayed.fail(error.into()),
            None => {
                relayed.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Text(text) => text.is_empty(),
            ResponseBody::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Text(text) => SizeHint::with_exact(text.len() as u64),
            ResponseBody::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

/// A body that nobody polls, for it is empty, ends here; one that was not read to its end was given up by the client.
impl Drop for Relayed {
    fn drop(&mut self) {
        if self.call.is_some() && self.incoming.is_end_stream() {
            self.end();
        }
    }
}
