//! One instance: what its owner says of it, and what its calls show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::decaying::Decaying;
use crate::{SlowStart, Time};

/// An instance as its owner describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name, which no other instance of the set has. Consistent hashing goes by it.
    pub id: Arc<str>,
    /// Its share, in proportion to the others'. 0: it is being drained, and gets no new calls whatever happens.
    pub weight: u32,
    /// Where it stands; empty if nobody knows. One that moves is a new instance.
    pub zone: Arc<str>,
    /// Whether checks found it well.
    pub healthy: bool,
}

impl Instance {
    /// A healthy instance of weight 1 in no zone.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Instance { id: id.into(), weight: 1, zone: "".into(), healthy: true }
    }

    /// The same with this weight.
    #[must_use]
    pub fn weighing(self, weight: u32) -> Self {
        Instance { weight, ..self }
    }

    /// The same in this zone.
    #[must_use]
    pub fn in_zone(self, zone: impl Into<Arc<str>>) -> Self {
        Instance { zone: zone.into(), ..self }
    }

    /// The same, found unwell.
    #[must_use]
    pub fn unhealthy(self) -> Self {
        Instance { healthy: false, ..self }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer, of whatever kind, that the instance is not to blame for.
    Success,
    /// By the instance's fault: an error of its own, a lost connection, a deadline that passed.
    Failure,
    /// The caller lost interest. It says nothing of the instance but that it took at least so long.
    Cancelled,
}

/// How the load of an instance is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSettings {
    /// The latency average falls to 1/e in this time without samples. Finagle's default: 10 s.
    pub latency_decay: Duration,
    /// A failed call counts as one that is in flight for about so long after it ended, fading: without that, an instance
    /// that fails at once seems to be the fastest, and draws all calls. Zero: failures don't count. 1 s.
    pub failure_lasts: Duration,
}

impl Default for LoadSettings {
    fn default() -> Self {
        LoadSettings { latency_decay: Duration::from_secs(10), failure_lasts: Duration::from_secs(1) }
    }
}

/// What all members of one balancer share.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) load: LoadSettings,
    pub(crate) slow_start: SlowStart,
    /// So many failures in a row condemn a member; 0: none.
    pub(crate) failures_in_a_row: u32,
    /// When the balancer has something to do next, in nanoseconds.
    pub(crate) due: AtomicU64,
}

impl Rules {
    pub(crate) fn new(load: LoadSettings, slow_start: SlowStart, failures_in_a_row: u32) -> Self {
        Rules { load, slow_start, failures_in_a_row, due: AtomicU64::new(0) }
    }
}

/// Calls in flight at all members of a zone.
#[derive(Debug, Default)]
pub(crate) struct Tally(pub(crate) AtomicU64);

/// What is left of failures when they don't count any more: of one after three times `failure_lasts`.
const FORGOTTEN: f32 = 0.05;
/// `Member::warming` of one that is warm.
const WARM: u64 = u64::MAX;
/// Calls and successes since the last sweep: two numbers of 32 bits in one word.
const ONE_CALL: u64 = 1 << 32;

/// An instance in use, with its live state. It outlives changes of the set as long as its instance stays.
#[derive(Debug)]
pub struct Member {
    id: Arc<str>,
    zone: Arc<str>,
    rules: Arc<Rules>,
    tally: Arc<Tally>,
    in_flight: AtomicU32,
    in_a_row: AtomicU32,
    latency: Decaying,
    failures: Decaying,
    warming: AtomicU64,
    counted: AtomicU64,
    condemned: AtomicBool,
}

