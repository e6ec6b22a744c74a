//! A state as bytes: what a snapshot file holds and what a digest is of (docs/formats.md).
//!
//! ```text
//! magic    8 bytes  "bramahST"
//! version  u32 LE   2
//! record            the counts
//! records           nodes, in the order of their paths
//! records           quotas, in the order of their paths
//! records           sessions, in the order of their names
//! records           handles, in the order of sessions and names
//! records           locks, in the order of their nodes' instances
//! records           who holds them, in the order of instances, sessions and handles
//! records           who waits for them, in the order of instances and places
//! records           answers kept for sessions, in the order of sessions and numbers
//! records           idempotency keys, in the order in which they expire
//! records           keys of sessions' openings, in the order in which they expire
//! digest   u64 LE   XXH3-64 of all bytes before
//! ```
//!
//! A record is its length (u32 LE) and that many bytes of postcard. One state has one encoding, so two
//! replicas agree if their digests do.

use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::sync::Arc;

use imbl::OrdMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use twox_hash::XxHash3_64;

use crate::acl::Principal;
use crate::handle::{Handle, Handles};
use crate::keys::{Kept, Keys};
use crate::lock::{Lock, Locks, Waiter, Who};
use crate::planted::{self, Bug};
use crate::quota::{Quota, Quotas};
use crate::session::{Session, Sessions};
use crate::tree::{Node, Revisions, Tree};
use crate::{MAX_CONTENTS_BYTES, Outcome, Path, SECRET_BYTES, SessionId, State};

const MAGIC: [u8; 8] = *b"bramahST";
const VERSION: u32 = 2;
/// The largest record is a file with its path.
const MAX_RECORD_BYTES: usize = MAX_CONTENTS_BYTES + 16 * 1024;

/// Why bytes are not a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// They could not be read, or end too early.
    #[error("the snapshot can't be read: {0}; take another copy")]
    Io(#[from] io::Error),
    /// They don't start as a snapshot does.
    #[error("this is not a snapshot of a cell's state; check the file's name")]
    NotASnapshot,
    /// The version is not one that this program knows.
    #[error(
        "the snapshot has format version {found}, and this program reads version {VERSION}; run the newer program"
    )]
    UnknownVersion {
        /// The version found.
        found: u32,
    },
    /// A record is not what it should be.
    #[error("the snapshot is damaged: {what} {index} {why}; take another copy")]
    BadRecord {
        /// What the record should hold.
        what: &'static str,
        /// Which of its sort, counted from 0.
        index: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes were changed on the way.
    #[error(
        "the snapshot is damaged: its digest is {found:016x} and should be {expected:016x}; take another copy"
    )]
    BadDigest {
        /// The digest of what was read.
        found: u64,
        /// The digest that the snapshot carries.
        expected: u64,
    },
    /// The records contradict each other.
    #[error("the snapshot holds no possible state: {broken}; take another copy")]
    Impossible {
        /// The invariant that is broken.
        broken: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Counts {
    revision: u64,
    instances: u64,
    sessions_opened: u64,
    time_ms: u64,
    highest_term: u64,
    nodes: u64,
    sessions: u64,
    answers: u64,
    keys: u64,
    nonces: u64,
    quotas: u64,
    handles_opened: u64,
    handles: u64,
    locks: u64,
    holders: u64,
    waiters: u64,
    tickets: u64,
}

#[derive(Serialize, Deserialize)]
struct LockRecord<'a> {
    instance: u64,
    path: std::borrow::Cow<'a, Path>,
    shared: bool,
    free_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord<'a> {
    id: SessionId,
    lease_ms: u32,
    client: std::borrow::Cow<'a, str>,
    secret: [u8; SECRET_BYTES],
    opened_ms: u64,
    confirmed: u64,
    principal: std::borrow::Cow<'a, Principal>,
}

#[derive(Serialize)]
struct KeyRecord<'a> {
    expires_ms: u64,
    key: &'a [u8],
    outcome: &'a Outcome,
}

#[derive(Deserialize)]
struct OwnedKeyRecord {
    expires_ms: u64,
    key: Vec<u8>,
    outcome: Outcome,
}

impl State {
    /// Writes the whole state, a record at a time; give it a buffered writer. It is an error if
    /// [`State::read_snapshot`] would refuse a record for its length.
    pub fn write_snapshot(&self, output: &mut impl Write) -> io::Result<()> {
        self.write_digested(output, MAX_RECORD_BYTES).map(|_| ())
    }

