//! `Increment` and `ResetCounter`: counters that many callers move at once without conflict (spec K-1 to K-3).

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::outcome::RangeLimit;
use crate::tree::{Birth, Kind, Tree};
use crate::{Answer, Change, Event, NodeKind, Outcome, Path, Refusal};

/// Adds `delta` to a counter and answers the new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Increment {
    /// The counter.
    pub path: Path,
    /// What to add; may be negative.
    pub delta: i64,
    /// Make the counter, at zero, if it is not there (missing ancestors too).
    pub create: bool,
    /// Refuse a result below this.
    pub floor: Option<i64>,
    /// Refuse a result above this.
    pub ceiling: Option<i64>,
}

/// Sets a counter to `value`, if it now holds `expect` (or whatever it holds).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetCounter {
    /// The counter.
    pub path: Path,
    /// Its new value.
    pub value: i64,
    /// Compare: the value it must hold now.
    pub expect: Option<i64>,
    /// Make the counter if it is not there (missing ancestors too); never when `expect` is given.
    pub create: bool,
}

impl Increment {
    pub(crate) fn apply(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        self.check()?;
        let Some(node) = tree.nodes.get_mut(&self.path) else {
            return self.create(tree, events);
        };
        let Kind::Counter(current) = node.kind else {
            return Err(node.wrong_kind(&self.path, NodeKind::Counter));
        };
        let value = self.added_to(current)?;
        let revision = tree.revisions.stamp();
        Arc::make_mut(node).hold(Kind::Counter(value), revision);
        Ok(changed(self.path, value, revision, events))
    }

    fn check(&self) -> Result<(), Refusal> {
        match (self.floor, self.ceiling) {
            (Some(floor), Some(ceiling)) if floor > ceiling => Err(Refusal::invalid(format!(
                "the floor {floor} is above the ceiling {ceiling}; no value fits"
            ))),
            _ => Ok(()),
        }
    }

    fn create(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        if !self.create {
            return Err(Refusal::NotFound { path: self.path });
        }
        let value = self.added_to(0)?;
        let revision = tree.create(self.path, Kind::Counter(value), true, Birth::default(), events)?;
        Ok(Answer::Counter { value, revision })
    }

    fn added_to(&self, current: i64) -> Result<i64, Refusal> {
        let out_of =
            |limit| Refusal::OutOfRange { path: self.path.clone(), current, delta: self.delta, limit };
        let value = current.checked_add(self.delta).ok_or_else(|| out_of(RangeLimit::Overflow))?;
        match (self.floor, self.ceiling) {
            (Some(floor), _) if value < floor => Err(out_of(RangeLimit::Floor(floor))),
            (_, Some(ceiling)) if value > ceiling => Err(out_of(RangeLimit::Ceiling(ceiling))),
            _ => Ok(value),
        }
    }
}

impl ResetCounter {
    pub(crate) fn apply(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        let Some(node) = tree.nodes.get_mut(&self.path) else {
            return self.create(tree, events);
        };
        let Kind::Counter(current) = node.kind else {
            return Err(node.wrong_kind(&self.path, NodeKind::Counter));
        };
        if self.expect.is_some_and(|expected| expected != current) {
            return Err(Refusal::ValueMismatch { path: self.path, current });
        }
        let revision = tree.revisions.stamp();
        Arc::make_mut(node).hold(Kind::Counter(self.value), revision);
        Ok(changed(self.path, self.value, revision, events))
    }

    fn create(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        if !self.create || self.expect.is_some() {
            return Err(Refusal::NotFound { path: self.path });
        }
        let revision = tree.create(self.path, Kind::Counter(self.value), true, Birth::default(), events)?;
        Ok(Answer::Counter { value: self.value, revision })
    }
}

