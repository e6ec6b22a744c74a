//! What a file and a counter do when nobody else is there: spec N-6, N-8 and K-1 in a few lines.

use super::search::{Interval, Model};
use crate::history::{Answer, Call, Contents, Refusal};

/// A file: written whole, compared and swapped by its generation, deleted. It starts missing.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Generations begin again after a deletion; without one they only grow.
    deletions: bool,
}

/// Contents and generation of a file that is there.
type Contained = Option<(Contents, u64)>;

impl File {
    /// For these operations, and no others.
    #[must_use]
    pub fn of(intervals: &[Interval]) -> Self {
        Self { deletions: intervals.iter().any(|interval| matches!(interval.call, Call::Delete { .. })) }
    }
}

impl Model for File {
    type State = Contained;

    fn initial(&self) -> Contained {
        None
    }

    fn step(&self, state: &Contained, call: &Call, answer: Option<&Answer>) -> Option<Contained> {
        let now = generation(state);
        match call {
            Call::Get => reads(state, answer).then(|| state.clone()),
            Call::Set { if_generation, .. } if if_generation.is_some_and(|wanted| wanted != now) => {
                let exists =
                    *if_generation == Some(0) && is_refusal(answer, |refusal| *refusal == Refusal::Exists);
                (exists || tells_generation(now, answer)).then(|| state.clone())
            }
            Call::Set { contents, .. } => {
                tells_written(now, answer).then(|| Some((contents.clone(), now + 1)))
            }
            Call::Delete { .. } if state.is_none() => {
                is_refusal(answer, |refusal| *refusal == Refusal::NotFound).then(|| state.clone())
            }
            Call::Delete { if_generation } if if_generation.is_some_and(|wanted| wanted != now) => {
                tells_generation(now, answer).then(|| state.clone())
            }
            Call::Delete { .. } => matches!(answer, None | Some(Answer::Deleted { .. })).then_some(None),
            Call::Add { .. } | Call::Read => None,
        }
    }

    fn within_reach(&self, state: &Contained, _: &Call, answer: Option<&Answer>) -> bool {
        let now = generation(state);
        let needed = match answer {
            Some(Answer::Contents { generation, .. }) => *generation,
            Some(Answer::Written { generation, .. }) => generation.saturating_sub(1),
            Some(Answer::Refused(Refusal::GenerationDiffers { current: Some(current) })) => *current,
            Some(Answer::Refused(Refusal::NotFound)) => 0,
            _ => return true,
        };
        self.deletions || now <= needed
    }

    fn describe(&self, state: &Contained) -> String {
        match state {
            None => "no file".to_owned(),
            Some((contents, generation)) => format!("{contents}, generation {generation}"),
        }
    }
}

fn generation(state: &Contained) -> u64 {
    state.as_ref().map_or(0, |(_, generation)| *generation)
}

fn reads(state: &Contained, answer: Option<&Answer>) -> bool {
    match (answer, state) {
        (Some(Answer::Contents { contents, generation, .. }), Some((held, now))) => {
            contents == held && generation == now
        }
        (Some(Answer::Refused(Refusal::NotFound)), None) | (None, _) => true,
        _ => false,
    }
}

fn tells_written(now: u64, answer: Option<&Answer>) -> bool {
    match answer {
        Some(Answer::Written { generation, created, .. }) => *generation == now + 1 && *created == (now == 0),
        Some(_) => false,
        None => true,
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
