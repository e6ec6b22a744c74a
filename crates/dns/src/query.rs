//! Reading a query by hand: nothing is allocated, and nothing past the packet's end or a pointer is followed.

use crate::name::LONGEST_NAME;

/// Length of a header (RFC 1035 §4.1.1).
pub(crate) const HEADER: usize = 12;
/// More records than this beside the question are more than any query needs.
const MOST_RECORDS: u32 = 8;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORMAT_ERROR: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NAME_ERROR: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const UNKNOWN_EDNS: u16 = 16;
}

/// Types of records.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    /// From here on up to `ANY` types are of queries only: transfers and the like.
    pub(crate) const FIRST_OF_QUERIES: u16 = 249;
    pub(crate) const ANY: u16 = 255;
}

/// The internet's class.
pub(crate) const CLASS_IN: u16 = 1;
/// Whatever class.
pub(crate) const CLASS_ANY: u16 = 255;

/// Bits of the second word of a header.
pub(crate) mod flag {
    pub(crate) const RESPONSE: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AUTHORITATIVE: u16 = 0x0400;
    pub(crate) const TRUNCATED: u16 = 0x0200;
    pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
    pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(crate) const CHECKING_DISABLED: u16 = 0x0010;
}

/// A query that can be answered.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// Name, type and class as they were sent, capitals and all.
    pub(crate) question: &'a [u8],
    pub(crate) name: AskedName,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
}

/// What the OPT record says (RFC 6891 §6.1.3). Its options mean nothing here, and are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// What is no such query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// An answer, or no message at all: to answer it might never end.
    NoQuery,
    /// To be answered by a header with this code alone.
    Code(u16),
}

/// A name in lower case, and where its labels begin.
#[derive(Debug)]
pub(crate) struct AskedName {
    bytes: [u8; LONGEST_NAME],
    length: u8,
    starts: [u8; LONGEST_NAME / 2 + 1],
    labels: u8,
}

/// Reads a whole message.
pub(crate) fn parse(packet: &[u8]) -> Result<Query<'_>, Bad> {
    let header = packet.first_chunk::<HEADER>().ok_or(Bad::NoQuery)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags) = (word(0), word(2));
    if flags & flag::RESPONSE != 0 {
        return Err(Bad::NoQuery);
    }
    if flags & flag::OPCODE != 0 {
        return Err(Bad::Code(code::NOT_IMPLEMENTED));
    }
    let records = u32::from(word(6)) + u32::from(word(8)) + u32::from(word(10));
    if word(4) != 1 || records > MOST_RECORDS {
        return Err(Bad::Code(code::FORMAT_ERROR));
    }
    body(packet, id, flags, records, u32::from(word(10))).ok_or(Bad::Code(code::FORMAT_ERROR))
}

/// `None` if the packet isn't what its header says.
fn body(packet: &[u8], id: u16, flags: u16, records: u32, additional: u32) -> Option<Query<'_>> {
    let name = AskedName::read(&packet[HEADER..])?;
    let mut at = HEADER + usize::from(name.length);
    let kind = word(packet, at)?;
    let class = word(packet, at + 2)?;
    at += 4;
    let question = &packet[HEADER..at];
    let mut edns = None;
    for number in 0..records {
        at = record(packet, at, number >= records - additional, &mut edns)?;
    }
    Some(Query { id, flags, question, name, kind, class, edns })
}

/// Passes one record and gives back where the next one begins.
fn record(packet: &[u8], at: usize, additional: bool, edns: &mut Option<Edns>) -> Option<usize> {
    let after_name = skip_name(packet, at)?;
    let length = usize::from(word(packet, after_name + 8)?);
    let end = after_name + 10 + length;
    if end > packet.len() {
        return None;
    }
    if word(packet, after_name)? == kind::OPT {
        let at_root = packet[at] == 0;
        if !additional || !at_root || edns.is_some() {
            return None;
        }
        *edns = Some(Edns {
            size: word(packet, after_name + 2)?,
            version: packet[after_name + 5],
            dnssec_ok: packet[after_name + 6] & 0x80 != 0,
        });
    }
    Some(end)
}

