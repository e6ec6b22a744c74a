//! The front of a running replica, spoken to in its own protocol.

mod handles;
mod listings;
mod principals;
mod raw;
mod recipes;
mod session;
mod single_calls;
mod watches;
