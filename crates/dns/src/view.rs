//! What DNS is told of the registry, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use tokio::sync::watch;

/// The registry at one moment. To clone it is to copy a pointer, and two views share what is alike in both, so that
/// finding what changed costs in proportion to that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Grows with each change. Its low 32 bits are the serial of the zone (RFC 1982).
    pub revision: u64,
    /// By name.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
}

/// No revision of a registry.
pub(crate) const UNKNOWN: u64 = u64::MAX;

impl View {
    /// Of one who does not know the registry yet: queries are answered by SERVFAIL, so that clients ask somebody else.
    pub fn unknown() -> View {
        View { revision: UNKNOWN, ..View::default() }
    }
}

/// The instances of a service, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// By id.
    pub instances: OrdMap<Arc<str>, Arc<Instance>>,
}

/// One place at which a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// IPv4, IPv6 or both. The first 8 are answered.
    pub addresses: Vec<IpAddr>,
    /// The port of SRV records.
    pub port: u16,
    /// Its share among its like, relative to theirs.
    pub weight: u16,
    /// Each gives it a name of its own. The first 64 are answered.
    pub tags: BTreeSet<String>,
    /// Strings `key=value` of its TXT record.
    pub metadata: BTreeMap<String, String>,
    /// Whether it is to be answered as one of a service.
    pub healthy: bool,
}

/// Who knows the registry.
pub trait Directory: Send + Sync + 'static {
    /// The registry as it is known here now. Called again after each change: it must be quick.
    fn view(&self) -> View;

    /// Ends when the view has another revision than `known`. Never ends if there will be no other.
    fn changed(&self, known: u64) -> impl Future<Output = ()> + Send;
}

/// Whoever has the other end sends each view.
impl Directory for watch::Receiver<View> {
    fn view(&self) -> View {
        self.borrow().clone()
    }

    async fn changed(&self, known: u64) {
        let mut receiver = self.clone();
        if receiver.wait_for(|view| view.revision != known).await.is_err() {
            // The sender is gone: the last view is served for as long as we are.
            std::future::pending::<()>().await;
        }
    }
}