    /// XXH3-64 of the whole state. Reads all of it, so ask a view and not the applying thread.
    pub fn digest(&self) -> u64 {
        self.write_digested(&mut io::sink(), usize::MAX).expect("a sink takes every byte")
    }

    fn write_digested(&self, output: &mut impl Write, longest: usize) -> io::Result<u64> {
        let mut records = RecordWriter { output, hasher: XxHash3_64::new(), scratch: Vec::new(), longest };
        records.raw(&MAGIC)?;
        records.raw(&VERSION.to_le_bytes())?;
        records.record(&self.counts())?;
        for (path, node) in &self.tree.nodes {
            records.record(&(path, &**node))?;
        }
        for (path, (quota, _)) in &self.tree.quotas.table {
            records.record(&(path, quota))?;
        }
        for (&id, session) in &self.sessions.sessions {
            records.record(&session_record(id, session))?;
        }
        for (who, handle) in &self.handles.table {
            records.record(&(who, &**handle))?;
        }
        self.write_locks(&mut records)?;
        for ((session, number), outcome) in &self.sessions.answers {
            records.record(&(session, number, outcome))?;
        }
        write_keys(&mut records, &self.keys)?;
        write_keys(&mut records, &self.nonces)?;
        records.finish()
    }

    fn write_locks(&self, records: &mut RecordWriter<'_, impl Write>) -> io::Result<()> {
        for (&instance, lock) in &self.locks.table {
            let path = std::borrow::Cow::Borrowed(&lock.path);
            records.record(&LockRecord {
                instance,
                path,
                shared: lock.shared,
                free_at_ms: lock.free_at_ms,
            })?;
        }
        for (instance, lock) in &self.locks.table {
            for (who, since_ms) in &lock.holders {
                records.record(&(instance, who, since_ms))?;
            }
        }
        for (instance, lock) in &self.locks.table {
            for (ticket, waiter) in &lock.waiters {
                records.record(&(instance, ticket, waiter))?;
            }
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        let locks = || self.locks.table.values();
        Counts {
            revision: self.tree.revisions.newest,
            instances: self.tree.instances,
            sessions_opened: self.sessions.opened,
            time_ms: self.time_ms,
            highest_term: self.highest_term,
            nodes: self.tree.nodes.len() as u64,
            sessions: self.sessions.sessions.len() as u64,
            answers: self.sessions.answers.len() as u64,
            keys: self.keys.kept.len() as u64,
            nonces: self.nonces.kept.len() as u64,
            quotas: self.tree.quotas.table.len() as u64,
            handles_opened: self.handles.opened,
            handles: self.handles.table.len() as u64,
            locks: self.locks.table.len() as u64,
            holders: locks().map(|lock| lock.holders.len() as u64).sum(),
            waiters: locks().map(|lock| lock.waiters.len() as u64).sum(),
            tickets: self.locks.tickets,
        }
    }

    /// Reads what [`State::write_snapshot`] wrote, and not a byte more; give it a buffered reader.
    pub fn read_snapshot(input: &mut impl Read) -> Result<State, SnapshotError> {
        let mut records = RecordReader { input, hasher: XxHash3_64::new(), scratch: Vec::new() };
        records.check_start()?;
        let counts: Counts = records.record("the counts", 0)?;
        let tree = read_tree(&mut records, &counts)?;
        let mut sessions = read_sessions(&mut records, &counts)?;
        let handles = read_handles(&mut records, &counts, &mut sessions)?;
        let locks = read_locks(&mut records, &counts)?;
        read_answers(&mut records, &counts, &mut sessions)?;
        if planted::is(Bug::DedupLostInSnapshot) {
            sessions.forget_all_answers();
        }
        let keys = read_keys(&mut records, "idempotency key", counts.keys, Keys::of_callers())?;
        let nonces = read_keys(&mut records, "session nonce", counts.nonces, Keys::of_openings())?;
        records.check_digest()?;
        let Counts { time_ms, highest_term, .. } = counts;
        let mut state = State { tree, sessions, handles, locks, keys, nonces, time_ms, highest_term };
        if planted::is(Bug::WaitersLostInSnapshot) {
            state.forget_all_waiters();
        }
        state.check_invariants().map_err(|broken| SnapshotError::Impossible { broken })?;
        Ok(state)
    }
}

fn session_record(id: SessionId, session: &Session) -> SessionRecord<'_> {
    SessionRecord {
        id,
        lease_ms: session.lease_ms,
        client: (&*session.client).into(),
        secret: session.secret,
        opened_ms: session.opened_ms,
        confirmed: session.confirmed,
        principal: std::borrow::Cow::Borrowed(&session.principal),
    }
}

