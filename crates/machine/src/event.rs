//! What watchers are told: one event for each node that a command changed (spec E-1).

use crate::{NodeKind, Path};

/// A change of one node. It is told after the change took place: who reads then sees this change or a
/// later one (spec E-2).
///
/// There is no event of its own for a directory whose child came or went: `Created` and `Deleted` of
/// `/a/b` say so for `/a`. A command that makes missing ancestors gives one event for each, outermost first,
/// all with the same revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The cell's revision of the change.
    pub revision: u64,
    /// The node.
    pub path: Path,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now, with its first contents or value.
    Created {
        /// What it is.
        kind: NodeKind,
    },
    /// The contents of a file were written.
    ContentsModified {
        /// Its content generation now.
        generation: u64,
    },
    /// A counter was added to or reset.
    CounterChanged {
        /// Its value now.
        value: i64,
    },
    /// It is gone.
    Deleted,
}
