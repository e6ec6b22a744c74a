//! Telling what changes among the instances of a service (spec ).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bramah_wire::registry::of_path;
use futures_util::FutureExt;

use super::scan::{self, Entry, Key, Scope, Table};
use super::snapshot::{Change, Snapshot, Update};
use crate::client::Client;
use crate::error::Error;
use crate::watch::{self, EventKind, Watch, WatchEvent};

/// Events that may wait: a whole large service may change at once.
const BUFFER: usize = 32_768;
/// Instances that one update tells of, at most.
const BATCH: usize = 8_192;

/// Tells all instances of a service, and then what changes; made by [`Registry::watch`](super::Registry::watch).
///
/// What happens at once is told at once: while it reads what changed, further changes add up to the next update. It reads
/// only the instances that changed, many at a time, and the whole list again only when the cell says that events may be missing.
#[derive(Debug)]
pub struct ServiceWatch {
    client: Client,
    scope: Scope,
    watch: Option<Watch>,
    table: Table,
    snapshot: Snapshot,
    /// Told by events, and not read yet.
    dirty: BTreeMap<Key, Told>,
    /// The newest revision that events told of.
    heard: u64,
    /// The whole list is to be read.
    rescan: bool,
    /// It was read once.
    knows_all: bool,
    reads: Arc<Counts>,
}

/// The last thing that was told of an instance.
#[derive(Clone, Copy, Debug)]
struct Told {
    revision: u64,
    gone: bool,
}

#[derive(Debug, Default)]
struct Counts {
    listings: AtomicU64,
    instances: AtomicU64,
}

/// What a watch has asked the cell for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reads {
    /// Listings of a directory.
    pub listings: u64,
    /// Instances.
    pub instances: u64,
}

impl ServiceWatch {
    pub(super) async fn begin(client: Client, scope: Scope, from: Option<u64>) -> Result<Self, Error> {
        let rescan = from.is_none();
        let watch = Self::watch(&client, &scope, from).await?;
        Ok(Self {
            client,
            scope,
            watch: Some(watch),
            table: Table::new(),
            snapshot: Snapshot::default(),
            dirty: BTreeMap::new(),
            heard: from.unwrap_or(0),
            rescan,
            knows_all: false,
            reads: Arc::default(),
        })
    }

    async fn watch(client: &Client, scope: &Scope, from: Option<u64>) -> Result<Watch, Error> {
        let kinds =
            [EventKind::Created, EventKind::ContentsModified, EventKind::Deleted, EventKind::AclChanged];
        let request = client.watch(scope.path()).subtree().kinds(kinds).buffer(BUFFER);
        match from {
            // The changes of one revision may have been told in two parts. Telling one again does no harm.
            Some(revision) => request.after_revision(revision.saturating_sub(1)).await,
            None => request.await,
        }
    }

