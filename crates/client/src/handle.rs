//! Handles: a session's open nodes (spec H-1 to H-6; Chubby §2.2).

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::on_handle::Verb;
use bramah_wire::v1::operation::Operation as Op;
use bramah_wire::v1::outcome::Outcome;
use bramah_wire::v1::read_on_handle::Verb as Look;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::admin::{AclNames, AclSet};
use crate::client::Client;
use crate::counter::{IncrementOptions, value};
use crate::error::Error;
use crate::files::{
    Deleted, DirectoryEntry, DirectoryPage, File, Kind, Stat, Written, deleted, file, page, read_all, stat,
    written,
};
use crate::grip::Grip;
use crate::queue::Wish;
use crate::sequencer::Sequencer;
use crate::watch::WatchRequest;

mod locking;

pub use locking::LockMode;

/// What to open, and how; made by [`Client::open`] and [`Handle::open`]. Awaiting it opens.
///
/// Without [`OpenRequest::read`], [`OpenRequest::write`] or [`OpenRequest::change_acl`] the handle is for reading.
#[derive(Clone, Debug)]
#[must_use = "awaiting it opens the handle"]
pub struct OpenRequest {
    client: Client,
    path: String,
    mode: v1::Mode,
    create: Option<v1::Creation>,
    creation: v1::Creation,
    lock_delay: Duration,
    within: Option<Arc<Grip>>,
}

impl OpenRequest {
    fn new(client: Client, path: String, within: Option<Arc<Grip>>) -> Self {
        let creation = v1::Creation { kind: v1::Kind::File.into(), ..Default::default() };
        let (mode, lock_delay) = (v1::Mode::default(), Duration::ZERO);
        Self { client, path, mode, create: None, creation, lock_delay, within }
    }

    /// To read the node.
    pub fn read(mut self) -> Self {
        self.mode.read = true;
        self
    }

    /// To write, lock and delete the node.
    pub fn write(mut self) -> Self {
        self.mode.write = true;
        self
    }

    /// To change the node's ACL.
    pub fn change_acl(mut self) -> Self {
        self.mode.change_acl = true;
        self
    }

    /// Makes the node if it is missing. Default: it must be there.
    pub fn create(mut self) -> Self {
        self.create = Some(v1::Creation::default());
        self
    }

    /// Makes the node, which must not be there.
    pub fn create_new(mut self) -> Self {
        self.create = Some(v1::Creation { must: true, ..Default::default() });
        self
    }

    /// What to make. Default: a file.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.creation.kind = kind.wire().into();
        self
    }

    /// What is made goes when no handle has it open; a directory once it is empty, too (spec N-4).
    pub fn ephemeral(mut self) -> Self {
        self.creation.ephemeral = true;
        self
    }

    /// The first contents of a file that is made.
    pub fn contents(mut self, contents: impl Into<Bytes>) -> Self {
        self.creation.contents = contents.into();
        self
    }

    /// The ACL names of what is made. Default: the parent's.
    pub fn acl(mut self, names: AclNames) -> Self {
        self.creation.acl = Some(names.into());
        self
    }

    /// Make missing ancestors too.
    pub fn parents(mut self) -> Self {
        self.creation.parents = true;
        self
    }

    /// For how long nobody gets a lock that the handle holds when its session dies; at most 60 s (spec L-5).
    /// Default: none.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    fn operation(&self) -> Op {
        let mut mode = self.mode;
        mode.read |= !mode.write && !mode.change_acl;
        let create =
            self.create.as_ref().map(|create| v1::Creation { must: create.must, ..self.creation.clone() });
        let lock_delay_ms = u32::try_from(self.lock_delay.as_millis()).unwrap_or(u32::MAX);
        let within = self.within.as_ref().map_or(0, |grip| grip.handle);
        Op::OpenNode(v1::OpenNode {
            path: self.path.clone(),
            mode: Some(mode),
            create,
            lock_delay_ms,
            within,
        })
    }

    async fn open(self) -> Result<Handle, Error> {
        if let Some(grip) = &self.within {
            grip.check()?;
        }
        // In a task of its own: a caller that gives up leaves a handle behind that closes itself.
        let opening = tokio::spawn(async move {
            let (queue, allowed) = (self.client.shared.queue.clone(), self.client.deadline());
            let answered = queue.call(self.operation(), allowed, self.within.clone()).await?;
            let Outcome::NodeOpened(v1::NodeOpened { handle, instance, created }) = answered.outcome else {
                return Err(Error::unexpected("open"));
            };
            let path = self.client.canonical(&self.path);
            let grip = Arc::new(Grip::new(answered.session, handle, path, instance));
            self.client.shared.handles.open(&grip);
            Ok(Handle { client: self.client, grip, created })
        });
        opening.await.unwrap_or_else(|_| Err(Error::closed(true)))
    }
}