fn write_keys(records: &mut RecordWriter<'_, impl Write>, keys: &Keys) -> io::Result<()> {
    for (_, key) in &keys.by_expiry {
        if let Some(kept) = keys.kept.get(key) {
            records.record(&KeyRecord { expires_ms: kept.expires_ms, key, outcome: &kept.outcome })?;
        }
    }
    Ok(())
}

fn read_tree(records: &mut RecordReader<'_, impl Read>, counts: &Counts) -> Result<Tree, SnapshotError> {
    let mut nodes: OrdMap<Path, Arc<Node>> = OrdMap::new();
    for index in 0..counts.nodes {
        let (path, mut node): (Path, Node) = records.record("node", index)?;
        check_order("node", index, nodes.get_max().is_none_or(|(last, _)| *last < path))?;
        // Most nodes have their parent's names: all of these are one in memory.
        if let Some(parent) =
            path.parent().and_then(|parent| nodes.get(&parent)).filter(|it| it.acl == node.acl)
        {
            node.acl = Arc::clone(&parent.acl);
        }
        nodes.insert(path, Arc::new(node));
    }
    let revisions = Revisions::at(counts.revision);
    let guarded = nodes.values().filter(|node| node.is_guarded()).count() as u64;
    let quotas = read_quotas(records, counts)?;
    let quotas = Quotas::over(quotas.into_iter(), nodes.iter().map(|(path, node)| (path, &**node)));
    Ok(Tree { nodes, revisions, quotas, instances: counts.instances, guarded })
}

fn read_quotas(
    records: &mut RecordReader<'_, impl Read>,
    counts: &Counts,
) -> Result<OrdMap<Path, Quota>, SnapshotError> {
    let mut quotas: OrdMap<Path, Quota> = OrdMap::new();
    for index in 0..counts.quotas {
        let (path, quota): (Path, Quota) = records.record("quota", index)?;
        check_order("quota", index, quotas.get_max().is_none_or(|(last, _)| *last < path))?;
        check("quota", index, quota != Quota::default(), || "limits nothing".to_owned())?;
        quotas.insert(path, quota);
    }
    Ok(quotas)
}

/// Who has opened what; counts the handles of each session.
fn read_handles(
    records: &mut RecordReader<'_, impl Read>,
    counts: &Counts,
    sessions: &mut Sessions,
) -> Result<Handles, SnapshotError> {
    let mut handles = Handles { opened: counts.handles_opened, ..Handles::default() };
    for index in 0..counts.handles {
        let (who, handle): (Who, Handle) = records.record("handle", index)?;
        check_order("handle", index, handles.table.get_max().is_none_or(|(last, _)| *last < who))?;
        let known = sessions.sessions.contains_key(&who.0);
        check("handle", index, known, || format!("is session {}'s, which is not there", who.0))?;
        sessions.count_handles(who.0, 1);
        handles.table.insert(who, Arc::new(handle));
    }
    Ok(handles)
}

fn read_locks(records: &mut RecordReader<'_, impl Read>, counts: &Counts) -> Result<Locks, SnapshotError> {
    let mut locks = Locks { tickets: counts.tickets, ..Locks::default() };
    for index in 0..counts.locks {
        let record: LockRecord<'static> = records.record("lock", index)?;
        check_order("lock", index, locks.table.get_max().is_none_or(|(last, _)| *last < record.instance))?;
        if record.free_at_ms != 0 {
            locks.delays.insert((record.free_at_ms, record.instance));
        }
        let lock = Lock {
            path: record.path.into_owned(),
            shared: record.shared,
            holders: OrdMap::new(),
            waiters: OrdMap::new(),
            free_at_ms: record.free_at_ms,
        };
        locks.insert(record.instance, lock);
    }
    let mut last = None;
    for index in 0..counts.holders {
        let (instance, who, since_ms): (u64, Who, u64) = records.record("holder", index)?;
        let lock = locks.table.get_mut(&instance);
        check("holder", index, lock.is_some(), || "holds a lock that is not there".to_owned())?;
        let place = (instance, who);
        check_order("holder", index, last.replace(place).is_none_or(|last| last < place))?;
        lock.map(|lock| Arc::make_mut(lock).holders.insert(who, since_ms));
    }
    let mut last = None;
    for index in 0..counts.waiters {
        let (instance, ticket, waiter): (u64, u64, Waiter) = records.record("waiter", index)?;
        let lock = locks.table.get_mut(&instance);
        check("waiter", index, lock.is_some(), || "waits for a lock that is not there".to_owned())?;
        let place = (instance, ticket);
        check_order("waiter", index, last.replace(place).is_none_or(|last| last < place))?;
        lock.map(|lock| Arc::make_mut(lock).waiters.insert(ticket, waiter));
    }
    Ok(locks)
}

