//! `Txn`: guards, then one of two lists of operations, all or nothing (spec N-9).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::acl::Verdicts;
use crate::lock::Sequencer;
use crate::planted::{self, Bug};
use crate::state::Caller;
use crate::{
    Answer, Command, CreateDirectory, Delete, DeleteTree, Event, Increment, Outcome, Path, Refusal,
    ResetCounter, SetAcl, SetContents, State,
};

/// The most guards, and the most operations of a list, that a transaction has.
pub const MAX_TXN_PARTS: usize = 128;

/// Does the operations of `then` if all guards hold, else those of `otherwise`. If one of them is refused, nothing is
/// done. All changes have one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What to do then.
    pub then: Vec<TxnOperation>,
    /// What to do if a guard does not hold.
    pub otherwise: Vec<TxnOperation>,
}

/// What must hold of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// There is such a node.
    Exists(Path),
    /// There is no such node.
    Absent(Path),
    /// The node has this content generation; 0: there is no such node.
    Generation(Path, u64),
    /// The lock is held as this says.
    Held(Sequencer),
    /// The counter compares so with this value. One that is missing compares in no way.
    Counter(Path, Comparison, i64),
}

/// How a counter compares with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// It is less.
    Less,
    /// It is less or the same.
    AtMost,
    /// It is the same.
    Equal,
    /// It is another one.
    NotEqual,
    /// It is the same or greater.
    AtLeast,
    /// It is greater.
    Greater,
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Less => ordering.is_lt(),
            Comparison::AtMost => ordering.is_le(),
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::AtLeast => ordering.is_ge(),
            Comparison::Greater => ordering.is_gt(),
        }
    }
}

/// An operation of a transaction: the commands of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOperation {
    /// Writes a file.
    SetContents(SetContents),
    /// Makes a directory.
    CreateDirectory(CreateDirectory),
    /// Removes a node.
    Delete(Delete),
    /// Removes a node and all below it.
    DeleteTree(DeleteTree),
    /// Adds to a counter.
    Increment(Increment),
    /// Sets a counter.
    ResetCounter(ResetCounter),
    /// Sets a node's ACL names.
    SetAcl(SetAcl),
}

impl TxnOperation {
    fn command(self) -> Command {
        match self {
            TxnOperation::SetContents(command) => Command::SetContents(command),
            TxnOperation::CreateDirectory(command) => Command::CreateDirectory(command),
            TxnOperation::Delete(command) => Command::Delete(command),
            TxnOperation::DeleteTree(command) => Command::DeleteTree(command),
            TxnOperation::Increment(command) => Command::Increment(command),
            TxnOperation::ResetCounter(command) => Command::ResetCounter(command),
            TxnOperation::SetAcl(command) => Command::SetAcl(command),
        }
    }
}

impl Guard {
    /// Whose guard it is, if it looks at a node: looking takes the right to read it.
    fn path(&self) -> &Path {
        match self {
            Guard::Exists(path)
            | Guard::Absent(path)
            | Guard::Generation(path, _)
            | Guard::Counter(path, ..) => path,
            Guard::Held(sequencer) => &sequencer.path,
        }
    }

    fn holds(&self, state: &State) -> bool {
        match self {
            Guard::Exists(path) => state.node(path).is_some(),
            Guard::Absent(path) => state.node(path).is_none(),
            Guard::Generation(path, wanted) => {
                state.node(path).map_or(0, |node| node.content_generation) == *wanted
            }
            Guard::Held(sequencer) => state.check_sequencer(sequencer).is_ok(),
            Guard::Counter(path, comparison, value) => {
                state.get_counter(path).is_ok_and(|(current, _)| comparison.holds(current.cmp(value)))
            }
        }
    }
}

