//! `CreateDirectory`: makes a directory in the strict tree (spec N-2).

use serde::{Deserialize, Serialize};

use crate::tree::{Birth, Kind, Tree};
use crate::{Answer, Event, NodeKind, Outcome, Path, Refusal};

/// Makes a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDirectory {
    /// The directory.
    pub path: Path,
    /// Make the ancestors that are missing, and accept a directory that is already there.
    pub parents: bool,
}

impl CreateDirectory {
    pub(crate) fn apply(self, tree: &mut Tree, events: &mut Vec<Event>) -> Outcome {
        let Some(node) = tree.nodes.get(&self.path) else {
            let revision = tree.create(
                self.path,
                Kind::Directory { children: 0 },
                self.parents,
                Birth::default(),
                events,
            )?;
            return Ok(Answer::Written { generation: 1, revision, created: true });
        };
        if !self.parents {
            return Err(Refusal::AlreadyExists { path: self.path });
        }
        if node.kind.tag() != NodeKind::Directory {
            return Err(node.wrong_kind(&self.path, NodeKind::Directory));
        }
        Ok(Answer::Written {
            generation: node.content_generation,
            revision: node.modified_revision,
            created: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Change, Refusal};

    /// Spec N-2: a directory needs its parent, and the ancestors are made in the same step when asked for.
    #[test]
    fn makes_directories() {
        let mut cell = Cell::new();
        assert_eq!(
            cell.refused(create_directory("/a/b")),
            Refusal::ParentNotFound { path: path("/a/b"), parent: path("/a") }
        );
        assert_eq!(cell.run(create_directory("/a")), written(1, 1, true));
        assert_eq!(cell.run(create_directories("/a/b/c/d")), written(1, 2, true));
        let told: Vec<_> = cell.events.iter().map(|event| (event.revision, event.path.as_str())).collect();
        assert_eq!(told, [(1, "/a"), (2, "/a/b"), (2, "/a/b/c"), (2, "/a/b/c/d")]);
        assert!(
            cell.events.iter().all(|event| event.change == Change::Created { kind: NodeKind::Directory })
        );
    }

    #[test]
    fn refuses_what_is_there_unless_any_directory_will_do() {
        let mut cell = Cell::with(&["/a"]);
        cell.run(set("/f", "x")).unwrap();
        for text in ["/a", "/f", "/"] {
            assert_eq!(cell.refused(create_directory(text)), Refusal::AlreadyExists { path: path(text) });
        }
        let before = cell.state.digest();
        assert_eq!(cell.run(create_directories("/a")), written(1, 1, false));
        assert_eq!(cell.run(create_directories("/")), written(1, 0, false));
        assert_eq!(cell.state.digest(), before);
        let wrong =
            |text| Refusal::WrongKind { path: path(text), is: NodeKind::File, wanted: NodeKind::Directory };
        assert_eq!(cell.refused(create_directories("/f")), wrong("/f"));
        assert_eq!(cell.refused(create_directories("/f/a/b")), wrong("/f"));
    }

    /// Spec N-2: directories have no modification time of their own: what happens inside leaves it alone.
    #[test]
    fn is_not_modified_by_its_children() {
        let mut cell = Cell::with(&["/a"]);
        let before = cell.state.stat(&path("/a")).unwrap();
        cell.run(set("/a/f", "x")).unwrap();
        let after = cell.state.stat(&path("/a")).unwrap();
        assert_eq!((before.children, after.children), (0, 1));
        assert_eq!(before.modified_revision, after.modified_revision);
        assert_eq!(before.content_generation, after.content_generation);
    }
}
