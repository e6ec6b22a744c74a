//! What a balanced service has to know of the protocol that it carries.

use std::time::Duration;

use bramah_balance::{Call, Outcome};
use tower::Service;

use super::slot::Clock;
use super::snapshot::Registered;

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the service that speaks to one instance, and judges how calls end.
///
/// Only [`Connector::connect`] is required. With the defaults each answer is a success, each error a failure, and no call is
/// made twice that may have been sent.
pub trait Connector<Request>: Send + Sync + 'static {
    /// Speaks to one instance.
    type Service: Service<Request, Response = Self::Response, Error = Self::Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static;
    /// What it answers.
    type Response: Send + 'static;
    /// What it fails with.
    type Error: Into<BoxError> + Send + 'static;

    /// Connects to an instance: at its first call, and again when its service is [not alive](Connector::is_alive) any more.
    fn connect(
        &self,
        instance: &Registered,
    ) -> impl Future<Output = Result<Self::Service, BoxError>> + Send + 'static;

    /// Whether a service can still be used. One that can't is made anew.
    fn is_alive(&self, _service: &Self::Service) -> bool {
        true
    }

    /// A copy of a request for another try; none: it can't be copied.
    fn copy(&self, _request: &Request) -> Option<Request> {
        None
    }

    /// Whether the caller allows that this request is done twice.
    fn may_repeat(&self, _request: &Request) -> bool {
        false
    }

    /// What the call is about, for policies that send the same key to the same instance.
    fn key(&self, _request: &Request) -> Option<u64> {
        None
    }

    /// How long the call may take as its caller says; else it is the setting.
    fn allowed(&self, _request: &Request) -> Option<Duration> {
        None
    }

    /// The request, if this error says that it was not sent. Then it is safe to send it elsewhere.
    ///
    /// # Errors
    /// The error, if it may have been sent.
    fn unsent(&self, error: Self::Error) -> Result<Request, Self::Error> {
        Err(error)
    }

    /// Whether this error says that the instance has not begun to do what was asked.
    fn was_refused(&self, _error: &Self::Error) -> bool {
        false
    }

    /// What an answer says of its instance.
    fn judge(&self, _response: &Self::Response) -> Verdict {
        Verdict::Well
    }

    /// Passes on an answer. The call is in flight until `call` is ended or dropped: give it to a body that is still to come.
    fn finish(&self, response: Self::Response, call: InFlight) -> Self::Response {
        call.end(Outcome::Success);
        response
    }
}

/// What an answer says of its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing bad.
    Well,
    /// It failed; another may do better.
    Failed,
}

/// A call that an instance is busy with. Dropping it says that the caller lost interest.
#[derive(Debug)]
pub struct InFlight {
    call: Option<Call>,
    clock: Clock,
}

impl InFlight {
    pub(super) fn new(call: Call, clock: Clock) -> Self {
        Self { call: Some(call), clock }
    }

    /// The call ended.
    pub fn end(mut self, outcome: Outcome) {
        if let Some(call) = self.call.take() {
            call.end(self.clock.now(), outcome);
        }
    }

    /// It was never made.
    pub(super) fn forget(mut self) {
        self.call.take();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end(self.clock.now(), Outcome::Cancelled);
        }
    }
}
