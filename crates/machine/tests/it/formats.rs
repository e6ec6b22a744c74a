//! The bytes on disk of version 1: a change here is a change of format, which needs a new version.

use bramah_machine::{
    Batch, Command, CreateDirectory, Delete, EndSession, ExpireSession, Identity, Increment, OpenSession,
    Outcome, Path, Request, ResetCounter, SessionId, SetContents, State, encode_outcomes,
};

use crate::generate::{apply_all, encode};
use crate::snapshot::snapshot_of;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// One of each command, and one of each sender.
pub(crate) fn requests() -> Vec<Request> {
    let anonymous = |command| Request { identity: Identity::Anonymous, command };
    let session = SessionId(1);
    let numbered = |number, confirmed, command| Request {
        identity: Identity::Session { session, number, confirmed },
        command,
    };
    let open = |client: &str| {
        Command::OpenSession(OpenSession { lease_ms: 12_000, client: client.to_owned(), secret: [7; 16] })
    };
    let delete = |text| Command::Delete(Delete { path: path(text), if_generation: Some(1) });
    let increment =
        Increment { path: path("/n"), delta: -2, create: true, floor: Some(-5), ceiling: Some(9) };
    let set =
        SetContents { path: path("/d/f"), contents: "hi".into(), if_generation: Some(0), parents: true };
    let reset = ResetCounter { path: path("/n"), value: 300, expect: Some(-2), create: false };
    vec![
        Request { identity: Identity::Key(b"k1".to_vec()), command: open("me") },
        anonymous(open("")),
        anonymous(open("x")),
        anonymous(Command::EndSession(EndSession { session: SessionId(2) })),
        anonymous(Command::ExpireSession(ExpireSession { session: SessionId(3), term: 1 })),
        numbered(1, 0, Command::SetContents(set)),
        numbered(2, 1, Command::CreateDirectory(CreateDirectory { path: path("/e"), parents: false })),
        numbered(3, 1, delete("/e")),
        numbered(4, 1, delete("/e")),
        numbered(5, 1, Command::Increment(increment)),
        anonymous(Command::ResetCounter(reset)),
        Request { identity: Identity::Key(b"k2".to_vec()), command: delete("/e") },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parts(bytes: &[u8], mut at: usize) -> Vec<String> {
    let mut records = vec![hex(&bytes[..at])];
    while at + 8 < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        records.push(hex(&bytes[at..at + 4 + length]));
        at += 4 + length;
    }
    if at < bytes.len() {
        records.push(hex(&bytes[at..]));
    }
    records
}

#[test]
fn batches_keep_their_format() {
    let encoded = encode(0x0102_0304, &requests());
    assert_eq!(parts(&encoded, 13), BATCH);
    assert_eq!(Batch::decode(&encoded).unwrap().requests, requests());
}

#[test]
fn snapshots_keep_their_format() {
    let mut state = State::new();
    let (outcomes, _) = apply_all(&mut state, &[(0x0102_0304, requests())]);
    assert_eq!(parts(&snapshot_of(&state), 12), SNAPSHOT);
    let kept: Vec<Outcome> = outcomes.into_iter().skip(7).take(2).collect();
    assert_eq!(hex(&encode_outcomes(&kept).unwrap()), OUTCOMES);
}

const BATCH: &[&str] = &[
    "0104030201000000000c000000",
    "0a00000002026b3100e05d026d65",
    "050000000000e05d00",
    "060000000000e05d0178",
    "03000000000102",
    "0400000000020301",
    "100000000101010003042f642f66026869010001",
    "090000000101020104022f6500",
    "0a0000000101030105022f650101",
    "0a0000000101040105022f650101",
    "0e0000000101050106022f6e030101090112",
    "0a0000000007022f6ed804010300",
    "0a00000002026b3205022f650101",
];

const SNAPSHOT: &[&str] = &[
    "6272616d6168535401000000",
    "0d00000005050384868808010401040101",
    "0a000000012f0002010100000000",
    "0b000000022f640001020100000101",
    "0c000000022f6e02d804050200000405",
    "0f000000042f642f6601026869030100000101",
    "0b00000001e05d026d658486880801",
    "0700000001020002010201",
    "050000000103000303",
    "0700000001040101022f65",
    "06000000010500040304",
    "0c000000c4d5ac08026b320101022f65",
    "0c000000e4da8b08026b31000001e05d",
    "0365d97a95d2e7e6",
];

const OUTCOMES: &str = "020003030101022f65";
