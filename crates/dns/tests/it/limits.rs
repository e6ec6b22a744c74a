//! What is more than DNS can tell, and what a service or a query may not make it do.

use bramah_dns::direct::{Builder, Transport, Zone};
use bramah_dns::{Settings, View};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::sync::Arc;

use crate::registry::{ask, bytes, example, instance, query, service, settings, table, view};

fn crowd(count: usize) -> View {
    let one = |n: usize| {
        (format!("i{n:05}"), instance(&[&format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)], 80))
    };
    view(1, vec![("crowd", service((0..count).map(one).collect()))])
}

/// Spec F-3: over TCP a message has 64 KiB, and an answer that needs more says so too.
#[test]
fn even_tcp_has_an_end() {
    let table = table(&settings(), crowd(5000));
    for kind in [RecordType::A, RecordType::SRV] {
        let query = query("crowd.service.berlin.example.", kind, Some(1232));
        let answer = ask(&table, &query, Transport::Tcp);
        assert!(answer.metadata.truncation);
        assert!(answer.edns.is_some(), "there is room kept for it");
        assert!(bytes(&table, &query.to_vec().unwrap(), Transport::Tcp).unwrap().len() > 65_000);
    }
    let few = query("crowd.service.berlin.example.", RecordType::SRV, None);
    assert!(ask(&table, &few, Transport::Udp).answers.len() > 3, "as many as there is room for");
}

/// What a pointer can't reach has no addresses beside it; the records before have.
#[test]
fn additional_records_end_where_pointers_do() {
    let table = table(&settings(), crowd(400));
    let answer = ask(&table, &query("crowd.service.berlin.example.", RecordType::SRV, None), Transport::Tcp);
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 400);
    assert!((200..400).contains(&answer.additionals.len()), "{}", answer.additionals.len());
}

/// What has no name, or too many, is left out and counted, and the rest is served.
#[test]
fn what_cannot_be_told_is_counted() {
    let mut one = instance(&["10.0.0.1"; 9], 80);
    one.tags = (0..66).map(|n| format!("t{n:02}")).chain(["no tag".to_owned()]).collect();
    one.metadata = [("k".to_owned(), "v".repeat(254)), ("l".to_owned(), "w".to_owned())].into();
    let good = service(vec![("one".to_owned(), one)]);
    let services = vec![("good", good.clone()), ("Good", good.clone()), ("not.one", good)];
    let mut builder = Builder::new(Arc::new(Zone::new(&settings()).unwrap()));
    // The ninth address, three tags, a string; the second spelling; the service with a dot.
    assert_eq!(builder.build(view(1, services)).left_out(), 1 + 3 + 1 + 1 + 1);
    assert_eq!(builder.build(view(2, Vec::new())).left_out(), 0);
}

/// Spec F-3: a longest name still fits into the smallest answer, with a record and with none.
#[test]
fn the_longest_names_fit() {
    let long = |letter: &str| letter.repeat(63);
    let domain = format!("{}.{}", "d".repeat(39), "e".repeat(39));
    let settings = Settings { cell: "berlin".to_owned(), domain, ..settings() };
    let name = format!("{}.instance.{}.service.berlin.{}.", long("i"), long("s"), settings.domain);
    let instances = service(vec![(long("i"), instance(&["10.0.0.1", "fd00::1"], 80))]);
    let table = table(&settings, view(1, vec![(&long("s"), instances)]));
    let found = ask(&table, &query(&name, RecordType::SRV, None), Transport::Udp);
    assert_eq!((found.answers.len(), found.metadata.truncation), (1, false), "{found:?}");
    let empty = ask(&table, &query(&name, RecordType::MX, Some(512)), Transport::Udp);
    assert_eq!((empty.authorities.len(), empty.metadata.response_code), (1, ResponseCode::NoError));
    let absent = format!("{}.{}.{}", long("x"), "y".repeat(40), name.split_once("service.").unwrap().1);
    let absent = ask(&table, &query(&absent, RecordType::A, Some(512)), Transport::Udp);
    assert_eq!((absent.authorities.len(), absent.metadata.response_code), (1, ResponseCode::NXDomain));
}

/// Only what changed is encoded again: the rest is the same memory.
#[test]
fn a_change_of_one_service_leaves_the_others() {
    let mut builder = Builder::new(Arc::new(Zone::new(&settings()).unwrap()));
    let mut view = example();
    let before = builder.build(view.clone());
    view.services.insert(Arc::from("web"), Arc::new(service(Vec::new())));
    view.revision += 1;
    let after = builder.build(view);
    assert!(after.shares(&before, "many") && !after.shares(&before, "web"));
}

/// Spec F-3: as long as nothing is known of the registry nothing is said to be missing from it.
#[test]
fn what_is_not_known_yet_is_not_absent() {
    let (unknown, empty) = (table(&settings(), View::unknown()), table(&settings(), View::default()));
    for (name, when_known) in [
        ("web.service.berlin.example.", ResponseCode::NXDomain),
        ("berlin.example.", ResponseCode::NoError),
        ("web.elsewhere.", ResponseCode::Refused),
    ] {
        let query = query(name, RecordType::A, None);
        let code = |table| ask(table, &query, Transport::Udp).metadata.response_code;
        assert_eq!(code(&empty), when_known, "{name}");
        let outside = when_known == ResponseCode::Refused;
        assert_eq!(code(&unknown), if outside { when_known } else { ResponseCode::ServFail }, "{name}");
    }
}
