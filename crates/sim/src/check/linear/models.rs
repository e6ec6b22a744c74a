//! What a file and a counter do when nobody else is there: spec N-6, N-8 and K-1 in a few lines.

use super::search::{Interval, Model};
use crate::history::{Answer, Call, Contents, Refusal};

/// A file: written whole, compared and swapped by its generation, deleted. It starts missing.
///
/// Each change has a revision of the cell, later changes a greater one; in between are those of other keys.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Generations begin again after a deletion; without one they only grow.
    deletions: bool,
}

/// What a [`File`] is at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    /// Contents and generation.
    file: Option<(Contents, u64)>,
    /// The revision of the last change; or the least it can be, if nobody was told.
    revision: u64,
    /// It is that revision. Of a file that is missing nobody is ever told, so it is `false`.
    told: bool,
}

impl Held {
    fn generation(&self) -> u64 {
        self.file.as_ref().map_or(0, |(_, generation)| *generation)
    }

    /// After a change whose revision this is, if it was told.
    fn change(&self, file: Option<(Contents, u64)>, revision: Option<u64>) -> Option<Held> {
        let told = revision.is_some() && file.is_some();
        let revision = revision.unwrap_or(self.revision + 1);
        (revision > self.revision).then_some(Held { file, revision, told })
    }

    fn get(&self, answer: Option<&Answer>) -> Option<Held> {
        match (answer, &self.file) {
            (None, _) | (Some(Answer::Refused(Refusal::NotFound)), None) => Some(self.clone()),
            (Some(Answer::Contents { contents, generation, revision }), Some((held, now))) => {
                let of_revision =
                    if self.told { *revision == self.revision } else { *revision >= self.revision };
                (contents == held && generation == now && of_revision).then(|| Held {
                    revision: *revision,
                    told: true,
                    ..self.clone()
                })
            }
            _ => None,
        }
    }

    fn set(&self, contents: &Contents, if_generation: Option<u64>, answer: Option<&Answer>) -> Option<Held> {
        let now = self.generation();
        if if_generation.is_some_and(|wanted| wanted != now) {
            let exists = is_refusal(answer, |refusal| *refusal == Refusal::Exists);
            let refused = (if_generation == Some(0) && exists) || tells_generation(now, answer);
            return refused.then(|| self.clone());
        }
        let revision = match answer {
            Some(Answer::Written { generation, revision, created })
                if *generation == now + 1 && *created == (now == 0) =>
            {
                Some(*revision)
            }
            Some(_) => return None,
            None => None,
        };
        self.change(Some((contents.clone(), now + 1)), revision)
    }

    fn delete(&self, if_generation: Option<u64>, answer: Option<&Answer>) -> Option<Held> {
        let now = self.generation();
        if now == 0 {
            return is_refusal(answer, |refusal| *refusal == Refusal::NotFound).then(|| self.clone());
        }
        if if_generation.is_some_and(|wanted| wanted != now) {
            return tells_generation(now, answer).then(|| self.clone());
        }
        match answer {
            Some(Answer::Deleted { revision }) => self.change(None, Some(*revision)),
            Some(_) => None,
            None => self.change(None, None),
        }
    }
}

impl File {
    /// For these operations, and no others.
    #[must_use]
    pub fn of(intervals: &[Interval]) -> Self {
        Self { deletions: intervals.iter().any(|interval| matches!(interval.call, Call::Delete { .. })) }
    }
}

impl Model for File {
    type State = Held;

    fn initial(&self) -> Held {
        Held::default()
    }

    fn step(&self, state: &Held, call: &Call, answer: Option<&Answer>) -> Option<Held> {
        match call {
            Call::Get => state.get(answer),
            Call::Set { contents, if_generation } => state.set(contents, *if_generation, answer),
            Call::Delete { if_generation } => state.delete(*if_generation, answer),
            Call::Add { .. } | Call::Read => None,
        }
    }

