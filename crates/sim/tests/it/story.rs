//! Histories told by hand.

use bramah_sim::history::{Answer, Call, History, Operation, Outcome, Refusal};

/// A history under construction. Times are in nanoseconds.
#[derive(Default)]
pub(crate) struct Story(History);

impl Story {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One more operation: by `client`, from `times.0` to `times.1`.
    pub(crate) fn then(
        mut self,
        client: u32,
        times: (u64, u64),
        key: &str,
        call: Call,
        outcome: impl Into<Outcome>,
    ) -> Self {
        let (key, outcome) = (key.into(), outcome.into());
        let (invoked, returned) = (times.0, Some(times.1));
        self.0.operations.push(Operation { client, key, invoked, returned, call, outcome });
        self
    }

    pub(crate) fn history(self) -> History {
        self.0
    }
}

pub(crate) fn written(generation: u64) -> Outcome {
    Outcome::Answered(Answer::Written { generation, revision: generation, created: generation == 1 })
}

pub(crate) fn contents(contents: &str, generation: u64) -> Outcome {
    Outcome::Answered(Answer::Contents { contents: contents.into(), generation, revision: generation })
}

pub(crate) fn deleted(at: u64) -> Outcome {
    Outcome::Answered(Answer::Deleted { revision: at })
}

/// The same outcome at another revision; without this, revisions are as generations.
pub(crate) fn at(at: u64, mut outcome: Outcome) -> Outcome {
    if let Outcome::Answered(Answer::Written { revision, .. } | Answer::Contents { revision, .. }) =
        &mut outcome
    {
        *revision = at;
    }
    outcome
}

pub(crate) fn value(value: i64) -> Outcome {
    Outcome::Answered(Answer::Value { value })
}

pub(crate) fn refused(refusal: Refusal) -> Outcome {
    Outcome::Answered(Answer::Refused(refusal))
}

pub(crate) fn differs(current: u64) -> Outcome {
    refused(Refusal::GenerationDiffers { current: Some(current) })
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown { why: String::new() }
}

pub(crate) fn not_done() -> Outcome {
    Outcome::NotDone { why: String::new() }
}
