//! Being told of what happens to nodes (spec E-1 to E-4).

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bramah_wire::v1;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Serialize;

use crate::client::Client;
use crate::error::Error;
use crate::files::Kind;
use crate::queue::Wish;
use crate::watches::Interest;

/// Events that may wait for their reader unless said otherwise.
const BUFFER: usize = 1024;

/// Something that happened to a node. Who reads the node then sees this change or a later one (spec E-2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The cell's revision of the change; those of one command share it.
    pub revision: u64,
    /// The node.
    pub path: String,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// It is there now, with its first contents or value.
    Created {
        /// What it is.
        kind: Kind,
    },
    /// A file was written.
    ContentsModified {
        /// Its content generation now.
        generation: u64,
    },
    /// A counter was added to or reset.
    CounterChanged {
        /// Its value now.
        value: i64,
    },
    /// It is gone.
    Deleted,
    /// Its ACL names were written.
    AclChanged {
        /// Its ACL generation now.
        generation: u64,
    },
    /// Its lock was given to a handle.
    LockAcquired {
        /// Whose handle it is.
        session: u64,
        /// The handle.
        handle: u64,
        /// The lock generation now.
        generation: u64,
        /// Whether others may hold it too.
        shared: bool,
    },
    /// Somebody waits for its lock: its holders may want to give it back (spec L-7).
    LockWanted {
        /// Whether it would be shared.
        shared: bool,
    },
    /// Its lock was given back, or taken back because a session ended.
    LockReleased {
        /// Whose handle it was.
        session: u64,
        /// The handle.
        handle: u64,
    },
    /// A handle held its lock, or waited for it, and the node is gone.
    LockLost {
        /// Whose handle it was.
        session: u64,
        /// The handle.
        handle: u64,
    },
}

/// A kind of [`Change`], to choose what a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the variant of `Change` with its name")]
pub enum EventKind {
    Created,
    ContentsModified,
    CounterChanged,
    Deleted,
    AclChanged,
    LockAcquired,
    LockWanted,
    LockReleased,
    LockLost,
}

impl EventKind {
    fn wire(self) -> i32 {
        use v1::event::Kind as Wire;
        let kind = match self {
            Self::Created => Wire::Created,
            Self::ContentsModified => Wire::ContentsModified,
            Self::CounterChanged => Wire::CounterChanged,
            Self::Deleted => Wire::Deleted,
            Self::AclChanged => Wire::AclChanged,
            Self::LockAcquired => Wire::LockAcquired,
            Self::LockWanted => Wire::LockWanted,
            Self::LockReleased => Wire::LockReleased,
            Self::LockLost => Wire::LockLost,
        };
        kind.into()
    }
}

impl Event {
    /// None for a kind that this version doesn't know.
    pub(crate) fn of(event: v1::Event) -> Option<Self> {
        use v1::event::Kind as Wire;
        let v1::Event { revision, generation, value, session, handle, shared, .. } = event;
        let change = match event.kind() {
            Wire::Created => Change::Created { kind: event.node().into() },
            Wire::ContentsModified => Change::ContentsModified { generation },
            Wire::CounterChanged => Change::CounterChanged { value },
            Wire::Deleted => Change::Deleted,
            Wire::AclChanged => Change::AclChanged { generation },
            Wire::LockAcquired => Change::LockAcquired { session, handle, generation, shared },
            Wire::LockWanted => Change::LockWanted { shared },
            Wire::LockReleased => Change::LockReleased { session, handle },
            Wire::LockLost => Change::LockLost { session, handle },
            Wire::Unspecified => return None,
        };
        Some(Self { revision, path: event.path, change })
    }
}

/// What a [`Watch`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// Something happened. Watches of one client share it.
    Happened(Arc<Event>),
    /// Events may be missing: too many waited here or in the cell, or the cell keeps them no longer. Read what is
    /// watched anew; what comes after this revision is told again.
    Gap {
        /// The newest revision of which events may be missing.
        resume: u64,
    },
}

/// What waits for a watch's reader: bounded, so a reader that doesn't read costs nobody anything (spec E-4).
#[derive(Debug)]
pub(crate) struct Inbox {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<WatchEvent>,
    /// Events up to this revision were left out after those that wait.
    lagged: Option<u64>,
    begun: Option<u64>,
    ended: Option<Error>,
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        let reader = inner.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(crate) fn push(&self, event: Arc<Event>) {
        self.change(|inner| match inner.lagged {
            None if inner.waiting.len() < self.limit => inner.waiting.push_back(WatchEvent::Happened(event)),
            _ => inner.lagged = Some(event.revision),
        });
    }

    pub(crate) fn gap(&self, resume: u64) {
        self.change(|inner| match inner.lagged {
            None if inner.waiting.len() < self.limit => inner.waiting.push_back(WatchEvent::Gap { resume }),
            before => inner.lagged = before.max(Some(resume)),
        });
    }

