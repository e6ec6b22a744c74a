//! `SetAcl` and `SetQuota`: who may use a node, and how much a directory may hold (spec A-1, N-10).

use serde::{Deserialize, Serialize};

use crate::acl::AclNames;
use crate::quota::Quota;
use crate::{Answer, Change, Event, Outcome, Path, Refusal, State};

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
        let Some((generation, revision)) = state.tree.set_acl(&self.path, self.names) else {
            return Err(Refusal::NotFound { path: self.path });
        };
        events.push(Event { revision, path: self.path, change: Change::AclChanged { generation } });
        Ok(Answer::AclSet { generation, revision })
    }
}

impl SetQuota {
    pub(crate) fn apply(self, state: &mut State) -> Outcome {
        state.tree.directory_node(&self.path)?;
        state.tree.set_quota(self.path, self.quota)?;
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::QuotaKind;
    use crate::testing::*;
    use crate::{Command, Quota};

    fn set_quota(text: &str, nodes: Option<u64>, bytes: Option<u64>) -> Command {
        Command::SetQuota(SetQuota { path: path(text), quota: Quota { nodes, bytes } })
    }

    fn exceeded(text: &str, directory: &str, what: QuotaKind, would_be: u64, allowed: u64) -> Refusal {
        Refusal::QuotaExceeded { path: path(text), directory: path(directory), what, would_be, allowed }
    }

    /// Spec N-10: what would go past a quota is refused; deletes and smaller writes always work, and then there is
    /// room again.
    #[test]
    fn a_quota_bounds_a_directory() {
        let mut cell = Cell::with(&["/d", "/d/e"]);
        cell.run(set("/d/e/f", "12345")).unwrap();
        cell.run(set_quota("/d", Some(3), Some(20))).unwrap();
        cell.run(increment("/d/n", 1)).unwrap();
        let refusal = exceeded("/d/g", "/d", QuotaKind::Nodes, 4, 3);
        assert_eq!(cell.refused(set("/d/g", "")), refusal);
        assert_eq!(
            refusal.to_string(),
            "/d/g would take /d to 4 nodes, and its quota allows 3; delete something there, or raise the quota"
        );
        let refusal = exceeded("/d/e/f", "/d", QuotaKind::Bytes, 21, 20);
        assert_eq!(cell.refused(set("/d/e/f", "1234567890123")), refusal);
        cell.run(set("/d/e/f", "123456789012")).unwrap();
        cell.run(set_quota("/d", Some(1), Some(4))).unwrap();
        cell.run(set("/d/e/f", "smaller")).unwrap();
        cell.run(increment("/d/n", 1)).unwrap();
        cell.run(delete("/d/e/f")).unwrap();
        cell.run(delete("/d/e")).unwrap();
        cell.run(delete("/d/n")).unwrap();
        cell.run(set("/d/g", "1234")).unwrap();
        cell.run(set_quota("/d", None, None)).unwrap();
        cell.run(set("/d/h", "as much as it likes")).unwrap();
    }

    /// Spec N-10: the root's quota is the cell's, and all quotas above a node count.
    #[test]
    fn quotas_are_nested() {
        let mut cell = Cell::with(&["/a", "/a/b"]);
        cell.run(set_quota("/", Some(4), None)).unwrap();
        cell.run(set_quota("/a", Some(9), None)).unwrap();
        cell.run(set("/a/b/f", "x")).unwrap();
        let refusal = exceeded("/a/b/g", "/", QuotaKind::Nodes, 5, 4);
        assert_eq!(
            cell.refused(set_with("/a/b/g/h/i", "x", None, true)),
            exceeded("/a/b/g", "/", QuotaKind::Nodes, 6, 4)
        );
        cell.run(set("/a/b/e", "x")).unwrap();
        assert_eq!(cell.refused(set("/a/b/g", "x")), refusal);
        assert!(matches!(cell.refused(set_quota("/a/b/f", Some(1), None)), Refusal::WrongKind { .. }));
    }

    /// Spec A-1: the names have a generation of their own, and may be swapped by it.
    #[test]
    fn acl_names_are_swapped_by_generation() {
        let mut cell = Cell::new();
        cell.run(set("/f", "x")).unwrap();
        let names = AclNames { read: "team".into(), ..AclNames::default() };
        let set_acl =
            |if_generation| Command::SetAcl(SetAcl { path: path("/f"), names: names.clone(), if_generation });
        assert_eq!(cell.run(set_acl(Some(0))), Ok(Answer::AclSet { generation: 1, revision: 2 }));
        let refusal = Refusal::GenerationMismatch { path: path("/f"), current: 1 };
        assert_eq!(cell.refused(set_acl(Some(0))), refusal);
        let stat = cell.state.stat(&path("/f")).unwrap();
        assert_eq!((stat.acl_generation, stat.content_generation, stat.modified_revision), (1, 1, 2));
        assert_eq!(stat.acl, names);
        assert_eq!(cell.events.last().unwrap().change, Change::AclChanged { generation: 1 });
    }
}
