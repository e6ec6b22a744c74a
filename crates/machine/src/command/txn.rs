//! `Txn`: guards, then one of two lists of operations, all or nothing (spec N-9).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::lock::Sequencer;
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
        for guard in &self.guards {
            state.permit(&caller.principal, guard.path(), crate::acl::Right::Read)?;
        }
        let held = self.guards.iter().all(|guard| guard.holds(state));
        let operations = if held { self.then } else { self.otherwise };
        let (before, told) = (state.clone(), events.len());
        let mut answers = Vec::with_capacity(operations.len());
        for (part, operation) in (0..).zip(operations) {
            match state.carry_out(operation.command(), caller, events) {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    *state = before;
                    events.truncate(told);
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
