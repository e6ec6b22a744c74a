//! Files and directories: what can be done with them, and what the cell says of them.

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;
use bytes::Bytes;
use serde::Serialize;

use crate::admin::AclNames;
use crate::client::Client;
use crate::error::Error;

/// How often a listing is begun whose revision was gone before its end.
const LISTINGS: u32 = 3;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Has children.
    Directory,
    /// Has contents.
    File,
    /// Has a value.
    Counter,
    /// A kind this version of the client doesn't know.
    Unknown,
}

/// What the cell knows of a node beside its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stat {
    /// What the node is.
    pub kind: Kind,
    /// Greater than that of any earlier node of this name.
    pub instance: u64,
    /// Grows with each change of the contents.
    pub content_generation: u64,
    /// Grows each time the node's lock is taken.
    pub lock_generation: u64,
    /// Grows with each change of who may do what.
    pub acl_generation: u64,
    /// XXH3-64 of a file's contents; of nothing for other kinds.
    pub checksum: u64,
    /// Bytes of a file; 8 for a counter; 0 for a directory.
    pub length: u64,
    /// How many children a directory has.
    pub children: u64,
    /// The cell's revision that made the node.
    pub created_revision: u64,
    /// The cell's revision that last changed it.
    pub modified_revision: u64,
    /// It goes when no handle has it open; a directory once it is empty, too.
    pub ephemeral: bool,
    /// Who may do what with it.
    pub acl: AclNames,
}

impl Kind {
    pub(crate) fn wire(self) -> v1::Kind {
        match self {
            Self::Directory => v1::Kind::Directory,
            Self::File => v1::Kind::File,
            Self::Counter => v1::Kind::Counter,
            Self::Unknown => v1::Kind::Unspecified,
        }
    }
}

impl From<v1::Kind> for Kind {
    fn from(kind: v1::Kind) -> Self {
        match kind {
            v1::Kind::Directory => Self::Directory,
            v1::Kind::File => Self::File,
            v1::Kind::Counter => Self::Counter,
            v1::Kind::Unspecified => Self::Unknown,
        }
    }
}

impl From<v1::Stat> for Stat {
    fn from(stat: v1::Stat) -> Self {
        let kind = stat.kind().into();
        Self {
            kind,
            instance: stat.instance,
            content_generation: stat.content_generation,
            lock_generation: stat.lock_generation,
            acl_generation: stat.acl_generation,
            checksum: stat.checksum,
            length: stat.length,
            children: stat.children,
            created_revision: stat.created_revision,
            modified_revision: stat.modified_revision,
            ephemeral: stat.ephemeral,
            acl: stat.acl.unwrap_or_default().into(),
        }
    }
}

/// A file, read as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct File {
    /// All its bytes.
    pub contents: Bytes,
    /// What is known of it, at the same revision.
    pub stat: Stat,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Written {
    /// The node's content generation now.
    pub generation: u64,
    /// The cell's revision of this change.
    pub revision: u64,
    /// Whether the node was made by it.
    pub created: bool,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Deleted {
    /// The cell's revision of this change.
    pub revision: u64,
}

/// A child of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DirectoryEntry {
    /// Its name, without the directory's path.
    pub name: String,
    /// What is known of it.
    pub stat: Stat,
}

/// A part of a directory, ordered by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DirectoryPage {
    /// The children on this page.
    pub entries: Vec<DirectoryEntry>,
    /// There are more after the last of these.
    pub more: bool,
    /// The revision that the page shows: ask for the next page at it, within 30 s.
    pub revision: u64,
}

/// How contents are to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// The content generation the file must have; 0: there must be no such node.
    pub if_generation: Option<u64>,
    /// Make missing ancestors too.
    pub parents: bool,
}

impl Client {
    /// Sets a file's contents, and makes the file if it is missing. Its directory must exist.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the directory, [`Error::WrongKind`] for a node that is no file,
    /// [`Error::TooLarge`] for contents over the cell's limit.
    pub async fn set(&self, path: impl Into<String>, contents: impl Into<Bytes>) -> Result<Written, Error> {
        self.set_with(path, contents, SetOptions::default()).await
    }

    /// Sets a file's contents as `options` say.
    ///
    /// # Errors
    /// As [`Client::set`], and [`Error::GenerationMismatch`] with the generation that the file has.
    pub async fn set_with(
        &self,
        path: impl Into<String>,
        contents: impl Into<Bytes>,
        options: SetOptions,
    ) -> Result<Written, Error> {
        let SetOptions { if_generation, parents } = options;
        let (path, contents) = (path.into(), contents.into());
        let set = v1::SetContents { path, contents, if_generation, parents };
        written(self.call(Operation::SetContents(set)).await?)
    }

    /// Reads a file: its newest contents as of some moment during the call.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::WrongKind`] for a node that is no file.
    pub async fn get(&self, path: impl Into<String>) -> Result<File, Error> {
        file(self.call(Operation::GetContents(v1::GetContents { path: path.into() })).await?)
    }

