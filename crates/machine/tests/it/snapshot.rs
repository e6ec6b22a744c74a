//! Snapshots, digests and views: one state, however it came to be.

use bramah_machine::{SnapshotError, State};
use proptest::prelude::*;

use crate::generate::{apply_all, batches};

pub(crate) fn snapshot_of(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.write_snapshot(&mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Spec S-6, G-9: a replica that starts from a snapshot in the middle goes on exactly like one that
    /// applied everything: same answers (to late copies too), same events, same digest.
    #[test]
    fn a_snapshot_goes_on_like_the_state_it_was_taken_of(before in batches(), after in batches()) {
        let mut state = State::new();
        apply_all(&mut state, &before);
        let bytes = snapshot_of(&state);
        let mut restored = State::read_snapshot(&mut bytes.as_slice()).unwrap();
        prop_assert_eq!(restored.digest(), state.digest());
        prop_assert_eq!(snapshot_of(&restored), bytes);
        prop_assert_eq!(apply_all(&mut restored, &after), apply_all(&mut state, &after));
        prop_assert_eq!(restored.digest(), state.digest());
        prop_assert_eq!(state.check_invariants(), Ok(()));
    }

    /// Spec G-9: the same commands give the same digest, and how they were batched is all one.
    #[test]
    fn same_commands_same_digest(batches in batches()) {
        let (mut whole, mut single) = (State::new(), State::new());
        apply_all(&mut whole, &batches);
        let one_by_one: Vec<_> = batches
            .iter()
            .flat_map(|(time, requests)| requests.iter().map(|request| (*time, vec![request.clone()])))
            .collect();
        apply_all(&mut single, &one_by_one);
        prop_assert_eq!(whole.digest(), single.digest());
    }

    /// A view stays as it was while the state goes on, and holding one changes nothing for the state.
    #[test]
    fn a_view_stays_as_it_was(before in batches(), after in batches()) {
        let (mut state, mut alone) = (State::new(), State::new());
        apply_all(&mut state, &before);
        let (view, digest) = (state.clone(), state.digest());
        apply_all(&mut state, &after);
        prop_assert_eq!(view.digest(), digest);
        apply_all(&mut alone, &before);
        apply_all(&mut alone, &after);
        prop_assert_eq!(state.digest(), alone.digest());
    }
}

/// A reader takes the snapshot and not a byte more, so that it can stand in a longer stream.
#[test]
fn reads_no_further_than_the_snapshot() {
    let mut bytes = snapshot_of(&State::new());
    bytes.extend_from_slice(b"more");
    let mut input = bytes.as_slice();
    State::read_snapshot(&mut input).unwrap();
    assert_eq!(input, b"more");
}

#[test]
fn says_what_is_wrong_with_a_snapshot() {
    let good = snapshot_of(&State::new());
    let read = |bytes: &[u8]| State::read_snapshot(&mut &*bytes).unwrap_err();
    assert!(matches!(read(b""), SnapshotError::Io(_)));
    assert!(matches!(read(b"something else entirely"), SnapshotError::NotASnapshot));
    let mut newer = good.clone();
    newer[8] = 9;
    assert!(matches!(read(&newer), SnapshotError::UnknownVersion { found: 9 }));
    let mut huge = good.clone();
    huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&huge), SnapshotError::BadRecord { what: "the counts", .. }));
    let mut changed = good;
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(read(&changed), SnapshotError::BadDigest { .. }));
}