impl IntoFuture for OpenRequest {
    type Output = Result<Handle, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl Client {
    /// Opens a handle on the node at `path`.
    ///
    /// ```no_run
    /// # async fn example(client: bramah_client::Client) -> Result<(), bramah_client::Error> {
    /// let file = client.open("/shop/open").write().create().ephemeral().contents("since nine").await?;
    /// println!("{}", if file.created() { "the first one here" } else { "somebody was faster" });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AlreadyExists`], [`Error::WrongKind`] for a node of another kind than the one to
    /// be made, [`Error::PermissionDenied`], [`Error::TooMany`] handles.
    pub fn open(&self, path: impl Into<String>) -> OpenRequest {
        OpenRequest::new(self.clone(), path.into(), None)
    }
}

/// An open node. It belongs to the client's session: once that expired every call on it fails with
/// [`Error::SessionExpired`], for ever (spec H-6). It is of one instance of the node: once that was deleted every
/// call fails with [`Error::NodeDeleted`], even if there is another node of that name (spec H-3).
///
/// Dropping it closes it in the background, and so gives back the lock that it holds.
#[derive(Debug)]
pub struct Handle {
    client: Client,
    grip: Arc<Grip>,
    created: bool,
}

impl Handle {
    /// Whether opening it made the node.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// The node's path, without the cell's name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.grip.path
    }

