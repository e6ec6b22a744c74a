//! The bounds both sides hold to. What exceeds one is refused with an error that names it.

use std::time::Duration;

/// Most bytes of one message from a client, encoded.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Most bytes of one message to a client, encoded: answers that don't fit go in further messages.
pub const MAX_REPLY_BYTES: usize = 16 << 20;

/// Most bytes of one message between replicas, encoded.
pub const MAX_PEER_MESSAGE_BYTES: usize = 16 << 20;

/// Most calls in one `SessionRequest`.
pub const MAX_CALLS_PER_MESSAGE: usize = 4096;

/// Most calls of a session between the confirmed one and the newest: a session's window of numbers.
pub const MAX_IN_FLIGHT_PER_SESSION: usize = 4096;

/// Most bytes of a client's name for people.
pub const MAX_CLIENT_NAME_BYTES: usize = 256;

/// How long a call may take when the caller names no deadline.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(10_000);

/// Longest deadline of a call.
pub const MAX_DEADLINE: Duration = Duration::from_millis(60_000);

/// Most watches of one session.
pub const MAX_WATCHES_PER_SESSION: usize = 10_000;

/// Most bytes of the token that says who a client is.
pub const MAX_TOKEN_BYTES: usize = 1024;
