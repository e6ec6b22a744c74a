//! What time it is for the checker: the simulation's own time, seen from within any host.

use std::cell::Cell;

use tokio::time::Instant;

/// Where the host that runs now stood when its turn began.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnClock {
    pub(super) began_ms: u64,
    pub(super) until_ms: u64,
    pub(super) local_began: Instant,
    /// Seconds on the host's clock in a second.
    pub(super) rate: f64,
}

thread_local! {
    static TURN: Cell<Option<TurnClock>> = const { Cell::new(None) };
}

pub(super) fn set(turn: Option<TurnClock>) {
    TURN.set(turn);
}

/// Nanoseconds since the simulation began, on no host's clock. Zero outside of a host's turn.
pub fn now_ns() -> u64 {
    let Some(turn) = TURN.get() else { return 0 };
    let local = Instant::now().saturating_duration_since(turn.local_began).as_nanos() as f64;
    let passed = (local / turn.rate) as u64;
    (turn.began_ms * 1_000_000 + passed).min(turn.until_ms * 1_000_000)
}

/// As [`now_ns`], in milliseconds.
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}
