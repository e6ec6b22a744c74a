//! `Delete`: removes a node that has no children (spec N-8).

use serde::{Deserialize, Serialize};

use crate::acl::{Right, Verdicts};
use crate::state::Caller;
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
    pub(crate) fn apply(self, state: &mut State, caller: &Caller, events: &mut Vec<Event>) -> Outcome {
        let doomed = self.doomed(state, caller)?;
        let parent = self.path.parent();
        // Children before their directories.
        for path in doomed.into_iter().rev() {
            state.remove_node(path, events);
        }
        parent.into_iter().for_each(|parent| state.reap(parent, events));
        Ok(Answer::Deleted { revision: state.tree.revisions.newest })
    }

    /// The node and all below it, each directory before what is in it.
    fn doomed(&self, state: &State, caller: &Caller) -> Result<Vec<Path>, Refusal> {
        if self.path.is_root() {
            return Err(Refusal::RootImmutable);
        }
        state.tree.find(&self.path)?;
        let mut verdicts = Verdicts::of(state);
        verdicts.permit(&caller.principal, &self.path, Right::Write)?;
        let may_delete = caller.may_delete.get();
        let below = state.tree.below(&self.path, may_delete + 1);
        if below.len() > may_delete {
            return Err(Refusal::invalid(format!(
                "at most {MAX_DELETED} nodes below others are deleted in one step, and with those below {} there \
                 are more; delete parts of it first",
                self.path
            )));
        }
        caller.may_delete.set(may_delete - below.len());
        below.iter().try_for_each(|path| verdicts.permit(&caller.principal, path, Right::Write))?;
        Ok(std::iter::once(self.path.clone()).chain(below).collect())
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

    fn delete_tree(text: &str) -> DeleteTree {
        DeleteTree { path: path(text) }
    }

    /// A state, built without commands, with `count` files in each of these directories.
    fn filled(directories: &[&str], count: usize) -> Cell {
        let mut cell = Cell::with(directories);
        for directory in directories {
            for number in 0..count {
                let name = path(&format!("{directory}/{number}"));
                let birth = crate::tree::Birth::default();
                cell.state.tree.create(name, Kind::Counter(0), false, birth, &mut Vec::new()).unwrap();
            }
        }
        cell
    }

    /// A transaction's recursive deletes share one bound, and what is refused for it changes nothing.
    #[test]
    fn one_step_deletes_only_so_much() {
        let mut cell = filled(&["/a", "/b"], MAX_DELETED / 2);
        cell.state
            .tree
            .create(path("/b/more"), Kind::Counter(0), false, Default::default(), &mut Vec::new())
            .unwrap();
        let both = |cell: &Cell| {
            let then = ["/a", "/b"].map(|text| crate::TxnOperation::DeleteTree(delete_tree(text))).into();
            let command = Command::Txn(crate::Txn { guards: Vec::new(), then, otherwise: Vec::new() });
            let request = crate::Request { identity: crate::Identity::Anonymous, command };
            let mut state = cell.state.clone();
            let outcome = state.apply(request, cell.moment, &mut Vec::new());
            (outcome, state.node_count())
        };
        let (outcome, left) = both(&cell);
        assert!(matches!(outcome, Err(Refusal::TxnRefused { part: 1, .. })), "{outcome:?}");
        assert_eq!(left, cell.state.node_count());
        cell.run(delete("/b/more")).unwrap();
        let (outcome, left) = both(&cell);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(left, 1);
    }

    /// The walk ends at the bound, and does not begin where the caller may not write.
    #[test]
    fn a_walk_is_bounded() {
        let cell = filled(&["/a", "/a/b"], 10);
        assert_eq!(cell.state.tree.below(&path("/a"), 5).len(), 5);
        assert_eq!(cell.state.tree.below(&path("/a"), 15).len(), 15);
        assert_eq!(cell.state.tree.below(&path("/a"), 99).len(), 21);
    }

    /// Spec A-1: each node must be the caller's to delete; the top is looked at before anything below it.
    #[test]
    fn a_guarded_tree_stays() {
        let mut cell = filled(&["/a"], 3);
        let guard = |text| {
            let names = crate::AclNames { write: "nobody".into(), ..Default::default() };
            Command::SetAcl(crate::SetAcl { path: path(text), names, if_generation: None })
        };
        cell.run(guard("/a/1")).unwrap();
        let refusal = cell.refused(Command::DeleteTree(delete_tree("/a")));
        assert!(
            matches!(&refusal, Refusal::NotPermitted { path: at, .. } if *at == path("/a/1")),
            "{refusal}"
        );
        cell.run(guard("/a")).unwrap();
        let refusal = cell.refused(Command::DeleteTree(delete_tree("/a")));
        assert!(matches!(&refusal, Refusal::NotPermitted { path: at, .. } if *at == path("/a")), "{refusal}");
    }
}
