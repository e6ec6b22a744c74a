//! The bytes on disk of version 2: a change here is a change of format, which needs a new version.

use bramah_machine::{
    AclNames, Acquire, Batch, CancelAcquire, CloseHandles, Command, Comparison, CreateDirectory, Creation,
    Delete, DeleteTree, EndSession, ExpireSession, Guard, HandleId, Identity, Increment, Mode, NodeKind,
    OnHandle, OpenNode, OpenSession, Outcome, Path, Principal, Quota, Release, Request, ResetCounter,
    RevokeHandle, Sequencer, SessionId, SetAcl, SetContents, SetQuota, SetSequencer, State, Txn,
    TxnOperation, Verb, encode_outcomes,
};

use crate::generate::{apply_all, encode};
use crate::snapshot::snapshot_of;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

fn anonymous(command: Command) -> Request {
    Request { identity: Identity::Anonymous, command }
}

fn numbered(session: u64, number: u64, command: Command) -> Request {
    let (session, confirmed) = (SessionId(session), u64::from(number > 1));
    Request { identity: Identity::Session { session, number, confirmed }, command }
}

fn open(client: &str) -> Command {
    let secret = *b"0123456789abcdef";
    Command::OpenSession(OpenSession { lease_ms: 12_000, client: client.to_owned(), secret })
}

/// One of each command, and one of each sender.
pub(crate) fn requests() -> Vec<Request> {
    let mut all = requests_about_nodes();
    all.extend(requests_about_handles());
    all.extend(requests_about_locks());
    all
}

fn requests_about_nodes() -> Vec<Request> {
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
        numbered(1, 1, Command::SetContents(set)),
        numbered(1, 2, Command::CreateDirectory(CreateDirectory { path: path("/e"), parents: false })),
        numbered(1, 3, delete("/e")),
        numbered(1, 4, delete("/e")),
        numbered(1, 5, Command::Increment(increment)),
        anonymous(Command::ResetCounter(reset)),
        Request { identity: Identity::Key(b"k2".to_vec()), command: delete("/e") },
    ]
}

/// Session 1 gets the handles 1 (a file), 2 (its directory) and 3 (a new ephemeral file).
fn requests_about_handles() -> Vec<Request> {
    let mode = Mode { read: true, write: true, change_acl: false };
    let node = |text, create, within| {
        Command::OpenNode(OpenNode { path: path(text), mode, create, lock_delay_ms: 5_000, within })
    };
    let acl = AclNames { change_acl: "boss".into(), ..AclNames::default() };
    let creation = Creation {
        must: true,
        kind: NodeKind::File,
        ephemeral: true,
        contents: "new".into(),
        acl: Some(acl.clone()),
        parents: false,
    };
    let on = |verb| Command::OnHandle(OnHandle { handle: HandleId(1), verb });
    let quota = Quota { nodes: Some(100), bytes: None };
    vec![
        numbered(1, 6, node("/d/f", None, None)),
        numbered(1, 7, node("/d", None, None)),
        numbered(1, 8, node("/d/t", Some(creation), Some(HandleId(2)))),
        numbered(1, 9, on(Verb::SetContents { contents: "ho".into(), if_generation: Some(1) })),
        numbered(1, 10, on(Verb::Increment { delta: 1, floor: None, ceiling: Some(7) })),
        numbered(1, 11, on(Verb::ResetCounter { value: 1, expect: None })),
        numbered(1, 12, on(Verb::SetAcl { names: acl.clone(), if_generation: None })),
        numbered(1, 13, on(Verb::Delete { if_generation: Some(9) })),
        numbered(1, 14, Command::CloseHandles(CloseHandles { handles: vec![HandleId(2), HandleId(9)] })),
        anonymous(Command::RevokeHandle(RevokeHandle { session: SessionId(1), handle: HandleId(3) })),
        anonymous(Command::SetAcl(SetAcl { path: path("/d/f"), names: acl, if_generation: Some(0) })),
        anonymous(Command::SetQuota(SetQuota { path: path("/d"), quota })),
        anonymous(Command::DeleteTree(DeleteTree { path: path("/e") })),
        anonymous(Command::PassTime),
    ]
}

/// Session 1 holds a lock, 4 waits for it, and 5 has died with another one.
fn requests_about_locks() -> Vec<Request> {
    let ann = Principal::named("ann").unwrap();
    let node = |text| {
        let mode = Mode { write: true, ..Mode::default() };
        Command::OpenNode(OpenNode {
            path: path(text),
            mode,
            create: None,
            lock_delay_ms: 60_000,
            within: None,
        })
    };
    let acquire = |handle, shared| Command::Acquire(Acquire { handle: HandleId(handle), shared, wait: true });
    let sequencer = Sequencer { path: path("/d/f"), instance: 3, generation: 1, shared: false };
    let handle = HandleId(3);
    let tie = SetSequencer { handle: HandleId(1), sequencer: Some(sequencer.clone()) };
    vec![
        numbered(1, 15, acquire(1, false)),
        numbered(1, 16, Command::SetSequencer(tie)),
        numbered(1, 17, Command::CancelAcquire(CancelAcquire { handle })),
        numbered(1, 18, Command::Release(Release { handle })),
        Request {
            identity: Identity::Known { principal: ann.clone(), key: Some(b"k3".to_vec()) },
            command: open("4"),
        },
        numbered(4, 1, node("/d/f")),
        numbered(4, 2, acquire(4, true)),
        Request {
            identity: Identity::Known { principal: ann, key: Some(b"k4".to_vec()) },
            command: txn(sequencer),
        },
        anonymous(open("5")),
        numbered(5, 1, node("/n")),
        numbered(5, 2, acquire(5, false)),
        anonymous(Command::ExpireSession(ExpireSession { session: SessionId(5), term: 1 })),
    ]
}

