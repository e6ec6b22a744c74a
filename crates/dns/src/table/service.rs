//! The records of one service, encoded: each once, whoever asks by whichever name.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::name::{self, LONGEST_LABEL};
use crate::order::Shares;
use crate::query::{CLASS_IN, kind};
use crate::settings::NoneHealthy;
use crate::view::{Instance, Service};
use crate::zone::Zone;

/// The most instances of a service that are answered: the first by id.
pub(crate) const MOST_INSTANCES: usize = 16_384;
/// The most tags of an instance: the first by name.
pub(crate) const MOST_TAGS: usize = 64;
/// The most addresses of an instance.
pub(crate) const MOST_ADDRESSES: usize = 8;
/// The most bytes of metadata of an instance, each string with its length.
pub(crate) const MOST_TEXT: usize = 4096;
/// The most bytes of one string of a TXT record.
const LONGEST_STRING: usize = 255;

/// Bytes of a record before its data, where the owner is a pointer: owner, type, class, TTL, length.
pub(crate) const RECORD_HEAD: usize = 12;
/// Bytes from a record's start to the target in the data of SRV: the head, priority, weight, port.
pub(crate) const TO_TARGET: usize = RECORD_HEAD + 6;

/// A record among the encoded ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    start: u32,
    length: u16,
    /// Addresses in the additional section, which follow the record itself.
    pub(crate) extras: u16,
}

/// Records of one type that answer one question.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) pieces: Box<[Piece]>,
    pub(crate) shares: Shares,
}

/// All that is known of one name.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) a: Records,
    pub(crate) aaaa: Records,
    pub(crate) srv: Records,
    pub(crate) txt: Records,
}

/// A service's names and records.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: Box<[u8]>,
    pub(crate) own: Set,
    pub(crate) tags: HashMap<Box<[u8]>, Set>,
    pub(crate) instances: HashMap<Box<[u8]>, Set>,
    /// Instances, tags and strings that are not answered, because of a limit or because they can't be.
    pub(crate) left_out: usize,
}

/// The encoded records of one instance.
struct Pieces {
    label: Box<[u8]>,
    addresses: Vec<(IpAddr, Piece)>,
    srv: Option<Piece>,
    txt: Option<Piece>,
    weight: u16,
    healthy: bool,
}

impl Encoded {
    pub(crate) fn new(label: &str, service: &Service, zone: &Zone) -> Encoded {
        let mut encoder = Encoder { bytes: Vec::new(), left_out: 0, ttl: zone.ttl, zone, service: label };
        let mut pieces = Vec::new();
        let mut by_tag: HashMap<Box<[u8]>, Vec<usize>> = HashMap::new();
        for (id, instance) in service.instances.iter().take(MOST_INSTANCES) {
            encoder.tags(instance).for_each(|tag| by_tag.entry(tag).or_default().push(pieces.len()));
            pieces.push(encoder.instance(id, instance));
        }
        encoder.left_out += service.instances.len().saturating_sub(MOST_INSTANCES);
        let all = (0..pieces.len()).collect::<Vec<_>>();
        let one = |at: usize| (pieces[at].label.clone(), encoder.set(&pieces, &[at]));
        Encoded {
            own: encoder.set(&pieces, &encoder.answered(&pieces, &all)),
            // Should two ids have one label, the first has it.
            instances: all.iter().rev().map(|&at| one(at)).collect(),
            tags: by_tag
                .iter()
                .map(|(tag, members)| {
                    (tag.clone(), encoder.set(&pieces, &encoder.answered(&pieces, members)))
                })
                .collect(),
            left_out: encoder.left_out,
            bytes: encoder.bytes.into(),
        }
    }

    /// The record as it travels, its owner a pointer to the question's name.
    pub(crate) fn record(&self, piece: Piece) -> &[u8] {
        &self.bytes[piece.start as usize..][..usize::from(piece.length)]
    }

    /// The addresses that go with it, their owners still to be filled in.
    pub(crate) fn extras(&self, piece: Piece) -> &[u8] {
        let start = piece.start as usize + usize::from(piece.length);
        let mut end = start;
        for _ in 0..piece.extras {
            end += RECORD_HEAD + usize::from(self.bytes[end + RECORD_HEAD - 1]);
        }
        &self.bytes[start..end]
    }
}

struct Encoder<'a> {
    bytes: Vec<u8>,
    left_out: usize,
    ttl: u32,
    zone: &'a Zone,
    service: &'a str,
}

