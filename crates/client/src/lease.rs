//! The client's own, careful idea of how long its session lives (spec S-4).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The part of a lease that is not counted on: this clock may run slower than the cell's.
const DRIFT_DIVISOR: u32 = 50;
/// A replica gets this long to answer a request, however short the lease.
const MIN_PATIENCE: Duration = Duration::from_millis(2500);

/// A lease counted from when its extension was *asked* for: the cell counts from later, so it ends it later.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    length: Duration,
    until: Option<Instant>,
    /// When the extensions were asked for that may be unanswered, oldest first. Answers don't say which
    /// request they are for, and one may stand for several.
    asked: VecDeque<Instant>,
    last_asked: Option<Instant>,
}

impl Lease {
    /// Forgets all: the session is over.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// An extension is being sent.
    pub(crate) fn ask(&mut self, now: Instant) {
        self.asked.push_back(now);
        self.last_asked = Some(now);
    }

    /// The connection is gone, and with it the answers to what was asked on it.
    pub(crate) fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// The cell extended the lease in answer to some request, and the oldest one counts. So of any number of
    /// answers, in any order, none counts for a request that is newer than the newest one answered.
    pub(crate) fn extended(&mut self, length: Duration) {
        let Some(asked) = self.asked.pop_front() else { return };
        let until = asked + length - length / DRIFT_DIVISOR;
        self.length = length;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
    }

    /// When the next extension is due: a third of a lease after the last request.
    pub(crate) fn next_ask(&self) -> Option<Instant> {
        (self.until.is_some()).then(|| self.last_asked.map(|last| last + self.length / 3)).flatten()
    }

    /// When a request has been unanswered for two thirds of the lease: so late an answer hardly extends it.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.asked.front().map(|oldest| *oldest + (self.length * 2 / 3).max(MIN_PATIENCE))
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
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const LEASE: Duration = Duration::from_secs(12);

    /// Spec S-4.
    #[test]
    fn a_lease_counts_from_when_it_was_asked_for_less_the_drift() {
        let (start, counted) = (Instant::now(), LEASE - LEASE / 50);
        let mut lease = Lease::default();
        lease.ask(start);
        lease.ask(start + Duration::from_secs(1));
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(start + counted), "the oldest request counts");
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(start + Duration::from_secs(1) + counted));
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(start + Duration::from_secs(1) + counted), "nothing else was asked");
        assert_eq!(lease.next_ask(), Some(start + Duration::from_secs(5)));
    }

    /// Spec S-4: the late answer to one request doesn't pass for that to the next.
    #[test]
    fn an_answer_counts_for_no_request_that_came_after_another_unanswered_one() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lease = Lease::default();
        lease.ask(at(0));
        lease.ask(at(1000));
        lease.extended(LEASE);
        lease.ask(at(2010));
        lease.extended(LEASE);
        assert_eq!(lease.until(), Some(at(1000) + LEASE - LEASE / 50));
    }

    /// Spec S-2, S-4: whatever the order of the answers, and whichever are lost or merged, the client's lease
    /// ends no later than the cell's, which counts from the newest request it answered.
    #[test]
    fn a_lease_never_ends_after_the_cell_s() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut lease, mut now) = (Lease::default(), Instant::now());
            let (mut unanswered, mut newest) = (Vec::new(), None);
            for _ in 0..100 {
                now += Duration::from_millis(random.random_range(1..3000));
                if unanswered.is_empty() || random.random_bool(0.5) {
                    lease.ask(now);
                    unanswered.push(now);
                    continue;
                }
                for _ in 0..random.random_range(1..=unanswered.len()) {
                    newest =
                        newest.max(Some(unanswered.swap_remove(random.random_range(0..unanswered.len()))));
                }
                if random.random_bool(0.9) {
                    lease.extended(LEASE);
                }
                assert!(lease.until() <= newest.map(|newest| newest + LEASE), "seed {seed}");
            }
        }
    }

    /// Answers that were merged or lost leave requests behind; the oldest tells when there are too many.
    #[test]
    fn a_request_without_an_answer_is_overdue() {
        let start = Instant::now();
        let mut lease = Lease::default();
        assert_eq!(lease.overdue(), None);
        lease.ask(start);
        lease.ask(start + Duration::from_secs(4));
        lease.extended(LEASE);
        assert_eq!(lease.overdue(), Some(start + Duration::from_secs(12)));
        lease.extended(LEASE);
        assert_eq!(lease.overdue(), None);
        lease.ask(start);
        lease.length = Duration::from_secs(1);
        assert_eq!(lease.overdue(), Some(start + MIN_PATIENCE));
        lease.forget_asked();
        assert_eq!(lease.overdue(), None);
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