impl Txn {
    pub(crate) fn apply(self, state: &mut State, caller: &Caller, events: &mut Vec<Event>) -> Outcome {
        self.check()?;
        let mut verdicts = Verdicts::of(state);
        for guard in &self.guards {
            verdicts.permit_reading(&caller.principal, guard.path())?;
        }
        let held = self.guards.iter().all(|guard| guard.holds(state));
        let operations = if held { self.then } else { self.otherwise };
        let (before, told) = (state.clone(), events.len());
        let mut answers = Vec::with_capacity(operations.len());
        for (part, operation) in (0..).zip(operations) {
            match state.carry_out(operation.command(), caller, events) {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    if !planted::is(Bug::TxnHalfDone) {
                        *state = before;
                        events.truncate(told);
                    }
                    return Err(Refusal::TxnRefused { part, why: Box::new(why) });
                }
            }
        }
        Ok(Answer::Txn { held, answers })
    }

    fn check(&self) -> Result<(), Refusal> {
        let lists = [
            ("guards", self.guards.len()),
            ("operations to do then", self.then.len()),
            ("operations to do otherwise", self.otherwise.len()),
        ];
        match lists.into_iter().find(|(_, parts)| *parts > MAX_TXN_PARTS) {
            Some((what, parts)) => Err(Refusal::invalid(format!(
                "a transaction has at most {MAX_TXN_PARTS} {what}, not {parts}; split it, or guard less"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Change, Delete};

    fn write(text: &str, contents: &'static str) -> TxnOperation {
        let contents = bytes::Bytes::from_static(contents.as_bytes());
        TxnOperation::SetContents(SetContents {
            path: path(text),
            contents,
            if_generation: None,
            parents: false,
        })
    }

    fn add(text: &str, delta: i64) -> TxnOperation {
        TxnOperation::Increment(Increment {
            path: path(text),
            delta,
            create: true,
            floor: None,
            ceiling: None,
        })
    }

    fn remove(text: &str) -> TxnOperation {
        TxnOperation::Delete(Delete { path: path(text), if_generation: None })
    }

    fn txn(guards: Vec<Guard>, then: Vec<TxnOperation>, otherwise: Vec<TxnOperation>) -> Command {
        Command::Txn(Txn { guards, then, otherwise })
    }

    /// Spec N-9: all changes in one revision, and one answer an operation.
    #[test]
    fn does_one_of_two_lists() {
        let mut cell = Cell::with(&["/d"]);
        let command = txn(
            vec![Guard::Exists(path("/d")), Guard::Absent(path("/d/a"))],
            vec![write("/d/a", "x"), add("/n", 5), add("/n", 2)],
            vec![add("/otherwise", 1)],
        );
        let answers = vec![
            Answer::Written { generation: 1, revision: 2, created: true },
            Answer::Counter { value: 5, revision: 2 },
            Answer::Counter { value: 7, revision: 2 },
        ];
        assert_eq!(cell.run(command.clone()), Ok(Answer::Txn { held: true, answers }));
        assert!(cell.told().iter().all(|event| event.revision == 2));
        let answers = vec![Answer::Counter { value: 1, revision: 3 }];
        assert_eq!(cell.run(command), Ok(Answer::Txn { held: false, answers }));
        assert_eq!((cell.value("/n"), cell.value("/otherwise")), (7, 1));
    }

    /// Spec N-9: if one operation is refused, nothing is done.
    #[test]
    fn does_all_or_nothing() {
        let mut cell = Cell::new();
        cell.run(set("/a", "x")).unwrap();
        cell.told();
        let command = txn(Vec::new(), vec![remove("/a"), add("/n", 1), remove("/missing")], Vec::new());
        let why = Box::new(Refusal::NotFound { path: path("/missing") });
        assert_eq!(cell.refused(command), Refusal::TxnRefused { part: 2, why });
        assert!(cell.told().is_empty());
        cell.run(txn(Vec::new(), vec![remove("/a"), write("/a", "y")], Vec::new())).unwrap();
        let changes: Vec<Change> = cell.told().into_iter().map(|event| event.change).collect();
        assert_eq!(changes, [Change::Deleted, Change::Created { kind: crate::NodeKind::File }]);
    }

    /// Spec N-9: what a guard can look at.
    #[test]
    fn guards_look() {
        let mut cell = Cell::new();
        cell.run(set("/f", "x")).unwrap();
        cell.run(set("/f", "y")).unwrap();
        cell.run(increment("/n", 5)).unwrap();
        let mut holds = |guard| match cell.run(txn(vec![guard], Vec::new(), Vec::new())) {
            Ok(Answer::Txn { held, .. }) => held,
            other => panic!("{other:?}"),
        };
        assert!(holds(Guard::Generation(path("/f"), 2)) && !holds(Guard::Generation(path("/f"), 1)));
        assert!(holds(Guard::Generation(path("/none"), 0)) && !holds(Guard::Generation(path("/f"), 0)));
        use Comparison::*;
        for (comparison, of_4, of_5, of_6) in [
            (Less, false, false, true),
            (AtMost, false, true, true),
            (Equal, false, true, false),
            (NotEqual, true, false, true),
            (AtLeast, true, true, false),
            (Greater, true, false, false),
        ] {
            let mut compares = |value| holds(Guard::Counter(path("/n"), comparison, value));
            assert_eq!((compares(4), compares(5), compares(6)), (of_4, of_5, of_6), "{comparison:?}");
        }
        assert!(
            !holds(Guard::Counter(path("/f"), NotEqual, 1)) && !holds(Guard::Counter(path("/none"), Less, 1))
        );
    }

    /// Spec L-4, N-9: a write that is fenced by a lock is done while the lock is held, and not after.
    #[test]
    fn a_sequencer_guards() {
        let mut cell = Cell::new();
        cell.run(set("/l", "")).unwrap();
        let session = cell.open_session();
        let handle = cell.open(session, "/l");
        cell.acquire(session, handle).unwrap();
        let sequencer = cell.state.sequencer_of(cell.state.handle(session, handle).unwrap()).unwrap();
        let fenced = txn(vec![Guard::Held(sequencer)], vec![add("/n", 1)], Vec::new());
        cell.run(fenced.clone()).unwrap();
        cell.release(session, handle).unwrap();
        assert_eq!(cell.run(fenced), Ok(Answer::Txn { held: false, answers: Vec::new() }));
        assert_eq!(cell.value("/n"), 1);
    }

    #[test]
    fn bounds_the_parts() {
        let mut cell = Cell::new();
        let guards = |count| vec![Guard::Exists(path("/")); count];
        let list = |count| vec![add("/n", 1); count];
        cell.run(txn(guards(128), list(128), list(128))).unwrap();
        for command in [
            txn(guards(129), Vec::new(), Vec::new()),
            txn(Vec::new(), list(129), Vec::new()),
            txn(Vec::new(), Vec::new(), list(129)),
        ] {
            assert!(matches!(cell.refused(command), Refusal::InvalidArgument { .. }));
        }
        assert_eq!(cell.value("/n"), 128);
    }

    /// Spec N-8: a recursive delete is one step.
    #[test]
    fn deletes_a_tree_at_once() {
        let mut cell = Cell::with(&["/a", "/a/b", "/a/b/c", "/ab"]);
        cell.run(set("/a/b/f", "x")).unwrap();
        let delete_tree = |text| Command::DeleteTree(DeleteTree { path: path(text) });
        cell.told();
        assert_eq!(cell.run(delete_tree("/a")), Ok(Answer::Deleted { revision: 6 }));
        let told = cell.told();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|event| event.revision == 6 && event.change == Change::Deleted));
        assert_eq!(cell.state.node_count(), 2);
        assert_eq!(cell.refused(delete_tree("/")), Refusal::RootImmutable);
        assert_eq!(cell.refused(delete_tree("/a")), Refusal::NotFound { path: path("/a") });
    }
}