    pub(crate) fn begun(&self, revision: u64) {
        self.change(|inner| {
            inner.begun.get_or_insert(revision);
        });
    }

    pub(crate) fn end(&self, error: Error) {
        self.change(|inner| inner.ended = Some(error));
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    fn poll_begun(&self, context: &mut Context<'_>) -> Poll<Result<u64, Error>> {
        let mut inner = self.inner.lock();
        if let Some(revision) = inner.begun {
            return Poll::Ready(Ok(revision));
        }
        if let Some(error) = &inner.ended {
            return Poll::Ready(Err(error.clone()));
        }
        inner.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<WatchEvent, Error>>> {
        let mut inner = self.inner.lock();
        if let Some(event) = inner.waiting.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(resume) = inner.lagged.take() {
            return Poll::Ready(Some(Ok(WatchEvent::Gap { resume })));
        }
        if let Some(error) = &inner.ended {
            return Poll::Ready(Some(Err(error.clone())));
        }
        inner.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

/// What to watch; made by [`Client::watch`]. Awaiting it begins the watch.
#[derive(Clone, Debug)]
#[must_use = "awaiting it begins the watch"]
pub struct WatchRequest {
    client: Client,
    interest: Interest,
    buffer: usize,
}

impl WatchRequest {
    /// Also all that is below the node.
    pub fn subtree(mut self) -> Self {
        self.interest.subtree = true;
        self
    }

    /// Only these kinds. Default: all that change a node, so none of the lock's.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        self.interest.kinds = kinds.into_iter().map(EventKind::wire).collect();
        self
    }

    /// First what came after this revision. Default: only what comes from now on.
    pub fn after_revision(mut self, revision: u64) -> Self {
        self.interest.after = Some(revision);
        self
    }

    /// How many events may wait for the reader. Default: 1,024.
    pub fn buffer(mut self, events: usize) -> Self {
        self.buffer = events.max(1);
        self
    }

    async fn begin(self) -> Result<Watch, Error> {
        let Self { client, interest, buffer } = self;
        let inbox = Arc::new(Inbox::new(buffer));
        let path = interest.path.clone();
        let number = client.shared.queue.next_watch();
        client.shared.queue.wish(Wish::Watch { number, interest, inbox: inbox.clone() })?;
        let mut watch = Watch { client, number, inbox, begun_at: 0 };
        let allowed = watch.client.deadline();
        let begun = std::future::poll_fn(|context| watch.inbox.poll_begun(context));
        watch.begun_at =
            tokio::time::timeout(allowed, begun).await.unwrap_or_else(|_| Err(late(&path, allowed)))?;
        Ok(watch)
    }
}

fn late(path: &str, allowed: Duration) -> Error {
    let message = format!("the watch of {path} did not begin within its {} s", allowed.as_secs_f64());
    Error::DeadlineExceeded { message, may_have_been_done: false }
}

impl IntoFuture for WatchRequest {
    type Output = Result<Watch, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

/// Tells what happens to a node, or to all below it: in order, each event once, over all connections, fail-overs and
/// sessions of its client. It keeps the client's session from being ended as idle. Dropping it ends it.
///
/// It is a [`Stream`] that ends only with an error, which then comes again each time.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    number: u64,
    inbox: Arc<Inbox>,
    begun_at: u64,
}

impl Watch {
    /// It tells what comes after this revision: who reads now sees all that came before.
    #[must_use]
    pub fn begun_at(&self) -> u64 {
        self.begun_at
    }

    /// What comes next. Cancel-safe.
    ///
    /// # Errors
    /// What ended the watch: [`Error::PermissionDenied`], [`Error::TooMany`], [`Error::Closed`].
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        let next = std::future::poll_fn(|context| self.inbox.poll(context)).await;
        next.unwrap_or_else(|| Err(Error::closed(false)))
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inbox.poll(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A client that is closed has no watches.
        let _ = self.client.shared.queue.wish(Wish::Unwatch { number: self.number });
    }
}

impl Client {
    /// Watches the node at `path`, which need not exist.
    ///
    /// ```no_run
    /// # async fn example(client: bramah_client::Client) -> Result<(), bramah_client::Error> {
    /// use bramah_client::WatchEvent;
    ///
    /// let mut watch = client.watch("/shop").subtree().await?;
    /// loop {
    ///     match watch.next().await? {
    ///         WatchEvent::Happened(event) => println!("{}: {:?}", event.path, event.change),
    ///         WatchEvent::Gap { resume } => println!("read /shop anew, up to revision {resume} events are missing"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    pub fn watch(&self, path: impl Into<String>) -> WatchRequest {
        let interest = Interest { path: path.into(), ..Interest::default() };
        WatchRequest { client: self.clone(), interest, buffer: BUFFER }
    }
}
