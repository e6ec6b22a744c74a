//! `OnHandle`: a change of the node that a handle is on, if the handle may be used for it (spec H-2, H-3, L-4).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::acl::{AclNames, Right};
use crate::handle::HandleId;
use crate::{Delete, Event, Increment, Outcome, Path, ResetCounter, SessionId, SetAcl, SetContents, State};

/// Does something to the node that a handle is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnHandle {
    /// The handle.
    pub handle: HandleId,
    /// What to do.
    pub verb: Verb,
}

/// What can be done to a node through a handle: the commands of that name, without a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// See [`SetContents`].
    SetContents {
        /// The new contents.
        contents: Bytes,
        /// Compare-and-swap.
        if_generation: Option<u64>,
    },
    /// See [`Increment`].
    Increment {
        /// What to add.
        delta: i64,
        /// No result may be below.
        floor: Option<i64>,
        /// No result may be above.
        ceiling: Option<i64>,
    },
    /// See [`ResetCounter`].
    ResetCounter {
        /// The new value.
        value: i64,
        /// Compare: the value that the counter must have now.
        expect: Option<i64>,
    },
    /// See [`SetAcl`].
    SetAcl {
        /// The new names.
        names: AclNames,
        /// Compare: the ACL generation that the node must have now.
        if_generation: Option<u64>,
    },
    /// See [`Delete`]. The handle stays open, on a node that is gone.
    Delete {
        /// Compare: the content generation that the node must have now.
        if_generation: Option<u64>,
    },
}

impl Verb {
    fn right(&self) -> Right {
        match self {
            Verb::SetAcl { .. } => Right::ChangeAcl,
            _ => Right::Write,
        }
    }

    /// The rights were looked at when the handle was opened.
    fn apply(self, path: Path, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        match self {
            Verb::SetContents { contents, if_generation } => {
                SetContents { path, contents, if_generation, parents: false }.apply(&mut state.tree, events)
            }
            Verb::Increment { delta, floor, ceiling } => {
                Increment { path, delta, create: false, floor, ceiling }.apply(&mut state.tree, events)
            }
            Verb::ResetCounter { value, expect } => {
                ResetCounter { path, value, expect, create: false }.apply(&mut state.tree, events)
            }
            Verb::SetAcl { names, if_generation } => {
                SetAcl { path, names, if_generation }.apply(state, events)
            }
            Verb::Delete { if_generation } => Delete { path, if_generation }.apply(state, events),
        }
    }
}

impl OnHandle {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        let (handle, _) = state.through_handle(session, self.handle, self.verb.right())?;
        let path = handle.path.clone();
        self.verb.apply(path, state, events)
    }
}
