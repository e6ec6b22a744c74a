//! Quotas: how many nodes and bytes a directory may hold (spec N-10).

use std::fmt;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::tree::{Kind, Node};
use crate::{Path, Refusal};

/// What may be in a directory, all below it included; that of the root is the cell's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// How many nodes at most; `None`: any number.
    pub nodes: Option<u64>,
    /// How many bytes of contents at most, a counter being 8; `None`: any number.
    pub bytes: Option<u64>,
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaKind {
    /// Nodes.
    Nodes,
    /// Bytes of contents.
    Bytes,
}

impl fmt::Display for QuotaKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            QuotaKind::Nodes => "nodes",
            QuotaKind::Bytes => "bytes",
        })
    }
}

/// How much is in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Nodes below it.
    pub nodes: u64,
    /// Bytes of contents below it.
    pub bytes: u64,
}

impl Usage {
    /// What one node counts for.
    pub(crate) fn of(kind: &Kind) -> Usage {
        let bytes = match kind {
            Kind::Directory { .. } => 0,
            Kind::File(file) => file.contents().len() as u64,
            Kind::Counter(_) => 8,
        };
        Usage { nodes: 1, bytes }
    }

    pub(crate) fn plus(self, other: Usage) -> Usage {
        Usage { nodes: self.nodes + other.nodes, bytes: self.bytes + other.bytes }
    }

    fn minus(self, other: Usage) -> Usage {
        Usage { nodes: self.nodes.saturating_sub(other.nodes), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// The directories that have a quota, and how much is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quotas {
    pub(crate) table: OrdMap<Path, (Quota, Usage)>,
}

impl Quotas {
    /// Sets a directory's quota, whatever is in it already; one without limits is forgotten.
    pub(crate) fn set<'a>(
        &mut self,
        directory: Path,
        quota: Quota,
        nodes: impl Iterator<Item = (&'a Path, &'a Node)>,
    ) {
        if quota == Quota::default() {
            self.table.remove(&directory);
            return;
        }
        let below = nodes.filter(|(path, _)| path.is_below(&directory));
        let usage = below.fold(Usage::default(), |usage, (_, node)| usage.plus(Usage::of(&node.kind)));
        self.table.insert(directory, (quota, usage));
    }

    /// Refuses what would go past the quota of a directory above `path`. Writing less than before always goes.
    pub(crate) fn check(&self, path: &Path, before: Usage, after: Usage) -> Result<(), Refusal> {
        if self.table.is_empty() {
            return Ok(());
        }
        let refuse = |directory: &Path, what, would_be, allowed| {
            Err(Refusal::QuotaExceeded {
                path: path.clone(),
                directory: directory.clone(),
                what,
                would_be,
                allowed,
            })
        };
        for directory in ancestors(path) {
            let Some((quota, usage)) = self.table.get(&directory) else { continue };
            let would_be = usage.plus(after).minus(before);
            if let Some(allowed) =
                quota.nodes.filter(|most| would_be.nodes > *most && after.nodes > before.nodes)
            {
                return refuse(&directory, QuotaKind::Nodes, would_be.nodes, allowed);
            }
            if let Some(allowed) =
                quota.bytes.filter(|most| would_be.bytes > *most && after.bytes > before.bytes)
            {
                return refuse(&directory, QuotaKind::Bytes, would_be.bytes, allowed);
            }
        }
        Ok(())
    }

    /// Counts a change of one node.
    pub(crate) fn count(&mut self, path: &Path, before: Usage, after: Usage) {
        if self.table.is_empty() {
            return;
        }
        for directory in ancestors(path) {
            if let Some((_, usage)) = self.table.get_mut(&directory) {
                *usage = usage.plus(after).minus(before);
            }
        }
    }
}

fn ancestors(path: &Path) -> impl Iterator<Item = Path> {
    std::iter::successors(path.parent(), Path::parent)
}
