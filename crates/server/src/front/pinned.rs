//! Frozen states that listings are read from page by page, so that changes between two pages tear none (spec N-7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bramah_machine::State;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a state is kept after it was last asked for.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// States kept at once. Each holds on to what was changed since, so they are few; the one that was not asked for
/// longest makes room.
const MOST: usize = 64;

/// The states kept, by revision. Clones share them.
#[derive(Clone, Debug, Default)]
pub(in crate::front) struct Pinned(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    states: BTreeMap<u64, (State, Instant)>,
    /// A task drops those whose time is over.
    tended: bool,
}

impl Pinned {
    /// Keeps a state for the pages to come.
    pub(in crate::front) fn keep(&self, state: &State) {
        let mut kept = self.0.lock();
        kept.make_room(state.revision());
        kept.states.insert(state.revision(), (state.clone(), Instant::now()));
        if !std::mem::replace(&mut kept.tended, true) {
            tokio::spawn(self.clone().tend());
        }
    }

    /// The state of a revision, if it is still kept.
    pub(in crate::front) fn at(&self, revision: u64) -> Option<State> {
        let mut kept = self.0.lock();
        kept.drop_old();
        let (state, asked) = kept.states.get_mut(&revision)?;
        *asked = Instant::now();
        Some(state.clone())
    }

    /// Nobody may ask again, and what is kept takes memory.
    async fn tend(self) {
        loop {
            tokio::time::sleep(KEPT_FOR / 4).await;
            let mut kept = self.0.lock();
            kept.drop_old();
            if kept.states.is_empty() {
                kept.tended = false;
                return;
            }
        }
    }
}

impl Kept {
    fn drop_old(&mut self) {
        self.states.retain(|_, (_, asked)| asked.elapsed() < KEPT_FOR);
    }

    fn make_room(&mut self, revision: u64) {
        self.drop_old();
        if self.states.len() < MOST || self.states.contains_key(&revision) {
            return;
        }
        let longest = self.states.iter().min_by_key(|(_, (_, asked))| *asked).map(|(revision, _)| *revision);
        longest.map(|revision| self.states.remove(&revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revisions: u64) -> State {
        use bramah_machine::{Command, Identity, Increment, Moment, Path, Request};
        let mut state = State::new();
        for _ in 0..revisions {
            let path = Path::parse("/n").expect("a name");
            let increment = Increment { path, delta: 1, create: true, floor: None, ceiling: None };
            let request = Request { identity: Identity::Anonymous, command: Command::Increment(increment) };
            state.apply(request, Moment { time_ms: 1, term: 1 }, &mut Vec::new()).expect("it counts");
        }
        state
    }

    /// Spec N-7: a state is there for 30 s after its last page, then it is gone, and its memory with it.
    #[tokio::test(start_paused = true)]
    async fn states_are_kept_for_a_while() {
        let pinned = Pinned::default();
        pinned.keep(&state(3));
        for _ in 0..3 {
            tokio::time::advance(KEPT_FOR - Duration::from_millis(1)).await;
            assert_eq!(pinned.at(3).map(|state| state.revision()), Some(3));
        }
        assert!(pinned.at(2).is_none());
        tokio::time::sleep(2 * KEPT_FOR).await;
        assert!(pinned.0.lock().states.is_empty(), "dropped though nobody asked");
        pinned.keep(&state(4));
        assert!(pinned.at(4).is_some());
    }

    /// However many listings begin, a bounded number of states is kept: those asked for last.
    #[tokio::test(start_paused = true)]
    async fn few_states_are_kept() {
        let pinned = Pinned::default();
        for revision in 1..=MOST as u64 + 2 {
            pinned.keep(&state(revision));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(pinned.at(1).is_some(), "it is in use");
        }
        assert_eq!(pinned.0.lock().states.len(), MOST);
        assert!(pinned.at(2).is_none() && pinned.at(3).is_none() && pinned.at(4).is_some());
    }
}
