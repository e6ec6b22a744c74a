//! What a front hands to the cell: encoded requests that are answered together, by a call back.

use bramah_machine::{BatchError, Identity, Outcome, Request, append_to_run};
use bytes::Bytes;
use tokio::time::Instant;

use crate::error::ProposeError;

/// Called once with an outcome for each request, in their order, or with what kept them all from one. It
/// runs on the thread of consensus: it must not block.
pub type Done = Box<dyn FnOnce(Result<Outcomes, ProposeError>) + Send>;

/// What became of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// One for each request, in their order.
    pub list: Vec<Outcome>,
    /// The requests were tried before and that try may have done them: a refusal because the session has
    /// ended is then no proof that nothing was done.
    pub tried_before: bool,
}

/// Requests that go into one log entry together.
pub struct Submission {
    /// `u32` length and encoded request, again and again: what a log entry holds.
    pub(crate) requests: Bytes,
    pub(crate) count: u32,
    /// Every request says who it is from, so proposing it twice is safe (spec S-6).
    pub(crate) retriable: bool,
    /// It came from another replica, which wants to hear at once if this one does not lead.
    pub(crate) forwarded: bool,
    /// The leader's own: it has places that clients can't take.
    pub(crate) own: bool,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Instant,
    /// An earlier try may have done it: its answer was lost.
    pub(crate) tried_before: bool,
    pub(crate) done: Done,
}

impl Submission {
    /// Ends it without outcomes.
    pub(crate) fn fail(self, error: ProposeError) {
        (self.done)(Err(if self.tried_before { error.uncertain() } else { error }));
    }

    /// Ends it with its outcomes.
    pub(crate) fn succeed(self, list: Vec<Outcome>) {
        (self.done)(Ok(Outcomes { list, tried_before: self.tried_before }));
    }

    /// It is going to be tried again, though this try may have done it.
    pub(crate) fn retried(mut self) -> Self {
        self.tried_before = true;
        self
    }
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "submission of {} requests, {} bytes", self.count, self.requests.len())
    }
}

/// Collects requests for a [`Submission`].
#[derive(Debug)]
pub struct Requests {
    encoded: Vec<u8>,
    count: u32,
    retriable: bool,
}

impl Default for Requests {
    fn default() -> Self {
        Self { encoded: Vec::new(), count: 0, retriable: true }
    }
}

impl Requests {
    /// Adds one.
    ///
    /// # Errors
    /// When the request is larger than a log entry may be; nothing is added then.
    pub fn push(&mut self, request: &Request) -> Result<(), BatchError> {
        append_to_run(&mut self.encoded, &request.encode()?)?;
        self.count += 1;
        self.retriable &= !matches!(request.identity, Identity::Anonymous);
        Ok(())
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of them all.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Ready to hand over.
    pub fn submission(self, deadline: Instant, done: Done) -> Submission {
        Submission {
            requests: self.encoded.into(),
            count: self.count,
            retriable: self.retriable,
            forwarded: false,
            own: false,
            submitted: Instant::now(),
            deadline,
            tried_before: false,
            done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn ended(end: impl FnOnce(Submission)) -> Result<Outcomes, ProposeError> {
        let result = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&result);
        let done = Box::new(move |outcomes| *sink.lock().expect("nobody panics") = Some(outcomes));
        end(Requests::default().submission(Instant::now(), done));
        let ended = result.lock().expect("nobody panics").take();
        ended.expect("it was ended")
    }

    /// Spec S-6: what an earlier try may have done is never said to be certainly not done.
    #[test]
    fn a_retried_submission_is_never_certainly_undone() {
        let fresh = ended(|submission| submission.fail(ProposeError::NotLeader));
        assert!(!fresh.expect_err("it failed").may_have_been_done());
        let retried = ended(|submission| submission.retried().fail(ProposeError::NotLeader));
        let error = retried.expect_err("it failed");
        assert!(error.may_have_been_done(), "{error}");
        assert!(error.to_string().contains("earlier try"), "{error}");
        let outcomes = ended(|submission| submission.retried().succeed(Vec::new())).expect("it succeeded");
        assert!(outcomes.tried_before);
    }
}
