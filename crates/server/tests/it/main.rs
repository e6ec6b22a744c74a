//! The front of a running replica, spoken to in its own protocol and by the client.

mod discovery;
mod handles;
mod listings;
mod principals;
mod raw;
mod recipes;
mod session;
mod single_calls;
mod watches;
