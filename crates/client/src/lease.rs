//! The client's own, careful idea of how long its session lives (spec S-4).

use std::time::Duration;

use tokio::time::Instant;

/// The part of a lease that is not counted on: this clock may run slower than the cell's.
const DRIFT_DIVISOR: u32 = 50;

/// A lease counted from when its extension was *asked* for: the cell counts from later, so it ends it later.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    length: Duration,
    until: Option<Instant>,
    /// When the oldest extension was asked for that nobody has answered.
    asked: Option<Instant>,
    last_asked: Option<Instant>,
}

impl Lease {
    /// Forgets all: the session is over.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// An extension is being sent.
    pub(crate) fn ask(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
        self.last_asked = Some(now);
    }

    /// The connection is gone, and with it the answers to what was asked on it.
    pub(crate) fn forget_asked(&mut self) {
        self.asked = None;
    }

    /// The cell extended the lease in answer to the oldest unanswered request.
    pub(crate) fn extended(&mut self, length: Duration) {
        let Some(asked) = self.asked.take() else { return };
        let until = asked + length - length / DRIFT_DIVISOR;
        self.length = length;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
    }

    /// When the next extension is due: a third of a lease after the last request.
    pub(crate) fn next_ask(&self) -> Option<Instant> {
        (self.until.is_some()).then(|| self.last_asked.map(|last| last + self.length / 3)).flatten()
    }

    /// When an extension was last asked for.
    pub(crate) fn last_asked(&self) -> Option<Instant> {
        self.last_asked
    }

    /// Until when the session lives for certain.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(12);

    /// Spec S-4.
    #[test]
    fn a_lease_counts_from_when_it_was_asked_for_less_the_drift() {
        let start = Instant::now();
        let mut lease = Lease::default();
        lease.ask(start);
        lease.ask(start + Duration::from_secs(1));
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(start + LEASE - LEASE / 50), "the oldest request counts");
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(start + LEASE - LEASE / 50), "nothing was asked: nothing is counted");
        assert_eq!(lease.next_ask(), Some(start + Duration::from_secs(5)));
    }

    /// Spec S-4: an answer can't be taken for that to a request of an earlier connection.
    #[test]
    fn a_lost_connection_takes_its_requests_along() {
        let start = Instant::now();
        let mut lease = Lease::default();
        lease.ask(start);
        lease.forget_asked();
        lease.extended(LEASE);
        assert_eq!(lease.until(), None);
    }
}
