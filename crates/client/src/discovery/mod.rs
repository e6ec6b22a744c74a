//! Services: instances that register, are found, followed, checked and called by name (spec R-1 to R-4, F-1).
//!
//! An instance is the file `/services/<service>/<id>`, with an [`Instance`] as its contents. One that registers itself
//! has it open as an ephemeral file, so that it goes with the session; one that an operator registered stays.
//!
//! ```no_run
//! # async fn example(client: bramah_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use bramah_client::discovery::Instance;
//!
//! let registry = client.registry();
//! let here = registry.register("web", "web-1", Instance::new("10.0.0.7", 8080)).await?;
//!
//! let follower = registry.follow("web").await?;
//! for registered in follower.snapshot().instances("web") {
//!     println!("{} is at {}", registered.id, registered.instance.authority());
//! }
//! here.deregister().await;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Registry::lookup`] reads once; [`Registry::watch`] tells a full list and then changes, and can be resumed;
//!   [`Registry::follow`] keeps an unchanging [`Snapshot`] after another, for those who only want to know what is now.
//! * [`Balanced`] is a `tower` service, and [`GrpcChannel`] a channel for tonic's generated clients, that send each call to
//!   an instance of a service.
//! * [`Registration::run_checks`] and [`Registry::check_all`] find out whether instances are well.

mod balanced;
mod call_error;
mod checker;
mod connector;
mod follow;
mod grpc;
mod grpc_body;
mod health;
mod probe;
mod registration;
mod scan;
mod slot;
mod snapshot;
mod watching;

use std::sync::Arc;

pub use balanced::{Balanced, CallSettings};
pub use bramah_balance as balance;
pub use bramah_wire::grpc_health;
pub use bramah_wire::registry::{
    Check, Health, Instance, Invalid, Probe, ROOT, instance_path, is_name, service_path, valid_name,
};
pub use call_error::CallError;
pub use connector::{BoxError, Connector, InFlight, Verdict};
pub use follow::Follower;
pub use grpc::{GrpcChannel, GrpcConnection, GrpcConnector, GrpcError, GrpcRequest, KEY_HEADER, Repeatable};
pub use health::HealthState;
pub use probe::{Observed, probe};
pub use registration::{Registration, RegistrationState};
pub use snapshot::{Change, Instances, InvalidFiles, Registered, Snapshot, Update};
pub use watching::{Reads, ServiceWatch};

use crate::client::Client;
use crate::error::Error;
use crate::files::{SetOptions, Written};

use self::scan::Scope;

/// How often others may write an instance just before it is.
const PUTS: usize = 8;

/// The registry of services in a client's cell; made by [`Client::registry`].
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
}

impl Client {
    /// The services that are registered in the cell.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry { client: self.clone() }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::InvalidArgument { message: invalid.to_string() }
    }
}

impl Registry {
    /// Registers an instance as long as this client's session lives (spec R-2). When that expires it is registered again by
    /// itself, in the next one: [`Registration::state`] says so.
    ///
    /// One that is registered by this id already is replaced: so a process that was started again needn't wait until
    /// the session of its predecessor has expired.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for names and instances out of their limits; [`Error::AlreadyExists`] if an operator
    /// registered it for good; as [`Client::open`].
    pub async fn register(&self, service: &str, id: &str, instance: Instance) -> Result<Registration, Error> {
        Registration::begin(self.client.clone(), instance_path(service, id)?, instance).await
    }

    /// Registers an instance for good, without a session: it stays until somebody deregisters it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if a process registered itself by this id: it would go with that one's session. As
    /// [`Client::set`].
    pub async fn put(&self, service: &str, id: &str, instance: &Instance) -> Result<Written, Error> {
        let path = instance_path(service, id)?;
        let contents = bytes::Bytes::from(instance.encode()?);
        let mut tries = 0;
        loop {
            let there = match self.client.stat(&*path).await {
                Ok(stat) if stat.ephemeral => {
                    let message = format!(
                        "{path} was registered by a process, and goes with its session: deregister it first, or register by another id"
                    );
                    return Err(Error::AlreadyExists { message });
                }
                Ok(stat) => stat.content_generation,
                Err(Error::NotFound { .. }) => 0,
                Err(error) => return Err(error),
            };
            let options = SetOptions { parents: true, if_generation: Some(there) };
            match self.client.set_with(&*path, contents.clone(), options).await {
                Err(Error::GenerationMismatch { .. }) if tries < PUTS => tries += 1,
                put => return put,
            }
        }
    }

