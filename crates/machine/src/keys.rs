//! Idempotency keys: how a caller without a session repeats a command safely (spec S-6).

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::{Outcome, Refusal};

/// How long the answer to a caller's key is kept, in milliseconds of the cell's time.
pub const KEY_RETENTION_MS: u64 = 600_000;
/// The most callers' keys a cell remembers.
pub const MAX_KEYS: usize = 100_000;
/// How long the answer to a session's opening is kept, in milliseconds of the cell's time: an opening is
/// tried again within seconds.
pub const SESSION_NONCE_RETENTION_MS: u64 = 60_000;
/// The most keys of sessions' openings a cell remembers. Callers' keys and these can't crowd each other out.
pub const MAX_SESSION_NONCES: usize = 100_000;
/// The longest key.
pub const MAX_KEY_BYTES: usize = 128;

/// How many expired keys one command clears away: more than the one key it may add, so the table shrinks,
/// and few enough that no command is slow.
const CLEARED_PER_COMMAND: usize = 16;

/// What is remembered of a key.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) expires_ms: u64,
    pub(crate) outcome: Outcome,
}

/// The keys and the order in which they expire: the same keys twice.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) kept: OrdMap<Arc<[u8]>, Kept>,
    pub(crate) by_expiry: OrdSet<(u64, Arc<[u8]>)>,
    pub(crate) most: usize,
    retention_ms: u64,
}

impl Keys {
    /// The table of the callers' keys.
    pub(crate) fn of_callers() -> Keys {
        Keys::new(MAX_KEYS, KEY_RETENTION_MS)
    }

    /// The table of the keys under which sessions were opened.
    pub(crate) fn of_openings() -> Keys {
        Keys::new(MAX_SESSION_NONCES, SESSION_NONCE_RETENTION_MS)
    }

    fn new(most: usize, retention_ms: u64) -> Keys {
        Keys { kept: OrdMap::new(), by_expiry: OrdSet::new(), most, retention_ms }
    }

    /// Forgets a few of the keys that have expired.
    pub(crate) fn clear_expired(&mut self, now_ms: u64) {
        for _ in 0..CLEARED_PER_COMMAND {
            match self.by_expiry.get_min() {
                Some((expires_ms, key)) if *expires_ms <= now_ms => {
                    let key = Arc::clone(key);
                    self.forget(&key);
                }
                _ => return,
            }
        }
    }

