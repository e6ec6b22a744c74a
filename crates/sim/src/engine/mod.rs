//! Simulated machines, one thread, one clock: every host has a runtime of its own that runs the real code, and
//! the engine decides which one goes on, and until when.
//!
//! It is a discrete event simulation with a lookahead (Chandy and Misra, 1979): a message takes at least a
//! millisecond, so within one millisecond hosts can't influence each other, and each is run through it alone.
//! A host's timers are tokio's, under its own paused clock, which the engine moves: faster or slower than the
//! others' clocks (a clock that drifts), not at all and then in one leap (a process that was stopped), or in
//! bursts (a machine that is overcommitted). A crash drops the runtime with everything in it.

mod clock;
mod host;
pub mod network;

use std::sync::Arc;

pub use clock::{now_ms, now_ns};
pub use host::{Host, Pace};
use network::Network;

/// Which host: its place in the order they were added in.
pub type HostId = usize;

/// The machines and what connects them.
#[derive(Debug)]
pub struct Engine {
    hosts: Vec<Host>,
    network: Network,
    now_ms: u64,
    quantum_ms: u64,
}

impl Engine {
    /// No hosts yet; all chance in the network comes from `seed`. An idle host is run every `quantum_ms`.
    pub fn new(seed: u64, quantum_ms: u64) -> Self {
        Self { hosts: Vec::new(), network: Network::new(seed), now_ms: 0, quantum_ms: quantum_ms.max(1) }
    }

    /// Adds a machine that is on, with nothing running.
    pub fn add_host(&mut self, name: &str) -> HostId {
        let id = self.hosts.len();
        self.hosts.push(Host::new(name, id));
        self.network.add_host(id);
        id
    }

    /// The network between the hosts.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A host.
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[id]
    }

    /// Simulated milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Starts a process on a host that has none. `main` runs until it ends or the host crashes.
    pub fn start(&mut self, id: HostId, main: impl Future<Output = ()> + Send + 'static) {
        self.network.process_started(id);
        self.hosts[id].start(self.now_ms, main);
    }

    /// Has a running process do something besides; nothing happens on a host that has none.
    pub fn also(&mut self, id: HostId, work: impl Future<Output = ()> + Send + 'static) {
        self.hosts[id].also(work);
    }

    /// Ends a host's process between two instants, as SIGKILL would: its peers' connections are reset.
    pub fn kill(&mut self, id: HostId) {
        self.network.process_died(id, true);
        self.hosts[id].crash();
    }

    /// Cuts a host's power: its process is gone, and nobody is told.
    pub fn cut_power(&mut self, id: HostId) {
        self.network.process_died(id, false);
        self.hosts[id].crash();
    }

    /// How a host's process gets along with time from now on.
    pub fn set_pace(&mut self, id: HostId, pace: Pace) {
        let now = self.now_ms;
        self.hosts[id].set_pace(now, pace);
    }

    /// Runs everything up to the instant `until_ms`.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.now_ms < until_ms {
            self.step(until_ms);
        }
    }

    /// Runs to the next instant at which anything is due, at most to `limit_ms`.
    pub fn step(&mut self, limit_ms: u64) {
        let due_hosts = self.hosts.iter().filter_map(|host| host.due_ms(self.quantum_ms)).min();
        let due = self.network.next_due_ms().into_iter().chain(due_hosts).min().unwrap_or(limit_ms);
        self.now_ms = due.clamp(self.now_ms, limit_ms);
        if self.now_ms >= limit_ms {
            return;
        }
        let reached = self.network.hosts_reached_by(self.now_ms);
        for id in 0..self.hosts.len() {
            let host = &mut self.hosts[id];
            let is_reached = reached & (1 << id) != 0;
            let is_due = host.due_ms(self.quantum_ms).is_some_and(|due| due <= self.now_ms);
            if is_reached && !host.holds_still(self.now_ms) {
                // What arrives now must not be seen by timers that fired before.
                host.run_to(self.now_ms);
            }
            if is_reached {
                self.network.deliver(id, self.now_ms);
            }
            if is_reached || is_due {
                host.run_to(self.now_ms + 1);
            }
        }
        self.now_ms += 1;
    }

    /// A number that two runs have in common only if the same packets arrived in the same order at the same
    /// instants.
    pub fn fingerprint(&self) -> u64 {
        self.network.fingerprint()
    }

    /// The network as a host's processes see it.
    pub fn transport(&self, id: HostId) -> Arc<dyn bramah_wire::transport::Transport> {
        self.network.transport(id)
    }
}
