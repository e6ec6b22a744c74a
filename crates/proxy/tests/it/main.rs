//! The proxy from outside, over real connections on loopback.

mod carry;
mod follow;
mod hostile;
mod http2_errors;
mod retry;
mod secure;
mod support;
mod through;
