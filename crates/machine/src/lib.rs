//! What a cell remembers: a tree of nodes, sessions, and the answers already given.
//!
//! This room is pure. A [`Batch`] of requests with the leader's time goes in; answers and events come
//! out. There is no I/O, clock, thread, randomness or async here, so every replica that applies the same
//! batches holds the same [`State`], and says so with the same [`State::digest`].

mod batch;
mod command;
mod event;
mod invariants;
mod keys;
mod outcome;
mod path;
pub mod planted;
mod session;
mod snapshot;
mod state;
#[cfg(test)]
mod testing;
mod tree;

pub use batch::{
    Batch, BatchBuilder, BatchError, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_REQUEST_BYTES, append_to_run,
    check_requests, decode_outcomes, encode_outcomes,
};
pub use command::*;
pub use event::{Change, Event};
pub use keys::{KEY_RETENTION_MS, MAX_KEY_BYTES, MAX_KEYS, MAX_SESSION_NONCES, SESSION_NONCE_RETENTION_MS};
pub use outcome::{Answer, DirectoryEntry, FileContents, NodeKind, Outcome, RangeLimit, Refusal, Stat};
pub use path::{InvalidPath, MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, Path};
pub use session::{
    Identity, MAX_KEPT_ANSWERS, MAX_KEPT_PER_SESSION, MAX_NUMBERS_AHEAD, MAX_SESSIONS, Session, SessionId,
};
pub use snapshot::SnapshotError;
pub use state::{Moment, State};
pub use tree::{File, Kind, Node};
