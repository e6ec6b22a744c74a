//! `Delete`: removes a node that has no children (spec N-8).

use serde::{Deserialize, Serialize};

use crate::tree::{Kind, Tree};
use crate::{Answer, Event, Outcome, Path, Refusal};

/// Removes a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The node.
    pub path: Path,
    /// Compare: the content generation that the node must have now.
    pub if_generation: Option<u64>,
}

impl Delete {
    pub(crate) fn apply(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        if self.path.is_root() {
            return Err(Refusal::RootImmutable);
        }
        let node = tree.find(&self.path)?;
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
        Ok(Answer::Deleted { revision: tree.remove(self.path, events) })
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