    /// What the cell knows of a node.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stat(&self, path: impl Into<String>) -> Result<Stat, Error> {
        stat(self.call(Operation::GetStat(v1::GetStat { path: path.into() })).await?)
    }

    /// Deletes a node. A directory must be empty.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotEmpty`].
    pub async fn delete(&self, path: impl Into<String>) -> Result<Deleted, Error> {
        self.delete_node(path.into(), None).await
    }

    /// Deletes a node that has this content generation.
    ///
    /// # Errors
    /// As [`Client::delete`], and [`Error::GenerationMismatch`] with the generation that the node has.
    pub async fn delete_if(&self, path: impl Into<String>, generation: u64) -> Result<Deleted, Error> {
        self.delete_node(path.into(), Some(generation)).await
    }

    async fn delete_node(&self, path: String, if_generation: Option<u64>) -> Result<Deleted, Error> {
        deleted(self.call(Operation::Delete(v1::Delete { path, if_generation })).await?)
    }

    /// Makes a directory in one that exists.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], and [`Error::NotFound`] without the parent.
    pub async fn mkdir(&self, path: impl Into<String>) -> Result<Written, Error> {
        self.make_directory(path.into(), false).await
    }

    /// Makes a directory and all that are missing above it; one that exists is well too.
    ///
    /// # Errors
    /// [`Error::WrongKind`] when one of them is no directory.
    pub async fn mkdir_all(&self, path: impl Into<String>) -> Result<Written, Error> {
        self.make_directory(path.into(), true).await
    }

    async fn make_directory(&self, path: String, parents: bool) -> Result<Written, Error> {
        written(self.call(Operation::CreateDirectory(v1::CreateDirectory { path, parents })).await?)
    }

    /// All children of a directory, ordered by name, as they were at one moment (spec N-7). A large one is read in
    /// pages of 1,000; each page has the client's deadline.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::WrongKind`] for a node that is no directory; [`Error::RevisionGone`] when
    /// the moment was over before all was read, three times.
    pub async fn list(&self, path: impl Into<String>) -> Result<Vec<DirectoryEntry>, Error> {
        Ok(self.list_at(&path.into()).await?.0)
    }

    /// As [`Client::list`], with the revision that it shows.
    pub(crate) async fn list_at(&self, path: &str) -> Result<(Vec<DirectoryEntry>, u64), Error> {
        read_all(|after, revision| self.list_page_at(path, after, 0, revision)).await
    }

    /// The children of a directory whose names come after `after` (empty: from the first), at most `limit` of
    /// them: 0 for 1,000, at most 10,000.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn list_page(
        &self,
        path: impl Into<String>,
        after: impl Into<String>,
        limit: u32,
    ) -> Result<DirectoryPage, Error> {
        self.list_page_at(path, after, limit, 0).await
    }

    /// As [`Client::list_page`], at the revision of an earlier page; 0: the newest.
    ///
    /// # Errors
    /// As [`Client::list`]; [`Error::RevisionGone`] for one that is not kept any more.
    pub async fn list_page_at(
        &self,
        path: impl Into<String>,
        after: impl Into<String>,
        limit: u32,
        at_revision: u64,
    ) -> Result<DirectoryPage, Error> {
        let (path, after) = (path.into(), after.into());
        page(
            self.call(Operation::ReadDirectory(v1::ReadDirectory { path, after, limit, at_revision }))
                .await?,
        )
    }
}

/// All pages of a directory at one revision, from the first one again if that is gone before the last.
pub(crate) async fn read_all<F>(read: impl Fn(String, u64) -> F) -> Result<(Vec<DirectoryEntry>, u64), Error>
where
    F: Future<Output = Result<DirectoryPage, Error>>,
{
    let (mut entries, mut revision, mut again) = (Vec::<DirectoryEntry>::new(), 0, LISTINGS);
    loop {
        let after = entries.last().map_or_else(String::new, |last| last.name.clone());
        let page = match read(after, revision).await {
            Err(Error::RevisionGone { .. }) if again > 1 => {
                entries.clear();
                (revision, again) = (0, again - 1);
                continue;
            }
            page => page?,
        };
        revision = page.revision;
        // An empty page that promises more would never end.
        let last = !page.more || page.entries.is_empty();
        entries.extend(page.entries);
        if last {
            return Ok((entries, revision));
        }
    }
}

pub(crate) fn page(outcome: Outcome) -> Result<DirectoryPage, Error> {
    let Outcome::Directory(v1::DirectoryPage { entries, more, revision }) = outcome else {
        return Err(Error::unexpected("list"));
    };
    let entries = entries.into_iter().map(entry).collect::<Option<_>>();
    entries.map(|entries| DirectoryPage { entries, more, revision }).ok_or_else(|| Error::unexpected("list"))
}

pub(crate) fn file(outcome: Outcome) -> Result<File, Error> {
    match outcome {
        Outcome::Contents(v1::FileContents { contents, stat: Some(stat) }) => {
            Ok(File { contents, stat: stat.into() })
        }
        _ => Err(Error::unexpected("get")),
    }
}

pub(crate) fn stat(outcome: Outcome) -> Result<Stat, Error> {
    match outcome {
        Outcome::Stat(stat) => Ok(stat.into()),
        _ => Err(Error::unexpected("stat")),
    }
}

pub(crate) fn deleted(outcome: Outcome) -> Result<Deleted, Error> {
    match outcome {
        Outcome::Deleted(v1::Deleted { revision }) => Ok(Deleted { revision }),
        _ => Err(Error::unexpected("delete")),
    }
}

pub(crate) fn written(outcome: Outcome) -> Result<Written, Error> {
    match outcome {
        Outcome::Written(v1::Written { generation, revision, created }) => {
            Ok(Written { generation, revision, created })
        }
        _ => Err(Error::unexpected("a write")),
    }
}

pub(crate) fn entry(entry: v1::DirectoryEntry) -> Option<DirectoryEntry> {
    Some(DirectoryEntry { name: entry.name, stat: entry.stat?.into() })
}
