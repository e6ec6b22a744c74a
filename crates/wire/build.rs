//! Generates the types and the gRPC client and server code of `proto/`, without needing `protoc`.

use std::error::Error;

const PROTOS: [&str; 3] =
    ["proto/bramah/v1/bramah.proto", "proto/bramah/v1/peer.proto", "proto/grpc/health/v1/health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // `Bytes` for every bytes field: contents travel from the socket to the log without a copy.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
