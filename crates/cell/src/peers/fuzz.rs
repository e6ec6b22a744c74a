//! Bodies of peers' messages from arbitrary bytes.

use std::fmt::Debug;

use bramah_fuzz::{fuzz, within_bytes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotMetaOf, VoteOf};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{decode, encode};
use crate::consensus::TypeConfig;
use crate::error::ProposeError;
use crate::membership::{Change, ChangeError};

/// serde reserves up to 1 MiB for the items that a list claims, and a list of entries may hold lists of members.
const LISTS_BYTES: usize = 4 << 20;

/// The first byte says what the rest is.
#[test]
fn bodies() {
    fuzz!("peers", |bytes| {
        let Some((kind, body)) = bytes.split_first() else { return };
        match kind % 10 {
            0 => check::<AppendEntriesRequest<TypeConfig>>(body),
            1 => check::<AppendEntriesResponse<TypeConfig>>(body),
            2 => check::<VoteRequest<TypeConfig>>(body),
            3 => check::<VoteResponse<TypeConfig>>(body),
            4 => check::<TransferLeaderRequest<TypeConfig>>(body),
            5 => check::<SnapshotMetaOf<TypeConfig>>(body),
            6 => check::<VoteOf<TypeConfig>>(body),
            7 => check::<Change>(body),
            8 => check::<ChangeError>(body),
            _ => check::<ProposeError>(body),
        }
    });
}

/// It is refused, or a value that says the same when it is sent on.
fn check<T: Serialize + DeserializeOwned + Debug>(body: &[u8]) {
    let decoded = within_bytes(LISTS_BYTES + 256 * body.len(), || decode::<T>(body));
    let Ok(value) = decoded else { return };
    let sent = encode(&value).expect("what was decoded can be encoded");
    let again: T = decode(&sent).expect("what was encoded can be decoded");
    assert_eq!(encode(&again).expect("it was encoded before"), sent);
    // It is written to the program's log.
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}
