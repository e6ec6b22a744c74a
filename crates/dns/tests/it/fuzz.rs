//! Arbitrary packets: an answer that hickory-proto reads too, no larger than allowed, without a byte allocated.

use std::sync::LazyLock;

use bramah_dns::direct::{Reply, Responder, Table, Transport};
use bramah_fuzz::{fuzz, within_bytes};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};

use crate::registry::{example, settings, table};

static TABLE: LazyLock<Table> = LazyLock::new(|| table(&settings(), example()));

/// Spec F-3: malformed packets, and what hickory-proto makes of them.
#[test]
fn packets() {
    let table = &*TABLE;
    fuzz!("packets", |packet| {
        let mut responder = Responder::new();
        let mut buffer = [0; 1232];
        let reply = within_bytes(0, || responder.respond(table, packet, Transport::Udp, &mut buffer));
        let theirs = Message::from_vec(packet).ok();
        match reply {
            Reply::Send(length) | Reply::Forward(length) => {
                answered(packet, theirs.as_ref(), &buffer[..length])
            }
            Reply::Nothing => {
                assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "it was a query");
            }
        }
    });
}

fn answered(packet: &[u8], theirs: Option<&Message>, answer: &[u8]) {
    assert_eq!(answer[..2], packet[..2]);
    let answer = (answer.len(), Message::from_vec(answer).expect("an answer that can be read"));
    let (length, answer) = answer;
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    let code = answer.metadata.response_code;
    if answer.queries.is_empty() {
        assert_eq!(length, 12, "a header alone, not more than came");
        assert!(matches!(code, ResponseCode::FormErr | ResponseCode::NotImp), "{code}");
    }
    let Some(theirs) = theirs else { return };
    let size = theirs.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload()).clamp(512, 1232));
    assert!(length <= size, "{length} bytes where {size} are allowed");
    if theirs.metadata.op_code == OpCode::Query && is_simple(packet, theirs) {
        assert_ne!(code, ResponseCode::FormErr, "hickory-proto can read it: {theirs:?}");
        assert!(answer.queries[0].name().eq_case(theirs.queries[0].name()));
        assert_eq!(answer.queries[0].query_type(), theirs.queries[0].query_type());
    }
}

/// Whether it is a query that nobody should call malformed: one question without a pointer, few records, and no OPT
/// where none may be.
fn is_simple(packet: &[u8], message: &Message) -> bool {
    let records = message.answers.len() + message.authorities.len() + message.additionals.len();
    let of_ours =
        records + usize::from(message.edns.is_some()) + usize::from(message.signature.is_some()) <= 8;
    let at_root = message.edns.is_none() || packet.windows(3).any(|bytes| bytes == [0, 0, 41]);
    message.queries.len() == 1 && of_ours && at_root && without_pointer(packet)
}

fn without_pointer(packet: &[u8]) -> bool {
    let mut at = 12;
    while packet[at] != 0 && packet[at] < 64 {
        at += 1 + usize::from(packet[at]);
    }
    packet[at] == 0
}

/// Else nothing but refusals would be tested.
#[test]
fn the_corpus_has_queries_that_are_answered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/__fuzz__/packets/corpus");
    let mut codes = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let packet = std::fs::read(file.unwrap().path()).unwrap();
        let Some(answer) = crate::registry::bytes(&TABLE, &packet, Transport::Udp) else { continue };
        let answer = Message::from_vec(&answer).unwrap();
        codes.push((answer.metadata.response_code, answer.answers.is_empty(), answer.metadata.truncation));
    }
    // 16 is BADSIG where there is a signature, and BADVERS here.
    use ResponseCode::{BADSIG, FormErr, NXDomain, NoError, NotImp, Refused};
    for (code, empty, truncated) in [
        (NoError, false, false),
        (NoError, false, true),
        (NoError, true, false),
        (NXDomain, true, false),
        (Refused, true, false),
        (FormErr, true, false),
        (NotImp, true, false),
        (BADSIG, true, false),
    ] {
        assert!(codes.contains(&(code, empty, truncated)), "{code} {empty} {truncated}: {codes:?}");
    }
}
