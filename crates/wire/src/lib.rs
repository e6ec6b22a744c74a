//! What travels between a client and a cell, and between the replicas of a cell.
//!
//! [`v1`] holds the messages and services generated from `proto/`; [`transport`] says how connections
//! are made, so that a simulated network can take TCP's place; [`limits`] bounds what either side sends;
//! [`registry`] is what an instance of a service says of itself in the tree.

pub mod limits;
pub mod registry;
pub mod transport;

/// Version 1 of the protocol: messages, clients and servers generated from `proto/bramah/v1`.
///
/// The `.proto` files are its documentation.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("bramah.v1");
}

/// The gRPC health protocol, which instances are asked by.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod grpc_health {
    tonic::include_proto!("grpc.health.v1");
}
