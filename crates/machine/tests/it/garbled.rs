//! Bytes that are not what they should be: an error, never a panic, never a broken state.

use bramah_machine::{
    Batch, Identity, Request, SessionId, State, check_requests, decode_outcomes, encode_outcomes,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::generate::{apply_all, batches, encode, requests};
use crate::snapshot::snapshot_of;

/// Damage as disks and networks do it: a byte changed, the end lost, bytes added.
fn damaged(mut bytes: Vec<u8>, place: Index, change: u8, how: u8) -> Vec<u8> {
    let place = place.index(bytes.len());
    match how % 3 {
        0 => bytes[place] ^= change.max(1),
        1 => bytes.truncate(place),
        _ => bytes.insert(place, change),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..300), count in 0..5_usize) {
        let _ = Request::decode(&bytes);
        let _ = decode_outcomes(&bytes);
        let _ = check_requests(count, &bytes);
        prop_assert!(State::read_snapshot(&mut bytes.as_slice()).is_err());
        let mut versioned = vec![2];
        versioned.extend_from_slice(&bytes);
        let mut state = State::new();
        let _ = state.apply_batch(&versioned, 1, &mut Vec::new());
        prop_assert_eq!(state.check_invariants(), Ok(()));
    }

    /// A damaged batch is refused and changes nothing, or it is another valid batch.
    #[test]
    fn a_damaged_batch_breaks_nothing(
        requests in vec(requests(), 1..8),
        place in any::<Index>(),
        change in any::<u8>(),
        how in any::<u8>(),
    ) {
        let mut state = State::new();
        apply_all(&mut state, &[(1, requests.clone())]);
        let before = state.digest();
        let bytes = damaged(encode(2, &requests), place, change, how);
        if state.apply_batch(&bytes, 1, &mut Vec::new()).is_err() {
            prop_assert_eq!(state.digest(), before);
            prop_assert!(Batch::decode(&bytes).is_err());
        }
        prop_assert_eq!(state.check_invariants(), Ok(()));
    }

    /// A damaged snapshot is never taken for a good one.
    #[test]
    fn a_damaged_snapshot_is_refused(
        batches in batches(),
        place in any::<Index>(),
        change in any::<u8>(),
        how in any::<u8>(),
    ) {
        let mut state = State::new();
        apply_all(&mut state, &batches);
        let bytes = snapshot_of(&state);
        let damaged = damaged(bytes.clone(), place, change, how);
        if let Ok(read) = State::read_snapshot(&mut damaged.as_slice()) {
            // A byte put in behind the last one's equals is the only damage that leaves the snapshot whole.
            prop_assert!(damaged.starts_with(&bytes));
            prop_assert_eq!(read.digest(), state.digest());
        }
    }

    #[test]
    fn damaged_outcomes_are_refused_or_others(batches in batches(), place in any::<Index>(), change in any::<u8>()) {
        let (outcomes, _) = apply_all(&mut State::new(), &batches);
        let bytes = damaged(encode_outcomes(&outcomes).unwrap(), place, change, 0);
        if let Ok(others) = decode_outcomes(&bytes) {
            prop_assert_ne!(others, outcomes);
        }
    }

    /// Any numbers in an identity, any time and any term are taken calmly.
    #[test]
    fn extreme_numbers_break_nothing(
        numbers in vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
        requests in vec(requests(), 20),
    ) {
        let mut state = State::new();
        apply_all(&mut state, &[(1, requests.clone())]);
        for ((session, number, confirmed, time), mut request) in numbers.into_iter().zip(requests) {
            request.identity = Identity::Session { session: SessionId(session % 8), number, confirmed };
            let moment = bramah_machine::Moment { time_ms: time, term: time };
            let _ = state.apply(request, moment, &mut Vec::new());
            prop_assert_eq!(state.check_invariants(), Ok(()));
        }
    }
}
