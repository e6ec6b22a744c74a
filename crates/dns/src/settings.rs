//! What an operator chooses.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::name::{self, Name, NameError};

/// The zone's longest name in bytes, so that the longest name of an instance and its SRV record fit into 512.
const LONGEST_ZONE: usize = 88;

/// All that can be chosen. [`Settings::new`] gives the usual choices.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen, over UDP and TCP each. Port 0 takes one that is free for both. On a machine with several
    /// addresses name them: answers from a socket on all of them may leave by another than was asked.
    pub listen: Vec<SocketAddr>,
    /// The cell's name, one label.
    pub cell: String,
    /// What stands behind the cell's name.
    pub domain: String,
    /// Who serves the zone, as `<label>.<cell>.<domain>`. The first is the primary of the SOA.
    pub name_servers: Vec<NameServer>,
    /// How long an answer may be kept, in seconds.
    pub ttl: u32,
    /// How long it may be kept that there is no such name or record, in seconds (RFC 2308).
    pub negative_ttl: u32,
    /// Which of many records comes first.
    pub order: Order,
    /// The most records of an answer; all if not given.
    pub most_answers: Option<NonZeroUsize>,
    /// What is answered for a service or tag without a healthy instance.
    pub none_healthy: NoneHealthy,
    /// Sockets and threads for UDP, for each address.
    pub udp_threads: NonZeroUsize,
    /// The most connections at a time over TCP. Others wait until one ends.
    pub tcp_connections: usize,
    /// The most of those from one address.
    pub tcp_connections_of_client: usize,
    /// How long a connection may wait for a whole query, or for an answer to be taken.
    pub tcp_idle: Duration,
    /// Where queries for other domains go. They are refused if not given.
    pub forward: Option<Forward>,
}

/// A name server of the zone.
#[derive(Clone, Debug)]
pub struct NameServer {
    /// Its name before the zone's.
    pub label: String,
    /// Its addresses, at most 8.
    pub addresses: Vec<IpAddr>,
}

/// How the records of an answer are put in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each comes first in turn.
    Rotated,
    /// Each comes first as often as its weight says, by chance; the others follow in a row with a random start.
    Weighted,
}

/// What is answered when no instance is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoneHealthy {
    /// All instances: more likely than all being down is that the checks are.
    All,
    /// The name, but no record.
    Nothing,
}

/// Resolvers that are asked about other domains.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Asked one after the other until one answers.
    pub resolvers: Vec<SocketAddr>,
    /// How long each may take.
    pub timeout: Duration,
    /// The most queries on their way. Others are told that it failed.
    pub most: usize,
    /// Whether clients with public addresses may use it too. Else they are refused, so that this is no open resolver.
    pub for_anyone: bool,
}

impl Forward {
    /// With a time limit of 2 s each and at most 512 on their way, for private addresses.
    pub fn to(resolvers: Vec<SocketAddr>) -> Forward {
        Forward { resolvers, timeout: Duration::from_secs(2), most: 512, for_anyone: false }
    }
}

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The cell or the domain is no name.
    #[error("the DNS zone `{zone}` can't be served: {error}")]
    Zone {
        /// What was given.
        zone: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// The zone's name leaves no room for others.
    #[error("the DNS zone `{0}` has a name longer than 88 bytes: take a shorter domain")]
    LongZone(String),
    /// A name server's label is none, or is taken.
    #[error("`{0}` can't be a name server's name: take one label besides `service`, each but once")]
    NameServer(String),
    /// Nobody is named as a name server, or too many.
    #[error("{0} name servers are named: name 1 to 13, with at most 8 addresses each")]
    NameServers(usize),
    /// There is nowhere to forward to.
    #[error("forwarding is on, but to no resolver: name one, or turn it off")]
    NoResolver,
}

impl Settings {
    /// Listens nowhere yet; answers may not be kept (a TTL of 0), negative ones for 5 s.
    pub fn new(cell: &str, domain: &str) -> Settings {
        Settings {
            listen: Vec::new(),
            cell: cell.to_owned(),
            domain: domain.to_owned(),
            name_servers: vec![NameServer { label: "ns".to_owned(), addresses: Vec::new() }],
            ttl: 0,
            negative_ttl: 5,
            order: Order::Weighted,
            most_answers: None,
            none_healthy: NoneHealthy::All,
            udp_threads: NonZeroUsize::MIN,
            tcp_connections: 256,
            tcp_connections_of_client: 64,
            tcp_idle: Duration::from_secs(10),
            forward: None,
        }
    }

    /// The zone's name, when all else is fine too.
    pub(crate) fn checked(&self) -> Result<Name, SettingsError> {
        let text = format!("{}.{}", self.cell, self.domain);
        let zone = Name::parse(&text).map_err(|error| SettingsError::Zone { zone: text.clone(), error })?;
        if zone.wire().len() > LONGEST_ZONE {
            return Err(SettingsError::LongZone(text));
        }
        self.check_name_servers()?;
        match &self.forward {
            Some(forward) if forward.resolvers.is_empty() => Err(SettingsError::NoResolver),
            _ => Ok(zone),
        }
    }

    fn check_name_servers(&self) -> Result<(), SettingsError> {
        let servers = &self.name_servers;
        let too_many = servers.iter().any(|server| server.addresses.len() > 8);
        if servers.is_empty() || servers.len() > 13 || too_many {
            return Err(SettingsError::NameServers(servers.len()));
        }
        for (at, server) in servers.iter().enumerate() {
            let taken = servers[..at].iter().any(|other| other.label == server.label);
            if !name::is_label(&server.label) || server.label == "service" || taken {
                return Err(SettingsError::NameServer(server.label.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let fine = Settings::new("berlin", "example");
        assert_eq!(fine.checked().unwrap(), Name::parse("berlin.example").unwrap());
        let refused = |change: fn(&mut Settings)| {
            let mut settings = fine.clone();
            change(&mut settings);
            settings.checked().unwrap_err().to_string()
        };
        assert!(refused(|settings| settings.cell = "a b".to_owned()).contains("`a b.example`"));
        assert!(
            refused(|settings| settings.domain = "x".repeat(63) + "." + &"y".repeat(40)).contains("88 bytes")
        );
        assert!(refused(|settings| settings.name_servers.clear()).starts_with("0 name servers"));
        assert!(
            refused(|settings| settings.name_servers[0].label = "service".to_owned()).contains("`service`")
        );
        assert!(refused(|settings| settings.forward = Some(Forward::to(Vec::new()))).contains("no resolver"));
    }
}