    fn within_reach(&self, state: &Held, _: &Call, answer: Option<&Answer>) -> bool {
        let (generation, revision) = match answer {
            Some(Answer::Contents { generation, revision, .. }) => (*generation, *revision),
            Some(Answer::Written { generation, revision, .. }) => {
                (generation.saturating_sub(1), revision.saturating_sub(1))
            }
            Some(Answer::Deleted { revision }) => (u64::MAX, revision.saturating_sub(1)),
            Some(Answer::Refused(Refusal::GenerationDiffers { current: Some(current) })) => {
                (*current, u64::MAX)
            }
            Some(Answer::Refused(Refusal::NotFound)) => (0, u64::MAX),
            _ => return true,
        };
        state.revision <= revision && (self.deletions || state.generation() <= generation)
    }

    fn covers(&self, call: &Call, conditional: &Call) -> bool {
        match (call, conditional) {
            (
                Call::Set { contents, if_generation: None },
                Call::Set { contents: same, if_generation: Some(_) },
            ) => contents == same,
            (Call::Delete { if_generation: None }, Call::Delete { if_generation: Some(_) }) => true,
            _ => false,
        }
    }

    fn describe(&self, state: &Held) -> String {
        let Held { file, revision, told } = state;
        let least = if *told { "" } else { "at least " };
        match file {
            None => "no file".to_owned(),
            Some((contents, generation)) => {
                format!("{contents}, generation {generation}, revision {least}{revision}")
            }
        }
    }
}

fn tells_generation(now: u64, answer: Option<&Answer>) -> bool {
    is_refusal(answer, |refusal| match refusal {
        Refusal::GenerationDiffers { current } => current.is_none_or(|current| current == now),
        _ => false,
    })
}

/// Whether the answer is such a refusal, or is not known.
fn is_refusal(answer: Option<&Answer>, such: impl FnOnce(&Refusal) -> bool) -> bool {
    match answer {
        Some(Answer::Refused(refusal)) => such(refusal),
        Some(_) => false,
        None => true,
    }
}

/// A counter: added to, read. It starts missing, and the first addition makes it.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// Nothing is ever taken away.
    only_grows: bool,
}

impl Counter {
    /// For these operations, and no others.
    #[must_use]
    pub fn of(intervals: &[Interval]) -> Self {
        let takes = |interval: &Interval| matches!(interval.call, Call::Add { delta } if delta < 0);
        Self { only_grows: !intervals.iter().any(takes) }
    }
}

impl Model for Counter {
    type State = Option<i64>;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, call: &Call, answer: Option<&Answer>) -> Option<Option<i64>> {
        match call {
            Call::Add { delta } => match state.unwrap_or(0).checked_add(*delta) {
                Some(sum) => is_value(answer, sum).then_some(Some(sum)),
                None => is_refusal(answer, |refusal| out_of_range(refusal, *state)).then_some(*state),
            },
            Call::Read => match state {
                Some(value) => is_value(answer, *value).then_some(*state),
                None => is_refusal(answer, |refusal| *refusal == Refusal::NotFound).then_some(None),
            },
            Call::Get | Call::Set { .. } | Call::Delete { .. } => None,
        }
    }

    fn within_reach(&self, state: &Option<i64>, call: &Call, answer: Option<&Answer>) -> bool {
        let needed = match (call, answer) {
            (Call::Read, Some(Answer::Value { value })) => *value,
            (Call::Add { delta }, Some(Answer::Value { value })) => value.saturating_sub(*delta),
            (_, Some(Answer::Refused(Refusal::NotFound))) => return state.is_none(),
            _ => return true,
        };
        !self.only_grows || state.is_none_or(|now| now <= needed)
    }

    fn describe(&self, state: &Option<i64>) -> String {
        state.map_or_else(|| "no counter".to_owned(), |value| format!("value {value}"))
    }
}

fn is_value(answer: Option<&Answer>, value: i64) -> bool {
    answer.is_none_or(|answer| *answer == Answer::Value { value })
}

fn out_of_range(refusal: &Refusal, state: Option<i64>) -> bool {
    match refusal {
        Refusal::OutOfRange { current } => current.is_none_or(|current| current == state.unwrap_or(0)),
        _ => false,
    }
}
