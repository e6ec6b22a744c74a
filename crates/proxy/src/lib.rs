//! The proxy: carries requests to the instances of a service. HTTP/1.1, HTTP/2, gRPC, upgrades such as WebSocket, plain TCP, TLS
//! on either side.
//!
//! It is told who the instances are by a [`tokio::sync::watch`] channel of [`Upstreams`], and follows what it says: who
//! comes gets requests, who leaves finishes those under way. [`Followed`] makes that list of what a cell's registry has.
//!
//! ```
//! use std::sync::Arc;
//! use bramah_proxy::{Proxy, Settings, Upstreams};
//!
//! # async fn example() -> Result<(), bramah_proxy::StartError> {
//! let addresses = ["127.0.0.1:8081", "127.0.0.1:8082"].map(|address| address.parse().expect("an address"));
//! let (_instances, told) = tokio::sync::watch::channel(Arc::new(Upstreams::fixed(addresses)));
//! let proxy = Proxy::start(Settings::default(), told).await?;
//! println!("listening on {}", proxy.address());
//! proxy.stop(std::time::Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # The way of a request
//!
//! Each worker is a thread with a runtime, a listener on the shared port, and connections of its own to each instance, so that
//! workers meet only in counters. On a worker:
//!
//! 1. `connection` finds out what the client speaks. What it sends as HTTP/1 goes past the `guard`, which has one reading
//!    only of where a request ends; a `ledger` notes what moves, and a connection that takes too long is closed.
//! 2. `exchange` checks the head, takes off what is for one hop, adds where the request comes from, and counts it.
//! 3. `forward` lets the `upstreams` pick an instance, and sends the request through its `endpoint`'s pool. If that fails in a way
//!    that makes a second try safe, and there is budget, it tries elsewhere.
//! 4. The bodies stream: `request_body` keeps the beginning for another try, `response_body` tells the balancer how the
//!    call ended. An answer that breaks off breaks off for the client too.
//!
//! `docs/proxy.md` is for those who run it.

mod admin;
mod answer;
mod clock;
mod connection;
mod endpoint;
mod exchange;
mod forward;
mod guard;
mod head;
mod idle;
mod lease;
mod ledger;
mod metrics;
mod proxy;
mod registry;
mod request_body;
mod response_body;
mod settings;
mod tls;
mod tunnel;
mod upstreams;
mod wire;
mod worker;

pub use bramah_balance::Instance;
pub use metrics::{Figures, InstanceFigures};
pub use proxy::{Proxy, StartError, Stopped};
pub use registry::{Chosen, Followed};
pub use settings::{
    HashBy, Limits, Mode, PolicyKind, Retries, Settings, Times, TlsSettings, UpstreamHttp,
    UpstreamTlsSettings,
};
pub use tls::TlsError;
pub use upstreams::{Upstream, Upstreams};
