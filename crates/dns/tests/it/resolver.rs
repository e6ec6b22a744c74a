//! A resolver library asks a server over UDP, and over TCP when it is told that an answer didn't fit.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bramah_dns::Settings;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use crate::registry::{DEADLINE, example, instance, query, service, settings, started};

fn resolver(server: &bramah_dns::Server) -> TokioResolver {
    let address = server.addresses()[0];
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|connection| {
        let mut connection = connection;
        connection.port = address.port();
        connection
    });
    let name_server = NameServerConfig::new(address.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.build().unwrap()
}

async fn addresses(resolver: &TokioResolver, name: &str) -> BTreeSet<String> {
    let found = timeout(DEADLINE, resolver.lookup(name, RecordType::A)).await.expect("in time").unwrap();
    found.answers().iter().map(|record| record.data.to_string()).collect()
}

/// Spec F-3: each kind of name, and NXDOMAIN told from NODATA.
#[tokio::test]
async fn a_resolver_finds_services_tags_and_instances() {
    let (server, _registry) = started(settings(), example()).await;
    let resolver = resolver(&server);
    let set =
        |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(addresses(&resolver, "web.service.berlin.example.").await, set(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(addresses(&resolver, "green.tag.web.service.berlin.example.").await, set(&["10.0.0.1"]));
    assert_eq!(addresses(&resolver, "three.instance.web.service.berlin.example.").await, set(&["10.0.0.3"]));
    assert_eq!(
        addresses(&resolver, "sick.service.berlin.example.").await,
        set(&["10.0.0.3"]),
        "better than none"
    );

    let found = resolver.srv_lookup("_web._tcp.service.berlin.example.").await.unwrap();
    let port = |data: &RData| match data {
        RData::SRV(srv) => Some((srv.port, srv.target.to_string())),
        _ => None,
    };
    let ports: BTreeSet<_> = found.answers().iter().filter_map(|record| port(&record.data)).collect();
    let targets = [(8001, "one"), (8002, "two")];
    assert_eq!(
        ports,
        targets.map(|(port, id)| (port, format!("{id}.instance.web.service.berlin.example."))).into()
    );

    let absent = resolver.lookup("gone.service.berlin.example.", RecordType::A).await.unwrap_err();
    assert!(absent.is_nx_domain(), "{absent}");
    let soa = absent.into_soa().expect("the SOA says how long that may be kept");
    assert_eq!(soa.data.minimum, 5);
    let empty = resolver.lookup("empty.service.berlin.example.", RecordType::A).await.unwrap_err();
    assert!(empty.is_no_records_found() && !empty.is_nx_domain(), "{empty}");
    server.stop().await;
}

/// Several threads on one port, at addresses of both families.
#[tokio::test]
async fn several_sockets_and_addresses_are_served() {
    let listen = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().unwrap()).to_vec();
    let threads = NonZeroUsize::new(3).unwrap();
    let (server, _registry) =
        started(Settings { listen, udp_threads: threads, ..settings() }, example()).await;
    let query = query("web.service.berlin.example.", RecordType::A, None).to_vec().unwrap();
    for &address in server.addresses() {
        // The kernel picks a thread by the client's port.
        for _ in 0..20 {
            let socket = UdpSocket::bind((address.ip(), 0)).await.unwrap();
            socket.send_to(&query, address).await.unwrap();
            let mut buffer = [0; 512];
            let (length, from) =
                timeout(DEADLINE, socket.recv_from(&mut buffer)).await.expect("in time").unwrap();
            assert_eq!((from, Message::from_vec(&buffer[..length]).unwrap().answers.len()), (address, 2));
        }
    }
    assert_eq!(server.counts().udp_queries, 40);
    server.stop().await;
}

/// Spec F-3: the TC bit over UDP sends the resolver to TCP, where it gets all.
#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let (server, _registry) = started(settings(), example()).await;
    assert_eq!(addresses(&resolver(&server), "many.service.berlin.example.").await.len(), 300);
    let counts = server.counts();
    assert_eq!((counts.truncated, counts.tcp_queries), (1, 1), "{counts:?}");
    server.stop().await;
}

/// Spec F-3 and R-1: what changes in the registry is answered at once, and with a TTL of 0 nobody keeps the old.
#[tokio::test]
async fn answers_follow_the_registry() {
    let (server, registry) = started(settings(), example()).await;
    let resolver = resolver(&server);
    assert_eq!(addresses(&resolver, "web.service.berlin.example.").await.len(), 2);
    registry.send_modify(|view| {
        let only = service(vec![("new".to_owned(), instance(&["10.9.9.9"], 1))]);
        view.services.insert(Arc::from("web"), Arc::new(only));
        view.revision = 8;
    });
    let begun = Instant::now();
    while server.counts().revision != 8 {
        assert!(begun.elapsed() < DEADLINE, "the change isn't served");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(addresses(&resolver, "web.service.berlin.example.").await, ["10.9.9.9".to_owned()].into());
    // Whoever fed us is gone: what was known last is served on (spec F-2).
    drop(registry);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(addresses(&resolver, "web.service.berlin.example.").await.len(), 1);
    server.stop().await;
}
