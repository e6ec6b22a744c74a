//! Registries to serve, and what is needed to ask about them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bramah_dns::direct::{Builder, Reply, Responder, Table, Transport, Zone};
use bramah_dns::{Instance, NameServer, Server, Service, Settings, View};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::watch;

/// No wait in these tests is longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn instance(addresses: &[&str], port: u16) -> Instance {
    Instance {
        addresses: addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect(),
        port,
        weight: 1,
        tags: Default::default(),
        metadata: Default::default(),
        healthy: true,
    }
}

pub(crate) fn service(instances: Vec<(String, Instance)>) -> Service {
    let instances = instances.into_iter().map(|(id, instance)| (Arc::from(id), Arc::new(instance)));
    Service { instances: instances.collect() }
}

pub(crate) fn view(revision: u64, services: Vec<(&str, Service)>) -> View {
    let services = services.into_iter().map(|(name, service)| (Arc::from(name), Arc::new(service)));
    View { revision, services: services.collect() }
}

/// `web` with two healthy instances and a sick one, `many` with so many that UDP can't tell, `sick`, `empty`.
pub(crate) fn example() -> View {
    let mut one = instance(&["10.0.0.1", "fd00::1"], 8001);
    one.tags = ["green".to_owned(), "v1".to_owned()].into();
    one.metadata = [("zone".to_owned(), "a".to_owned())].into();
    let mut two = instance(&["10.0.0.2"], 8002);
    two.tags = ["v1".to_owned()].into();
    let mut three = instance(&["10.0.0.3"], 8003);
    three.healthy = false;
    let web = service(vec![("one".into(), one), ("two".into(), two), ("three".into(), three.clone())]);
    let many = (0..300).map(|n| (format!("m{n}"), instance(&[&format!("10.1.{}.{}", n / 200, n % 200)], 80)));
    view(
        7,
        vec![
            ("web", web),
            ("many", service(many.collect())),
            ("sick", service(vec![("three".into(), three)])),
            ("empty", service(Vec::new())),
        ],
    )
}

pub(crate) fn settings() -> Settings {
    let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let name_servers = vec![NameServer { label: "ns".to_owned(), addresses }];
    Settings {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        name_servers,
        ..Settings::new("berlin", "example")
    }
}

pub(crate) async fn started(settings: Settings, view: View) -> (Server, watch::Sender<View>) {
    let (sender, receiver) = watch::channel(view);
    (Server::start(settings, receiver).await.unwrap(), sender)
}

pub(crate) fn table(settings: &Settings, view: View) -> Table {
    Builder::new(Arc::new(Zone::new(settings).unwrap())).build(view)
}

pub(crate) fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_version(0);
        message.set_edns(edns);
    }
    message
}

/// The answer's bytes; none if there is none.
pub(crate) fn bytes(table: &Table, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut buffer = vec![0; if transport == Transport::Tcp { 65_535 } else { 1232 }];
    match Responder::new().respond(table, packet, transport, &mut buffer) {
        Reply::Send(length) | Reply::Forward(length) => {
            buffer.truncate(length);
            Some(buffer)
        }
        Reply::Nothing => None,
    }
}

pub(crate) fn ask(table: &Table, query: &Message, transport: Transport) -> Message {
    let answer = bytes(table, &query.to_vec().unwrap(), transport).expect("an answer");
    Message::from_vec(&answer).unwrap()
}