/// Where a name ends that doesn't matter. A pointer ends it, and isn't followed.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return (at + 2 <= packet.len()).then_some(at + 2),
            _ => return None,
        }
        if at - start >= LONGEST_NAME {
            return None;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl AskedName {
    /// Reads a name without pointers: in a question there is nothing they could point to.
    fn read(from: &[u8]) -> Option<AskedName> {
        let mut name =
            AskedName { bytes: [0; LONGEST_NAME], length: 0, starts: [0; LONGEST_NAME / 2 + 1], labels: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*from.get(at)?);
            if length == 0 {
                name.length = u8::try_from(at + 1).ok()?;
                return Some(name);
            }
            let end = at + 1 + length;
            // The root's label has to fit too.
            if length > 63 || end >= LONGEST_NAME {
                return None;
            }
            name.bytes[at] = length as u8;
            for (small, byte) in name.bytes[at + 1..end].iter_mut().zip(from.get(at + 1..end)?) {
                *small = byte.to_ascii_lowercase();
            }
            name.starts[usize::from(name.labels)] = at as u8;
            name.labels += 1;
            at = end;
        }
    }

    /// In wire format, lower case.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// How many labels stand before `zone`, if that is where the name ends.
    pub(crate) fn labels_before(&self, zone: &[u8]) -> Option<usize> {
        let at = self.wire().len().checked_sub(zone.len())?;
        if self.wire()[at..] != *zone {
            return None;
        }
        // The same bytes may be part of a label: only at the start of one do they mean this.
        if at + 1 == self.wire().len() {
            return Some(usize::from(self.labels));
        }
        self.starts[..usize::from(self.labels)].binary_search(&(at as u8)).ok()
    }

    /// A label by its place from the left.
    pub(crate) fn label(&self, which: usize) -> &[u8] {
        let start = usize::from(self.starts[which]);
        &self.bytes[start + 1..start + 1 + usize::from(self.bytes[start])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\
        \x03wEb\x07service\x02dC\x00\x00\x01\x00\x01\
        \x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00";

    /// Spec F-3: a query with EDNS0, in mixed case.
    #[test]
    fn a_query_is_read() {
        let query = parse(QUERY).unwrap();
        assert_eq!((query.id, query.kind, query.class), (0x1234, kind::A, CLASS_IN));
        assert_eq!(query.question, b"\x03wEb\x07service\x02dC\x00\x00\x01\x00\x01");
        assert_eq!(query.name.wire(), b"\x03web\x07service\x02dc\x00");
        assert_eq!(query.name.label(1), b"service");
        assert_eq!(query.edns, Some(Edns { size: 4096, version: 0, dnssec_ok: true }));
        assert_eq!(query.name.labels_before(b"\x02dc\x00"), Some(2));
        assert_eq!(query.name.labels_before(b"\x03web\x07service\x02dc\x00"), Some(0));
        assert_eq!(query.name.labels_before(b"\x00"), Some(3));
        assert_eq!(query.name.labels_before(b"\x02xx\x00"), None);
    }

    /// `x.ab` where the label `x\x02ab` has the bytes of the zone `ab` at its end.
    #[test]
    fn a_zone_begins_where_a_label_does() {
        let name = AskedName::read(b"\x04x\x02ab\x00").unwrap();
        assert_eq!(name.labels_before(b"\x02ab\x00"), None);
        let name = AskedName::read(b"\x01x\x02ab\x00").unwrap();
        assert_eq!(name.labels_before(b"\x02ab\x00"), Some(1));
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        for length in 0..QUERY.len() {
            let expected = if length < HEADER { Bad::NoQuery } else { Bad::Code(code::FORMAT_ERROR) };
            assert_eq!(parse(&QUERY[..length]).unwrap_err(), expected, "{length}");
        }
    }

    #[test]
    fn answers_are_not_answered_and_other_opcodes_not_implemented() {
        let with = |at: usize, byte: u8| {
            let mut packet = QUERY.to_vec();
            packet[at] = byte;
            parse(&packet).unwrap_err()
        };
        assert_eq!(with(2, 0x80), Bad::NoQuery);
        assert_eq!(with(2, 0x28), Bad::Code(code::NOT_IMPLEMENTED));
        assert_eq!(with(5, 2), Bad::Code(code::FORMAT_ERROR), "two questions");
        assert_eq!(with(11, 9), Bad::Code(code::FORMAT_ERROR), "nine records");
        assert_eq!(with(12, 0xc0), Bad::Code(code::FORMAT_ERROR), "a pointer in the question");
    }

    #[test]
    fn names_of_255_bytes_are_read_and_no_longer_ones() {
        let mut wire = b"\x3f".iter().copied().chain([b'a'; 63]).collect::<Vec<_>>().repeat(3);
        let short = wire.len();
        wire.push(61);
        wire.extend([b'b'; 61]);
        wire.push(0);
        assert_eq!(wire.len(), 255);
        assert!(AskedName::read(&wire).is_some());
        wire[short] = 62;
        wire.insert(short + 1, b'b');
        assert!(AskedName::read(&wire).is_none());
        let most_labels = b"\x01a".repeat(127).into_iter().chain([0]).collect::<Vec<_>>();
        assert_eq!(AskedName::read(&most_labels).unwrap().labels, 127);
    }
}
