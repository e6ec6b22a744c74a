//! `SetContents`: writes a file whole and atomically (spec N-6, Chubby §2.6).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::planted::{self, Bug};
use crate::quota::Usage;
use crate::tree::{Birth, Kind, Node, Tree};
use crate::{Answer, Change, Event, NodeKind, Outcome, Path, Refusal};

/// The most bytes a file holds (Chubby §2.2 keeps files small on purpose).
pub const MAX_CONTENTS_BYTES: usize = 256 * 1024;

/// Writes a file, making it if it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetContents {
    /// The file.
    pub path: Path,
    /// Its new contents, at most [`MAX_CONTENTS_BYTES`].
    pub contents: Bytes,
    /// Compare-and-swap: the content generation that the file must have now; `Some(0)` demands that there
    /// is no such file. `None` writes whatever is there.
    pub if_generation: Option<u64>,
    /// Make the ancestors that are missing, in the same step.
    pub parents: bool,
}

impl SetContents {
    pub(crate) fn apply(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        if self.contents.len() > MAX_CONTENTS_BYTES {
            return Err(Refusal::TooLarge {
                path: self.path,
                bytes: self.contents.len() as u64,
                limit: MAX_CONTENTS_BYTES as u64,
            });
        }
        let Some(node) = tree.nodes.get_mut(&self.path) else {
            return self.create(tree, events);
        };
        self.check(node)?;
        let kind = Kind::File(self.contents.into());
        let (before, after) = (Usage::of(&node.kind), Usage::of(&kind));
        tree.quotas.check(&self.path, before, after)?;
        tree.quotas.count(&self.path, before, after);
        let revision = tree.revisions.stamp();
        let node = Arc::make_mut(node);
        node.hold(kind, revision);
        let generation = node.content_generation;
        events.push(Event { revision, path: self.path, change: Change::ContentsModified { generation } });
        Ok(Answer::Written { generation, revision, created: false })
    }

    fn check(&self, node: &Node) -> Result<(), Refusal> {
        if node.kind.tag() != NodeKind::File {
            return Err(node.wrong_kind(&self.path, NodeKind::File));
        }
        match self.if_generation {
            Some(wanted) if wanted != node.content_generation && !planted::is(Bug::GenerationIgnored) => {
                Err(self.mismatch(node.content_generation))
            }
            _ => Ok(()),
        }
    }

    fn create(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        if self.if_generation.is_some_and(|wanted| wanted != 0) {
            return Err(self.mismatch(0));
        }
        let revision =
            tree.create(self.path, Kind::File(self.contents.into()), self.parents, Birth::default(), events)?;
        Ok(Answer::Written { generation: 1, revision, created: true })
    }