fn read_sessions(
    records: &mut RecordReader<'_, impl Read>,
    counts: &Counts,
) -> Result<Sessions, SnapshotError> {
    let mut sessions = Sessions { opened: counts.sessions_opened, ..Sessions::default() };
    for index in 0..counts.sessions {
        let record: SessionRecord<'static> = records.record("session", index)?;
        check_order("session", index, sessions.sessions.get_max().is_none_or(|(last, _)| *last < record.id))?;
        let session = Session {
            lease_ms: record.lease_ms,
            client: Arc::from(record.client),
            secret: record.secret,
            opened_ms: record.opened_ms,
            confirmed: record.confirmed,
            principal: record.principal.into_owned(),
            handles: 0,
            kept: 0,
            highest: 0,
        };
        sessions.sessions.insert(record.id, session);
    }
    Ok(sessions)
}

fn read_answers(
    records: &mut RecordReader<'_, impl Read>,
    counts: &Counts,
    sessions: &mut Sessions,
) -> Result<(), SnapshotError> {
    for index in 0..counts.answers {
        let (id, number, outcome): (SessionId, u64, Outcome) = records.record("answer", index)?;
        check_order(
            "answer",
            index,
            sessions.answers.get_max().is_none_or(|(last, _)| *last < (id, number)),
        )?;
        let known = sessions.sessions.contains_key(&id);
        check("answer", index, known, || format!("is for session {id}, which is not there"))?;
        sessions.keep_answer(id, number, &outcome);
    }
    Ok(())
}

/// Fills an empty table.
fn read_keys(
    records: &mut RecordReader<'_, impl Read>,
    what: &'static str,
    count: u64,
    mut keys: Keys,
) -> Result<Keys, SnapshotError> {
    for index in 0..count {
        let record: OwnedKeyRecord = records.record(what, index)?;
        let key: Arc<[u8]> = Arc::from(record.key);
        let place = (record.expires_ms, Arc::clone(&key));
        check_order(what, index, keys.by_expiry.get_max().is_none_or(|last| *last < place))?;
        keys.insert(key, Kept { expires_ms: record.expires_ms, outcome: record.outcome });
    }
    Ok(keys)
}

fn check_order(what: &'static str, index: u64, in_order: bool) -> Result<(), SnapshotError> {
    check(what, index, in_order, || "does not come after the one before it".to_owned())
}

fn check(
    what: &'static str,
    index: u64,
    holds: bool,
    why: impl FnOnce() -> String,
) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::BadRecord { what, index, why: why() }) }
}

struct RecordWriter<'a, W> {
    output: &'a mut W,
    hasher: XxHash3_64,
    scratch: Vec<u8>,
    /// The most bytes of a record.
    longest: usize,
}

impl<W: Write> RecordWriter<'_, W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.write(bytes);
        self.output.write_all(bytes)
    }

    fn record(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[0; 4]);
        let mut scratch = postcard::to_extend(record, scratch).map_err(io::Error::other)?;
        let length = scratch.len() - 4;
        if length > self.longest {
            // A snapshot that can't be read again is worse than none.
            let why =
                format!("a record has {length} bytes, and no more than {} can be read again", self.longest);
            return Err(io::Error::other(why));
        }
        let length = length as u32;
        scratch[..4].copy_from_slice(&length.to_le_bytes());
        self.raw(&scratch)?;
        self.scratch = scratch;
        Ok(())
    }

    fn finish(self) -> io::Result<u64> {
        let digest = self.hasher.finish();
        self.output.write_all(&digest.to_le_bytes())?;
        Ok(digest)
    }
}

struct RecordReader<'a, R> {
    input: &'a mut R,
    hasher: XxHash3_64,
    scratch: Vec<u8>,
}

