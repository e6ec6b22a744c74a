//! The tree of nodes: one ordered map from path to node (spec N-2, N-3, N-5).

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::acl::AclNames;
use crate::quota::{Quota, Quotas, Usage};
use crate::{Change, DirectoryEntry, Event, FileContents, NodeKind, Path, Refusal, Stat};

/// A node. The order of the fields is part of the durable format (docs/formats.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is, and what it holds.
    pub kind: Kind,
    /// Greater than that of any earlier node of this name: one count for the whole cell.
    pub instance: u64,
    /// Grows with each change of the contents, starting at 1 in each instance.
    pub content_generation: u64,
    /// Grows each time the lock is taken.
    pub lock_generation: u64,
    /// Grows each time the ACL names are written.
    pub acl_generation: u64,
    /// The revision that made it.
    pub created_revision: u64,
    /// The revision that last changed it.
    pub modified_revision: u64,
    /// How many handles have it open, if it goes with the last of them (spec N-4); `None` for a permanent node.
    pub ephemeral: Option<u64>,
    /// Who may do what with it (spec A-1).
    pub acl: Arc<AclNames>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Holds other nodes.
    Directory {
        /// How many nodes are directly in it.
        children: u64,
    },
    /// Holds bytes.
    File(File),
    /// Holds a number.
    Counter(i64),
}

/// A file's bytes and their checksum, computed once: every stat and listing tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Bytes", into = "Bytes")]
pub struct File {
    contents: Bytes,
    checksum: u64,
}

impl File {
    /// The bytes.
    pub fn contents(&self) -> &Bytes {
        &self.contents
    }

    /// XXH3-64 of the bytes.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }
}

impl From<Bytes> for File {
    fn from(contents: Bytes) -> File {
        let checksum = XxHash3_64::oneshot(&contents);
        File { contents, checksum }
    }
}

impl From<File> for Bytes {
    fn from(file: File) -> Bytes {
        file.contents
    }
}

impl Kind {
    /// Its tag.
    pub fn tag(&self) -> NodeKind {
        match self {
            Kind::Directory { .. } => NodeKind::Directory,
            Kind::File(_) => NodeKind::File,
            Kind::Counter(_) => NodeKind::Counter,
        }
    }
}

impl Node {
    fn new(kind: Kind, instance: u64, revision: u64, birth: Birth) -> Node {
        Node {
            kind,
            instance,
            content_generation: 1,
            lock_generation: 0,
            acl_generation: 0,
            created_revision: revision,
            modified_revision: revision,
            ephemeral: birth.ephemeral.then_some(0),
            acl: birth.acl.unwrap_or_default(),
        }
    }

    /// What is known of the node besides its contents.
    pub fn stat(&self) -> Stat {
        let (length, checksum, children) = match &self.kind {
            Kind::Directory { children } => (0, XxHash3_64::oneshot(&[]), *children),
            Kind::File(file) => (file.contents.len() as u64, file.checksum, 0),
            Kind::Counter(_) => (8, XxHash3_64::oneshot(&[]), 0),
        };
        Stat {
            kind: self.kind.tag(),
            instance: self.instance,
            content_generation: self.content_generation,
            lock_generation: self.lock_generation,
            acl_generation: self.acl_generation,
            checksum,
            length,
            children,
            created_revision: self.created_revision,
            modified_revision: self.modified_revision,
            ephemeral: self.ephemeral.is_some(),
            acl: (*self.acl).clone(),
        }
    }

    /// Gives the node new contents or a new value.
    pub(crate) fn hold(&mut self, kind: Kind, revision: u64) {
        self.kind = kind;
        self.content_generation += 1;
        self.modified_revision = revision;
    }

    /// Whether it has ACL names.
    pub(crate) fn is_guarded(&self) -> bool {
        *self.acl != AclNames::default()
    }

    pub(crate) fn wrong_kind(&self, path: &Path, wanted: NodeKind) -> Refusal {
        Refusal::WrongKind { path: path.clone(), is: self.kind.tag(), wanted }
    }
}

/// What is decided of a node when it is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Birth {
    pub(crate) ephemeral: bool,
    /// `None`: those of the parent.
    pub(crate) acl: Option<Arc<AclNames>>,
}

/// The number of commands that told an event. All events of a command have one revision, so whoever resumes
/// behind a revision has seen commands whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Revisions {
    pub(crate) newest: u64,
    /// The command that is being applied has its revision already.
    stamped: bool,
}

impl Revisions {
    pub(crate) fn at(newest: u64) -> Revisions {
        Revisions { newest, stamped: false }
    }

