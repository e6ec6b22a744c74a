//! Locks, elections, sessions and watches as the guides in `docs/` show them. It runs against a cell of one node that it
//! starts itself: `cargo run --example locks`.

use std::time::Duration;

use bramah_client::{Client, Error, SequencerCheck, SessionEvent, WatchEvent};
use bramah_server::{Member, Server, ServerConfig, Tuning};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let node = start(folder.path()).await?;
    let addresses = node.client_address().to_string();

    getting_started(&addresses).await?;
    let client = Client::connect(&addresses).await?;
    locks(&client).await?;
    elections(&client).await?;
    sessions(&client).await?;
    watching(&client).await?;
    client.close().await;
    node.stop().await;
    Ok(())
}

async fn getting_started(addresses: &str) -> Result<(), Error> {
    let client = Client::connect(addresses).await?;
    client.set("/greeting", "hello").await?;
    println!("visitor {}", client.counter("/visits").increment(1).await?);
    client.close().await;
    Ok(())
}

async fn locks(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    client.mkdir("/jobs").await?;
    let lock = client.lock("/jobs/backup").await?;
    println!("held as {}", lock.sequencer());
    // … the work …
    lock.release().await?;

    let lock = client.lock("/jobs/backup").await?;
    let first = lock.sequencer().clone();
    lock.release().await?;
    let lock = client.lock("/jobs/backup").await?;
    let second = lock.sequencer().clone();

    let mut newest = SequencerCheck::default();
    newest.admit(&first)?;
    newest.admit(&second)?;
    let refused = newest.admit(&first).is_err();
    assert!(refused);

    tokio::select! {
        reason = lock.lost() => println!("stop at once: {reason:?}"),
        done = work() => println!("finished: {done}"),
    }
    lock.release().await?;
    Ok(())
}

async fn work() -> &'static str {
    tokio::time::sleep(Duration::from_millis(10)).await;
    "the backup"
}

async fn elections(client: &Client) -> Result<(), Error> {
    client.mkdir("/service").await?;
    let election = client.election("/service/leader");
    let leadership = election.campaign("node-1").await?;
    println!("node-1 leads in term {}", leadership.term());

    let mut observed = client.election("/service/leader").observe().await?;
    let leader = observed.next().await?;
    assert!(leader.is_some_and(|leader| leader.value == "node-1"));
    leadership.resign().await
}

async fn sessions(client: &Client) -> Result<(), Error> {
    let listening = tokio::spawn(tell_of_the_session(client.clone()));
    let here = client.open("/members/node-1").create().ephemeral().parents().contents("10.0.0.1:80").await?;
    println!("{} says where it is", here.path());
    here.close().await;
    listening.abort();
    Ok(())
}

async fn tell_of_the_session(client: Client) {
    let mut events = client.session_events();
    while let Some(event) = events.next().await {
        match event {
            SessionEvent::Jeopardy { grace, .. } => println!("hold on, {grace:?} at most"),
            SessionEvent::Safe { .. } => println!("go on"),
            SessionEvent::Expired { reason, .. } => println!("begin anew: {reason}"),
            _ => {}
        }
    }
}

async fn watching(client: &Client) -> Result<(), Error> {
    client.mkdir("/config").await?;
    client.set("/config/colour", "green").await?;
    let told = tokio::time::timeout(Duration::from_millis(500), tell_of_changes(client));
    let (told, ()) = tokio::join!(told, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = client.set("/config/colour", "blue").await;
    });
    told.unwrap_or(Ok(()))
}

async fn tell_of_changes(client: &Client) -> Result<(), Error> {
    let mut watch = client.watch("/config").subtree().await?;
    let colour = client.get("/config/colour").await?;
    println!("{} bytes", colour.contents.len());
    loop {
        match watch.next().await? {
            WatchEvent::Happened(event) => println!("{} {:?}", event.path, event.change),
            WatchEvent::Gap { resume } => println!("read /config anew: changes up to {resume} are missing"),
            _ => {}
        }
    }
}

/// A cell of one node.
async fn start(folder: &std::path::Path) -> Result<Server, Box<dyn std::error::Error>> {
    let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
    let own = Member { peer_address: free()?.to_string(), client_address: free()?.to_string() };
    let config = ServerConfig {
        cell: "example".into(),
        replica: 1,
        data: folder.join("node-1"),
        clients_listen: own.client_address.clone(),
        peers_listen: own.peer_address.clone(),
        members: vec![(1, own)],
        bootstrap: true,
        replace: false,
        join: Vec::new(),
        max_connections: 100,
        token_key_file: None,
        dns: None,
        tuning: Tuning::default(),
    };
    Ok(Server::start(config).await?)
}