impl<R: Read> RecordReader<'_, R> {
    fn raw<const LENGTH: usize>(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.input.read_exact(&mut bytes)?;
        self.hasher.write(&bytes);
        Ok(bytes)
    }

    fn check_start(&mut self) -> Result<(), SnapshotError> {
        if self.raw()? != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        match u32::from_le_bytes(self.raw()?) {
            VERSION => Ok(()),
            found => Err(SnapshotError::UnknownVersion { found }),
        }
    }

    fn record<T: DeserializeOwned>(&mut self, what: &'static str, index: u64) -> Result<T, SnapshotError> {
        let bad = |why: String| SnapshotError::BadRecord { what, index, why };
        let length = u32::from_le_bytes(self.raw()?) as usize;
        if length > MAX_RECORD_BYTES {
            return Err(bad(format!("claims {length} bytes, and at most {MAX_RECORD_BYTES} are possible")));
        }
        self.scratch.resize(length, 0);
        self.input.read_exact(&mut self.scratch)?;
        self.hasher.write(&self.scratch);
        match postcard::take_from_bytes(&self.scratch) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(bad(format!("has {} bytes too many", rest.len()))),
            Err(error) => Err(bad(format!("can't be decoded: {error}"))),
        }
    }

    fn check_digest(&mut self) -> Result<(), SnapshotError> {
        let found = self.hasher.finish();
        let expected = u64::from_le_bytes(self.raw()?);
        if found == expected { Ok(()) } else { Err(SnapshotError::BadDigest { found, expected }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::AclNames;
    use crate::testing::*;
    use crate::{Command, Refusal, SetAcl};

    fn read_back(cell: &Cell) -> State {
        let mut bytes = Vec::new();
        cell.state.write_snapshot(&mut bytes).unwrap();
        State::read_snapshot(&mut bytes.as_slice()).unwrap()
    }

    /// A name as long as a request can carry is refused in few words, so the kept refusal can be read again.
    #[test]
    fn an_endless_acl_name_makes_no_endless_answer() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        for name in ["\u{1}".repeat(MAX_CONTENTS_BYTES), "x".repeat(256), "\u{10ffff}/".repeat(999)] {
            let names = AclNames { write: name.as_str().into(), ..AclNames::default() };
            let creation = crate::Creation { acl: Some(names.clone()), ..file() };
            let set = Command::SetAcl(SetAcl { path: Path::root(), names, if_generation: None });
            for command in [set, open_node("/f", Some(creation))] {
                let refusal = cell.by(session, command).unwrap_err();
                assert!(refusal.to_string().len() < 900, "{refusal}");
                assert_eq!(read_back(&cell).digest(), cell.state.digest());
            }
        }
        let longest = AclNames { write: "x".repeat(255).as_str().into(), ..AclNames::default() };
        cell.run(Command::SetAcl(SetAcl { path: Path::root(), names: longest, if_generation: None }))
            .unwrap();
        assert_eq!(read_back(&cell).digest(), cell.state.digest());
    }

    /// The longest text of a refusal, and the answer of the largest transaction, can be read again.
    #[test]
    fn the_largest_outcomes_are_read_back() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let longest = Path::parse(&format!("/{}", "x".repeat(255)).repeat(16)).unwrap();
        let refusal = Refusal::QuotaExceeded {
            path: longest.clone(),
            directory: longest,
            what: crate::QuotaKind::Bytes,
            would_be: u64::MAX,
            allowed: u64::MAX,
        };
        let refused = Err(Refusal::TxnRefused { part: u32::MAX, why: Box::new(refusal) });
        let answer = crate::Answer::Written { generation: u64::MAX, revision: u64::MAX, created: true };
        let done = Ok(crate::Answer::Txn { held: true, answers: vec![answer; crate::MAX_TXN_PARTS] });
        let invalid = Err(Refusal::invalid("ä".repeat(MAX_RECORD_BYTES)));
        for (number, outcome) in (1..).zip([refused, done, invalid]) {
            cell.state.sessions.keep_answer(session, number, &outcome);
        }
        assert_eq!(read_back(&cell).digest(), cell.state.digest());
    }

    /// What could not be read again is not written.
    #[test]
    fn a_record_that_can_t_be_read_is_not_written() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let outcome = Err(Refusal::InvalidArgument { why: "x".repeat(MAX_RECORD_BYTES) });
        cell.state.sessions.keep_answer(session, 1, &outcome);
        assert!(cell.state.write_snapshot(&mut Vec::new()).is_err());
    }
}
