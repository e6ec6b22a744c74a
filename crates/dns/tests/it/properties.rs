//! Random registries that change, random queries: every answer is the reference's, and no larger than allowed.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bramah_dns::direct::{Builder, Table, Transport, Zone};
use bramah_dns::{Instance, NoneHealthy, Order, Service, Settings, View};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use crate::reference::{self, expected};
use crate::registry::{bytes, query, settings};

/// Names of services: two alike but for capitals, one that is none, one that looks like an alias.
const SERVICES: &[&str] = &["web", "Web", "api", "x-1", "bad.name", "_x"];
const IDS: &[&str] = &["a", "b", "B", "10.0.0.7:80", "node_1", "ü"];
const TAGS: &[&str] = &["v1", "V1", "green", "a.b"];

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let v4 = (0..12_u8).prop_map(|last| IpAddr::from([10, 0, 0, last]));
    let v6 = (0..6_u16).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
    vec(prop_oneof![2 => v4, 1 => v6], 0..4)
}

prop_compose! {
    fn instance()(
        addresses in addresses(),
        port in any::<u16>(),
        weight in 0..4_u16,
        tags in btree_set(prop::sample::select(TAGS).prop_map(str::to_owned), 0..3),
        metadata in btree_map("[a-c]", prop_oneof!["[a-z]{0,6}", "[a-z]{250,260}"], 0..3),
        healthy in prop::bool::weighted(0.7),
    ) -> Instance {
        Instance { addresses, port, weight, tags, metadata, healthy }
    }
}

/// A few with odd ids, or many.
fn service() -> impl Strategy<Value = Service> {
    let few = btree_map(prop::sample::select(IDS).prop_map(str::to_owned), instance(), 0..5);
    let many = btree_map((0..200_u8).prop_map(|n| format!("i{n}")), instance(), 20..90);
    prop_oneof![3 => few, 1 => many].prop_map(|instances| {
        let instances = instances.into_iter().map(|(id, instance)| (Arc::from(id), Arc::new(instance)));
        Service { instances: instances.collect() }
    })
}

/// What happens to the registry: a service comes or changes, or goes.
fn change() -> impl Strategy<Value = (&'static str, Option<Service>)> {
    (prop::sample::select(SERVICES), prop_oneof![4 => service().prop_map(Some), 1 => Just(None)])
}

fn changed(mut view: View, changes: &[(&'static str, Option<Service>)]) -> View {
    for (name, service) in changes {
        match service {
            Some(service) => drop(view.services.insert((*name).into(), Arc::new(service.clone()))),
            None => drop(view.services.remove(*name)),
        }
        view.revision += 1;
    }
    view
}

fn name() -> impl Strategy<Value = String> {
    let service = prop::sample::select(&["web", "api", "x-1", "gone", "bad", "_x"][..]);
    let of_instance = prop::sample::select(&["a", "b", "i1", "i20", "node_1", "gone"][..]);
    let of_tag = prop::sample::select(&["v1", "green", "gone"][..]);
    let below = prop_oneof![
        4 => service.clone().prop_map(|name| format!("{name}.service.")),
        2 => service.clone().prop_map(|name| format!("_{name}._tcp.service.")),
        3 => (of_tag, service.clone()).prop_map(|(tag, name)| format!("{tag}.tag.{name}.service.")),
        3 => (of_instance, service.clone()).prop_map(|(id, name)| format!("{id}.instance.{name}.service.")),
        1 => service.prop_map(|name| format!("tag.{name}.service.")),
        2 => prop::sample::select(&["", "service.", "ns.", "no.", "_tcp.service.", "a.b.c.d.service."][..]).prop_map(str::to_owned),
    ];
    let zone =
        prop_oneof![9 => Just("berlin.example."), 1 => Just("paris.example."), 1 => Just("xberlin.example.")];
    (below, zone, any::<u64>()).prop_map(|(below, zone, capitals)| {
        let letter = |(at, letter): (usize, char)| {
            if capitals >> (at % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
        };
        format!("{below}{zone}").chars().enumerate().map(letter).collect()
    })
}

fn kind() -> impl Strategy<Value = RecordType> {
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, MX, NS, SOA, SRV, TXT};
    prop::sample::select(&[A, A, AAAA, SRV, SRV, TXT, ANY, SOA, NS, MX, CNAME, AXFR][..])
}

fn edns() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![Just(None), prop::sample::select(&[0, 512, 700, 1232, 4096, 65_535][..]).prop_map(Some)]
}

prop_compose! {
    fn chosen()(
        ttl in prop_oneof![Just(0), 1..100_u32],
        weighted in any::<bool>(),
        all in any::<bool>(),
        most in prop_oneof![4 => Just(0_usize), 1 => 1..4_usize],
    ) -> Settings {
        let order = if weighted { Order::Weighted } else { Order::Rotated };
        let none_healthy = if all { NoneHealthy::All } else { NoneHealthy::Nothing };
        Settings { ttl, order, none_healthy, most_answers: NonZeroUsize::new(most), ..settings() }
    }
}

struct Case<'a> {
    table: &'a Table,
    settings: &'a Settings,
    view: &'a View,
}

