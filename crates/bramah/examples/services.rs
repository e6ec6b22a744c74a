//! A service: registered, followed, and called by name. Run it with `cargo run --example services`.
//!
//! With `--measure` it prints how long it takes from a registration to its being in a follower's snapshot at another replica of a
//! cell of three, and the same for a removal.

use std::time::{Duration, Instant};

use bramah_client::discovery::grpc_health::HealthCheckRequest;
use bramah_client::discovery::grpc_health::health_client::HealthClient;
use bramah_client::discovery::{CallSettings, Follower, Instance, Snapshot};
use bramah_client::{Client, Route};
use bramah_server::{Member, Server, ServerConfig, Tuning};

/// How often it is measured.
const TIMES: usize = 1_000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (nodes, addresses) = cell(folder.path()).await?;
    let client = Client::builder().addresses(addresses.clone()).route(Route::Fixed(0)).connect().await?;
    match std::env::args().nth(1).as_deref() {
        Some("--measure") => measure(&client, addresses).await?,
        _ => show(&client).await?,
    }
    client.close().await;
    drop(nodes);
    Ok(())
}

async fn show(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    let registry = client.registry();
    let here = registry.register("web", "web-1", Instance::new("10.0.0.7", 8080)).await?;
    let follower = registry.follow("web").await?;
    for registered in follower.snapshot().instances("web") {
        println!("{} is at {}", registered.id, registered.instance.authority());
    }
    here.deregister().await;
    let channel = registry.grpc("carts", CallSettings::default()).await?;
    let mut carts = HealthClient::new(channel);
    if let Err(status) = carts.check(HealthCheckRequest::default()).await {
        println!("{}", status.message());
    }
    Ok(())
}

async fn measure(client: &Client, addresses: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let elsewhere = Client::builder().addresses(addresses).route(Route::Fixed(1)).connect().await?;
    let mut follower = elsewhere.registry().follow("web").await?;
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for number in 0..TIMES {
        let id = format!("i-{number}");
        let begun = Instant::now();
        let registration = client.registry().register("web", &id, Instance::new("10.0.0.7", 8080)).await?;
        until(&mut follower, |known| known.get("web", &id).is_some()).await?;
        came.push(begun.elapsed());
        let begun = Instant::now();
        let gone = until(&mut follower, |known| known.get("web", &id).is_none());
        let ((), gone) = tokio::join!(registration.deregister(), gone);
        gone?;
        went.push(begun.elapsed());
    }
    println!("from the call to the follower's snapshot, {TIMES} times:");
    for (what, mut times) in [("registered", came), ("removed", went)] {
        times.sort();
        let at = |part: f64| times[((TIMES as f64 * part) as usize).min(TIMES - 1)].as_secs_f64() * 1e3;
        println!("{what:12} p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms", at(0.5), at(0.99), at(1.0));
    }
    elsewhere.close().await;
    Ok(())
}

async fn until(follower: &mut Follower, known: impl Fn(&Snapshot) -> bool) -> Result<(), String> {
    let waiting = async {
        let mut snapshot = follower.snapshot();
        while !known(&snapshot) {
            snapshot = follower.changed().await.ok_or("the client was closed")?;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, waiting).await.map_err(|_| "not within 30 s")?
}

async fn cell(folder: &std::path::Path) -> Result<(Vec<Server>, Vec<String>), Box<dyn std::error::Error>> {
    let members = [(1, free_ports()?), (2, free_ports()?), (3, free_ports()?)];
    let mut nodes = Vec::new();
    for (id, own) in members.clone() {
        let node = Server::start(ServerConfig {
            cell: "example".into(),
            replica: id,
            data: folder.join(format!("node-{id}")),
            clients_listen: own.client_address,
            peers_listen: own.peer_address,
            members: members.to_vec(),
            bootstrap: true,
            replace: false,
            join: Vec::new(),
            max_connections: 100,
            token_key_file: None,
            dns: None,
            tuning: Tuning::default(),
        });
        nodes.push(node.await?);
    }
    Ok((nodes, members.map(|(_, member)| member.client_address).to_vec()))
}

fn free_ports() -> std::io::Result<Member> {
    let listeners =
        [std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?];
    let [client_address, peer_address] =
        listeners.map(|listener| listener.local_addr().map(|at| at.to_string()));
    Ok(Member { client_address: client_address?, peer_address: peer_address? })
}
