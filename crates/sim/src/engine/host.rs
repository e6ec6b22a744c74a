//! One machine: a runtime, a clock, and the pace at which its process gets to run.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::HostId;
use super::clock::{self, TurnClock};

/// How a process gets along with time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Its clock shows this many seconds a second.
    Rate(f64),
    /// It doesn't run, while its clock goes on (SIGSTOP, a virtual machine that is moved).
    Stopped,
    /// It runs for a moment every so many milliseconds: its machine has too much to do.
    Bursts(u64),
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    name: String,
    id: HostId,
    process: Option<Process>,
    pace: Pace,
    pace_changes: u64,
}

#[derive(Debug)]
struct Process {
    runtime: Runtime,
    /// On the process's clock: its beginning, and how far it has come.
    base: Instant,
    local_ns: f64,
    /// On the simulation's clock.
    ran_to_ms: u64,
}

impl Host {
    pub(super) fn new(name: &str, id: HostId) -> Self {
        Self { name: name.to_owned(), id, process: None, pace: Pace::Rate(1.0), pace_changes: 0 }
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which one it is.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Whether a process was started and has not crashed.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// How its process gets along with time.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// How often its pace has changed: whoever ends what they began can see whether it is theirs.
    pub fn pace_changes(&self) -> u64 {
        self.pace_changes
    }

    pub(super) fn start(&mut self, now_ms: u64, main: impl Future<Output = ()> + Send + 'static) {
        assert!(self.process.is_none(), "{} runs a process already", self.name);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing that could be missing");
        let base = runtime.block_on(async { Instant::now() });
        runtime.spawn(main);
        self.process = Some(Process { runtime, base, local_ns: 0.0, ran_to_ms: now_ms });
    }

    pub(super) fn also(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            process.runtime.spawn(work);
        }
    }

    pub(super) fn crash(&mut self) {
        self.process = None;
        self.pace = Pace::Rate(1.0);
        self.pace_changes += 1;
    }

    pub(super) fn set_pace(&mut self, now_ms: u64, pace: Pace) {
        if let Some(process) = &mut self.process {
            process.catch_up(now_ms, self.pace);
        }
        self.pace = pace;
        self.pace_changes += 1;
    }

    /// When it must be run next, even if nothing reaches it.
    pub(super) fn due_ms(&self, quantum_ms: u64) -> Option<u64> {
        let ran_to = self.process.as_ref()?.ran_to_ms;
        match self.pace {
            Pace::Rate(_) => Some(ran_to + quantum_ms - 1),
            Pace::Bursts(every) => Some(ran_to + every.max(1)),
            Pace::Stopped => None,
        }
    }

    /// Whether it does not react to what reaches it at this instant.
    pub(super) fn holds_still(&self, now_ms: u64) -> bool {
        match (self.pace, &self.process) {
            (Pace::Rate(_), Some(_)) => false,
            (Pace::Bursts(every), Some(process)) => now_ms < process.ran_to_ms + every,
            _ => true,
        }
    }

    /// Runs the process until the instant, as far as its pace lets it.
    pub(super) fn run_to(&mut self, until_ms: u64) {
        let pace = self.pace;
        let Some(process) = &mut self.process else { return };
        match pace {
            Pace::Rate(rate) => process.run_to(until_ms, rate),
            Pace::Bursts(every) if process.ran_to_ms + every < until_ms => {
                process.catch_up(until_ms - 1, pace);
                process.run_to(until_ms, 1.0);
            }
            Pace::Bursts(_) | Pace::Stopped => {}
        }
    }
}

impl Process {
    fn run_to(&mut self, until_ms: u64, rate: f64) {
        if until_ms <= self.ran_to_ms {
            return;
        }
        let local_began = self.base + Duration::from_nanos(self.local_ns as u64);
        self.local_ns += (until_ms - self.ran_to_ms) as f64 * 1e6 * rate;
        let target = self.base + Duration::from_nanos(self.local_ns as u64);
        clock::set(Some(TurnClock { began_ms: self.ran_to_ms, until_ms, local_began, rate }));
        self.runtime.block_on(async { tokio::time::sleep_until(target).await });
        clock::set(None);
        self.ran_to_ms = until_ms;
    }

    /// Lets the time pass in which it could not run: its timers are all late now.
    fn catch_up(&mut self, now_ms: u64, pace: Pace) {
        if now_ms <= self.ran_to_ms || matches!(pace, Pace::Rate(_)) {
            return;
        }
        let missed = Duration::from_millis(now_ms - self.ran_to_ms);
        self.local_ns += missed.as_nanos() as f64;
        let local_began = self.base + Duration::from_nanos(self.local_ns as u64);
        clock::set(Some(TurnClock { began_ms: now_ms, until_ms: now_ms, local_began, rate: 1.0 }));
        self.runtime.block_on(async { tokio::time::advance(missed).await });
        clock::set(None);
        self.ran_to_ms = now_ms;
    }
}
