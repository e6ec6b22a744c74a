//! Between what travels and what the machine knows: operations in; outcomes, failures and events out.

mod events;
mod failures;
mod operations;
mod outcomes;
mod reads;

use std::time::Duration;

use bramah_machine::{Identity, Principal};
use bramah_wire::limits::{DEFAULT_DEADLINE, MAX_DEADLINE};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

pub(super) use events::{event, interest, place, places};
pub(super) use failures::{failed, failure, invalid, refused, undone};
pub(super) use operations::{Read, Work, work};
pub(super) use outcomes::outcome;
pub(super) use reads::{Caller, read};

/// Until when the cell tries.
pub(super) fn deadline(deadline_ms: u32) -> Instant {
    let asked = match deadline_ms {
        0 => DEFAULT_DEADLINE,
        ms => Duration::from_millis(ms.into()).min(MAX_DEADLINE),
    };
    Instant::now() + asked
}

/// The identity under which a session's opening is remembered. Callers can't choose its prefix.
pub(super) fn session_identity(principal: Principal, nonce: &[u8]) -> Identity {
    Identity::sessionless(principal, Some([b"session:", nonce].concat()))
}

/// The identity of a single call, whose key may be empty.
pub(super) fn caller_identity(principal: Principal, key: &[u8]) -> Identity {
    let key = match (key.is_empty(), principal.name().is_empty()) {
        (true, _) => None,
        (false, true) => Some([b"call:", key].concat()),
        (false, false) => Some(key_of(&principal, key)),
    };
    Identity::sessionless(principal, key)
}

/// Keys of all callers share one space, and nobody may get another principal's answer by guessing its key.
fn key_of(principal: &Principal, key: &[u8]) -> Vec<u8> {
    let name = principal.name().as_bytes();
    let digest =
        Sha256::new().chain_update([name.len() as u8]).chain_update(name).chain_update(key).finalize();
    [b"known:", &digest[..]].concat()
}