impl Encoder<'_> {
    /// The labels of its tags, without those that can be none.
    fn tags(&mut self, instance: &Instance) -> impl Iterator<Item = Box<[u8]>> + use<> {
        let small = instance.tags.iter().map(|tag| tag.to_ascii_lowercase());
        let labels: BTreeSet<_> = small.filter(|tag| name::is_label(tag)).collect();
        let used = labels.len().min(MOST_TAGS);
        self.left_out += instance.tags.len() - used;
        labels.into_iter().take(used).map(|tag| tag.into_bytes().into())
    }

    fn instance(&mut self, id: &str, instance: &Instance) -> Pieces {
        let label = name::label_of_id(id);
        let used = &instance.addresses[..instance.addresses.len().min(MOST_ADDRESSES)];
        self.left_out += instance.addresses.len() - used.len();
        let addresses = used.iter().map(|&address| (address, self.address(address))).collect();
        Pieces {
            addresses,
            srv: (!used.is_empty()).then(|| self.service_record(&label, instance, used)),
            txt: self.text(instance),
            weight: instance.weight,
            healthy: instance.healthy,
            label: label.as_bytes().into(),
        }
    }

    fn address(&mut self, address: IpAddr) -> Piece {
        let start = self.bytes.len();
        push_address(&mut self.bytes, 0xc00c, self.ttl, address);
        self.piece_from(start)
    }

    /// SRV (RFC 2782), its target not compressed, and behind it the addresses of the target.
    fn service_record(&mut self, label: &str, instance: &Instance, addresses: &[IpAddr]) -> Piece {
        let start = self.bytes.len();
        let mut target = Vec::with_capacity(4 * LONGEST_LABEL);
        for part in [label, "instance", self.service, "service"] {
            name::push_label(&mut target, part);
        }
        target.extend_from_slice(&self.zone.wire);
        push_head(&mut self.bytes, 0xc00c, kind::SRV, self.ttl, 6 + target.len());
        for word in [0, instance.weight, instance.port] {
            self.bytes.extend_from_slice(&word.to_be_bytes());
        }
        self.bytes.extend_from_slice(&target);
        let piece = self.piece_from(start);
        let extras = distinct(addresses);
        extras.iter().for_each(|&address| push_address(&mut self.bytes, 0, self.ttl, address));
        Piece { extras: extras.len() as u16, ..piece }
    }

    /// TXT: a string `key=value` for each of the metadata (RFC 1464).
    fn text(&mut self, instance: &Instance) -> Option<Piece> {
        let mut strings = Vec::new();
        for (key, value) in &instance.metadata {
            let length = key.len() + 1 + value.len();
            if length > LONGEST_STRING || strings.len() + 1 + length > MOST_TEXT {
                self.left_out += 1;
                continue;
            }
            strings.push(length as u8);
            strings.extend_from_slice(key.as_bytes());
            strings.push(b'=');
            strings.extend_from_slice(value.as_bytes());
        }
        let start = self.bytes.len();
        (!strings.is_empty()).then(|| {
            push_head(&mut self.bytes, 0xc00c, kind::TXT, self.ttl, strings.len());
            self.bytes.extend_from_slice(&strings);
            self.piece_from(start)
        })
    }

    fn piece_from(&self, start: usize) -> Piece {
        Piece { start: start as u32, length: (self.bytes.len() - start) as u16, extras: 0 }
    }

    /// Those that are answered together: the healthy ones, and what is chosen for when there is none.
    fn answered(&self, pieces: &[Pieces], members: &[usize]) -> Vec<usize> {
        let healthy: Vec<_> = members.iter().copied().filter(|&at| pieces[at].healthy).collect();
        match self.zone.none_healthy {
            NoneHealthy::All if healthy.is_empty() => members.to_vec(),
            _ => healthy,
        }
    }

    fn set(&self, pieces: &[Pieces], members: &[usize]) -> Set {
        let members = || members.iter().map(|&at| &pieces[at]);
        let addresses = |v6: bool| {
            let all = members()
                .flat_map(|of| of.addresses.iter().map(|&(address, piece)| (address, piece, of.weight)));
            self.records(
                all.filter(move |(address, ..)| address.is_ipv6() == v6)
                    .map(|(_, piece, weight)| (piece, weight)),
            )
        };
        Set {
            a: addresses(false),
            aaaa: addresses(true),
            srv: self.records(members().filter_map(|of| Some((of.srv?, of.weight)))),
            txt: self.records(members().filter_map(|of| Some((of.txt?, of.weight)))),
        }
    }

    /// A set holds no record twice (RFC 2181 §5): the weights of those that are alike are added up.
    fn records(&self, all: impl Iterator<Item = (Piece, u16)>) -> Records {
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let mut distinct: Vec<(Piece, u32)> = Vec::new();
        for (piece, weight) in all {
            let bytes = &self.bytes[piece.start as usize..][..usize::from(piece.length)];
            let place = *places.entry(bytes).or_insert(distinct.len());
            match distinct.get_mut(place) {
                Some((_, sum)) => *sum = sum.saturating_add(u32::from(weight)),
                None => distinct.push((piece, u32::from(weight))),
            }
        }
        Records {
            pieces: distinct.iter().map(|&(piece, _)| piece).collect(),
            // Begun anew with each change: if at the same place, it would always be the first one's turn.
            shares: Shares::new(distinct.iter().map(|&(_, weight)| weight), rand::random()),
        }
    }
}

fn distinct(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut distinct = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !distinct.contains(address) {
            distinct.push(*address);
        }
    }
    distinct
}

fn push_head(bytes: &mut Vec<u8>, owner: u16, kind: u16, ttl: u32, length: usize) {
    bytes.extend_from_slice(&owner.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&(length as u16).to_be_bytes());
}

pub(crate) fn push_address(bytes: &mut Vec<u8>, owner: u16, ttl: u32, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            push_head(bytes, owner, kind::A, ttl, 4);
            bytes.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            push_head(bytes, owner, kind::AAAA, ttl, 16);
            bytes.extend_from_slice(&address.octets());
        }
    }
}