impl Member {
    pub(crate) fn new(instance: &Instance, rules: Arc<Rules>, tally: Arc<Tally>) -> Self {
        Member {
            id: instance.id.clone(),
            zone: instance.zone.clone(),
            rules,
            tally,
            in_flight: AtomicU32::new(0),
            in_a_row: AtomicU32::new(0),
            latency: Decaying::default(),
            failures: Decaying::default(),
            warming: AtomicU64::new(WARM),
            counted: AtomicU64::new(0),
            condemned: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands; empty if nobody knows.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Calls that were begun and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Calls in flight, and failed ones as far as they still count.
    pub fn busy(&self, now: Time) -> f64 {
        f64::from(self.in_flight()) + self.fading_failures(now)
    }

    fn fading_failures(&self, now: Time) -> f64 {
        let failures = self.failures.get(now, self.rules.load.failure_lasts);
        // Among instances with nothing to do the least remainder would decide, and one failure would banish for minutes.
        if failures < FORGOTTEN { 0.0 } else { f64::from(failures) }
    }

    /// Moving average of the latency, in nanoseconds, which follows peaks at once; `None` before the first answer.
    pub fn latency(&self, now: Time) -> Option<f64> {
        let latency = self.latency.get(now, self.rules.load.latency_decay);
        (latency > 0.0).then_some(f64::from(latency))
    }

    /// Begins a call. Each must be followed by [`end`](Self::end).
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.tally.0.fetch_add(1, Relaxed);
    }

    /// Begins a call unless `most` or more are in flight.
    pub fn begin_below(&self, most: u32) -> bool {
        let begun = self.in_flight.fetch_update(Relaxed, Relaxed, |count| (count < most).then(|| count + 1));
        if begun.is_ok() {
            self.tally.0.fetch_add(1, Relaxed);
        }
        begun.is_ok()
    }

    /// Ends a call of which nothing is known, such as one that was never sent.
    pub fn forget(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.tally.0.fetch_sub(1, Relaxed);
    }

    /// Ends a call that was begun at `begun`.
    pub fn end(&self, begun: Time, now: Time, outcome: Outcome) {
        self.forget();
        let latency = (now.since(begun).as_nanos() as f32).max(1.0);
        let decay = self.rules.load.latency_decay;
        match outcome {
            Outcome::Success => {
                self.latency.peak(now, latency, decay);
                self.in_a_row.store(0, Relaxed);
                self.counted.fetch_add(ONE_CALL + 1, Relaxed);
            }
            Outcome::Failure => {
                // A fast failure is no fast answer: it never lowers the average, nor is it the first of one.
                if self.latency(now).is_some() {
                    self.latency.raise(now, latency, decay);
                }
                self.failed(now);
            }
            Outcome::Cancelled => self.latency.raise(now, latency, decay),
        }
    }

    fn failed(&self, now: Time) {
        let lasts = self.rules.load.failure_lasts;
        if !lasts.is_zero() {
            self.failures.add(now, 1.0, lasts);
        }
        self.counted.fetch_add(ONE_CALL, Relaxed);
        let in_a_row = self.in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        if self.rules.failures_in_a_row > 0 && in_a_row == self.rules.failures_in_a_row {
            self.condemned.store(true, Relaxed);
            self.rules.due.fetch_min(now.nanos(), Relaxed);
        }
    }

    /// Whether it failed too often in a row since it was asked last.
    pub(crate) fn take_condemned(&self) -> bool {
        self.condemned.load(Relaxed) && self.condemned.swap(false, Relaxed)
    }

    /// Calls that ended since the last time, and how many of them well.
    pub(crate) fn take_counts(&self) -> (u32, u32) {
        let counted = self.counted.swap(0, Relaxed);
        ((counted >> 32) as u32, counted as u32)
    }

    /// It begins anew: with a small share, and nothing held against it.
    pub(crate) fn begin_anew(&self, now: Time) {
        self.in_a_row.store(0, Relaxed);
        self.condemned.store(false, Relaxed);
        self.counted.store(0, Relaxed);
        if !self.rules.slow_start.window.is_zero() {
            self.warming.store(now.nanos().min(WARM - 1), Relaxed);
        }
    }

    /// When its warming up is over, if it is not.
    pub(crate) fn warm_at(&self, now: Time) -> Option<Time> {
        let since = self.warming.load(Relaxed);
        let over = Time::from_nanos(since) + self.rules.slow_start.window;
        (since != WARM && over > now).then_some(over)
    }

    /// The part of its weight that it counts for now.
    pub fn warmth(&self, now: Time) -> f64 {
        match self.warming.load(Relaxed) {
            WARM => 1.0,
            since => self.rules.slow_start.share(Time::from_nanos(since), now),
        }
    }
}
