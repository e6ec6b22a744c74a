//! Serves a file of services over DNS, to be asked by `dig` and measured by `dnsperf`:
//! `cargo run --release -p bramah-dns --example serve -- services.toml 127.0.0.1:5300 [threads] [changes a second]`
//!
//! ```toml
//! [service.web.one]
//! addresses = ["10.0.0.1"]
//! port = 80
//! tags = ["green"]
//! ```
//!
//! With changes, each gives another weight to an instance of a service that is not in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bramah_dns::{Instance, Server, Service, Settings, View};
use serde::Deserialize;
use tokio::sync::watch;

#[derive(Deserialize)]
struct File {
    service: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    addresses: Vec<IpAddr>,
    port: u16,
    #[serde(default = "one")]
    weight: u16,
    #[serde(default)]
    tags: BTreeSet<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default = "yes")]
    healthy: bool,
}

fn one() -> u16 {
    1
}

fn yes() -> bool {
    true
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, address, rest @ ..] = &arguments[..] else {
        return Err("usage: serve <file> <address:port> [threads] [changes a second]".into());
    };
    let threads = rest.first().map_or(Ok(NonZeroUsize::MIN), |threads| threads.parse())?;
    let rate: u32 = rest.get(1).map_or(Ok(0), |rate| rate.parse())?;
    let settings = Settings {
        listen: vec![address.parse()?],
        udp_threads: threads,
        ..Settings::new("berlin", "example")
    };
    let (registry, receiver) = watch::channel(view(toml::from_str(&std::fs::read_to_string(file)?)?));
    let server = Server::start(settings, receiver).await?;
    println!("serving berlin.example at {:?}", server.addresses());
    change_until_interrupted(registry, rate).await?;
    println!("{:?}", server.counts());
    server.stop().await;
    Ok(())
}

async fn change_until_interrupted(registry: watch::Sender<View>, rate: u32) -> std::io::Result<()> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let pause = Duration::from_secs(1).checked_div(rate).unwrap_or(Duration::MAX);
    loop {
        tokio::select! {
            result = &mut interrupted => return result,
            () = tokio::time::sleep(pause) => registry.send_modify(change),
        }
    }
}

fn change(view: &mut View) {
    view.revision += 1;
    let instance = Instance {
        addresses: vec![[10, 99, 0, 1].into()],
        port: 80,
        weight: view.revision as u16,
        tags: BTreeSet::new(),
        metadata: BTreeMap::new(),
        healthy: true,
    };
    let instances = [(Arc::from("one"), Arc::new(instance))].into_iter().collect();
    view.services.insert(Arc::from("changing"), Arc::new(Service { instances }));
}

fn view(file: File) -> View {
    let instances = |entries: BTreeMap<String, Entry>| Service {
        instances: entries
            .into_iter()
            .map(|(id, entry)| (Arc::from(id), Arc::new(instance(entry))))
            .collect(),
    };
    let services =
        file.service.into_iter().map(|(name, entries)| (Arc::from(name), Arc::new(instances(entries))));
    View { revision: 1, services: services.collect() }
}

fn instance(entry: Entry) -> Instance {
    let Entry { addresses, port, weight, tags, metadata, healthy } = entry;
    Instance { addresses, port, weight, tags, metadata, healthy }
}
