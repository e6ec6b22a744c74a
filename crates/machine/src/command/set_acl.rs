//! `SetAcl` and `SetQuota`: who may use a node, and how much a directory may hold (spec A-1, N-10).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::acl::AclNames;
use crate::quota::Quota;
use crate::{Answer, Change, Event, NodeKind, Outcome, Path, Refusal, State};

/// Gives a node other ACL names. Open handles keep what they were opened for until the leader has looked at them
/// (spec A-3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAcl {
    /// The node.
    pub path: Path,
    /// Its new names.
    pub names: AclNames,
    /// Compare: the ACL generation that the node must have now.
    pub if_generation: Option<u64>,
}

/// Sets how much a directory may hold, all below it included; for the root: the cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetQuota {
    /// The directory.
    pub path: Path,
    /// Its quota; without limits it has none.
    pub quota: Quota,
}

impl SetAcl {
    pub(crate) fn apply(self, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        self.names.check()?;
        let current = state.tree.find(&self.path)?.acl_generation;
        if self.if_generation.is_some_and(|wanted| wanted != current) {
            return Err(Refusal::GenerationMismatch { path: self.path, current });
        }
        let revision = state.tree.revisions.stamp();
        let generation = current + 1;
        if let Some(node) = state.tree.node_mut(&self.path) {
            node.acl = Arc::new(self.names);
            node.acl_generation = generation;
            node.modified_revision = revision;
        }
        events.push(Event { revision, path: self.path, change: Change::AclChanged { generation } });
        Ok(Answer::AclSet { generation, revision })
    }
}

impl SetQuota {
    pub(crate) fn apply(self, state: &mut State) -> Outcome {
        let node = state.tree.find(&self.path)?;
        if node.kind.tag() != NodeKind::Directory {
            return Err(node.wrong_kind(&self.path, NodeKind::Directory));
        }
        state.tree.set_quota(self.path, self.quota);
        Ok(Answer::Done)
    }
}
