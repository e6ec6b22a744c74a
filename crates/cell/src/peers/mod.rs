//! How replicas speak to each other: gRPC with postcard bodies (`peer.proto`).

mod forward;
#[cfg(test)]
mod fuzz;
mod network;
mod service;

pub(crate) use forward::{Forwarders, Lane};
pub(crate) use network::{PeerNetwork, client};
pub(crate) use service::{PeerService, serve};

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

/// The largest message between replicas: a log entry of the largest size with room for its wrapping.
pub(crate) const MAX_MESSAGE_BYTES: usize = bramah_wire::limits::MAX_PEER_MESSAGE_BYTES;

/// Bytes of a snapshot sent in one message.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

fn encode<T: Serialize>(value: &T) -> Result<Bytes, io::Error> {
    postcard::to_stdvec(value).map(Bytes::from).map_err(io::Error::other)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    postcard::from_bytes(body).map_err(|error| {
        Status::invalid_argument(format!(
            "a peer's message can't be read ({error}); do all replicas run one version?"
        ))
    })
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