    /// A new command begins.
    pub(crate) fn begin(&mut self) {
        self.stamped = false;
    }

    /// The revision of the command that is being applied.
    pub(crate) fn stamp(&mut self) -> u64 {
        self.newest += u64::from(!self.stamped);
        self.stamped = true;
        self.newest
    }
}

/// All nodes, and the two counts that number their changes.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: OrdMap<Path, Arc<Node>>,
    pub(crate) revisions: Revisions,
    pub(crate) quotas: Quotas,
    /// The instance number of the newest node.
    pub(crate) instances: u64,
    /// How many nodes have ACL names.
    pub(crate) guarded: u64,
}

impl Tree {
    /// A tree with its root.
    pub(crate) fn new() -> Tree {
        let root = Node::new(Kind::Directory { children: 0 }, 1, 0, Birth::default());
        Tree {
            nodes: OrdMap::unit(Path::root(), Arc::new(root)),
            revisions: Revisions::default(),
            quotas: Quotas::default(),
            instances: 1,
            guarded: 0,
        }
    }

    pub(crate) fn find(&self, path: &Path) -> Result<&Arc<Node>, Refusal> {
        self.nodes.get(path).ok_or_else(|| Refusal::NotFound { path: path.clone() })
    }

    /// Makes a node, and the ancestors that are missing if `parents` says so, all in one revision, which is
    /// returned. The caller has seen that there is no such node.
    pub(crate) fn create(
        &mut self,
        path: Path,
        kind: Kind,
        parents: bool,
        birth: Birth,
        events: &mut Vec<Event>,
    ) -> Result<u64, Refusal> {
        let (mut parent, missing) = self.ancestors(&path, parents)?;
        // What is missing comes below the same directories.
        let mut usage = Usage::of(&kind);
        usage.nodes += missing.len() as u64;
        self.quotas.check(missing.first().unwrap_or(&path), Usage::default(), usage)?;
        for directory in missing {
            self.insert(
                &parent,
                directory.clone(),
                Kind::Directory { children: 0 },
                Birth::default(),
                events,
            );
            parent = directory;
        }
        self.insert(&parent, path, kind, birth, events);
        Ok(self.revisions.newest)
    }

    /// The nearest ancestor that is there, and those that are missing below it, outermost first.
    pub(crate) fn ancestors(&self, path: &Path, parents: bool) -> Result<(Path, Vec<Path>), Refusal> {
        let mut missing = Vec::new();
        let mut ancestor = path.parent();
        while let Some(directory) = ancestor {
            match self.nodes.get(&directory) {
                Some(node) if node.kind.tag() == NodeKind::Directory => {
                    missing.reverse();
                    return Ok((directory, missing));
                }
                Some(node) => return Err(node.wrong_kind(&directory, NodeKind::Directory)),
                None if !parents => {
                    return Err(Refusal::ParentNotFound { path: path.clone(), parent: directory });
                }
                None => {
                    ancestor = directory.parent();
                    missing.push(directory);
                }
            }
        }
        // Only the root has no parent, and the root is always there.
        Err(Refusal::AlreadyExists { path: path.clone() })
    }

    fn insert(&mut self, parent: &Path, path: Path, kind: Kind, mut birth: Birth, events: &mut Vec<Event>) {
        self.count_children(parent, 1);
        self.instances += 1;
        let revision = self.revisions.stamp();
        birth.acl = birth.acl.or_else(|| self.nodes.get(parent).map(|parent| Arc::clone(&parent.acl)));
        let node = Node::new(kind, self.instances, revision, birth);
        self.quotas.count(&path, Usage::default(), Usage::of(&node.kind));
        self.guarded += u64::from(node.is_guarded());
        let change = Change::Created { kind: node.kind.tag() };
        events.push(Event { revision, path: path.clone(), change });
        self.nodes.insert(path, Arc::new(node));
    }

    /// Removes a node other than the root and answers the revision.
    pub(crate) fn remove(&mut self, path: Path, events: &mut Vec<Event>) -> u64 {
        let revision = self.revisions.stamp();
        if let Some(node) = self.nodes.remove(&path) {
            self.quotas.count(&path, Usage::of(&node.kind), Usage::default());
            self.quotas.table.remove(&path);
            self.guarded -= u64::from(node.is_guarded());
        }
        if let Some(parent) = path.parent() {
            self.count_children(&parent, -1);
        }
        events.push(Event { revision, path, change: Change::Deleted });
        revision
    }