    /// Removes an instance, whoever registered it. One that registered itself doesn't come back by itself. Whether there was
    /// one.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn deregister(&self, service: &str, id: &str) -> Result<bool, Error> {
        match self.client.delete(instance_path(service, id)?).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of all services, those without an instance too.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn services(&self) -> Result<Vec<String>, Error> {
        let (entries, _) = scan::list(&self.client, ROOT).await?;
        Ok(entries.into_iter().map(|entry| entry.name).filter(|name| is_name(name)).collect())
    }

    /// All instances of a service, read once: none, if nobody ever registered one.
    ///
    /// The instances are those of one moment; what each says of itself may be newer.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn lookup(&self, service: &str) -> Result<Arc<Snapshot>, Error> {
        self.read(Scope::Service(valid_service(service)?)).await
    }

    /// All instances of all services, read once.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub async fn lookup_all(&self) -> Result<Arc<Snapshot>, Error> {
        self.read(Scope::All).await
    }

    async fn read(&self, scope: Scope) -> Result<Arc<Snapshot>, Error> {
        let scanned = scan::scan(&self.client, &scope, &scan::Table::new()).await?;
        Ok(Arc::new(Snapshot::of(scanned.revision, &scanned.table)))
    }

    /// Tells all instances of a service, and then what changes (spec R-1, R-4).
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn watch(&self, service: &str) -> Result<ServiceWatch, Error> {
        ServiceWatch::begin(self.client.clone(), Scope::Service(valid_service(service)?), None).await
    }

    /// As [`Registry::watch`], without the list: what changed at this [`Update::revision`] and since. If the cell does not keep that
    /// any more a full list comes all the same.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn resume(&self, service: &str, revision: u64) -> Result<ServiceWatch, Error> {
        let scope = Scope::Service(valid_service(service)?);
        ServiceWatch::begin(self.client.clone(), scope, Some(revision)).await
    }

    /// As [`Registry::watch`], for all services.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn watch_all(&self) -> Result<ServiceWatch, Error> {
        ServiceWatch::begin(self.client.clone(), Scope::All, None).await
    }

    /// Knows all instances of a service from now on. When it is there the first list is.
    ///
    /// # Errors
    /// As [`Client::watch`] and [`Client::list`].
    pub async fn follow(&self, service: &str) -> Result<Follower, Error> {
        Follower::begin(self.watch(service).await?).await
    }

    /// As [`Registry::follow`], for all services.
    ///
    /// # Errors
    /// As [`Registry::follow`].
    pub async fn follow_all(&self) -> Result<Follower, Error> {
        Follower::begin(self.watch_all().await?).await
    }

    /// A channel for tonic's generated clients that sends each call to an instance of a service (spec F-1).
    ///
    /// # Errors
    /// As [`Registry::follow`].
    pub async fn grpc(&self, service: &str, settings: CallSettings) -> Result<GrpcChannel, Error> {
        Ok(GrpcChannel::new(service, self.follow(service).await?, settings))
    }

    /// Checks all instances of a service that carry a check and are there for good, as long as the future is polled, and
    /// writes their health (spec R-2, R-3). Of many who do this at once one checks; when that one goes another goes on.
    ///
    /// # Errors
    /// What cannot get better by itself: [`Error::PermissionDenied`], [`Error::Closed`], and the like.
    pub async fn check_all(&self, service: &str) -> Result<(), Error> {
        checker::check_all(self, &valid_service(service)?).await
    }
}

fn valid_service(service: &str) -> Result<Arc<str>, Error> {
    valid_name("service", service)?;
    Ok(service.into())
}