/// One of each guard and operation.
fn txn(held: Sequencer) -> Command {
    let (n, f) = (path("/n"), path("/d/f"));
    let guards = vec![
        Guard::Exists(n.clone()),
        Guard::Absent(path("/gone")),
        Guard::Generation(n.clone(), 2),
        Guard::Held(held),
        Guard::Counter(n.clone(), Comparison::AtLeast, 300),
    ];
    let then = vec![
        TxnOperation::CreateDirectory(CreateDirectory { path: path("/t/u"), parents: true }),
        TxnOperation::SetContents(SetContents {
            path: path("/t/u/f"),
            contents: "t".into(),
            if_generation: None,
            parents: false,
        }),
        TxnOperation::SetAcl(SetAcl { path: path("/t"), names: AclNames::default(), if_generation: None }),
        TxnOperation::Delete(Delete { path: path("/t/u/f"), if_generation: None }),
        TxnOperation::DeleteTree(DeleteTree { path: path("/t") }),
        TxnOperation::Increment(Increment {
            path: n.clone(),
            delta: 1,
            create: false,
            floor: None,
            ceiling: None,
        }),
        TxnOperation::ResetCounter(ResetCounter { path: n, value: 0, expect: Some(301), create: false }),
    ];
    let otherwise = vec![TxnOperation::Delete(Delete { path: f, if_generation: None })];
    Command::Txn(Txn { guards, then, otherwise })
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
    "02040302010000000026000000",
    "1a00000002026b3100e05d026d6530313233343536373839616263646566",
    "150000000000e05d0030313233343536373839616263646566",
    "160000000000e05d017830313233343536373839616263646566",
    "03000000000102",
    "0400000000020301",
    "100000000101010003042f642f66026869010001",
    "090000000101020104022f6500",
    "0a0000000101030105022f650101",
    "0a0000000101040105022f650101",
    "0e0000000101050106022f6e030101090112",
    "0a0000000007022f6ed804010300",
    "0a00000002026b3205022f650101",
    "110000000101060108042f642f6601010000882700",
    "0f0000000101070108022f6401010000882700",
    "220000000101080108042f642f7401010001010101036e657701000004626f73730088270102",
    "0c000000010109010f010002686f0101",
    "0b00000001010a010f01010200010e",
    "0900000001010b010f01020200",
    "0f00000001010c010f0103000004626f737300",
    "0900000001010d010f01040109",
    "0800000001010e0109020209",
    "04000000000a0103",
    "100000000010042f642f66000004626f73730100",
    "080000000011022f64016400",
    "050000000012022f65",
    "020000000014",
    "0800000001010f010b010001",
    "0f000000010110010e0101042f642f66030100",
    "06000000010111010c03",
    "06000000010112010d03",
    "1e0000000303616e6e01026b3300e05d013430313233343536373839616263646566",
    "120000000104010008042f642f6600010000e0d40300",
    "08000000010402010b040101",
    "6d0000000303616e6e01026b34130500022f6e01052f676f6e6502022f6e0203042f642f6603010004022f6e04d8040701042f742f750100062f742f752f660174000006022f740000000002062f742f752f660003022f7404022f6e0200000005022f6e0001da04000102042f642f6600",
    "160000000000e05d013530313233343536373839616263646566",
    "100000000105010008022f6e00010000e0d40300",
    "08000000010502010b050001",
    "0400000000020501",
];

const SNAPSHOT: &[&str] = &[
    "6272616d6168535402000000",
    "140000000d09058486880801050212020201050302010101",
    "0e000000012f000201010000000000000000",
    "0f000000022f64000202010000010100000000",
    "0f000000022f6e020005040100040b00000000",
    "17000000042f642f660102686f03020101010800000004626f7373",
    "19000000042f642f7401036e65770601000006060101000004626f7373",
    "06000000022f64016400",
    "1c00000001e05d026d6530313233343536373839616263646566848688080100",
    "1e00000004e05d013430313233343536373839616263646566848688080103616e6e",
    "1c0000000101042f642f6603010100882701042f642f66030100020184868808",
    "130000000103042f642f74060101008827000084868808",
    "150000000404042f642f6603000100e0d40300010184868808",
    "0800000003042f642f660000",
    "0900000005022f6e00e4da8b08",
    "0700000003010184868808",
    "09000000030104040184868808",
    "0700000001020002010201",
    "050000000103000303",
    "0700000001040101022f65",
    "06000000010500040304",
    "0700000001060006010300",
    "0700000001070006020200",
    "0700000001080006030601",
    "0700000001090002020700",
    "0b000000010a0104042f642f660102",
    "0b000000010b0104042f642f660102",
    "0a000000010c0114042f642f6602",
    "0a000000010d0106042f642f6602",
    "04000000010e0005",
    "06000000010f00070100",
    "0400000001100005",
    "0400000001110009",
    "0a00000001120118042f642f7403",
    "050000000402000801",
    "0c000000c4d5ac08026b320101022f65",
    "21000000c4d5ac08026b34000a010702010b0102010b010b010b030b030b04da040b04000b",
    "0c000000e4da8b08026b31000001e05d",
    "0c000000e4da8b08026b33000004e05d",
    "b7db0c8e68901f5f",
];

const OUTCOMES: &str = "020003030101022f65";