    /// Gives a node other ACL names; answers its ACL generation and the revision. It must be there.
    pub(crate) fn set_acl(&mut self, path: &Path, names: AclNames) -> Option<(u64, u64)> {
        let revision = self.revisions.stamp();
        let node = self.nodes.get_mut(path).map(Arc::make_mut)?;
        self.guarded -= u64::from(node.is_guarded());
        node.acl = Arc::new(names);
        self.guarded += u64::from(node.is_guarded());
        node.acl_generation += 1;
        node.modified_revision = revision;
        Some((node.acl_generation, revision))
    }

    /// How much is below a directory.
    pub(crate) fn usage(&self, directory: &Path) -> Usage {
        if let Some((_, usage)) = self.quotas.table.get(directory) {
            return *usage;
        }
        let below = self.below(directory, usize::MAX);
        let nodes = below.iter().filter_map(|path| self.nodes.get(path));
        nodes.fold(Usage::default(), |usage, node| usage.plus(Usage::of(&node.kind)))
    }

    /// A node that must be a directory.
    pub(crate) fn directory_node(&self, path: &Path) -> Result<&Arc<Node>, Refusal> {
        let node = self.find(path)?;
        match node.kind.tag() {
            NodeKind::Directory => Ok(node),
            _ => Err(node.wrong_kind(path, NodeKind::Directory)),
        }
    }

    /// Sets a directory's quota, whatever is in it already. Looks at all that is below one that had none.
    pub(crate) fn set_quota(&mut self, directory: Path, quota: Quota) -> Result<(), Refusal> {
        let mut quotas = std::mem::take(&mut self.quotas);
        let set = quotas.set(directory, quota, |directory| self.usage(directory));
        self.quotas = quotas;
        set
    }

    /// The nodes below a directory, each directory before what is in it; `most` at most.
    pub(crate) fn below(&self, directory: &Path, most: usize) -> Vec<Path> {
        let mut found = Vec::new();
        let mut looked = 0;
        let mut next = Some(directory.clone());
        while let Some(directory) = next {
            let start = directory.child_bound("");
            let children = self.nodes.range((Bound::Excluded(start), Bound::Unbounded));
            let children = children.map(|(child, _)| child).take_while(|child| child.is_child_of(&directory));
            found.extend(children.take(most - found.len()).cloned());
            next = found.get(looked).filter(|_| found.len() < most).cloned();
            looked += 1;
        }
        found
    }

    /// The node, to be changed.
    pub(crate) fn node_mut(&mut self, path: &Path) -> Option<&mut Node> {
        self.nodes.get_mut(path).map(Arc::make_mut)
    }

    fn count_children(&mut self, directory: &Path, change: i64) {
        if let Some(node) = self.nodes.get_mut(directory)
            && let Kind::Directory { children } = &mut Arc::make_mut(node).kind
        {
            *children = children.saturating_add_signed(change);
        }
    }

    pub(crate) fn contents(&self, path: &Path) -> Result<FileContents, Refusal> {
        let node = self.find(path)?;
        match &node.kind {
            Kind::File(file) => Ok(FileContents { contents: file.contents.clone(), stat: node.stat() }),
            _ => Err(node.wrong_kind(path, NodeKind::File)),
        }
    }

    pub(crate) fn counter(&self, path: &Path) -> Result<(i64, u64), Refusal> {
        let node = self.find(path)?;
        match node.kind {
            Kind::Counter(value) => Ok((value, node.modified_revision)),
            _ => Err(node.wrong_kind(path, NodeKind::Counter)),
        }
    }

