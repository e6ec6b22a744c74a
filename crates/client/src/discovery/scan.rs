//! Reading instances: a listing that tells which there are, and many reads at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramah_wire::registry::{Instance, Invalid, ROOT, is_name, service_path};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::snapshot::Registered;
use crate::client::Client;
use crate::error::Error;
use crate::files::{DirectoryEntry, Kind};

/// So many instances are read at once: the client sends them in few messages, and they share the cell's barriers.
const READS_AT_ONCE: usize = 512;
/// Services that are listed at once.
const LISTINGS_AT_ONCE: usize = 16;

/// A service and an id.
pub(super) type Key = (Arc<str>, Arc<str>);
/// What is known, by name.
pub(super) type Table = BTreeMap<Key, Entry>;

/// Which services are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Service(Arc<str>),
    All,
}

/// A file among those of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The node's instance and the revision that it was changed by: together they tell whether it is still the same.
    pub(super) version: (u64, u64),
    pub(super) said: Result<Arc<Registered>, Invalid>,
}

/// All there is.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) revision: u64,
    pub(super) table: Table,
    pub(super) listings: u64,
    pub(super) reads: u64,
}

impl Scope {
    pub(super) fn holds(&self, service: &str) -> bool {
        match self {
            Self::Service(name) => **name == *service,
            Self::All => true,
        }
    }

    /// The directory that all of it is in.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Service(service) => format!("{ROOT}/{service}"),
            Self::All => ROOT.to_owned(),
        }
    }
}

/// A directory's entries at one revision; without the directory none.
pub(super) async fn list(client: &Client, path: &str) -> Result<(Vec<DirectoryEntry>, u64), Error> {
    match client.list_at(path).await {
        Err(Error::NotFound { .. } | Error::WrongKind { .. }) => Ok((Vec::new(), 0)),
        listed => listed,
    }
}

/// Reads what is there. Of what is known already only that is read again which changed.
pub(super) async fn scan(client: &Client, scope: &Scope, known: &Table) -> Result<Scanned, Error> {
    let (services, first) = match scope {
        Scope::Service(service) => (vec![service.clone()], None),
        Scope::All => {
            let (entries, revision) = list(client, ROOT).await?;
            let names = entries.into_iter().filter(|entry| entry.stat.kind == Kind::Directory);
            let names = names.map(|entry| entry.name).filter(|name| is_name(name));
            (names.map(Arc::from).collect(), Some(revision))
        }
    };
    let listings = services.len() as u64 + u64::from(first.is_some());
    let listed: Vec<(Arc<str>, Vec<DirectoryEntry>, u64)> = stream::iter(services)
        .map(|service| async move {
            let (entries, revision) = list(client, &path_of(&service)).await?;
            Ok::<_, Error>((service, entries, revision))
        })
        .buffer_unordered(LISTINGS_AT_ONCE)
        .try_collect()
        .await?;
    let revision = listed.iter().map(|(.., revision)| *revision).chain(first).min().unwrap_or(0);
    let (mut table, mut unread) = (Table::new(), Vec::new());
    for (service, entries, _) in listed {
        for entry in entries.into_iter().filter(|entry| entry.stat.kind == Kind::File && is_name(&entry.name))
        {
            let key: Key = (service.clone(), entry.name.into());
            let version = (entry.stat.instance, entry.stat.modified_revision);
            match known.get(&key).filter(|known| known.version == version) {
                Some(known) => drop(table.insert(key, known.clone())),
                None => unread.push(key),
            }
        }
    }
    let reads = unread.len() as u64;
    for (key, entry) in read(client, unread).await? {
        if let Some(entry) = entry {
            table.insert(key, entry);
        }
    }
    Ok(Scanned { revision, table, listings, reads })
}

/// Reads these, many at once. None: it is gone.
pub(super) async fn read(client: &Client, keys: Vec<Key>) -> Result<Vec<(Key, Option<Entry>)>, Error> {
    let reads = stream::iter(keys).map(|key| async move {
        let entry = read_one(client, &key).await?;
        Ok::<_, Error>((key, entry))
    });
    reads.buffer_unordered(READS_AT_ONCE).try_collect().await
}

async fn read_one(client: &Client, (service, id): &Key) -> Result<Option<Entry>, Error> {
    let file = match client.get(format!("{}/{id}", path_of(service))).await {
        Ok(file) => file,
        Err(Error::NotFound { .. }) => return Ok(None),
        // One that can't be read must not hide all others.
        Err(error @ (Error::WrongKind { .. } | Error::PermissionDenied { .. })) => {
            let invalid = Invalid { what: "the file".into(), problem: error.to_string() };
            return Ok(Some(Entry { version: (0, 0), said: Err(invalid) }));
        }
        Err(error) => return Err(error),
    };
    let version = (file.stat.instance, file.stat.modified_revision);
    let said = Instance::decode(&file.contents).map(|instance| {
        Arc::new(Registered {
            service: service.clone(),
            id: id.clone(),
            instance,
            revision: file.stat.modified_revision,
            generation: file.stat.content_generation,
            permanent: !file.stat.ephemeral,
        })
    });
    Ok(Some(Entry { version, said }))
}

fn path_of(service: &str) -> String {
    service_path(service).unwrap_or_else(|_| ROOT.to_owned())
}
