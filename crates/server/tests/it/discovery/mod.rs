//! Services at a cell of three, by the client: registry, followers, health, and calls by name.

mod calls;
mod cuttable;
mod dns;
mod health;
mod registry;

use std::sync::Arc;

use bramah_client::Client;
use bramah_client::discovery::{Follower, Instance, Registered, Snapshot};

/// The addresses of a cell's replicas.
fn addresses(cell: &crate::recipes::Cell) -> Vec<String> {
    cell.replicas.iter().map(|replica| replica.server.client_address().to_string()).collect()
}

fn here(port: u16) -> Instance {
    Instance::new("127.0.0.1", port)
}

fn ids(snapshot: &Snapshot, service: &str) -> Vec<String> {
    snapshot.instances(service).map(|one| one.id.to_string()).collect()
}

/// Waits until the follower knows this; every test bounds it.
async fn until(follower: &mut Follower, known: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshot = follower.snapshot();
    while !known(&snapshot) {
        snapshot = follower.changed().await.expect("the client lives");
    }
    snapshot
}

async fn put(client: &Client, id: &str, instance: &Instance) -> u64 {
    client.registry().put("web", id, instance).await.unwrap().revision
}

fn one(snapshot: &Snapshot, id: &str) -> Arc<Registered> {
    snapshot.get("web", id).expect("it is there").clone()
}

/// A port at which nobody listens, and nobody will.
fn closed_port() -> (u16, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}