    pub(crate) fn directory(
        &self,
        path: &Path,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<DirectoryEntry>, bool), Refusal> {
        self.directory_node(path)?;
        let start = path.child_bound(after.unwrap_or_default());
        let mut children = self
            .nodes
            .range((Bound::Excluded(start), Bound::Unbounded))
            .take_while(|(child, _)| child.is_child_of(path));
        let entries = children
            .by_ref()
            .take(limit)
            .map(|(child, node)| DirectoryEntry { name: child.name().to_owned(), stat: node.stat() })
            .collect();
        Ok((entries, children.next().is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    /// Spec N-3, N-5: what a stat says of each kind.
    #[test]
    fn tells_what_is_known_of_a_node() {
        let mut cell = Cell::with(&["/d"]);
        cell.run(set("/d/f", "contents")).unwrap();
        cell.run(set("/d/f", "other contents")).unwrap();
        cell.run(increment("/d/n", 5)).unwrap();
        let stat = |text| cell.state.stat(&path(text)).unwrap();
        let file = Stat {
            kind: NodeKind::File,
            instance: 3,
            content_generation: 2,
            lock_generation: 0,
            acl_generation: 0,
            checksum: XxHash3_64::oneshot(b"other contents"),
            length: 14,
            children: 0,
            created_revision: 2,
            modified_revision: 3,
            ephemeral: false,
            acl: AclNames::default(),
        };
        assert_eq!(stat("/d/f"), file);
        assert_eq!(cell.state.get_contents(&path("/d/f")).unwrap().stat, file);
        let directory = stat("/d");
        assert_eq!((directory.kind, directory.length, directory.children), (NodeKind::Directory, 0, 2));
        let counter = stat("/d/n");
        assert_eq!((counter.kind, counter.length, counter.children), (NodeKind::Counter, 8, 0));
        assert_eq!((counter.created_revision, counter.instance), (4, 4));
        // XXH3-64 of no bytes, from the algorithm's published test vectors.
        assert_eq!((directory.checksum, counter.checksum), (0x2d06_8005_38d3_94c2, 0x2d06_8005_38d3_94c2));
        assert_eq!((stat("/").instance, stat("/").created_revision, stat("/").children), (1, 0, 1));
    }

    /// Spec N-7: children in name order, in pages, and nothing of the neighbours or the grandchildren.
    #[test]
    fn lists_a_directory_in_pages() {
        let mut cell = Cell::with(&["/a", "/a!", "/a/d", "/a0"]);
        for text in ["/a/z", "/a/b", "/a/d/deep", "/a!/x", "/a0/x", "/a/\u{e4}"] {
            cell.run(set(text, "x")).unwrap();
        }
        let page = |after: Option<&str>, limit| {
            let (entries, more) = cell.state.read_directory(&path("/a"), after, limit).unwrap();
            (entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" "), more)
        };
        let page_is =
            |after, limit, names: &str, more| assert_eq!(page(after, limit), (names.to_owned(), more));
        page_is(None, 10, "b d z \u{e4}", false);
        page_is(None, 4, "b d z \u{e4}", false);
        page_is(None, 3, "b d z", true);
        page_is(None, 0, "", true);
        page_is(Some("b"), 2, "d z", true);
        page_is(Some("c"), 1, "d", true);
        page_is(Some("d"), 10, "z \u{e4}", false);
        page_is(Some("\u{e4}"), 10, "", false);
        page_is(Some("d/deep"), 10, "z \u{e4}", false);
        let (top, more) = cell.state.read_directory(&Path::root(), None, 10).unwrap();
        let names: Vec<_> = top.iter().map(|entry| (entry.name.as_str(), entry.stat.children)).collect();
        assert_eq!((names, more), (vec![("a", 4), ("a!", 1), ("a0", 1)], false));
    }

    /// Spec N-7: a page is of one revision, whatever is written meanwhile.
    #[test]
    fn lists_a_view_as_it_was() {
        let mut cell = Cell::with(&["/a", "/b"]);
        let view = cell.state.clone();
        cell.run(delete("/a")).unwrap();
        cell.run(create_directory("/c")).unwrap();
        let (entries, _) = view.read_directory(&Path::root(), None, 10).unwrap();
        assert_eq!(Vec::from_iter(entries.iter().map(|entry| &*entry.name)), ["a", "b"]);
    }

    #[test]
    fn refuses_to_read_what_is_missing_or_of_another_kind() {
        let mut cell = Cell::with(&["/d"]);
        cell.run(set("/f", "x")).unwrap();
        let missing = Refusal::NotFound { path: path("/x") };
        assert_eq!(cell.state.get_contents(&path("/x")), Err(missing.clone()));
        assert_eq!(cell.state.stat(&path("/x")), Err(missing.clone()));
        assert_eq!(cell.state.get_counter(&path("/x")), Err(missing.clone()));
        assert_eq!(cell.state.read_directory(&path("/x"), None, 1), Err(missing));
        let wrong = |text, is, wanted| Refusal::WrongKind { path: path(text), is, wanted };
        let (directory, file) = (NodeKind::Directory, NodeKind::File);
        assert_eq!(cell.state.get_contents(&path("/d")), Err(wrong("/d", directory, file)));
        assert_eq!(cell.state.read_directory(&path("/f"), None, 1), Err(wrong("/f", file, directory)));
        assert_eq!(cell.state.get_counter(&path("/f")), Err(wrong("/f", file, NodeKind::Counter)));
    }
}
