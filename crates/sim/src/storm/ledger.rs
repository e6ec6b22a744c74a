//! What a storm sees of locks, ephemeral nodes and transactions: what applications rely on, and what the state of every
//! replica shows of them at intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bramah_machine::{Path, SessionId, State};
use parking_lot::Mutex;

use crate::check::Report;
use crate::check::locks::{Delay, Hold, Sample, check_delays, check_holds, check_queues};
use crate::engine;

/// How many locks applications want.
pub(super) const LOCKS: u64 = 3;
/// The lock-delay of the first lock; the others have none.
pub(super) const LOCK_DELAY_MS: u64 = 3_000;
/// The counters between which transactions move: together they are zero at each moment.
pub(super) const PAIR: [&str; 2] = ["/pair-a", "/pair-b"];
/// Looks at a replica that lie further apart in the cell's time show no lock-delay: it may have run in between.
const DENSE_MS: u64 = 600;
const NS_PER_MS: u64 = 1_000_000;

/// A lock's name.
pub(super) fn lock(key: u64) -> String {
    format!("/lock-{key}")
}

/// Clones write into the same.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    holds: Vec<Hold>,
    samples: Vec<Sample>,
    delays: Vec<Delay>,
    /// The newest sequencer that was shown to what each lock guards.
    fences: BTreeMap<Arc<str>, (u64, u64)>,
    last: BTreeMap<u64, Look>,
    /// Transactions that were done, and those of which nobody knows.
    moved: (i64, i64),
    anomalies: BTreeSet<String>,
}

/// What was last seen of a replica.
#[derive(Default)]
struct Look {
    cell_ms: u64,
    holders: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Since when a lock's holder is known to be dead, by the cell's time.
    dead: BTreeMap<u64, u64>,
}

impl Ledger {
    /// An application relied on a lock for so long.
    pub(super) fn held(&self, hold: Hold) {
        self.0.lock().holds.push(hold);
    }

    /// A write to what a lock guards. It is refused if a newer holder has written before.
    pub(super) fn write_guarded(&self, lock: &Arc<str>, sequencer: (u64, u64)) -> bool {
        let mut entries = self.0.lock();
        let newest = entries.fences.entry(Arc::clone(lock)).or_default();
        let fits = sequencer >= *newest;
        *newest = sequencer.max(*newest);
        fits
    }

    /// A transaction is to move 1 from one of the pair to the other. Nobody knows whether it does.
    pub(super) fn moves(&self) {
        self.0.lock().moved.1 += 1;
    }

    /// What became of it: that it was done, or certainly not.
    pub(super) fn moved(&self, done: bool) {
        let mut entries = self.0.lock();
        entries.moved.1 -= 1;
        entries.moved.0 += i64::from(done);
    }

    /// Says that something is wrong.
    pub(super) fn report(&self, anomaly: String) {
        self.0.lock().anomalies.insert(anomaly);
    }

    /// Looks at a replica's state. `closing`: sessions that their clients have ended, or are about to.
    pub(super) fn look(&self, replica: u64, applied: u64, state: &State, closing: &BTreeSet<u64>) {
        let mut entries = self.0.lock();
        let entries = &mut *entries;
        for key in 0..LOCKS {
            entries.samples.extend(sample(replica, applied, key, state));
        }
        entries.anomalies.extend(unequal_pair(replica, applied, state));
        let last = entries.last.entry(replica).or_default();
        entries.delays.extend(last.go_on(state, closing));
    }

    /// Nothing of what belonged to sessions may be there when there are none.
    pub(super) fn look_at_the_end(&self, replica: u64, state: &State) {
        let ephemeral: Vec<&str> =
            state.nodes().filter(|(_, node)| node.stat().ephemeral).map(|(path, _)| path.as_str()).collect();
        let held = state.locks().filter(|lock| lock.holders().next().is_some()).count();
        let left = (ephemeral.len(), state.handle_count(), held);
        if left != (0, 0, 0) {
            self.report(format!(
                "replica {replica} has no sessions, and still the ephemeral nodes {ephemeral:?}, {} handles and {held} locks that \
                 are held",
                state.handle_count()
            ));
        }
        let moved = counter(state, PAIR[0]).unwrap_or(0);
        let (certain, unknown) = self.0.lock().moved;
        if !(certain..=certain + unknown).contains(&moved) {
            self.report(format!(
                "{certain} transactions were done and {unknown} may have been, and replica {replica} counts {moved}"
            ));
        }
    }

    /// What was wrong, and what the judges say.
    pub(super) fn judge(&self) -> (Vec<String>, [Report; 3]) {
        let entries = self.0.lock();
        let reports =
            [check_holds(&entries.holds), check_queues(&entries.samples), check_delays(&entries.delays)];
        (entries.anomalies.iter().cloned().collect(), reports)
    }
}

fn sample(replica: u64, applied: u64, key: u64, state: &State) -> Option<Sample> {
    let path = Path::parse(&lock(key)).ok()?;
    let instance = state.node(&path)?.instance;
    let found = state.lock(&path)?;
    Some(Sample {
        replica,
        applied,
        lock: (path.as_str().into(), instance),
        holders: found.holders().map(|(session, handle, _)| (session.0, handle.0)).collect(),
        waiters: found.queue().map(|(number, it)| (it.session.0, it.handle.0, number)).collect(),
    })
}

/// Spec N-9: nobody ever sees half a transaction.
fn unequal_pair(replica: u64, applied: u64, state: &State) -> Option<String> {
    let (one, other) = (counter(state, PAIR[0])?, counter(state, PAIR[1]).unwrap_or(0));
    (one + other != 0).then(|| {
        format!(
            "replica {replica} shows half a transaction at entry {applied}: {PAIR:?} are {one} and {other}"
        )
    })
}

fn counter(state: &State, path: &str) -> Option<i64> {
    state.get_counter(&Path::parse(path).ok()?).ok().map(|(value, _)| value)
}

impl Look {
    /// Compares with the look before, and finds locks that were given away after their holder's death.
    fn go_on(&mut self, state: &State, closing: &BTreeSet<u64>) -> Vec<Delay> {
        let cell_ms = state.time_ms();
        let dense = cell_ms >= self.cell_ms && cell_ms - self.cell_ms < DENSE_MS;
        let mut found = Vec::new();
        // Only the first lock has a lock-delay.
        let key = 0;
        let now = sample(0, 0, key, state).map(|sample| sample.holders).unwrap_or_default();
        let before = self.holders.insert(key, now.clone()).unwrap_or_default();
        let is_dead =
            |session: u64| state.session(SessionId(session)).is_none() && !closing.contains(&session);
        if before.iter().any(|holder| !now.contains(holder) && is_dead(holder.0)) {
            self.dead.insert(key, cell_ms);
        }
        let died = self.dead.get(&key).copied();
        if let Some(died) = died.filter(|_| now.iter().any(|holder| !before.contains(holder))) {
            self.dead.remove(&key);
            if dense {
                let next = self.cell_ms * NS_PER_MS;
                let (died, delay) = (died * NS_PER_MS, LOCK_DELAY_MS * NS_PER_MS);
                found.push(Delay { lock: lock(key).into(), died, next, delay });
            }
        }
        if !dense {
            self.dead.remove(&key);
        }
        self.cell_ms = cell_ms;
        found
    }
}

/// The instant, as records have it.
pub(super) fn now_ns() -> u64 {
    engine::now_ns()
}
