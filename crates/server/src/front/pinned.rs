//! Frozen states that listings are read from page by page, so that changes between two pages tear none (spec N-7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bramah_machine::{SessionId, State};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a state is kept after it was last asked for.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// States kept at once. Each holds on to what was changed since, so they are few; the one that was not asked for
/// longest makes room.
const MOST: usize = 64;

/// States kept for one session: whoever begins listings and never goes on gives up its own, and takes nobody else's.
const MOST_OF_A_SESSION: usize = 4;

/// States kept for all callers without a session.
const MOST_OF_NO_SESSION: usize = 16;

/// The states kept, by revision. Clones share them.
#[derive(Clone, Debug, Default)]
pub(in crate::front) struct Pinned(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    states: BTreeMap<u64, One>,
    /// A task drops those whose time is over.
    tended: bool,
}

#[derive(Debug)]
struct One {
    state: State,
    asked: Instant,
    /// Whose listings began at it; `None`: somebody's without a session.
    by: BTreeSet<Option<SessionId>>,
}

impl Pinned {
    /// Keeps a state for the pages to come of a session's listing, or of somebody's without one.
    pub(in crate::front) fn keep(&self, state: &State, session: Option<SessionId>) {
        let mut kept = self.0.lock();
        kept.drop_old();
        kept.make_room_of(session, state.revision());
        kept.make_room(state.revision());
        let one = || One { state: state.clone(), asked: Instant::now(), by: BTreeSet::new() };
        let one = kept.states.entry(state.revision()).or_insert_with(one);
        one.asked = Instant::now();
        one.by.insert(session);
        if !std::mem::replace(&mut kept.tended, true) {
            tokio::spawn(self.clone().tend());
        }
    }

    /// The state of a revision, if it is still kept.
    pub(in crate::front) fn at(&self, revision: u64) -> Option<State> {
        let mut kept = self.0.lock();
        kept.drop_old();
        let one = kept.states.get_mut(&revision)?;
        one.asked = Instant::now();
        Some(one.state.clone())
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
        self.states.retain(|_, one| one.asked.elapsed() < KEPT_FOR);
    }

    fn make_room(&mut self, revision: u64) {
        if self.states.len() < MOST || self.states.contains_key(&revision) {
            return;
        }
        let longest = self.states.iter().min_by_key(|(_, one)| one.asked).map(|(revision, _)| *revision);
        longest.map(|revision| self.states.remove(&revision));
    }

    /// What others go on with stays.
    fn make_room_of(&mut self, session: Option<SessionId>, revision: u64) {
        let most = if session.is_some() { MOST_OF_A_SESSION } else { MOST_OF_NO_SESSION };
        let own = || self.states.iter().filter(|(_, one)| one.by.contains(&session));
        if own().count() < most || own().any(|(own, _)| *own == revision) {
            return;
        }
        let longest = own().min_by_key(|(_, one)| one.asked).map(|(revision, _)| *revision);
        if let Some(revision) = longest
            && let Some(one) = self.states.get_mut(&revision)
        {
            one.by.remove(&session);
            if one.by.is_empty() {
                self.states.remove(&revision);
            }
        }
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
        pinned.keep(&state(3), None);
        for _ in 0..3 {
            tokio::time::advance(KEPT_FOR - Duration::from_millis(1)).await;
            assert_eq!(pinned.at(3).map(|state| state.revision()), Some(3));
        }
        assert!(pinned.at(2).is_none());
        tokio::time::sleep(2 * KEPT_FOR).await;
        assert!(pinned.0.lock().states.is_empty(), "dropped though nobody asked");
        pinned.keep(&state(4), None);
        assert!(pinned.at(4).is_some());
    }

    /// However many listings begin, a bounded number of states is kept: those asked for last.
    #[tokio::test(start_paused = true)]
    async fn few_states_are_kept() {
        let pinned = Pinned::default();
        for revision in 1..=MOST as u64 + 2 {
            pinned.keep(&state(revision), Some(SessionId(revision)));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(pinned.at(1).is_some(), "it is in use");
        }
        assert_eq!(pinned.0.lock().states.len(), MOST);
        assert!(pinned.at(2).is_none() && pinned.at(3).is_none() && pinned.at(4).is_some());
    }

    /// Spec N-7: who begins many listings and ends none gives up its own, not those of others.
    #[tokio::test(start_paused = true)]
    async fn nobody_takes_the_states_of_others() {
        let pinned = Pinned::default();
        let (quiet, greedy) = (Some(SessionId(1)), Some(SessionId(2)));
        pinned.keep(&state(1), quiet);
        pinned.keep(&state(1), greedy);
        pinned.keep(&state(2), quiet);
        for revision in 3..=2 * MOST as u64 {
            tokio::time::advance(Duration::from_millis(1)).await;
            pinned.keep(&state(revision), if revision % 2 == 0 { greedy } else { None });
        }
        assert!(pinned.at(1).is_some() && pinned.at(2).is_some());
        let kept = pinned.0.lock().states.len();
        assert_eq!(kept, 2 + MOST_OF_A_SESSION + MOST_OF_NO_SESSION);
    }
}