    /// What has been asked of the cell so far.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.reads.now()
    }

    pub(super) fn counts(&self) -> impl Fn() -> Reads + Send + Sync + use<> {
        let reads = self.reads.clone();
        move || reads.now()
    }

    /// All there is at first, then what changed. Cancel-safe; after an error that [may pass](Error::is_retryable) it goes on
    /// where it was.
    ///
    /// # Errors
    /// As [`Client::watch`], [`Client::list`] and [`Client::get`].
    pub async fn next(&mut self) -> Result<Update, Error> {
        loop {
            self.hear().await?;
            if self.rescan {
                return Ok(Update::Full(self.read_all().await?));
            }
            let changes = self.read_changed().await?;
            if !changes.is_empty() {
                return Ok(Update::Delta { revision: self.snapshot.revision, changes });
            }
        }
    }

    /// As [`ServiceWatch::next`], for those who want to know how it is, and not what changed.
    pub(super) async fn next_snapshot(&mut self) -> Result<Arc<Snapshot>, Error> {
        self.next().await?;
        Ok(Arc::new(self.snapshot.clone()))
    }

    /// Takes the events that are there; waits for one if there is nothing to do yet.
    async fn hear(&mut self) -> Result<(), Error> {
        if self.watch.is_none() {
            self.watch = Some(Self::watch(&self.client, &self.scope, None).await?);
            self.rescan = true;
        }
        let result = self.hear_from_watch().await;
        if result.is_err() {
            // A watch that has ended tells nothing any more: the next one begins with the whole list.
            self.watch = None;
        }
        result
    }

    async fn hear_from_watch(&mut self) -> Result<(), Error> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let mut events = Vec::new();
        if !self.rescan && self.dirty.is_empty() {
            events.push(watch.next().await?);
        }
        while self.dirty.len() + events.len() < BATCH
            && let Some(event) = watch.next().now_or_never()
        {
            events.push(event?);
        }
        events.iter().for_each(|event| self.take(event));
        Ok(())
    }

    fn take(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Gap { resume } => {
                self.heard = self.heard.max(*resume);
                self.rescan = true;
            }
            WatchEvent::Happened(event) => {
                self.heard = self.heard.max(event.revision);
                let Some((service, id)) = of_path(&event.path).filter(|(name, _)| self.scope.holds(name))
                else {
                    return;
                };
                let told = Told { revision: event.revision, gone: event.change == watch::Change::Deleted };
                self.dirty.insert((service.into(), id.into()), told);
            }
        }
    }

    async fn read_all(&mut self) -> Result<Arc<Snapshot>, Error> {
        self.reads.listings.fetch_add(1, Relaxed);
        let scanned = scan::scan(&self.client, &self.scope, &self.table).await?;
        // The first of them was counted when it was asked for.
        self.reads.listings.fetch_add(scanned.listings.saturating_sub(1), Relaxed);
        self.reads.instances.fetch_add(scanned.reads, Relaxed);
        self.table = scanned.table;
        // What was heard before the list was read is in it.
        let heard = self.heard.max(self.watch.as_ref().map_or(0, Watch::begun_at));
        self.snapshot = Snapshot::of(scanned.revision.max(heard), &self.table);
        (self.rescan, self.knows_all) = (false, true);
        Ok(Arc::new(self.snapshot.clone()))
    }

    /// Reads what events told of, as far as it isn't known already.
    async fn read_changed(&mut self) -> Result<Vec<Change>, Error> {
        let heard = self.heard;
        let mut news: Vec<(Key, Option<Entry>)> = Vec::new();
        let mut unread = Vec::new();
        for (key, told) in &self.dirty {
            let known = self.table.get(key).map(|entry| entry.version.1);
            match told.gone {
                // It was read since, and there was another of that name.
                true if known.is_some_and(|known| known > told.revision) => {}
                true => news.push((key.clone(), None)),
                false if known.is_some_and(|known| known >= told.revision) => {}
                false => unread.push(key.clone()),
            }
        }
        self.reads.instances.fetch_add(unread.len() as u64, Relaxed);
        news.extend(scan::read(&self.client, unread).await?);
        // Nothing is forgotten before all of it was read.
        self.dirty.clear();
        self.snapshot.revision = self.snapshot.revision.max(heard);
        Ok(news.into_iter().filter_map(|(key, entry)| self.learn(key, entry)).collect())
    }

    /// The change that it is, if it is one.
    fn learn(&mut self, key: Key, entry: Option<Entry>) -> Option<Change> {
        let (service, id) = key.clone();
        self.snapshot.apply(&service, &id, entry.as_ref());
        let now = entry.as_ref().and_then(|entry| entry.said.as_ref().ok()).cloned();
        let before = match entry {
            Some(entry) => self.table.insert(key, entry),
            None => self.table.remove(&key),
        };
        let before = before.and_then(|entry| entry.said.ok());
        match (before, now) {
            (before, Some(now)) => (before.as_ref() != Some(&now)).then_some(Change::Put(now)),
            // One that is not known may have been told before this was resumed.
            (before, None) => {
                (before.is_some() || !self.knows_all).then_some(Change::Removed { service, id })
            }
        }
    }
}

impl Counts {
    fn now(&self) -> Reads {
        Reads { listings: self.listings.load(Relaxed), instances: self.instances.load(Relaxed) }
    }
}
