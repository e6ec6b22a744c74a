//! `Delete`: removes a node that has no children (spec N-8).

use serde::{Deserialize, Serialize};

use crate::acl::{Principal, Right};
use crate::tree::Kind;
use crate::{Answer, Event, Outcome, Path, Refusal, State};

/// The most nodes that are deleted in one step below a directory: a step holds everybody else up.
pub const MAX_DELETED: usize = 100_000;

/// Removes a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The node.
    pub path: Path,
    /// Compare: the content generation that the node must have now.
    pub if_generation: Option<u64>,
}

/// Removes a node and all below it, in one step (spec N-8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTree {
    /// The node.
    pub path: Path,
}

impl DeleteTree {
    /// Each node must be the principal's to delete; if one isn't, nothing goes.
    pub(crate) fn apply(self, state: &mut State, principal: &Principal, events: &mut Vec<Event>) -> Outcome {
        if self.path.is_root() {
            return Err(Refusal::RootImmutable);
        }
        state.tree.find(&self.path)?;
        let mut doomed = state.tree.below(&self.path);
        if doomed.len() > MAX_DELETED {
            let why = format!(
                "{} has {} nodes below it, and at most {MAX_DELETED} are deleted at once; delete parts of it first",
                self.path,
                doomed.len()
            );
            return Err(Refusal::invalid(why));
        }
        doomed.insert(0, self.path.clone());
        for path in &doomed {
            state.permit(principal, path, Right::Write)?;
        }
        let parent = self.path.parent();
        // Children before their directories.
        for path in doomed.into_iter().rev() {
            state.remove_node(path, events);
        }
        parent.into_iter().for_each(|parent| state.reap(parent, events));
        Ok(Answer::Deleted { revision: state.tree.revisions.newest })
    }
}

impl Delete {
    pub(crate) fn apply(self, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        if self.path.is_root() {
            return Err(Refusal::RootImmutable);
        }
        let node = state.tree.find(&self.path)?;
        if let Some(wanted) = self.if_generation
            && wanted != node.content_generation
        {
            return Err(Refusal::GenerationMismatch { path: self.path, current: node.content_generation });
        }
        if let Kind::Directory { children } = node.kind
            && children > 0
        {
            return Err(Refusal::NotEmpty { path: self.path, children });
        }
        let parent = self.path.parent();
        let revision = state.remove_node(self.path, events);
        parent.into_iter().for_each(|parent| state.reap(parent, events));
        Ok(Answer::Deleted { revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Change, Command};

    fn delete_if(text: &str, generation: u64) -> Command {
        Command::Delete(Delete { path: path(text), if_generation: Some(generation) })
    }

    /// Spec N-8: a directory with children stays.
    #[test]
    fn refuses_a_directory_with_children() {
        let mut cell = Cell::with(&["/a", "/a/b"]);
        cell.run(set("/a/f", "x")).unwrap();
        assert_eq!(cell.refused(delete("/a")), Refusal::NotEmpty { path: path("/a"), children: 2 });
        for (revision, text) in [(4, "/a/b"), (5, "/a/f"), (6, "/a")] {
            assert_eq!(cell.run(delete(text)), Ok(Answer::Deleted { revision }));
            let told = Event { revision, path: path(text), change: Change::Deleted };
            assert_eq!(cell.events.last(), Some(&told));
        }
        assert_eq!(cell.state.node_count(), 1);
    }

    #[test]
    fn refuses_what_is_missing_and_the_root() {
        let mut cell = Cell::new();
        assert_eq!(cell.refused(delete("/a")), Refusal::NotFound { path: path("/a") });
        assert_eq!(cell.refused(delete("/")), Refusal::RootImmutable);
        assert_eq!(cell.refused(delete_if("/a", 0)), Refusal::NotFound { path: path("/a") });
    }

    #[test]
    fn deletes_only_the_generation_demanded() {
        let mut cell = Cell::new();
        cell.run(set("/a", "one")).unwrap();
        cell.run(set("/a", "two")).unwrap();
        assert_eq!(
            cell.refused(delete_if("/a", 1)),
            Refusal::GenerationMismatch { path: path("/a"), current: 2 }
        );
        cell.run(delete_if("/a", 2)).unwrap();
        assert_eq!(cell.state.stat(&path("/a")), Err(Refusal::NotFound { path: path("/a") }));
    }

    /// Spec N-5: a node that is made again under the same name has a greater instance number, and its
    /// content generation starts anew.
    #[test]
    fn tells_a_new_node_from_an_old_one_of_its_name() {
        let mut cell = Cell::new();
        let mut last = 0;
        for _ in 0..3 {
            cell.run(set("/a", "x")).unwrap();
            cell.run(set("/b", "x")).unwrap();
            let stat = cell.state.stat(&path("/a")).unwrap();
            assert!(stat.instance > last);
            assert_eq!(stat.content_generation, 1);
            last = stat.instance;
            cell.run(delete("/a")).unwrap();
        }
    }
}
