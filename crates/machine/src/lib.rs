//! What a cell remembers: a tree of nodes, sessions, and the answers already given.
//!
//! This room is pure. A [`Batch`] of requests with the leader's time goes in; answers and events come
//! out. There is no I/O, clock, thread, randomness or async here, so every replica that applies the same
//! batches holds the same [`State`], and says so with the same [`State::digest`].

mod acl;
mod batch;
mod command;
mod event;
mod handle;
mod invariants;
mod keys;
mod lock;
mod outcome;
mod path;
pub mod planted;
mod quota;
mod session;
mod snapshot;
mod state;
#[cfg(test)]
mod testing;
mod tree;

pub use acl::{AclNames, MAX_PRINCIPAL_BYTES, Principal, Right, Verdicts};
pub use batch::{
    Batch, BatchBuilder, BatchError, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_REQUEST_BYTES, append_to_run,
    check_requests, decode_outcomes, encode_outcomes,
};
pub use command::*;
pub use event::{Change, Event};
pub use handle::{Handle, HandleId, MAX_HANDLES, MAX_HANDLES_PER_SESSION, MAX_LOCK_DELAY_MS, Mode, Place};
pub use keys::{KEY_RETENTION_MS, MAX_KEY_BYTES, MAX_KEYS, MAX_SESSION_NONCES, SESSION_NONCE_RETENTION_MS};
pub use lock::{Lock, MAX_WAITERS, Sequencer, Waiter};
pub use outcome::{Answer, DirectoryEntry, FileContents, NodeKind, Outcome, RangeLimit, Refusal, Stat};
pub use path::{InvalidPath, MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, Path};
pub use quota::{MAX_QUOTAS, Quota, QuotaKind, Usage};
pub use session::{
    Identity, MAX_KEPT_ANSWERS, MAX_KEPT_PER_SESSION, MAX_NUMBERS_AHEAD, MAX_SESSIONS, Session, SessionId,
};
pub use snapshot::SnapshotError;
pub use state::{Moment, State};
pub use tree::{File, Kind, Node};
