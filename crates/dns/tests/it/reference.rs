//! A second opinion: what is to be answered, worked out slowly from the registry alone, as `docs/dns.md` says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bramah_dns::{Instance, NoneHealthy, Service, Settings, View};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

/// An answer without its order: records as text, sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<String>,
    pub(crate) authority: Vec<String>,
    pub(crate) additional: Vec<String>,
}

pub(crate) fn texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<_> = records.iter().map(text).collect();
    texts.sort();
    texts
}

fn text(record: &Record) -> String {
    let data = match &record.data {
        RData::TXT(text) => {
            let strings = text.txt_data.iter().map(|string| String::from_utf8_lossy(string).into_owned());
            strings.collect::<Vec<_>>().join(" ")
        }
        data => data.to_string().to_ascii_lowercase(),
    };
    format!(
        "{} {} {} {}",
        record.name.to_string().to_ascii_lowercase(),
        record.ttl,
        record.record_type(),
        data
    )
}

struct World<'a> {
    settings: &'a Settings,
    view: &'a View,
    zone: String,
}

/// What the registry says of `name`, which ends with a dot.
pub(crate) fn expected(settings: &Settings, view: &View, name: &str, kind: RecordType) -> Expected {
    let zone = format!("{}.{}.", settings.cell, settings.domain);
    let name = name.to_ascii_lowercase();
    let below = name.strip_suffix(&zone).filter(|below| below.is_empty() || below.ends_with('.'));
    let world = World { settings, view, zone };
    let of_queries = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    let Some(below) = below.filter(|_| !of_queries) else {
        return Expected { authoritative: false, ..world.nothing(ResponseCode::Refused, false) };
    };
    let labels: Vec<_> = below.split('.').filter(|label| !label.is_empty()).collect();
    world.at(&name, &labels, kind)
}

