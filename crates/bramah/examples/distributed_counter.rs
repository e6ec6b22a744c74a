//! One counter on three nodes: all of them take increments at once, and none is lost or counted twice when the
//! node that leads the others dies in the middle. Then three workers elect one of them, which dies, and another one takes
//! over. Run it with `cargo run --example distributed_counter`.

use std::collections::BTreeMap;
use std::time::Duration;

use bramah_client::{Client, Error, Route};
use bramah_server::{Member, Server, ServerConfig, Tuning};

const INCREMENTS_A_NODE: i64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Every node knows where all of them are, and keeps a copy of the counter in a folder of its own.
    let folder = tempfile::tempdir()?;
    let members = [(1, free_ports()?), (2, free_ports()?), (3, free_ports()?)];
    let mut nodes = Vec::new();
    for (id, own) in members.clone() {
        let node = Server::start(ServerConfig {
            cell: "example".into(),
            replica: id,
            data: folder.path().join(format!("node-{id}")),
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
    let addresses = members.map(|(_, member)| member.client_address);
    let client = Client::connect(&addresses[..]).await?;
    let visitors = client.counter("/visitors");
    visitors.reset(0).await?;

    // A worker at each node. When its node dies, its client goes on at another one, and an increment whose
    // answer got lost on the way is asked for again under its old number, so that it counts once.
    let mut workers = Vec::new();
    for node in 0..addresses.len() {
        let builder = Client::builder().addresses(&addresses[..]);
        let client = builder.route(Route::Fixed(node)).connect().await?;
        workers.push(tokio::spawn(async move {
            for _ in 0..INCREMENTS_A_NODE {
                client.counter("/visitors").increment(1).await?;
            }
            Ok::<(), Error>(())
        }));
    }

    // Half-way, the leader is dropped as if its machine had lost power. The other two elect another and go on.
    let total = 3 * INCREMENTS_A_NODE;
    while visitors.get().await? < total / 2 {
        tokio::task::yield_now().await;
    }
    let leader = client.status().await?.leader.ok_or("nobody leads")?.replica;
    nodes.remove(leader as usize - 1).kill().await;
    println!("node {leader} led and is gone, at about {} of {total}", total / 2);

    for worker in workers {
        worker.await??;
    }
    let counted = visitors.get().await?;
    println!("{total} increments were made, {counted} are counted");
    assert_eq!(counted, total);
    elect(&addresses).await?;
    client.close().await;
    for node in nodes {
        node.stop().await;
    }
    Ok(())
}

/// Three workers want one job. Each has a runtime of its own: when that is shut down, nothing of the worker goes on, as
/// if its machine was gone. Its session expires, and with it its leadership.
async fn elect(addresses: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (elected, mut leaders) = tokio::sync::mpsc::channel(3);
    let mut workers = BTreeMap::new();
    for number in 1..=3 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(campaign(addresses.to_vec(), number, elected.clone()));
        workers.insert(number, runtime);
    }
    let mut last_term = 0;
    for _ in 0..2 {
        let (number, term) = leaders.recv().await.ok_or("no worker was elected")?;
        println!("worker {number} leads in term {term}");
        assert!(term > last_term, "terms only grow");
        last_term = term;
        workers.remove(&number).ok_or("nobody leads after death")?.shutdown_background();
    }
    workers.into_values().for_each(tokio::runtime::Runtime::shutdown_background);
    Ok(())
}

async fn campaign(addresses: Vec<String>, number: u64, elected: tokio::sync::mpsc::Sender<(u64, u64)>) {
    let leading = async {
        // A short lease: a dead worker is replaced soon.
        let client =
            Client::builder().addresses(&addresses[..]).lease(Duration::from_secs(2)).connect().await?;
        let leadership = client.election("/job").campaign(format!("worker {number}")).await?;
        let _ = elected.send((number, leadership.term())).await;
        // It leads until it dies.
        leadership.lost().await;
        Ok::<(), Error>(())
    };
    if let Err(error) = leading.await {
        println!("worker {number}: {error}");
    }
}

/// Two ports that nobody uses: one for the other nodes, one for clients.
fn free_ports() -> std::io::Result<Member> {
    let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
    Ok(Member { peer_address: free()?.to_string(), client_address: free()?.to_string() })
}
