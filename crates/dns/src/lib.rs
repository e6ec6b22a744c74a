//! DNS over a registry of services: UDP and TCP, from a table of answers that are encoded before they are asked for.
//!
//! [`Server`] follows a [`Directory`], which gives it one unchanging [`View`] after another. Of each changed service
//! the records are encoded anew, and the new table takes the place of the old one at once; so a query is a parse
//! without an allocation, a look-up, and a copy. `docs/dns.md` says which names there are and what is refused.

mod answer;
mod counts;
mod forward;
mod name;
mod order;
mod query;
mod server;
mod settings;
mod table;
mod tcp;
mod udp;
mod view;
mod zone;

pub use counts::Counts;
pub use name::{Name, NameError};
pub use server::{Server, StartError};
pub use settings::{Forward, NameServer, NoneHealthy, Order, Settings, SettingsError};
pub use view::{Directory, Instance, Service, View};

/// What one query gets, without a network: for tests and measurements.
pub mod direct {
    pub use crate::answer::{Reply, Responder, Transport};
    pub use crate::table::{Builder, Table};
    pub use crate::zone::Zone;
}