impl World<'_> {
    fn at(&self, name: &str, labels: &[&str], kind: RecordType) -> Expected {
        match *labels {
            [] => self.apex(kind),
            ["service"] | ["_tcp", "service"] => self.nothing(ResponseCode::NoError, true),
            [label] => self.server(name, label, kind),
            [service, "service"] => self.own(name, service, kind),
            [alias, "_tcp", "service"] => {
                let service = alias.strip_prefix('_').unwrap_or(".");
                let exists = self.service(service).is_some();
                let kind = if kind == RecordType::SRV || kind == RecordType::ANY {
                    RecordType::SRV
                } else {
                    RecordType::NULL
                };
                if exists {
                    self.own(name, service, kind)
                } else {
                    self.nothing(ResponseCode::NXDomain, true)
                }
            }
            ["tag" | "instance", service, "service"] if self.service(service).is_some() => {
                self.nothing(ResponseCode::NoError, true)
            }
            [tag, "tag", service, "service"] => self.of_tag(name, tag, service, kind),
            [label, "instance", service, "service"] => self.of_instance(name, label, service, kind),
            _ => self.nothing(ResponseCode::NXDomain, true),
        }
    }

    fn own(&self, name: &str, service: &str, kind: RecordType) -> Expected {
        self.set(name, service, kind, |service| {
            self.shown(service.instances.values().map(|instance| &**instance).collect())
        })
    }

    fn service(&self, label: &str) -> Option<&Service> {
        let spelled =
            |name: &&std::sync::Arc<str>| name.eq_ignore_ascii_case(label) && !label.starts_with('_');
        let name = self.view.services.keys().find(spelled)?;
        self.view.services.get(name).map(|service| &**service)
    }

    fn of_tag(&self, name: &str, tag: &str, service: &str, kind: RecordType) -> Expected {
        let Some(found) = self.service(service) else { return self.nothing(ResponseCode::NXDomain, true) };
        let has = |instance: &&Instance| instance.tags.iter().any(|other| other.eq_ignore_ascii_case(tag));
        let members: Vec<_> = found.instances.values().map(|instance| &**instance).filter(has).collect();
        if members.is_empty() {
            return self.nothing(ResponseCode::NXDomain, true);
        }
        self.set(name, service, kind, |_| self.shown(members))
    }

    fn of_instance(&self, name: &str, label: &str, service: &str, kind: RecordType) -> Expected {
        let Some(found) = self.service(service) else { return self.nothing(ResponseCode::NXDomain, true) };
        match found.instances.iter().find(|(id, _)| label_of(id) == label) {
            Some((_, instance)) => self.set(name, service, kind, |_| vec![instance]),
            None => self.nothing(ResponseCode::NXDomain, true),
        }
    }

    fn shown<'i>(&self, members: Vec<&'i Instance>) -> Vec<&'i Instance> {
        let healthy: Vec<_> = members.iter().copied().filter(|instance| instance.healthy).collect();
        if healthy.is_empty() && self.settings.none_healthy == NoneHealthy::All { members } else { healthy }
    }

    fn set<'s>(
        &'s self,
        name: &str,
        service: &str,
        kind: RecordType,
        members: impl FnOnce(&'s Service) -> Vec<&'s Instance>,
    ) -> Expected {
        let Some(found) = self.service(service) else { return self.nothing(ResponseCode::NXDomain, true) };
        let members = members(found);
        let kinds = match kind {
            RecordType::ANY => vec![RecordType::A, RecordType::AAAA, RecordType::TXT],
            kind => vec![kind],
        };
        for kind in kinds {
            let (answers, additional) = self.records(name, service, found, kind, &members);
            if !answers.is_empty() {
                return Expected {
                    answers: answers.into_iter().collect(),
                    additional: additional.into_iter().collect(),
                    authority: Vec::new(),
                    ..self.nothing(ResponseCode::NoError, true)
                };
            }
        }
        self.nothing(ResponseCode::NoError, true)
    }

    fn records(
        &self,
        name: &str,
        label: &str,
        service: &Service,
        kind: RecordType,
        members: &[&Instance],
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut answers, mut additional) = (BTreeSet::new(), BTreeSet::new());
        let ttl = self.settings.ttl;
        for instance in members {
            let addresses = &instance.addresses[..instance.addresses.len().min(8)];
            match kind {
                RecordType::A | RecordType::AAAA => {
                    answers.extend(self.addresses(name, addresses, Some(kind)))
                }
                RecordType::SRV if !addresses.is_empty() => {
                    let id = service
                        .instances
                        .iter()
                        .find(|(_, other)| std::ptr::eq(&***other, *instance))
                        .unwrap()
                        .0;
                    let target = format!("{}.instance.{label}.service.{}", label_of(id), self.zone);
                    answers
                        .insert(format!("{name} {ttl} SRV 0 {} {} {target}", instance.weight, instance.port));
                    additional.extend(self.addresses(&target, addresses, None));
                }
                RecordType::TXT => {
                    let strings = instance.metadata.iter().map(|(key, value)| format!("{key}={value}"));
                    let strings: Vec<_> = strings.filter(|string| string.len() <= 255).collect();
                    if !strings.is_empty() {
                        answers.insert(format!("{name} {ttl} TXT {}", strings.join(" ")));
                    }
                }
                _ => {}
            }
        }
        (answers, additional)
    }

    fn addresses(&self, name: &str, addresses: &[IpAddr], only: Option<RecordType>) -> Vec<String> {
        let texts = addresses.iter().map(|address| {
            let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            (kind, format!("{name} {} {kind} {address}", self.settings.ttl))
        });
        texts.filter(|(kind, _)| only.is_none_or(|only| only == *kind)).map(|(_, text)| text).collect()
    }

    fn apex(&self, kind: RecordType) -> Expected {
        let fine = Expected { authority: Vec::new(), ..self.nothing(ResponseCode::NoError, true) };
        let servers = &self.settings.name_servers;
        match kind {
            RecordType::SOA | RecordType::ANY => {
                Expected { answers: vec![self.soa(self.settings.ttl)], ..fine }
            }
            RecordType::NS => {
                let names = servers.iter().map(|server| format!("{}.{}", server.label, self.zone));
                let answers = names.map(|name| format!("{} {} NS {name}", self.zone, self.settings.ttl));
                let glue = servers.iter().flat_map(|server| {
                    self.addresses(&format!("{}.{}", server.label, self.zone), &server.addresses, None)
                });
                let additional: BTreeSet<_> = glue.collect();
                Expected { answers: answers.collect(), additional: additional.into_iter().collect(), ..fine }
            }
            _ => self.nothing(ResponseCode::NoError, true),
        }
    }

    fn server(&self, name: &str, label: &str, kind: RecordType) -> Expected {
        let Some(server) = self.settings.name_servers.iter().find(|server| server.label == label) else {
            return self.nothing(ResponseCode::NXDomain, true);
        };
        let only = Some(kind).filter(|kind| *kind != RecordType::ANY);
        let mut answers = self.addresses(name, &server.addresses, only);
        answers.sort();
        if answers.is_empty() {
            return self.nothing(ResponseCode::NoError, true);
        }
        Expected { answers, authority: Vec::new(), ..self.nothing(ResponseCode::NoError, true) }
    }

    fn nothing(&self, code: ResponseCode, with_soa: bool) -> Expected {
        Expected {
            code,
            authoritative: true,
            answers: Vec::new(),
            authority: if with_soa { vec![self.soa(self.settings.negative_ttl)] } else { Vec::new() },
            additional: Vec::new(),
        }
    }

    fn soa(&self, ttl: u32) -> String {
        let zone = &self.zone;
        let (primary, serial) = (&self.settings.name_servers[0].label, self.view.revision as u32);
        let negative = self.settings.negative_ttl;
        format!("{zone} {ttl} SOA {primary}.{zone} hostmaster.{zone} {serial} 3600 600 86400 {negative}")
    }
}

/// An instance's label, from its id.
fn label_of(id: &str) -> String {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if !id.is_empty() && id.len() <= 63 && id.bytes().all(fine) {
        return id.to_owned();
    }
    let small = id.to_ascii_lowercase();
    let letters = small
        .chars()
        .take(54)
        .map(|letter| if letter.is_ascii() && fine(letter as u8) { letter } else { '-' });
    let hash = twox_hash::XxHash3_64::oneshot(id.as_bytes()) & 0xffff_ffff;
    let readable = letters.collect::<String>();
    match readable.trim_matches('-') {
        "" => format!("id-{hash:08x}"),
        readable => format!("{readable}-{hash:08x}"),
    }
}
