//! What is known of services at one moment, and how that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramah_wire::registry::{Instance, Invalid};

use super::scan::{Entry, Table};

/// An instance that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// Its service.
    pub service: Arc<str>,
    /// Its name, which no other instance of the service has.
    pub id: Arc<str>,
    /// What it says of itself.
    pub instance: Instance,
    /// The cell's revision that last changed it.
    pub revision: u64,
    /// The content generation of its file.
    pub generation: u64,
    /// It stays until somebody deregisters it. Else it goes with the session that registered it.
    pub permanent: bool,
}

/// The instances of a service, by id.
pub type Instances = Arc<BTreeMap<Arc<str>, Arc<Registered>>>;

/// What should be instances and is none, by service and id.
pub type InvalidFiles = BTreeMap<(Arc<str>, Arc<str>), Invalid>;

/// Services and their instances as they were at one moment. It never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// All changes up to this revision of the cell are in it.
    pub revision: u64,
    /// By name; those alone that have an instance.
    pub services: BTreeMap<Arc<str>, Instances>,
    /// Files that should be instances and are none, by service and id, with the reason.
    pub invalid: Arc<InvalidFiles>,
}

/// What a [`ServiceWatch`](super::ServiceWatch) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// All there is: at first, and when changes may have been missed.
    Full(Arc<Snapshot>),
    /// What changed since the update before.
    Delta {
        /// All changes up to this revision of the cell were told.
        revision: u64,
        /// Each instance once, in no particular order.
        changes: Vec<Change>,
    },
}

/// What happened to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now, or says something else of itself.
    Put(Arc<Registered>),
    /// It is gone, or its file is no instance any more.
    Removed {
        /// Its service.
        service: Arc<str>,
        /// Its name.
        id: Arc<str>,
    },
}

impl Update {
    /// To go on from here with [`Registry::resume`](super::Registry::resume).
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Full(snapshot) => snapshot.revision,
            Self::Delta { revision, .. } => *revision,
        }
    }
}

impl Snapshot {
    /// A service's instances, in the order of their names.
    pub fn instances(&self, service: &str) -> impl Iterator<Item = &Arc<Registered>> {
        self.services.get(service).into_iter().flat_map(|instances| instances.values())
    }

    /// An instance.
    #[must_use]
    pub fn get(&self, service: &str, id: &str) -> Option<&Arc<Registered>> {
        self.services.get(service)?.get(id)
    }

    pub(super) fn of(revision: u64, table: &Table) -> Self {
        let mut services: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Registered>>> = BTreeMap::new();
        let mut invalid = BTreeMap::new();
        for ((service, id), entry) in table {
            match &entry.said {
                Ok(registered) => {
                    services.entry(service.clone()).or_default().insert(id.clone(), registered.clone());
                }
                Err(reason) => {
                    invalid.insert((service.clone(), id.clone()), reason.clone());
                }
            }
        }
        let services = services.into_iter().map(|(name, instances)| (name, Arc::new(instances))).collect();
        Self { revision, services, invalid: Arc::new(invalid) }
    }

    /// An instance is this now; none: it is gone. What others hold of the snapshot stays as it was.
    pub(super) fn apply(&mut self, service: &Arc<str>, id: &Arc<str>, entry: Option<&Entry>) {
        match entry.map(|entry| &entry.said) {
            Some(Ok(registered)) => {
                let instances = self.services.entry(service.clone()).or_default();
                Arc::make_mut(instances).insert(id.clone(), registered.clone());
            }
            _ => self.remove(service, id),
        }
        let key = (service.clone(), id.clone());
        match entry.map(|entry| &entry.said) {
            Some(Err(reason)) => {
                Arc::make_mut(&mut self.invalid).insert(key, reason.clone());
            }
            _ if self.invalid.contains_key(&key) => {
                Arc::make_mut(&mut self.invalid).remove(&key);
            }
            _ => {}
        }
    }

    fn remove(&mut self, service: &Arc<str>, id: &Arc<str>) {
        let Some(instances) = self.services.get_mut(service) else { return };
        if instances.contains_key(id) {
            Arc::make_mut(instances).remove(id);
        }
        if instances.is_empty() {
            self.services.remove(service);
        }
    }
}
