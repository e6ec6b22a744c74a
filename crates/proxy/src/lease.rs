//! A call that was begun at an instance, until it has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bramah_balance::{Call, Outcome, Time};

use crate::endpoint::Endpoint;
use crate::response_body::AnswerFault;
use crate::worker::Worker;

/// A call at an instance. Dropped before its end, it was given up by the client.
#[derive(Debug)]
pub(crate) struct Lease {
    call: Option<Call>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) worker: Arc<Worker>,
    /// When the answer began: a stream's latency is how long one waits for its beginning.
    answered: Option<Time>,
}

impl Lease {
    pub(crate) fn new(call: Call, endpoint: Arc<Endpoint>, worker: Arc<Worker>) -> Self {
        endpoint.of(&worker).counts.calls.fetch_add(1, Relaxed);
        Lease { call: Some(call), endpoint, worker, answered: None }
    }

    /// The answer has begun.
    pub(crate) fn answered(&mut self) {
        let now = self.worker.clock().now();
        self.answered = Some(now);
        if let Some(call) = &self.call {
            self.endpoint.of(&self.worker).counts.latency.note(now.since(call.begun_at()));
        }
    }

    /// The answer broke off.
    pub(crate) fn broken(self, fault: &AnswerFault) {
        self.worker.counts().broken_answers.fetch_add(1, Relaxed);
        tracing::debug!(instance = %self.endpoint.id, address = %self.endpoint.address, %fault, "an answer broke off");
        self.end(Outcome::Failure);
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(call) = self.call.take() else { return };
        if outcome == Outcome::Failure {
            self.endpoint.of(&self.worker).counts.failures.fetch_add(1, Relaxed);
        }
        let ended = self.answered.unwrap_or_else(|| self.worker.clock().now());
        call.end(ended, outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.finish(Outcome::Cancelled);
    }
}
