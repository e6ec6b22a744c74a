//! What holds for the whole zone and doesn't change: its name, its name servers, how answers are made.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use crate::settings::{NoneHealthy, Order, Settings, SettingsError};

/// A zone as it is served.
#[derive(Debug)]
pub struct Zone {
    /// Its name in wire format, lower case.
    pub(crate) wire: Box<[u8]>,
    pub(crate) servers: Vec<Server>,
    pub(crate) ttl: u32,
    pub(crate) negative_ttl: u32,
    pub(crate) order: Order,
    pub(crate) most_answers: usize,
    pub(crate) none_healthy: NoneHealthy,
    /// Whether queries for other zones may be forwarded.
    pub(crate) forwards: bool,
}

/// One of its name servers.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) label: Box<[u8]>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Zone {
    /// Checks the settings.
    pub fn new(settings: &Settings) -> Result<Zone, SettingsError> {
        let name = settings.checked()?;
        let servers = settings.name_servers.iter().map(|server| Server {
            label: server.label.as_bytes().into(),
            addresses: server.addresses.clone(),
        });
        Ok(Zone {
            wire: name.wire().into(),
            servers: servers.collect(),
            ttl: settings.ttl,
            negative_ttl: settings.negative_ttl,
            order: settings.order,
            most_answers: settings.most_answers.map_or(usize::MAX, NonZeroUsize::get),
            none_healthy: settings.none_healthy,
            forwards: settings.forward.is_some(),
        })
    }
}
