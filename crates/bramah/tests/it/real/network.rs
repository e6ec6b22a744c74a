//! The network between the replicas and the clients, and what can be wrong with it: real packets between namespaces
//! where the machine allows them, else connections over loopback that all go through a forwarder of ours.

use std::process::Command;
use std::time::Duration;

use bramah::demo::cell::free_ports;

use super::forwarder::{self, Forwarder, Weather};
use super::namespaces::{self, Namespaces};
use super::tool::say;
use crate::support::Layout;

/// A place in the network: [`CLIENTS`], or a replica, counted from 1.
pub(crate) type Host = usize;

/// Where this process and all clients are.
pub(crate) const CLIENTS: Host = 0;

/// Set to `forwarder`, it makes a machine that could do better use the forwarder, to try that out.
const CHOICE: &str = "BRAMAH_REAL_NETWORK";

/// How the replicas of one cell are connected.
pub(crate) enum Network {
    /// A network namespace for each.
    Namespaces(Namespaces),
    /// Loopback, through us.
    Forwarder(Forwarder),
}

impl Network {
    /// The best that this machine has, said aloud. `cell` tells the cells of this process apart.
    pub(crate) fn make(cell: u32, replicas: usize) -> Self {
        let chosen = std::env::var(CHOICE).is_ok_and(|choice| choice == "forwarder");
        let possible = match chosen {
            true => Err(format!("{CHOICE} says so")),
            false => namespaces::are_possible().clone(),
        };
        match possible.and_then(|()| Namespaces::make(cell, replicas)) {
            Ok(namespaces) => {
                say("real: namespaces");
                Self::Namespaces(namespaces)
            }
            Err(why) => {
                say(&format!("real: forwarder on loopback, because {why}"));
                Self::Forwarder(Forwarder::start(replicas))
            }
        }
    }

    /// One that can delay.
    pub(crate) fn forwarder(replicas: usize) -> Self {
        say("real: forwarder on loopback, because the scenario asks for it: namespaces don't delay");
        Self::Forwarder(Forwarder::start(replicas))
    }

    /// Where each replica listens and is found.
    pub(crate) fn layout(&self, replicas: usize) -> Layout {
        match self {
            Self::Namespaces(namespaces) => {
                let addresses = |replica| {
                    let host = namespaces.address(replica);
                    (format!("{host}:7501"), format!("{host}:7502"))
                };
                Layout::of((1..=replicas).map(addresses).collect())
            }
            Self::Forwarder(forwarder) => {
                let ports = free_ports(2 * replicas).expect("free ports");
                let address = |port: u16| format!("127.0.0.1:{port}");
                let listen: Vec<_> =
                    ports.chunks(2).map(|ports| (address(ports[0]), address(ports[1]))).collect();
                let found = forwarder.forward_to(&listen);
                Layout { listen, ..Layout::of(found) }
            }
        }
    }

    /// The command that runs a replica at its place.
    pub(crate) fn enclose(&self, replica: Host, mut command: Command) -> Command {
        match self {
            Self::Namespaces(namespaces) => namespaces.enclose(replica, &command),
            Self::Forwarder(_) => {
                command.env("BRAMAH_FAULTS_SOURCE", forwarder::address_of(replica));
                command
            }
        }
    }

    /// Whether replicas have to be started with the library of faults for it.
    pub(crate) fn needs_faults(&self) -> bool {
        matches!(self, Self::Forwarder(_))
    }

    /// Nothing gets from one to the other any more; the way back stays open.
    pub(crate) fn cut_one_way(&self, from: Host, to: Host) {
        match self {
            Self::Namespaces(namespaces) => namespaces.cut(from, to),
            Self::Forwarder(forwarder) => {
                forwarder.change(from, to, |weather| Weather { cut: true, ..weather });
            }
        }
    }

    /// Nothing gets through between the two.
    pub(crate) fn cut(&self, one: Host, other: Host) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// A replica and the other replicas don't reach each other; clients still reach all.
    pub(crate) fn isolate(&self, replica: Host, replicas: usize) {
        (1..=replicas).filter(|other| *other != replica).for_each(|other| self.cut(replica, other));
    }

    /// So much of what is sent to anybody is lost and has to be sent again.
    pub(crate) fn lose(&self, replicas: usize, percent: u32) {
        match self {
            Self::Namespaces(namespaces) => {
                (1..=replicas).for_each(|replica| namespaces.lose(replica, percent));
            }
            Self::Forwarder(forwarder) => {
                forwarder.change_all(|weather| Weather { stalled_percent: percent, ..weather });
            }
        }
    }

    /// A replica's line carries so much, both ways.
    pub(crate) fn slow(&self, replica: Host, replicas: usize, kilobits_per_second: u32) {
        match self {
            Self::Namespaces(namespaces) => namespaces.slow(replica, kilobits_per_second),
            Self::Forwarder(forwarder) => {
                for other in (0..=replicas).filter(|other| *other != replica) {
                    let bytes_per_second = Some(kilobits_per_second * 1000 / 8);
                    let slower = |weather| Weather { bytes_per_second, ..weather };
                    forwarder.change(replica, other, slower);
                    forwarder.change(other, replica, slower);
                }
            }
        }
    }

    /// Everything between replicas takes so long, and now and then up to `jitter` longer, each connection by itself:
    /// what is sent over two of them arrives in another order. Now and then a connection breaks.
    ///
    /// Panics without a forwarder.
    pub(crate) fn delay(&self, delay: Duration, jitter: Duration, reset_per_mille: u32) {
        let Self::Forwarder(forwarder) = self else { panic!("this network can't delay") };
        forwarder.change_all(|weather| Weather { delay, jitter, reset_per_mille, ..weather });
    }

    /// Nothing is wrong any more. Returns how many packets, or pieces of what was sent, have felt that something was.
    pub(crate) fn heal(&self) -> u64 {
        match self {
            Self::Namespaces(namespaces) => namespaces.heal(),
            Self::Forwarder(forwarder) => forwarder.heal(),
        }
    }
}
