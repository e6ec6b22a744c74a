//! DNS at a replica, over the registry that its clients write (spec F-3).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bramah_client::discovery::{Health, Instance};
use bramah_client::{AclNames, Client};
use bramah_server::dns::Settings;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use tokio::net::UdpSocket;

use super::here;
use crate::raw::{Alone, alone_with};
use crate::recipes::in_time;

async fn replica() -> (Alone, Client) {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let replica = alone_with(|config| {
        config.dns = Some(Settings { listen, ..Settings::new("test", "example") });
    });
    let replica = replica.await;
    let client = Client::connect(replica.server.client_address().to_string()).await.unwrap();
    (replica, client)
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut answer = [0; 2_048];
    let length = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

/// The code and the addresses, in order.
async fn answered(server: SocketAddr, name: &str) -> (ResponseCode, Vec<IpAddr>) {
    let message = ask(server, name).await;
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    };
    let mut addresses: Vec<_> = message.answers.iter().filter_map(|record| address(&record.data)).collect();
    addresses.sort();
    (message.metadata.response_code, addresses)
}

/// The registry is told within a moment of its change; every test bounds the wait.
async fn until(server: SocketAddr, name: &str, code: ResponseCode, addresses: &[&str]) {
    let expected: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    while answered(server, name).await != (code, expected.clone()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn at(address: &str) -> Instance {
    Instance::new(address, 80)
}

/// Spec F-3: instances are in DNS from their registration to their end; who is critical is left out while others are well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_in_dns() {
    let (replica, client) = replica().await;
    let (server, registry) = (replica.server.dns_addresses()[0], client.registry());
    in_time(async {
        let web = "web.service.test.example.";
        until(server, web, ResponseCode::NXDomain, &[]).await;
        let first = registry.register("web", "a", here(80)).await.unwrap();
        until(server, web, ResponseCode::NoError, &["127.0.0.1"]).await;
        let critical = Instance { health: Health::Critical, ..at("127.0.0.2") };
        registry.put("web", "b", &critical).await.unwrap();
        registry.put("web", "c", &at("127.0.0.3")).await.unwrap();
        until(server, web, ResponseCode::NoError, &["127.0.0.1", "127.0.0.3"]).await;
        until(server, "b.instance.web.service.test.example.", ResponseCode::NoError, &["127.0.0.2"]).await;
        first.deregister().await;
        until(server, web, ResponseCode::NoError, &["127.0.0.3"]).await;
        client.set("/services/web/c", "no instance").await.unwrap();
        registry.deregister("web", "b").await.unwrap();
        until(server, web, ResponseCode::NoError, &[]).await;
        client.delete_tree("/services/web").await.unwrap();
        until(server, web, ResponseCode::NXDomain, &[]).await;
    })
    .await;
}

/// Spec F-3, A-2: DNS asks for nobody in particular, and tells what everybody may read; a change of an ACL counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_tells_what_everybody_may_read() {
    let (replica, client) = replica().await;
    let (server, registry) = (replica.server.dns_addresses()[0], client.registry());
    in_time(async {
        let web = "web.service.test.example.";
        registry.put("web", "a", &at("127.0.0.1")).await.unwrap();
        registry.put("web", "b", &at("127.0.0.2")).await.unwrap();
        until(server, web, ResponseCode::NoError, &["127.0.0.1", "127.0.0.2"]).await;
        client.mkdir_all("/acl").await.unwrap();
        client.set("/acl/team", "somebody").await.unwrap();
        let names = AclNames { read: "team".into(), ..AclNames::default() };
        client.set_acl("/services/web/b", names, None).await.unwrap();
        until(server, web, ResponseCode::NoError, &["127.0.0.1"]).await;
        client.set("/acl/team", "somebody\n*").await.unwrap();
        until(server, web, ResponseCode::NoError, &["127.0.0.1", "127.0.0.2"]).await;
    })
    .await;
}

/// Spec F-3: what was registered before the replica began is in its DNS; until it knows all of it, it says that it can't say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_replica_tells_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::raw::config_in(folder.path());
    let before = bramah_server::Server::start(config.clone()).await.unwrap();
    let client = Client::connect(before.client_address().to_string()).await.unwrap();
    client.registry().put("web", "a", &at("127.0.0.9")).await.unwrap();
    client.close().await;
    before.stop().await;
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.dns = Some(Settings { listen, ..Settings::new("test", "example") });
    let after = bramah_server::Server::start(config).await.unwrap();
    let server = after.dns_addresses()[0];
    in_time(async {
        loop {
            match answered(server, "web.service.test.example.").await {
                (ResponseCode::ServFail, none) => assert!(none.is_empty()),
                known => {
                    break assert_eq!(known, (ResponseCode::NoError, vec!["127.0.0.9".parse().unwrap()]));
                }
            }
        }
    })
    .await;
    after.stop().await;
}
