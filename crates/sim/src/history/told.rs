//! From what the client library returns to what a history says: the one place where that is decided.

use bramah_client::{Deleted, Error, File, Written};

use super::{Answer, Contents, Outcome, Refusal};

impl From<Result<Written, Error>> for Outcome {
    fn from(result: Result<Written, Error>) -> Self {
        told(result, |Written { generation, revision, created, .. }| Answer::Written {
            generation,
            revision,
            created,
        })
    }
}

impl From<Result<File, Error>> for Outcome {
    fn from(result: Result<File, Error>) -> Self {
        told(result, |file| Answer::Contents {
            contents: Contents::of(&file.contents),
            generation: file.stat.content_generation,
            revision: file.stat.modified_revision,
        })
    }
}

impl From<Result<Deleted, Error>> for Outcome {
    fn from(result: Result<Deleted, Error>) -> Self {
        told(result, |Deleted { revision, .. }| Answer::Deleted { revision })
    }
}

impl From<Result<i64, Error>> for Outcome {
    fn from(result: Result<i64, Error>) -> Self {
        told(result, |value| Answer::Value { value })
    }
}

fn told<T>(result: Result<T, Error>, answer: impl FnOnce(T) -> Answer) -> Outcome {
    result.map_or_else(Outcome::from, |done| Outcome::Answered(answer(done)))
}

impl From<Error> for Outcome {
    /// A refusal that lies in the state is an answer; of the rest, the error itself says whether the call may have been done.
    /// What the client library calls a fault of the cell is an answer that the judges never accept.
    fn from(error: Error) -> Self {
        if let Error::Internal { message, .. } = &error {
            let error = format!("a fault of the cell: {message}");
            return Self::Answered(Answer::Refused(Refusal::Unexpected { error }));
        }
        if error.may_have_been_done() {
            return Self::Unknown { why: error.to_string() };
        }
        match refusal(&error) {
            Some(refusal) => Self::Answered(Answer::Refused(refusal)),
            None => Self::NotDone { why: error.to_string() },
        }
    }
}

fn refusal(error: &Error) -> Option<Refusal> {
    Some(match error {
        Error::NotFound { .. } => Refusal::NotFound,
        Error::AlreadyExists { .. } => Refusal::Exists,
        Error::GenerationMismatch { current, .. } => Refusal::GenerationDiffers { current: *current },
        Error::OutOfRange { current, .. } => Refusal::OutOfRange { current: *current },
        Error::InvalidArgument { .. }
        | Error::WrongKind { .. }
        | Error::NotEmpty { .. }
        | Error::ValueMismatch { .. }
        | Error::TooLarge { .. } => Refusal::Unexpected { error: error.to_string() },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(error: Error) -> Outcome {
        Outcome::from(Err::<i64, _>(error))
    }

    fn deadline(may_have_been_done: bool) -> Error {
        Error::DeadlineExceeded { message: "late".to_owned(), may_have_been_done }
    }

    #[test]
    fn keeps_what_may_have_been_done_from_what_was_not() {
        assert_eq!(outcome(deadline(true)), Outcome::Unknown { why: "late".to_owned() });
        assert_eq!(outcome(deadline(false)), Outcome::NotDone { why: "late".to_owned() });
        let copy = Error::StaleDuplicate { message: "done long ago".to_owned() };
        assert_eq!(outcome(copy), Outcome::Unknown { why: "done long ago".to_owned() });
    }

    #[test]
    fn takes_refusals_by_the_state_for_answers() {
        let message = || "a refusal".to_owned();
        let refused = |refusal| Outcome::Answered(Answer::Refused(refusal));
        assert_eq!(outcome(Error::NotFound { message: message() }), refused(Refusal::NotFound));
        let differs = Error::GenerationMismatch { message: message(), current: Some(3) };
        assert_eq!(outcome(differs), refused(Refusal::GenerationDiffers { current: Some(3) }));
        let kind = Error::WrongKind { message: message() };
        assert_eq!(outcome(kind), refused(Refusal::Unexpected { error: message() }));
    }

    /// Whether it may have been done or not: the judges look no further.
    #[test]
    fn takes_a_fault_of_the_cell_for_an_answer_that_none_accepts() {
        for may_have_been_done in [true, false] {
            let fault = Error::Internal { message: "no answer".to_owned(), may_have_been_done };
            let error = "a fault of the cell: no answer".to_owned();
            assert_eq!(outcome(fault), Outcome::Answered(Answer::Refused(Refusal::Unexpected { error })));
        }
    }
}
