//! The proxy from outside, over real connections on loopback.

mod carry;
mod follow;
mod hostile;
mod retry;
mod secure;
mod support;
mod through;
