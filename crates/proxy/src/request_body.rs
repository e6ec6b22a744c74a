//! A request's body on its way to an instance: streamed, counted, and the beginning of it kept for another try.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::idle::Idle;

/// Why a request's body didn't come whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body is longer than the limit of this proxy; send less")]
    TooLong,
    #[error("nothing of the body came for too long")]
    Idle,
    #[error("the client broke the body off, or its framing is wrong")]
    Broken,
    #[error("the body is being sent to another instance")]
    Superseded,
}

/// What a client sends, read by one try after another.
#[derive(Debug)]
pub(crate) struct Source {
    incoming: Incoming,
    /// Frames that tries have had; small, or emptied.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    most_kept: usize,
    replayable: bool,
    received: u64,
    longest: u64,
    ended: bool,
    /// A try waits for the client.
    waits: bool,
    /// The try that reads; one that was given up must not take any more.
    reader: u32,
    fault: Option<BodyFault>,
    idle: Idle,
}

/// How much of a body is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) longest: u64,
    pub(crate) kept: usize,
    pub(crate) idle: Duration,
}

impl Source {
    /// `None` if there is no body.
    pub(crate) fn of(incoming: Incoming, limits: BodyLimits) -> Option<Arc<Mutex<Source>>> {
        if incoming.is_end_stream() {
            return None;
        }
        Some(Arc::new(Mutex::new(Source {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            most_kept: limits.kept,
            replayable: limits.kept > 0,
            received: 0,
            longest: limits.longest,
            ended: false,
            waits: false,
            reader: 0,
            fault: None,
            idle: Idle::new(limits.idle),
        })))
    }

    /// Whether another try can have the body from its beginning.
    pub(crate) fn can_replay(&self) -> bool {
        self.fault.is_none() && (self.replayable || self.received == 0)
    }

    /// An answer has begun: there is no other try.
    pub(crate) fn keep_no_more(&mut self) {
        self.replayable = false;
        self.kept = Vec::new();
    }

    /// Why the body failed, if that was not the instance's fault.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        self.fault
    }

    /// When something of it moved last, if it has not ended.
    pub(crate) fn moving_since(&self) -> Option<Instant> {
        (!self.ended).then(|| self.idle.moved_at())
    }

    /// The request's time is over. It is the client's fault if the rest of the body is missing.
    pub(crate) fn blame_client(&mut self) {
        if self.waits && !self.ended {
            self.fault = Some(BodyFault::Idle);
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.replayable {
            self.kept_bytes += data.len();
            self.replayable = self.kept_bytes <= self.most_kept;
            if self.replayable {
                self.kept.push(data.clone());
            } else {
                self.kept = Vec::new();
            }
        }
    }

    fn failed(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.fault = Some(fault);
        Poll::Ready(Some(Err(fault)))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.waits = polled.is_pending();
        let Poll::Ready(frame) = polled else {
            ready!(self.idle.poll(cx));
            return self.failed(BodyFault::Idle);
        };
        self.idle.moved();
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.received = self.received.saturating_add(data.len() as u64);
                    if self.received > self.longest {
                        return self.failed(BodyFault::TooLong);
                    }
                    self.keep(data);
                } else {
                    // Trailers are rare, and a body that has some is sent once.
                    self.keep_no_more();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => self.failed(BodyFault::Broken),
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

/// The body of one try.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Of { source: Arc<Mutex<Source>>, reader: u32, position: usize, length: SizeHint },
}

impl RequestBody {
    /// From the beginning, for the next try.
    pub(crate) fn of(source: Option<&Arc<Mutex<Source>>>) -> Self {
        let Some(source) = source else { return RequestBody::Empty };
        let mut locked = source.lock();
        locked.reader += 1;
        let length = if locked.received == 0 { locked.incoming.size_hint() } else { SizeHint::default() };
        RequestBody::Of { source: Arc::clone(source), reader: locked.reader, position: 0, length }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let RequestBody::Of { source, reader, position, .. } = self.get_mut() else {
            return Poll::Ready(None);
        };
        let mut source = source.lock();
        if source.reader != *reader {
            return Poll::Ready(Some(Err(BodyFault::Superseded)));
        }
        if let Some(kept) = source.kept.get(*position) {
            *position += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let frame = source.poll_next(cx);
        *position = source.kept.len();
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Of { source, position, reader, .. } => {
                let source = source.lock();
                source.reader == *reader
                    && *position >= source.kept.len()
                    && (source.ended || source.fault.is_none() && source.incoming.is_end_stream())
            }
        }
    }

    /// What the client announced, as long as nothing was read; a header says it anyhow.
    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Of { position: 0, length, .. } => *length,
            RequestBody::Of { .. } => SizeHint::default(),
        }
    }
}