    /// Decides whether a command is to be done: `None` says yes, `Some` gives the answer that its first
    /// copy got.
    pub(crate) fn admit(&mut self, key: &[u8], now_ms: u64) -> Result<Option<Outcome>, Refusal> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let why = format!("an idempotency key has 1 to {MAX_KEY_BYTES} bytes, not {}", key.len());
            return Err(Refusal::invalid(why));
        }
        match self.kept.get(key) {
            Some(kept) if kept.expires_ms > now_ms => return Ok(Some(kept.outcome.clone())),
            Some(_) => self.forget(key),
            None => {}
        }
        if self.kept.len() >= self.most {
            let oldest = self.by_expiry.get_min().map_or(now_ms, |(expires_ms, _)| *expires_ms);
            let retry_after_ms = oldest.saturating_sub(now_ms);
            return Err(Refusal::TooManyKeys { kept: self.kept.len() as u64, retry_after_ms });
        }
        Ok(None)
    }

    /// Keeps the answer to a command that was admitted.
    pub(crate) fn keep_answer(&mut self, key: Vec<u8>, now_ms: u64, outcome: Outcome) {
        self.insert(Arc::from(key), Kept { expires_ms: now_ms.saturating_add(self.retention_ms), outcome });
    }

    pub(crate) fn insert(&mut self, key: Arc<[u8]>, kept: Kept) {
        self.by_expiry.insert((kept.expires_ms, Arc::clone(&key)));
        self.kept.insert(key, kept);
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some((key, kept)) = self.kept.remove_with_key(key) {
            self.by_expiry.remove(&(kept.expires_ms, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Identity, Request};

    /// Spec S-6: the same key within the stated time gets the first answer, and has no effect.
    #[test]
    fn a_key_works_once_until_its_time_is_over() {
        let mut cell = Cell::new();
        let first = cell.apply(key("k"), increment("/n", 1));
        assert_eq!(first, counted(1, 1));
        cell.moment.time_ms += KEY_RETENTION_MS - 1;
        assert_eq!(cell.apply(key("k"), increment("/n", 1)), first);
        assert_eq!(cell.apply(key("other"), increment("/n", 1)), counted(2, 2));
        cell.moment.time_ms += 1;
        assert_eq!(cell.apply(key("k"), increment("/n", 1)), counted(3, 3));
        assert_eq!(cell.state.key_count(), 2);
    }

    /// Spec S-6: refusals are answers too.
    #[test]
    fn a_refused_command_stays_refused() {
        let mut cell = Cell::new();
        let refusal = Err(Refusal::NotFound { path: path("/a") });
        assert_eq!(cell.apply(key("k"), delete("/a")), refusal);
        cell.run(create_directory("/a")).unwrap();
        assert_eq!(cell.apply(key("k"), delete("/a")), refusal);
    }

    /// A leader whose clock is behind its predecessor's neither makes keys young again nor kills them early.
    #[test]
    fn time_never_goes_back() {
        let mut cell = Cell::new();
        cell.apply(key("k"), increment("/n", 1)).unwrap();
        cell.moment.time_ms += KEY_RETENTION_MS;
        cell.run(increment("/other", 1)).unwrap();
        let latest = cell.moment.time_ms;
        cell.moment.time_ms = 5;
        assert_eq!(cell.apply(key("k"), increment("/n", 1)), counted(2, 3));
        assert_eq!(cell.state.time_ms(), latest);
    }

    #[test]
    fn refuses_keys_of_impossible_length() {
        let mut cell = Cell::new();
        for bytes in [0, MAX_KEY_BYTES + 1, 10_000] {
            let outcome = cell.apply(Identity::Key(vec![b'k'; bytes]), increment("/n", 1));
            assert!(matches!(outcome, Err(Refusal::InvalidArgument { .. })));
        }
        for bytes in [1, MAX_KEY_BYTES] {
            cell.apply(Identity::Key(vec![b'k'; bytes]), increment("/n", 1)).unwrap();
        }
        assert_eq!((cell.value("/n"), cell.state.key_count()), (2, 2));
    }

    /// Expired keys go a few with each command, whatever the command.
    #[test]
    fn clears_expired_keys_a_few_at_a_time() {
        let mut cell = Cell::new();
        for number in 0..40 {
            cell.apply(key(&format!("key {number}")), increment("/n", 1)).unwrap();
        }
        cell.moment.time_ms += KEY_RETENTION_MS;
        let mut left = vec![];
        for _ in 0..4 {
            cell.run(increment("/n", 1)).unwrap();
            left.push(cell.state.key_count());
        }
        assert_eq!(left, [24, 8, 0, 0]);
    }

    /// Spec S-6: a key is over when its time is over, even if it has not been cleared away yet.
    #[test]
    fn an_expired_key_works_anew_before_it_is_cleared() {
        let mut cell = Cell::new();
        for number in 0..40 {
            cell.apply(key(&format!("key {number}")), increment("/n", 1)).unwrap();
        }
        cell.moment.time_ms += KEY_RETENTION_MS;
        // Clears 16 of the others, in the order of keys that expire together.
        assert_eq!(cell.apply(key("key 9"), increment("/n", 1)), counted(41, 41));
        assert_eq!(cell.state.key_count(), 24);
        assert_eq!(cell.apply(key("key 9"), increment("/n", 1)), counted(41, 41));
        assert_eq!(cell.state.key_count(), 8);
    }

    /// A full table refuses and remembers nothing of it; expired keys make room.
    #[test]
    fn refuses_more_keys_than_it_can_remember() {
        let mut cell = Cell::new();
        let keyed =
            |number: usize| Request { identity: key(&format!("key {number}")), command: increment("/n", 1) };
        for number in 0..MAX_KEYS {
            cell.state.apply(keyed(number), cell.moment, &mut cell.events).unwrap();
        }
        cell.moment.time_ms += 1_000;
        let refusal =
            Refusal::TooManyKeys { kept: MAX_KEYS as u64, retry_after_ms: KEY_RETENTION_MS - 1_000 };
        assert_eq!(cell.apply(key("late"), increment("/n", 1)), Err(refusal));
        let value = MAX_KEYS as i64;
        assert_eq!(cell.value("/n"), value);
        assert_eq!(
            cell.apply(key("key 0"), increment("/n", 1)),
            counted(1, 1),
            "copies are answered all the same"
        );
        cell.moment.time_ms += KEY_RETENTION_MS - 1_000;
        assert_eq!(cell.apply(key("late"), increment("/n", 1)), counted(value + 1, value as u64 + 1));
    }

    /// Spec S-1: keys as fast as callers can send them keep no session out.
    #[test]
    fn callers_keys_keep_no_session_out() {
        let mut cell = Cell::new();
        let answer = cell.run(increment("/n", 1));
        for number in 0..MAX_KEYS {
            cell.state.keys.keep_answer(format!("key {number}").into(), cell.moment.time_ms, answer.clone());
        }
        let late = cell.apply(key("late"), increment("/n", 1));
        assert!(matches!(late, Err(Refusal::TooManyKeys { .. })));
        let opened = cell.apply(key("late"), open_session(12_000));
        assert!(opened.is_ok());
        assert_eq!(cell.apply(key("late"), open_session(12_000)), opened);
        assert_eq!((cell.state.session_count(), cell.state.session_nonce_count()), (1, 1));
    }

    /// Spec S-6: sessions that are opened as fast as can be keep no key out, and their table is bounded too.
    #[test]
    fn openings_keep_no_key_out() {
        let mut cell = Cell::new();
        let answer = cell.run(open_session(12_000));
        for number in 0..MAX_SESSION_NONCES {
            cell.state.nonces.keep_answer(
                format!("key {number}").into(),
                cell.moment.time_ms,
                answer.clone(),
            );
        }
        let refusal = Refusal::TooManyKeys {
            kept: MAX_SESSION_NONCES as u64,
            retry_after_ms: SESSION_NONCE_RETENTION_MS,
        };
        assert_eq!(cell.apply(key("late"), open_session(12_000)), Err(refusal));
        assert_eq!(cell.apply(key("late"), increment("/n", 1)), counted(1, 1));
        cell.moment.time_ms += SESSION_NONCE_RETENTION_MS;
        assert!(cell.apply(key("late"), open_session(12_000)).is_ok());
    }

    /// Spec S-6: a key of a caller's and one of an opening are two, even if their bytes are the same, and each
    /// works once for as long as it is kept.
    #[test]
    fn openings_are_remembered_apart_and_for_less_long() {
        let mut cell = Cell::new();
        let (first, opened) =
            (cell.apply(key("k"), increment("/n", 1)), cell.apply(key("k"), open_session(12_000)));
        cell.moment.time_ms += SESSION_NONCE_RETENTION_MS - 1;
        assert_eq!(cell.apply(key("k"), open_session(12_000)), opened);
        cell.moment.time_ms += 1;
        assert_eq!(cell.apply(key("k"), increment("/n", 1)), first);
        assert_eq!((cell.state.key_count(), cell.state.session_nonce_count()), (1, 0));
        assert_ne!(cell.apply(key("k"), open_session(12_000)), opened);
        assert_eq!(cell.state.session_count(), 2);
    }
}
