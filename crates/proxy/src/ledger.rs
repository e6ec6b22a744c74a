//! What is known of one client's connection, by those who read it, answer on it and watch over it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bramah_balance::Time;

use crate::clock::Clock;
use crate::guard::Fault;
use crate::settings::Times;

/// One connection's ledger. Only one thread writes to it, so `Relaxed` is enough.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) clock: Clock,
    /// When bytes moved last.
    moved: AtomicU64,
    /// When the head began that has not ended; 0: there is none.
    head_since: AtomicU64,
    /// When the last request ended, or the connection began.
    rests_since: AtomicU64,
    in_flight: AtomicU32,
    /// Bytes wait that the client doesn't take.
    blocked: AtomicBool,
    requests: AtomicU64,
    /// Requests that the client gave up before there was an answer.
    given_up: AtomicU64,
    /// From this request on nothing is trusted.
    bad_from: AtomicU64,
    fault: AtomicU8,
    /// An answer broke off whose end is the connection's: it must not look like one.
    abort: AtomicBool,
    held: Held,
    /// It carries bytes that are no HTTP: each direction ends by itself.
    tunnel: AtomicBool,
}

/// Answers that have something for the client, counted by when it last took some: in this term, or in the one before. A
/// term lasts as long as an answer may be held, so who is still in the one before when this ends was held too long.
#[derive(Debug)]
struct Held {
    term: AtomicU32,
    since: AtomicU64,
    counts: [AtomicU32; 2],
}

/// When an answer moved last: see [`Held`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term(u32);

impl Held {
    fn new(now: u64) -> Self {
        Held { term: AtomicU32::new(0), since: AtomicU64::new(now), counts: Default::default() }
    }

    fn count(&self, term: u32) -> &AtomicU32 {
        &self.counts[(term % 2) as usize]
    }

    fn too_long(&self, now: Time, limit: Duration) -> bool {
        if now.since(Time::from_nanos(self.since.load(Relaxed))) <= limit {
            return false;
        }
        let next = self.term.load(Relaxed).wrapping_add(1);
        if self.count(next).load(Relaxed) > 0 {
            return true;
        }
        self.term.store(next, Relaxed);
        self.since.store(now.nanos(), Relaxed);
        false
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A head that doesn't end.
    Head,
    /// No request for long.
    Idle,
    /// The client doesn't read.
    Stalled,
    /// It begins requests to give them up.
    Resets,
}

/// So many requests may be given up before it is asked whether they are most of them.
const FREE_RESETS: u64 = 100;

impl Ledger {
    pub(crate) fn new(clock: Clock) -> Self {
        let now = clock.now().nanos().max(1);
        Ledger {
            clock,
            moved: AtomicU64::new(now),
            head_since: AtomicU64::new(now),
            rests_since: AtomicU64::new(now),
            in_flight: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            bad_from: AtomicU64::new(u64::MAX),
            fault: AtomicU8::new(0),
            abort: AtomicBool::new(false),
            held: Held::new(now),
            tunnel: AtomicBool::new(false),
        }
    }

    pub(crate) fn moved(&self) {
        self.moved.store(self.clock.now().nanos(), Relaxed);
        self.blocked.store(false, Relaxed);
    }

    pub(crate) fn blocked(&self) {
        self.blocked.store(true, Relaxed);
    }

    /// Nothing moved for so long.
    pub(crate) fn still_for(&self) -> Duration {
        self.clock.now().since(Time::from_nanos(self.moved.load(Relaxed)))
    }

    /// Whether a head has begun that has not ended.
    pub(crate) fn within_head(&self, within: bool) {
        if !within {
            self.head_since.store(0, Relaxed);
        } else if self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.moved.load(Relaxed).max(1), Relaxed);
        }
    }

    pub(crate) fn distrust(&self, request: u64, fault: Fault) {
        if self.bad_from.load(Relaxed) == u64::MAX {
            self.fault.store(fault.number(), Relaxed);
            self.bad_from.store(request, Relaxed);
        }
    }

    /// A request begins. Gives back what is wrong with it, or with what came before it.
    pub(crate) fn begin(&self) -> Option<Fault> {
        self.in_flight.fetch_add(1, Relaxed);
        let number = self.requests.fetch_add(1, Relaxed);
        if number < self.bad_from.load(Relaxed) { None } else { Fault::numbered(self.fault.load(Relaxed)) }
    }

    /// A request ended, by an answer or because the client gave it up.
    pub(crate) fn end(&self, answered: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.rests_since.store(self.clock.now().nanos(), Relaxed);
        if !answered {
            self.given_up.fetch_add(1, Relaxed);
        }
    }

    /// Whether the connection, if it ended now, must be seen to be broken off.
    pub(crate) fn abort(&self, abort: bool) {
        self.abort.store(abort, Relaxed);
    }

    /// An answer has something for the client from now on. It says so again whenever the client took some.
    pub(crate) fn hold(&self, before: Option<Term>) -> Term {
        let now = self.held.term.load(Relaxed);
        if before.map(|before| before.0) != Some(now) {
            self.release(before);
            self.held.count(now).fetch_add(1, Relaxed);
        }
        Term(now)
    }

    /// It has nothing any more, or not yet.
    pub(crate) fn release(&self, before: Option<Term>) {
        if let Some(Term(before)) = before {
            self.held.count(before).fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }

    pub(crate) fn is_to_abort(&self) -> bool {
        self.abort.load(Relaxed)
    }

    /// Whether the client begins requests to give them up (HTTP/2's *rapid reset*, CVE-2023-44487).
    pub(crate) fn is_flooded(&self) -> bool {
        let given_up = self.given_up.load(Relaxed);
        given_up > FREE_RESETS && given_up * 2 > self.requests.load(Relaxed)
    }

    /// Whether this connection has had its time.
    pub(crate) fn overdue(&self, times: &Times) -> Option<Overdue> {
        let now = self.clock.now();
        let longer_than = |since: u64, limit: Duration| now.since(Time::from_nanos(since)) > limit;
        let (head_since, rests_since) = (self.head_since.load(Relaxed), self.rests_since.load(Relaxed));
        // The next head is not read on while an answer is under way.
        let rests = self.in_flight.load(Relaxed) == 0;
        if self.is_flooded() {
            Some(Overdue::Resets)
        } else if rests && head_since != 0 && longer_than(head_since.max(rests_since), times.head) {
            Some(Overdue::Head)
        } else if rests && longer_than(rests_since, times.idle) {
            Some(Overdue::Idle)
        } else if self.blocked.load(Relaxed) && longer_than(self.moved.load(Relaxed), times.stream_idle)
            || self.held.too_long(now, times.stream_idle)
        {
            Some(Overdue::Stalled)
        } else {
            None
        }
    }
}