    /// The node's instance.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.grip.instance
    }

    /// The handle's number in its cell.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.grip.handle
    }

    /// The session that it belongs to.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.grip.session
    }

    /// The client that it was opened with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Opens a node below this directory: refused once the directory is gone, even if there is another of its name.
    pub fn open(&self, relative: impl AsRef<str>) -> OpenRequest {
        let (directory, relative) = (self.path().trim_end_matches('/'), relative.as_ref());
        let path = format!("{directory}/{relative}");
        OpenRequest::new(self.client.clone(), path, Some(self.grip.clone()))
    }

    /// Makes a call that ends when the handle is poisoned.
    async fn call(&self, operation: Op) -> Result<Outcome, Error> {
        self.grip.check()?;
        let mut changes = self.grip.changes();
        tokio::select! {
            biased;
            _ = changes.wait_for(|state| state.poisoned) => Err(self.grip.poisoned()),
            result = self.client.call_through(&self.grip, operation) => result,
        }
    }

    async fn look(&self, verb: Look) -> Result<Outcome, Error> {
        self.call(Op::ReadOnHandle(v1::ReadOnHandle { handle: self.grip.handle, verb: Some(verb) })).await
    }

    async fn act(&self, verb: Verb) -> Result<Outcome, Error> {
        self.call(Op::OnHandle(v1::OnHandle { handle: self.grip.handle, verb: Some(verb) })).await
    }

    /// A file's contents, and what is known of it.
    ///
    /// # Errors
    /// [`Error::WrongKind`] if it is no file; those of every call on a handle: [`Error::NodeDeleted`],
    /// [`Error::HandleLacksRight`], [`Error::UnknownHandle`], [`Error::SessionExpired`], [`Error::Poisoned`], and
    /// [`Error::SequencerInvalid`] after [`Handle::set_sequencer`].
    pub async fn contents(&self) -> Result<File, Error> {
        file(self.look(Look::Contents(v1::GetContents::default())).await?)
    }

    /// What is known of the node.
    ///
    /// # Errors
    /// As every call on a handle: see [`Handle::contents`].
    pub async fn stat(&self) -> Result<Stat, Error> {
        stat(self.look(Look::Stat(v1::GetStat::default())).await?)
    }

    /// A counter's value.
    ///
    /// # Errors
    /// [`Error::WrongKind`] if it is no counter; as [`Handle::contents`].
    pub async fn value(&self) -> Result<i64, Error> {
        value(self.look(Look::Counter(v1::GetCounter::default())).await?)
    }

    /// All children of a directory, by name, as they were at one moment.
    ///
    /// # Errors
    /// As [`Client::list`] and [`Handle::contents`].
    pub async fn read_dir(&self) -> Result<Vec<DirectoryEntry>, Error> {
        Ok(read_all(|after, revision| self.read_dir_page(after, 0, revision)).await?.0)
    }

    /// As [`Client::list_page_at`].
    ///
    /// # Errors
    /// As [`Handle::read_dir`].
    pub async fn read_dir_page(
        &self,
        after: impl Into<String>,
        limit: u32,
        at_revision: u64,
    ) -> Result<DirectoryPage, Error> {
        let (path, after) = (String::new(), after.into());
        page(self.look(Look::Directory(v1::ReadDirectory { path, after, limit, at_revision })).await?)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// As [`Handle::contents`], [`Error::TooLarge`], [`Error::QuotaExceeded`].
    pub async fn set_contents(&self, contents: impl Into<Bytes>) -> Result<Written, Error> {
        self.write(contents.into(), None).await
    }

    /// Writes the file if it has this content generation.
    ///
    /// # Errors
    /// As [`Handle::set_contents`], and [`Error::GenerationMismatch`] with the generation that it has.
    pub async fn set_contents_if(
        &self,
        contents: impl Into<Bytes>,
        generation: u64,
    ) -> Result<Written, Error> {
        self.write(contents.into(), Some(generation)).await
    }

    async fn write(&self, contents: Bytes, if_generation: Option<u64>) -> Result<Written, Error> {
        let set = v1::SetContents { contents, if_generation, ..Default::default() };
        written(self.act(Verb::SetContents(set)).await?)
    }

    /// Adds to the counter and gives the new value.
    ///
    /// # Errors
    /// As [`Handle::contents`], and [`Error::OutOfRange`].
    pub async fn increment(&self, delta: i64) -> Result<i64, Error> {
        self.add(delta, IncrementOptions::default()).await
    }

    /// Adds to the counter as `options` say; what is missing is not made.
    ///
    /// # Errors
    /// As [`Handle::increment`].
    pub async fn add(&self, delta: i64, options: IncrementOptions) -> Result<i64, Error> {
        let IncrementOptions { floor, ceiling, .. } = options;
        let increment = v1::Increment { delta, floor, ceiling, ..Default::default() };
        value(self.act(Verb::Increment(increment)).await?)
    }

    /// Sets the counter, if it has the value `expect` or that is none.
    ///
    /// # Errors
    /// As [`Handle::contents`], and [`Error::ValueMismatch`] with the value that it has.
    pub async fn reset(&self, new: i64, expect: Option<i64>) -> Result<i64, Error> {
        let reset = v1::ResetCounter { value: new, expect, ..Default::default() };
        value(self.act(Verb::ResetCounter(reset)).await?)
    }

    /// Says who may do what with the node; `if_generation`: the ACL generation that it must have.
    ///
    /// # Errors
    /// As [`Handle::contents`], and [`Error::GenerationMismatch`].
    pub async fn set_acl(&self, names: AclNames, if_generation: Option<u64>) -> Result<AclSet, Error> {
        let set = v1::SetAcl { names: Some(names.into()), if_generation, ..Default::default() };
        crate::admin::acl_set(self.act(Verb::SetAcl(set)).await?)
    }

    /// Deletes the node; a directory must be empty. Then every call here fails with [`Error::NodeDeleted`].
    ///
    /// # Errors
    /// As [`Handle::contents`], and [`Error::NotEmpty`].
    pub async fn delete(&self) -> Result<Deleted, Error> {
        deleted(self.act(Verb::Delete(v1::Delete::default())).await?)
    }

    /// Deletes the node if it has this content generation.
    ///
    /// # Errors
    /// As [`Handle::delete`], and [`Error::GenerationMismatch`] with the generation that it has.
    pub async fn delete_if(&self, generation: u64) -> Result<Deleted, Error> {
        let delete = v1::Delete { if_generation: Some(generation), ..Default::default() };
        deleted(self.act(Verb::Delete(delete)).await?)
    }

    /// Watches the node's name: what is of its instance, and of later ones.
    pub fn watch(&self) -> WatchRequest {
        self.client.watch(self.path())
    }

    /// Makes all calls on the handle fail with [`Error::Poisoned`], those that run and those to come, and closes it not
    /// (spec H-4). What was asked of the cell may still be done. A lock that it holds stays held.
    pub fn poison(&self) {
        self.grip.poison();
    }

    /// Ties the handle to a lock: its calls fail with [`Error::SequencerInvalid`] once that is not held any more as
    /// the sequencer says. None unties it.
    ///
    /// # Errors
    /// As [`Handle::contents`].
    pub async fn set_sequencer(&self, sequencer: Option<&Sequencer>) -> Result<(), Error> {
        let sequencer = sequencer.map(v1::Sequencer::from);
        let tie = v1::SetSequencer { handle: self.grip.handle, sequencer };
        crate::admin::done(self.call(Op::SetSequencer(tie)).await?)
    }

    /// Waits until no call through the handle can succeed any more, as far as this client learns of it: at the end of the
    /// session, not when the node is deleted.
    pub(crate) async fn ended(&self) {
        // The sender lives in the grip.
        let _ = self.grip.changes().wait_for(|state| state.ended.is_some()).await;
    }

    /// Closes the handle, and waits until the cell knows, for the client's deadline at most. It never fails: at the
    /// worst the cell learns of it in the background, or when the session ends.
    pub async fn close(self) {
        let (told, closed) = oneshot::channel();
        let (client, deadline) = (self.client.clone(), self.client.deadline());
        self.close_with(Some(told));
        // Closed a second time it makes no difference.
        drop(self);
        // Nobody sends: it is dropped when the call is over.
        let _ = tokio::time::timeout(deadline, closed).await;
        drop(client);
    }

    fn close_with(&self, told: Option<oneshot::Sender<()>>) {
        let Grip { session, handle, .. } = *self.grip;
        if self.client.shared.handles.close(&self.grip) {
            // A closed client has closed its handles.
            let _ = self.client.shared.queue.wish(Wish::Close { session, handle, told });
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close_with(None);
    }
}
