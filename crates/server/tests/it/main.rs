//! The front of a running replica, spoken to in its own protocol.

mod raw;
mod session;
mod single_calls;
