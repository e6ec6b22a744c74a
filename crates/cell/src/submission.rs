//! What a front hands to the cell: encoded requests that are answered together, by a call back.

use bramah_machine::{BatchError, Identity, Outcome, Request, append_to_run};
use bytes::Bytes;
use tokio::time::Instant;

use crate::error::ProposeError;

/// Called once with an outcome for each request, in their order, or with what kept them all from one. It
/// runs on the thread of consensus: it must not block.
pub type Done = Box<dyn FnOnce(Result<Vec<Outcome>, ProposeError>) + Send>;

/// Requests that go into one log entry together.
pub struct Submission {
    /// `u32` length and encoded request, again and again: what a log entry holds.
    pub(crate) requests: Bytes,
    pub(crate) count: u32,
    /// Every request says who it is from, so proposing it twice is safe (spec S-6).
    pub(crate) retriable: bool,
    /// It came from another replica, which wants to hear at once if this one does not lead.
    pub(crate) forwarded: bool,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Instant,
    pub(crate) done: Done,
}

impl Submission {
    /// Ends it without outcomes.
    pub(crate) fn fail(self, error: ProposeError) {
        (self.done)(Err(error));
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
            submitted: Instant::now(),
            deadline,
            done,
        }
    }
}
