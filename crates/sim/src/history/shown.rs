//! Operations as people read them in the report of an anomaly.

use std::fmt::{Display, Formatter, Result};

use super::{Answer, Call, Contents, Operation, Outcome, Refusal};

/// A time in nanoseconds, in seconds with all its digits, because they decide what overlaps.
pub(crate) struct Seconds(pub(crate) u64);

impl Display for Seconds {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        write!(formatter, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl Display for Operation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let Self { client, invoked, returned, call, outcome, .. } = self;
        write!(formatter, "[{} … ", Seconds(*invoked))?;
        match returned {
            Some(returned) => write!(formatter, "{}] ", Seconds(*returned))?,
            None => formatter.write_str("no end seen] ")?,
        }
        write!(formatter, "client {client}: {call} → {outcome}")
    }
}

impl Display for Call {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Get => formatter.write_str("get"),
            Self::Set { contents, if_generation: None } => write!(formatter, "set {contents}"),
            Self::Set { contents, if_generation: Some(0) } => write!(formatter, "create {contents}"),
            Self::Set { contents, if_generation: Some(generation) } => {
                write!(formatter, "set {contents} if generation {generation}")
            }
            Self::Delete { if_generation: None } => formatter.write_str("delete"),
            Self::Delete { if_generation: Some(generation) } => {
                write!(formatter, "delete if generation {generation}")
            }
            Self::Add { delta } => write!(formatter, "add {delta}"),
            Self::Read => formatter.write_str("read"),
        }
    }
}

impl Display for Contents {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        write!(formatter, "{:?}", self.0)
    }
}

impl Display for Outcome {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Answered(answer) => answer.fmt(formatter),
            Self::NotDone { why } => write!(formatter, "not done ({why})"),
            Self::Unknown { why } => write!(formatter, "unknown ({why})"),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Contents { contents, generation, revision } => {
                write!(formatter, "{contents}, generation {generation}, revision {revision}")
            }
            Self::Written { generation, revision, created } => {
                let what = if *created { "created" } else { "written" };
                write!(formatter, "{what}, generation {generation}, revision {revision}")
            }
            Self::Deleted { revision } => write!(formatter, "deleted, revision {revision}"),
            Self::Value { value } => write!(formatter, "value {value}"),
            Self::Refused(refusal) => write!(formatter, "refused: {refusal}"),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::NotFound => formatter.write_str("not found"),
            Self::Exists => formatter.write_str("exists"),
            Self::GenerationDiffers { current: Some(current) } => {
                write!(formatter, "the generation is {current}")
            }
            Self::GenerationDiffers { current: None } => formatter.write_str("the generation differs"),
            Self::OutOfRange { current: Some(current) } => write!(formatter, "out of range from {current}"),
            Self::OutOfRange { current: None } => formatter.write_str("out of range"),
            Self::Unexpected { error } => write!(formatter, "unexpectedly: {error}"),
        }
    }
}