    fn mismatch(&self, current: u64) -> Refusal {
        Refusal::GenerationMismatch { path: self.path.clone(), current }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::testing::*;

    fn contents(cell: &Cell, text: &str) -> Bytes {
        cell.state.get_contents(&path(text)).unwrap().contents
    }

    /// Spec N-6: contents are written whole and read whole, and each write is a new generation.
    #[test]
    fn writes_and_overwrites_a_file() {
        let mut cell = Cell::new();
        assert_eq!(cell.run(set("/a", "one")), written(1, 1, true));
        assert_eq!(cell.run(set("/a", "")), written(2, 2, false));
        assert_eq!(cell.run(set("/a", "three")), written(3, 3, false));
        assert_eq!(contents(&cell, "/a"), "three");
        let changes: Vec<_> =
            cell.events.iter().map(|event| (event.revision, event.change.clone())).collect();
        assert_eq!(
            changes,
            [
                (1, Change::Created { kind: NodeKind::File }),
                (2, Change::ContentsModified { generation: 2 }),
                (3, Change::ContentsModified { generation: 3 }),
            ]
        );
    }

    /// Spec N-6: compare-and-swap; on mismatch nothing changes and the error carries the current generation.
    #[test]
    fn swaps_only_the_generation_demanded() {
        let mut cell = Cell::new();
        let mismatch = |current| Refusal::GenerationMismatch { path: path("/a"), current };
        assert_eq!(cell.refused(set_with("/a", "x", Some(1), true)), mismatch(0));
        assert_eq!(cell.run(set_with("/a", "one", Some(0), false)), written(1, 1, true));
        assert_eq!(cell.refused(set_with("/a", "x", Some(0), false)), mismatch(1));
        assert_eq!(cell.refused(set_with("/a", "x", Some(2), false)), mismatch(1));
        assert_eq!(cell.run(set_with("/a", "two", Some(1), false)), written(2, 2, false));
        assert_eq!(contents(&cell, "/a"), "two");
    }

    /// Spec N-6: at most 256 KiB, and exactly that much is allowed.
    #[test]
    fn refuses_contents_over_the_limit() {
        let mut cell = Cell::new();
        let command = |bytes| {
            let contents = Bytes::from(vec![7; bytes]);
            Command::SetContents(SetContents {
                path: path("/a"),
                contents,
                if_generation: None,
                parents: false,
            })
        };
        cell.run(command(MAX_CONTENTS_BYTES)).unwrap();
        let refusal = cell.refused(command(MAX_CONTENTS_BYTES + 1));
        assert_eq!(refusal, Refusal::TooLarge { path: path("/a"), bytes: 262_145, limit: 262_144 });
        assert_eq!(contents(&cell, "/a").len(), MAX_CONTENTS_BYTES);
    }

    /// Spec N-2: a new file needs its parent directory, unless missing ancestors are to be made, in one step.
    #[test]
    fn makes_missing_ancestors_when_asked() {
        let mut cell = Cell::new();
        assert_eq!(
            cell.refused(set("/a/b/c", "x")),
            Refusal::ParentNotFound { path: path("/a/b/c"), parent: path("/a/b") }
        );
        assert_eq!(cell.run(set_with("/a/b/c", "x", None, true)), written(1, 1, true));
        let told: Vec<_> = cell.events.iter().map(|event| (event.revision, event.path.as_str())).collect();
        assert_eq!(told, [(1, "/a"), (1, "/a/b"), (1, "/a/b/c")]);
    }

    /// Spec N-2: a file has no children, and the refusal leaves nothing half made.
    #[test]
    fn refuses_a_file_as_an_ancestor() {
        let mut cell = Cell::new();
        cell.run(set("/f", "x")).unwrap();
        let refusal =
            Refusal::WrongKind { path: path("/f"), is: NodeKind::File, wanted: NodeKind::Directory };
        assert_eq!(cell.refused(set("/f/a", "x")), refusal);
        assert_eq!(cell.refused(set_with("/f/a/b", "x", None, true)), refusal);
    }

    /// Spec N-3: only files have contents.
    #[test]
    fn refuses_other_kinds() {
        let mut cell = Cell::with(&["/d"]);
        cell.run(increment("/c", 1)).unwrap();
        let wrong = |text, is| Refusal::WrongKind { path: path(text), is, wanted: NodeKind::File };
        assert_eq!(cell.refused(set("/d", "x")), wrong("/d", NodeKind::Directory));
        assert_eq!(cell.refused(set("/c", "x")), wrong("/c", NodeKind::Counter));
        assert_eq!(cell.refused(set("/", "x")), wrong("/", NodeKind::Directory));
    }

    /// Reading does not copy: what a view gives out is the buffer that the state holds.
    #[test]
    fn shares_contents_with_readers_and_keeps_views_frozen() {
        let mut cell = Cell::new();
        cell.run(set("/a", "before")).unwrap();
        let view = cell.state.clone();
        let first = view.get_contents(&path("/a")).unwrap().contents;
        cell.run(set("/a", "after")).unwrap();
        let second = view.get_contents(&path("/a")).unwrap().contents;
        assert_eq!((first.as_ptr(), &first[..]), (second.as_ptr(), &b"before"[..]));
        assert_eq!(contents(&cell, "/a"), "after");
        assert_eq!((view.revision(), cell.state.revision()), (1, 2));
    }
}
