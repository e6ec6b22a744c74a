//! Every decoder of the machine against arbitrary bytes and damaged encodings.

use std::hash::Hasher;

use bramah_fuzz::{fuzz, within_bytes};
use bramah_machine::{
    Batch, BatchBuilder, MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, Path, Request, State, append_to_run,
    check_requests, decode_outcomes, encode_outcomes,
};
use twox_hash::XxHash3_64;

use crate::generate::{encode, open_session};
use crate::snapshot::snapshot_of;

const KIB: usize = 1024;

/// A request in memory takes a few times what its bytes do; errors and small vectors take the rest.
fn in_proportion(bytes: &[u8]) -> usize {
    16 * KIB + 64 * bytes.len()
}

/// serde reserves up to 1 MiB for the items that a list claims, before it reads them.
fn in_proportion_with_lists(bytes: &[u8]) -> usize {
    1024 * KIB + in_proportion(bytes)
}

/// Numbers may have been longer than need be, so equal values are shown by equal bytes from here on.
fn assert_encodes(again: &[u8], bytes: &[u8]) {
    assert!(again.len() < bytes.len() || again == bytes, "encoded again it is not what was decoded");
}

#[test]
fn batches() {
    fuzz!("batch", |bytes| {
        let decoded = within_bytes(in_proportion(bytes), || Batch::decode(bytes));
        let Ok(batch) = decoded else { return };
        let again = encode(batch.time_ms, &batch.requests);
        assert_encodes(&again, bytes);
        assert_eq!(Batch::decode(&again).as_ref(), Ok(&batch));
        for mut state in [State::new(), lived_in()] {
            let term = u64::from_le_bytes([bytes[bytes.len() - 1]; 8]);
            let outcomes = state.apply_decoded(batch.clone(), term, &mut Vec::new());
            assert_eq!(outcomes.len(), batch.requests.len());
            assert_eq!(state.check_invariants(), Ok(()));
            let told = decode_outcomes(&encode_outcomes(&outcomes).expect("outcomes can be encoded"));
            assert_eq!(told, Ok(outcomes));
        }
    });
}

/// A state with a session and the names that the corpus uses.
fn lived_in() -> State {
    let mut state = State::new();
    open_session(&mut state);
    let corpus = include_bytes!("../../__fuzz__/batch/corpus/one-of-each");
    state.apply_batch(corpus, 1, &mut Vec::new()).expect("the corpus has a good batch");
    state
}

/// The first two bytes are the count.
#[test]
fn runs_of_requests() {
    fuzz!("requests", |bytes| {
        let Some((count, run)) = bytes.split_first_chunk() else { return };
        let count = usize::from(u16::from_le_bytes(*count));
        let checked = within_bytes(in_proportion(run), || check_requests(count, run));
        let mut builder = BatchBuilder::new();
        let packed = builder.push_all_encoded(count, run);
        if checked.is_ok() && packed.is_ok() {
            let batch = Batch::decode(&builder.finish(7)).expect("what was checked can be decoded");
            assert_eq!(batch.requests.len(), count);
        }
    });
}

#[test]
fn single_requests() {
    fuzz!("request", |bytes| {
        let mut run = Vec::new();
        append_to_run(&mut run, bytes).expect("it is short");
        let decoded = within_bytes(in_proportion(bytes), || Request::decode(bytes));
        assert_eq!(check_requests(1, &run).is_ok(), decoded.is_ok());
        let Ok(request) = decoded else { return };
        let again = request.encode().expect("what was decoded can be encoded");
        assert_encodes(&again, bytes);
        assert_eq!(Request::decode(&again), Ok(request));
    });
}

#[test]
fn outcomes() {
    fuzz!("outcomes", |bytes| {
        let decoded = within_bytes(in_proportion_with_lists(bytes), || decode_outcomes(bytes));
        let Ok(outcomes) = decoded else { return };
        let again = encode_outcomes(&outcomes).expect("what was decoded can be encoded");
        assert_encodes(&again, bytes);
        assert_eq!(decode_outcomes(&again), Ok(outcomes));
    });
}

/// As they are, and with the digest that their bytes should have.
#[test]
fn snapshots() {
    fuzz!("snapshot", |bytes| {
        read_snapshot(bytes);
        let mut repaired = bytes.to_vec();
        if let Some(body) = repaired.len().checked_sub(8) {
            let mut hasher = XxHash3_64::new();
            hasher.write(&repaired[..body]);
            repaired[body..].copy_from_slice(&hasher.finish().to_le_bytes());
            read_snapshot(&repaired);
        }
    });
}

fn read_snapshot(bytes: &[u8]) {
    let mut rest = bytes;
    let read = within_bytes(in_proportion_with_lists(bytes), || State::read_snapshot(&mut rest));
    let Ok(mut state) = read else { return };
    let read = &bytes[..bytes.len() - rest.len()];
    let again = snapshot_of(&state);
    assert_encodes(&again, read);
    let same = State::read_snapshot(&mut again.as_slice()).expect("what was written can be read");
    assert_eq!(same.digest(), state.digest());
    let corpus = include_bytes!("../../__fuzz__/batch/corpus/one-of-each");
    state.apply_batch(corpus, u64::MAX, &mut Vec::new()).expect("the corpus has a good batch");
    assert_eq!(state.check_invariants(), Ok(()));
}

#[test]
fn names() {
    fuzz!("path", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let parsed = within_bytes(in_proportion(bytes), || Path::parse(&text));
        if let Ok(path) = &parsed {
            assert_eq!(path.as_str(), text);
        }
        for parsed in [parsed, Path::parse_in_cell(&text, "berlin")] {
            match parsed {
                Ok(path) => check_name(&path),
                Err(error) => assert!(error.to_string().len() < 2 * KIB, "an endless message: {error}"),
            }
        }
    });
}

fn check_name(path: &Path) {
    assert_eq!(Path::parse(path.as_str()).as_ref(), Ok(path));
    assert!(path.depth() <= MAX_DEPTH && path.as_str().len() <= MAX_PATH_BYTES);
    assert!(path.name().len() <= MAX_COMPONENT_BYTES && !path.name().contains('/'));
    let Some(parent) = path.parent() else {
        assert!(path.is_root());
        return;
    };
    assert_eq!(parent.depth() + 1, path.depth());
    assert!(parent < *path);
    check_name(&parent);
}
