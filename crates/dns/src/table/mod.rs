//! All names and their records, at one revision. A new table shares with the last all services that didn't change.

pub(crate) mod service;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use self::service::{Encoded, Set};
use crate::name;
use crate::query::AskedName;
use crate::view::{UNKNOWN, View};
use crate::zone::Zone;

/// What is answered from.
#[derive(Clone, Debug)]
pub struct Table {
    pub(crate) zone: Arc<Zone>,
    /// The revision of the view that it was made from.
    pub(crate) revision: u64,
    services: imbl::HashMap<Box<[u8]>, Arc<Encoded>>,
    left_out: usize,
}

/// What there is at a name.
#[derive(Debug)]
pub(crate) enum Found<'t> {
    /// It isn't in the zone.
    Outside,
    /// It doesn't exist.
    Absent,
    /// It exists without a record: others lie below it.
    Empty,
    /// The zone's own name.
    Apex,
    /// A name server, by its place.
    Server(usize),
    /// A service, tag or instance.
    Set(&'t Encoded, &'t Set),
    /// `_<service>._tcp`, which has SRV records alone.
    Alias(&'t Encoded, &'t Set),
}

impl Table {
    /// Of nothing yet.
    pub fn empty(zone: Arc<Zone>) -> Table {
        Table { zone, revision: UNKNOWN, services: imbl::HashMap::new(), left_out: 0 }
    }

    /// How many services have no name in DNS, and instances, addresses, tags and strings of others are not answered.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether a service's records are the same in both, in the same memory.
    pub fn shares(&self, other: &Table, service: &str) -> bool {
        let of = |table: &Table| table.services.get(service.as_bytes()).map(Arc::as_ptr);
        of(self).is_some() && of(self) == of(other)
    }

    pub(crate) fn find(&self, name: &AskedName) -> Found<'_> {
        let Some(labels) = name.labels_before(&self.zone.wire) else { return Found::Outside };
        if labels == 0 {
            return Found::Apex;
        }
        let label = |which: usize| name.label(which);
        if label(labels - 1) != b"service" {
            return if labels == 1 { self.server(label(0)) } else { Found::Absent };
        }
        match labels {
            1 => Found::Empty,
            2 if label(0) == b"_tcp" => Found::Empty,
            2 => self.service(label(0)).map_or(Found::Absent, |service| Found::Set(service, &service.own)),
            3 => self.below_service(label(0), label(1)),
            4 => self.of_service(label(0), label(1), label(2)),
            _ => Found::Absent,
        }
    }

    fn server(&self, label: &[u8]) -> Found<'_> {
        let place = self.zone.servers.iter().position(|server| *server.label == *label);
        place.map_or(Found::Absent, Found::Server)
    }

    fn service(&self, label: &[u8]) -> Option<&Encoded> {
        self.services.get(label).map(|service| &**service)
    }

    /// `_<service>._tcp.service`, `tag.<service>.service` or `instance.<service>.service`.
    fn below_service(&self, first: &[u8], second: &[u8]) -> Found<'_> {
        if second == b"_tcp" {
            let service = first.strip_prefix(b"_").and_then(|name| self.service(name));
            return service.map_or(Found::Absent, |service| Found::Alias(service, &service.own));
        }
        let named = matches!(first, b"tag" | b"instance");
        if named && self.service(second).is_some() { Found::Empty } else { Found::Absent }
    }

    /// `<tag>.tag.<service>.service` or `<instance>.instance.<service>.service`.
    fn of_service(&self, first: &[u8], among: &[u8], service: &[u8]) -> Found<'_> {
        let Some(service) = self.service(service) else { return Found::Absent };
        let set = match among {
            b"tag" => service.tags.get(first),
            b"instance" => service.instances.get(first),
            _ => None,
        };
        set.map_or(Found::Absent, |set| Found::Set(service, set))
    }
}

/// Makes one table after another, in proportion to what changed.
#[derive(Debug)]
pub struct Builder {
    view: View,
    table: Table,
    /// Services by their label: DNS doesn't tell `Web` from `web`, the registry does. The first is answered.
    spellings: HashMap<String, BTreeSet<Arc<str>>>,
}

impl Builder {
    /// Begins with no service.
    pub fn new(zone: Arc<Zone>) -> Builder {
        Builder { view: View::default(), table: Table::empty(zone), spellings: HashMap::new() }
    }

    /// The table of this view.
    pub fn build(&mut self, view: View) -> Table {
        let before = std::mem::replace(&mut self.view, view);
        let view = self.view.clone();
        let mut changed = BTreeSet::new();
        for difference in before.services.diff(&view.services) {
            match difference {
                DiffItem::Add(name, _) => changed.extend(self.spelled(name, true)),
                DiffItem::Remove(name, _) => changed.extend(self.spelled(name, false)),
                DiffItem::Update { new: (name, _), .. } => changed.extend(label(name)),
            }
        }
        changed.into_iter().for_each(|label| self.encode(label));
        self.table.revision = view.revision;
        self.table.clone()
    }

    /// Notes that a service came or went, and gives back its label if it has one.
    fn spelled(&mut self, name: &Arc<str>, came: bool) -> Option<String> {
        let Some(label) = label(name) else {
            self.table.left_out = if came { self.table.left_out + 1 } else { self.table.left_out - 1 };
            return None;
        };
        let spellings = self.spellings.entry(label.clone()).or_default();
        let before = spellings.len().saturating_sub(1);
        if came {
            spellings.insert(name.clone())
        } else {
            spellings.remove(name)
        };
        self.table.left_out = self.table.left_out - before + spellings.len().saturating_sub(1);
        if spellings.is_empty() {
            self.spellings.remove(&label);
        }
        Some(label)
    }

    fn encode(&mut self, label: String) {
        let first = self.spellings.get(&label).and_then(|spellings| spellings.first());
        let service = first.and_then(|name| self.view.services.get(name));
        let encoded = service.map(|service| Arc::new(Encoded::new(&label, service, &self.table.zone)));
        let left_out = encoded.as_ref().map_or(0, |encoded| encoded.left_out);
        let key = label.into_bytes().into_boxed_slice();
        let before = match encoded {
            Some(encoded) => self.table.services.insert(key, encoded),
            None => self.table.services.remove(&key),
        };
        self.table.left_out = self.table.left_out - before.map_or(0, |before| before.left_out) + left_out;
    }
}

/// A service's label, if its name can be one. Those that begin with `_` would be taken for aliases.
fn label(name: &str) -> Option<String> {
    let label = name.to_ascii_lowercase();
    (name::is_label(&label) && !label.starts_with('_')).then_some(label)
}