fn changed(path: Path, value: i64, revision: u64, events: &mut Vec<Event>) -> Answer {
    events.push(Event { revision, path, change: Change::CounterChanged { value } });
    Answer::Counter { value, revision }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::testing::*;

    fn bounded(delta: i64, floor: Option<i64>, ceiling: Option<i64>) -> Command {
        Command::Increment(Increment { path: path("/n"), delta, create: true, floor, ceiling })
    }

    /// Spec K-1: an increment answers the new value, makes the counter and its ancestors if asked to, and
    /// may go down.
    #[test]
    fn counts_up_and_down() {
        let mut cell = Cell::new();
        assert_eq!(cell.run(increment("/a/b/n", 5)), counted(5, 1));
        assert_eq!(cell.run(increment("/a/b/n", -7)), counted(-2, 2));
        assert_eq!(cell.run(increment("/a/b/n", 0)), counted(-2, 3));
        assert_eq!(cell.state.get_counter(&path("/a/b/n")), Ok((-2, 3)));
        let changes: Vec<_> = cell.events.iter().skip(2).map(|event| event.change.clone()).collect();
        assert_eq!(
            changes,
            [
                Change::Created { kind: NodeKind::Counter },
                Change::CounterChanged { value: -2 },
                Change::CounterChanged { value: -2 },
            ]
        );
        assert_eq!(cell.state.stat(&path("/a/b/n")).unwrap().content_generation, 3);
    }

    #[test]
    fn refuses_a_missing_counter_unless_asked_to_make_it() {
        let mut cell = Cell::new();
        let command = Increment { path: path("/n"), delta: 1, create: false, floor: None, ceiling: None };
        assert_eq!(cell.refused(Command::Increment(command)), Refusal::NotFound { path: path("/n") });
        let command = ResetCounter { path: path("/n"), value: 1, expect: None, create: false };
        assert_eq!(cell.refused(Command::ResetCounter(command)), Refusal::NotFound { path: path("/n") });
        assert_eq!(cell.refused(reset("/n", 1, Some(0))), Refusal::NotFound { path: path("/n") });
    }

    /// Spec K-1: overflow is refused and nothing changes.
    #[test]
    fn refuses_overflow() {
        let mut cell = Cell::new();
        let limit = RangeLimit::Overflow;
        for (start, delta) in [(i64::MAX, 1), (i64::MIN, -1), (-2, i64::MIN)] {
            cell.run(reset("/n", start, None)).unwrap();
            let refusal = Refusal::OutOfRange { path: path("/n"), current: start, delta, limit };
            assert_eq!(cell.refused(increment("/n", delta)), refusal);
            assert_eq!(cell.value("/n"), start);
        }
    }

    /// Spec K-1: floor and ceiling are inclusive; past them nothing changes, a missing counter stays missing.
    #[test]
    fn keeps_to_floor_and_ceiling() {
        let mut cell = Cell::new();
        let out_of = |current, delta, limit| Refusal::OutOfRange { path: path("/n"), current, delta, limit };
        assert_eq!(cell.refused(bounded(3, None, Some(2))), out_of(0, 3, RangeLimit::Ceiling(2)));
        assert_eq!(cell.run(bounded(2, Some(-1), Some(2))), counted(2, 1));
        assert_eq!(cell.refused(bounded(1, Some(-1), Some(2))), out_of(2, 1, RangeLimit::Ceiling(2)));
        assert_eq!(cell.run(bounded(-3, Some(-1), Some(2))), counted(-1, 2));
        assert_eq!(cell.refused(bounded(-1, Some(-1), Some(2))), out_of(-1, -1, RangeLimit::Floor(-1)));
        assert!(matches!(cell.refused(bounded(0, Some(1), Some(0))), Refusal::InvalidArgument { .. }));
    }

    /// Spec K-1: reset with compare.
    #[test]
    fn resets_to_a_value_if_it_holds_the_one_expected() {
        let mut cell = Cell::new();
        assert_eq!(cell.run(reset("/a/n", 9, None)), counted(9, 1));
        assert_eq!(
            cell.refused(reset("/a/n", 1, Some(8))),
            Refusal::ValueMismatch { path: path("/a/n"), current: 9 }
        );
        assert_eq!(cell.run(reset("/a/n", 1, Some(9))), counted(1, 2));
        assert_eq!(cell.value("/a/n"), 1);
    }

    #[test]
    fn refuses_other_kinds() {
        let mut cell = Cell::with(&["/d"]);
        cell.run(set("/f", "x")).unwrap();
        for (text, is) in [("/d", NodeKind::Directory), ("/f", NodeKind::File), ("/", NodeKind::Directory)] {
            let refusal = Refusal::WrongKind { path: path(text), is, wanted: NodeKind::Counter };
            assert_eq!(cell.refused(increment(text, 1)), refusal);
            assert_eq!(cell.refused(reset(text, 1, None)), refusal);
            assert_eq!(cell.state.get_counter(&path(text)), Err(refusal));
        }
    }

    /// Spec K-3: increments carry no condition, so thousands of one batch all succeed, each with its own value.
    #[test]
    fn thousands_in_one_batch_don_t_conflict() {
        let mut cell = Cell::new();
        let request = crate::Request { identity: crate::Identity::Anonymous, command: increment("/n", 1) };
        let mut builder = crate::BatchBuilder::new();
        for _ in 0..crate::MAX_BATCH_REQUESTS {
            builder.push_encoded(&request.encode().unwrap()).unwrap();
        }
        let outcomes = cell.state.apply_batch(&builder.finish(1), 1, &mut cell.events).unwrap();
        let values: Vec<i64> = outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Ok(Answer::Counter { value, .. }) => value,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values, Vec::from_iter(1..=crate::MAX_BATCH_REQUESTS as i64));
    }
}