impl Case<'_> {
    fn check(&self, name: &str, kind: RecordType, edns: Option<u16>) -> Result<(), TestCaseError> {
        let query = query(name, kind, edns);
        let packet = query.to_vec().unwrap();
        let small = bytes(self.table, &packet, Transport::Udp).unwrap();
        let large = bytes(self.table, &packet, Transport::Tcp).unwrap();
        let allowed = edns.map_or(512, |size| usize::from(size.clamp(512, 1232)));
        prop_assert!(small.len() <= allowed, "{} bytes where {allowed} are allowed", small.len());
        let (small, large) = (Message::from_vec(&small).unwrap(), Message::from_vec(&large).unwrap());
        prop_assert!(!large.metadata.truncation);
        self.is_expected(&query, &large, true)?;
        if small.metadata.truncation {
            let all = reference::texts(&large.answers);
            // A part of what fits nowhere else; with a limit on the number it may be another part.
            prop_assert!(self.settings.most_answers.is_some() || small.answers.len() < all.len());
            prop_assert!(large.to_vec().unwrap().len() > allowed || self.settings.most_answers.is_some());
            let whole = expected(self.settings, self.view, name, kind).answers;
            prop_assert!(reference::texts(&small.answers).iter().all(|record| whole.contains(record)));
            return Ok(());
        }
        self.is_expected(&query, &small, false)
    }

    fn is_expected(&self, query: &Message, answer: &Message, whole: bool) -> Result<(), TestCaseError> {
        let asked = &query.queries[0];
        let expected = expected(self.settings, self.view, &asked.name().to_string(), asked.query_type());
        prop_assert_eq!(answer.metadata.id, query.metadata.id);
        prop_assert_eq!(answer.queries.len(), 1);
        prop_assert!(answer.queries[0].name().eq_case(asked.name()), "the question keeps its capitals");
        prop_assert_eq!(answer.metadata.response_code, expected.code);
        prop_assert_eq!(answer.metadata.authoritative, expected.authoritative);
        prop_assert_eq!(answer.edns.is_some(), query.edns.is_some());
        let (answers, additional) =
            (reference::texts(&answer.answers), reference::texts(&answer.additionals));
        let authority = if expected.authoritative { expected.authority } else { Vec::new() };
        prop_assert_eq!(reference::texts(&answer.authorities), authority);
        let most = match asked.query_type() {
            _ if asked.name().to_string().to_ascii_lowercase().starts_with("ns.") => usize::MAX,
            _ => self.settings.most_answers.map_or(usize::MAX, NonZeroUsize::get),
        };
        if expected.answers.len() <= most {
            prop_assert_eq!(answers, expected.answers);
        } else {
            let distinct = answers.iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert_eq!(distinct, most);
            prop_assert!(answers.iter().all(|record| expected.answers.contains(record)));
        }
        if whole && expected_is_whole(answer, most) {
            prop_assert_eq!(additional, expected.additional);
        } else {
            prop_assert!(additional.iter().all(|record| expected.additional.contains(record)));
        }
        Ok(())
    }
}

/// With fewer answers than there are, there are fewer additional records too.
fn expected_is_whole(answer: &Message, most: usize) -> bool {
    answer.answers.len() < most
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Spec F-3, all of it: also after changes, of which the table encodes only what changed.
    #[test]
    fn answers_are_those_of_the_reference(
        settings in chosen(),
        rounds in vec((vec(change(), 1..4), vec((name(), kind(), edns()), 8)), 1..4),
    ) {
        let mut builder = Builder::new(Arc::new(Zone::new(&settings).unwrap()));
        let mut view = View::default();
        for (changes, queries) in rounds {
            view = changed(view, &changes);
            let table = builder.build(view.clone());
            for (name, kind, edns) in queries {
                Case { table: &table, settings: &settings, view: &view }.check(&name, kind, edns)?;
            }
        }
    }
}
