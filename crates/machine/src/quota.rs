//! Quotas: how many nodes and bytes a directory may hold (spec N-10).

use std::fmt;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::tree::{Kind, Node};
use crate::{Path, Refusal};

/// The most directories that have a quota.
pub const MAX_QUOTAS: usize = 10_000;

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
    /// What these directories have used, in one pass over all nodes.
    pub(crate) fn over<'a>(
        quotas: impl Iterator<Item = (Path, Quota)>,
        nodes: impl Iterator<Item = (&'a Path, &'a Node)>,
    ) -> Quotas {
        let table = quotas.map(|(directory, quota)| (directory, (quota, Usage::default()))).collect();
        let mut quotas = Quotas { table };
        if !quotas.table.is_empty() {
            nodes.for_each(|(path, node)| quotas.count(path, Usage::default(), Usage::of(&node.kind)));
        }
        quotas
    }

    /// Refuses another directory's quota if there are as many as there can be.
    fn check_room(&self, directory: &Path) -> Result<(), Refusal> {
        if self.table.len() < MAX_QUOTAS || self.table.contains_key(directory) {
            return Ok(());
        }
        Err(Refusal::invalid(format!(
            "the cell has {MAX_QUOTAS} quotas, the most it can; lift one first, or set one higher up in the tree"
        )))
    }

    /// Sets a directory's quota, whatever is in it already; one without limits is forgotten. `used` is asked how much
    /// is in it unless that is known.
    pub(crate) fn set(
        &mut self,
        directory: Path,
        quota: Quota,
        used: impl FnOnce(&Path) -> Usage,
    ) -> Result<(), Refusal> {
        if quota == Quota::default() {
            self.table.remove(&directory);
            return Ok(());
        }
        self.check_room(&directory)?;
        if let Some((old, _)) = self.table.get_mut(&directory) {
            *old = quota;
            return Ok(());
        }
        let used = used(&directory);
        self.table.insert(directory, (quota, used));
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Command, SetQuota, State};

    fn set_quota(text: &str, nodes: Option<u64>) -> Command {
        Command::SetQuota(SetQuota { path: path(text), quota: Quota { nodes, bytes: None } })
    }

    /// Quotas are bounded, since each snapshot that is read counts for all of them; one that is there can be changed
    /// and lifted all the same.
    #[test]
    fn bounds_the_quotas() {
        let mut cell = Cell::with(&["/d", "/e"]);
        for number in 1..MAX_QUOTAS {
            let quota = Quota { nodes: Some(1), bytes: None };
            cell.state.tree.quotas.table.insert(path(&format!("/d/{number}")), (quota, Usage::default()));
        }
        let set = |cell: &mut Cell, text, nodes| {
            let request =
                crate::Request { identity: crate::Identity::Anonymous, command: set_quota(text, nodes) };
            cell.state.apply(request, cell.moment, &mut cell.events)
        };
        set(&mut cell, "/d", Some(5)).unwrap();
        let refusal = set(&mut cell, "/e", Some(5)).unwrap_err();
        assert!(refusal.to_string().contains("10000 quotas"), "{refusal}");
        set(&mut cell, "/d", Some(6)).unwrap();
        set(&mut cell, "/d", None).unwrap();
        set(&mut cell, "/e", Some(5)).unwrap();
    }

    /// A quota that is changed goes on counting where it was.
    #[test]
    fn a_changed_quota_keeps_its_count() {
        let mut cell = Cell::with(&["/d", "/d/e"]);
        cell.run(set("/d/e/f", "12345")).unwrap();
        cell.run(set_quota("/d", Some(3))).unwrap();
        let used = Usage { nodes: 2, bytes: 5 };
        cell.state
            .tree
            .quotas
            .set(path("/d"), Quota { nodes: Some(2), bytes: None }, |_| panic!("known"))
            .unwrap();
        assert_eq!(cell.state.usage(&path("/d")), Ok(used));
        assert!(matches!(cell.run(set("/d/g", "")), Err(Refusal::QuotaExceeded { would_be: 3, .. })));
    }

    /// What is counted when a snapshot is read, in one pass however many quotas there are.
    #[test]
    fn many_quotas_are_counted_in_one_pass() {
        let mut cell = Cell::with(&["/d"]);
        for number in 0..3000 {
            let directory = format!("/d/{number}");
            for command in [create_directory(&directory), set_quota(&directory, Some(1))] {
                let request = crate::Request { identity: crate::Identity::Anonymous, command };
                cell.state.apply(request, cell.moment, &mut cell.events).unwrap();
            }
        }
        let passes = std::cell::Cell::new(0);
        let nodes = cell.state.nodes().inspect(|_| passes.set(passes.get() + 1));
        let quotas = cell.state.tree.quotas.table.iter().map(|(path, (quota, _))| (path.clone(), *quota));
        let counted = Quotas::over(quotas, nodes);
        assert_eq!(passes.get(), cell.state.node_count());
        assert_eq!(counted, cell.state.tree.quotas);
        let mut bytes = Vec::new();
        cell.state.write_snapshot(&mut bytes).unwrap();
        let read = State::read_snapshot(&mut bytes.as_slice()).unwrap();
        assert_eq!(read.tree.quotas, cell.state.tree.quotas);
    }
}
