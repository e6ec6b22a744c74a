//! Time. The wall clock only says when a cell began; from then on the cell has a time of its own, which the
//! leader's monotonic clock moves, so that no jump of a wall clock can make the cell forget a key early.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970, from wherever the process takes its time.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl WallClock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::from_fn(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
        })
    }

    /// A clock of the caller's, for simulations.
    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// What time it is.
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

/// The time that the leader stamps on entries: where the state's time stood when it took over, and what has
/// passed since. While nobody leads it stands still.
#[derive(Debug)]
pub(crate) struct CellTime {
    wall: WallClock,
    term: u64,
    anchor: Option<(u64, Instant)>,
}

impl CellTime {
    /// Begins with the wall clock if the cell has no time yet.
    pub(crate) fn new(wall: WallClock) -> Self {
        Self { wall, term: 0, anchor: None }
    }

    /// Milliseconds, for an entry of the leader of `term`; `state_ms` is the time of the state here.
    pub(crate) fn now_ms(&mut self, term: u64, state_ms: u64) -> u64 {
        // Who asks for an older term was late: the time of the newer one goes on.
        if self.term < term {
            (self.term, self.anchor) = (term, None);
        }
        let start = || if state_ms == 0 { self.wall.now_ms() } else { state_ms };
        let (start_ms, since) = *self.anchor.get_or_insert_with(|| (start(), Instant::now()));
        let now_ms = start_ms + since.elapsed().as_millis() as u64;
        if now_ms < state_ms {
            // What the leader before had stamped was not applied yet when this one began.
            self.anchor = Some((state_ms, Instant::now()));
        }
        now_ms.max(state_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A wall clock that jumps moves nothing: kept keys (spec S-6) live as long as was promised.
    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_wall_clock_moves_nothing() {
        let mut time = CellTime::new(WallClock::from_fn(|| 1_000));
        assert_eq!(time.now_ms(1, 0), 1_000, "a new cell begins with the wall clock");
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(time.now_ms(1, 1_000), 1_250);
        let mut successor = CellTime::new(WallClock::from_fn(|| 9_000_000));
        assert_eq!(successor.now_ms(2, 1_250), 1_250, "a new leader goes on from the state's time");
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(successor.now_ms(2, 1_250), 1_260);
        assert_eq!(successor.now_ms(4, 1_300), 1_300, "led again, after others moved the time");
        assert_eq!(successor.now_ms(4, 2_000), 2_000, "what others stamped was applied late");
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(successor.now_ms(4, 2_000), 2_010, "and it goes on from there");
    }

    /// A look by whoever has not heard of the newer term yet moves nothing: the time does not stand still for it.
    #[tokio::test(start_paused = true)]
    async fn an_older_term_moves_nothing() {
        let mut time = CellTime::new(WallClock::from_fn(|| 1_000));
        assert_eq!(time.now_ms(5, 1_000), 1_000);
        tokio::time::advance(Duration::from_millis(30)).await;
        assert_eq!(time.now_ms(4, 1_000), 1_030);
        assert_eq!(time.now_ms(5, 1_000), 1_030);
    }
}
