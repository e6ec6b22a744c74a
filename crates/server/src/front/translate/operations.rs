//! What callers ask for: a command, or a look at the state.

use bramah_machine::{
    AclNames, Acquire, CancelAcquire, CloseHandles, Command, Comparison, CreateDirectory, Creation, Delete,
    DeleteTree, Guard, HandleId, Increment, MAX_HANDLES_PER_SESSION, MAX_TXN_PARTS, Mode, NodeKind, OnHandle,
    OpenNode, Path, Quota, Release, ResetCounter, Sequencer, SessionId, SetAcl, SetContents, SetQuota,
    SetSequencer, Txn, TxnOperation, Verb,
};
use bramah_wire::v1;
use bramah_wire::v1::counter_compares::Comparison as WireComparison;
use bramah_wire::v1::guard::Guard as WireGuard;
use bramah_wire::v1::on_handle::Verb as WireVerb;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::read_on_handle::Verb as WireLook;
use bramah_wire::v1::txn_operation::Operation as Part;

use super::failures::invalid;

/// Entries of a directory in one page, unless the caller says.
const DEFAULT_PAGE: usize = 1_000;

/// The most entries in one page.
const MAX_PAGE: u32 = 10_000;

/// Locks or sessions in one page, unless the caller says.
const DEFAULT_LIST: usize = 100;

/// The most locks or sessions in one page.
const MAX_LIST: u32 = 1_000;

/// What a caller wants: to change the state, or to look at it.
pub(in crate::front) enum Work {
    Write(Command),
    Read(Read),
}

/// The ways to look at the state.
#[derive(Debug)]
pub(in crate::front) enum Read {
    /// At a node by its name.
    Node(Path, Look),
    /// At the node that a handle is on.
    OnHandle(HandleId, Look),
    /// At the lock, as this handle holds it.
    SequencerOf(HandleId),
    /// Whether the sequencer is valid.
    Check(Sequencer),
    Locks {
        below: Path,
        after: Option<Path>,
        limit: usize,
    },
    Sessions {
        after: SessionId,
        limit: usize,
    },
    Quota(Path),
}

impl Read {
    /// Whether it may look at more of the state than it answers.
    pub(in crate::front) fn is_long(&self) -> bool {
        matches!(self, Read::Locks { .. } | Read::Quota(_))
    }
}

/// What to look at in a node.
#[derive(Debug)]
pub(in crate::front) enum Look {
    Contents,
    Stat,
    Counter,
    /// `at_revision`: the revision that the page is of; 0 for the newest.
    Directory {
        after: String,
        limit: usize,
        at_revision: u64,
    },
}

type Translated<T> = Result<T, v1::Failure>;

/// Reads an operation, or says what is wrong with it. `cell` is the name this cell answers to.
pub(in crate::front) fn work(operation: Option<v1::Operation>, cell: &str) -> Translated<Work> {
    let operation = operation.and_then(|operation| operation.operation).ok_or_else(|| {
        invalid("the call has no operation that this version knows; is the client newer than the cell?")
    })?;
    let names = Names { cell };
    match names.read(operation)? {
        Ok(read) => Ok(Work::Read(read)),
        Err(operation) => names.command(operation).map(Work::Write),
    }
}

/// Translates with the names of one cell.
struct Names<'a> {
    cell: &'a str,
}

impl Names<'_> {
    fn path(&self, text: &str) -> Translated<Path> {
        Path::parse_in_cell(text, self.cell).map_err(|error| invalid(&error.to_string()))
    }

    /// An operation that looks; any other is given back.
    fn read(&self, operation: Operation) -> Translated<Result<Read, Operation>> {
        Ok(Ok(match operation {
            Operation::GetContents(o) => Read::Node(self.path(&o.path)?, Look::Contents),
            Operation::GetStat(o) => Read::Node(self.path(&o.path)?, Look::Stat),
            Operation::GetCounter(o) => Read::Node(self.path(&o.path)?, Look::Counter),
            Operation::ReadDirectory(o) => Read::Node(self.path(&o.path)?, listing(o)),
            Operation::ReadOnHandle(o) => look_on_handle(o)?,
            Operation::CheckSequencer(o) => Read::Check(self.sequencer(o.sequencer)?),
            Operation::ListLocks(o) => self.locks(&o)?,
            Operation::ListSessions(o) => {
                Read::Sessions { after: SessionId(o.after), limit: list_limit(o.limit) }
            }
            Operation::GetQuota(o) => Read::Quota(self.path(&o.path)?),
            other => return Ok(Err(other)),
        }))
    }

    fn locks(&self, list: &v1::ListLocks) -> Translated<Read> {
        let below = if list.below.is_empty() { Path::root() } else { self.path(&list.below)? };
        let after = if list.after.is_empty() { None } else { Some(self.path(&list.after)?) };
        Ok(Read::Locks { below, after, limit: list_limit(list.limit) })
    }

    fn command(&self, operation: Operation) -> Translated<Command> {
        Ok(match operation {
            Operation::SetContents(o) => Command::SetContents(self.set_contents(o)?),
            Operation::CreateDirectory(o) => Command::CreateDirectory(self.create_directory(&o)?),
            Operation::Delete(o) => Command::Delete(self.delete(&o)?),
            Operation::DeleteTree(o) => Command::DeleteTree(self.delete_tree(&o)?),
            Operation::Increment(o) => Command::Increment(self.increment(&o)?),
            Operation::ResetCounter(o) => Command::ResetCounter(self.reset_counter(&o)?),
            Operation::SetAcl(o) => Command::SetAcl(self.set_acl(o)?),
            Operation::SetQuota(o) => {
                let quota = Quota { nodes: o.nodes, bytes: o.bytes };
                Command::SetQuota(SetQuota { path: self.path(&o.path)?, quota })
            }
            Operation::Txn(o) => Command::Txn(self.txn(o)?),
            Operation::OpenNode(o) => Command::OpenNode(self.open_node(o)?),
            Operation::SetSequencer(o) => {
                let sequencer = o.sequencer.map(|sequencer| self.sequencer(Some(sequencer))).transpose()?;
                Command::SetSequencer(SetSequencer { handle: HandleId(o.handle), sequencer })
            }
            other => return with_handles(other),
        })
    }

    fn set_contents(&self, o: v1::SetContents) -> Translated<SetContents> {
        let v1::SetContents { path, contents, if_generation, parents } = o;
        Ok(SetContents { path: self.path(&path)?, contents, if_generation, parents })
    }

    fn create_directory(&self, o: &v1::CreateDirectory) -> Translated<CreateDirectory> {
        Ok(CreateDirectory { path: self.path(&o.path)?, parents: o.parents })
    }

    fn delete(&self, o: &v1::Delete) -> Translated<Delete> {
        Ok(Delete { path: self.path(&o.path)?, if_generation: o.if_generation })
    }

    fn delete_tree(&self, o: &v1::DeleteTree) -> Translated<DeleteTree> {
        Ok(DeleteTree { path: self.path(&o.path)? })
    }

    fn increment(&self, o: &v1::Increment) -> Translated<Increment> {
        let v1::Increment { delta, create, floor, ceiling, .. } = *o;
        Ok(Increment { path: self.path(&o.path)?, delta, create, floor, ceiling })
    }

    fn reset_counter(&self, o: &v1::ResetCounter) -> Translated<ResetCounter> {
        let v1::ResetCounter { value, expect, create, .. } = *o;
        Ok(ResetCounter { path: self.path(&o.path)?, value, expect, create })
    }

    fn set_acl(&self, o: v1::SetAcl) -> Translated<SetAcl> {
        let names =
            o.names.ok_or_else(|| invalid("`names` is missing: give all three, empty for everybody"))?;
        Ok(SetAcl { path: self.path(&o.path)?, names: acl_names(names), if_generation: o.if_generation })
    }

    fn open_node(&self, o: v1::OpenNode) -> Translated<OpenNode> {
        let v1::Mode { read, write, change_acl } = o.mode.unwrap_or_default();
        Ok(OpenNode {
            path: self.path(&o.path)?,
            mode: Mode { read, write, change_acl },
            create: o.create.map(creation).transpose()?,
            lock_delay_ms: o.lock_delay_ms,
            within: (o.within != 0).then_some(HandleId(o.within)),
        })
    }

    fn sequencer(&self, sequencer: Option<v1::Sequencer>) -> Translated<Sequencer> {
        let sequencer = sequencer.ok_or_else(|| invalid("the sequencer is missing"))?;
        let v1::Sequencer { instance, generation, shared, .. } = sequencer;
        Ok(Sequencer { path: self.path(&sequencer.path)?, instance, generation, shared })
    }

    fn txn(&self, o: v1::Txn) -> Translated<Txn> {
        // Before any of it is translated: a message may hold a hundred thousand.
        if [o.guards.len(), o.then.len(), o.otherwise.len()].iter().any(|parts| *parts > MAX_TXN_PARTS) {
            let why =
                format!("a transaction has at most {MAX_TXN_PARTS} guards, and as many operations in a list");
            return Err(invalid(&why));
        }
        Ok(Txn {
            guards: o.guards.into_iter().map(|guard| self.guard(guard)).collect::<Translated<_>>()?,
            then: self.parts(o.then)?,
            otherwise: self.parts(o.otherwise)?,
        })
    }

    fn guard(&self, guard: v1::Guard) -> Translated<Guard> {
        let guard = guard.guard.ok_or_else(|| invalid("a guard of the transaction is not known here"))?;
        Ok(match guard {
            WireGuard::Exists(path) => Guard::Exists(self.path(&path)?),
            WireGuard::Absent(path) => Guard::Absent(self.path(&path)?),
            WireGuard::Generation(is) => Guard::Generation(self.path(&is.path)?, is.generation),
            WireGuard::Held(sequencer) => Guard::Held(self.sequencer(Some(sequencer))?),
            WireGuard::Counter(counter) => {
                Guard::Counter(self.path(&counter.path)?, comparison(&counter)?, counter.value)
            }
        })
    }

    /// A failure names the part that it is of.
    fn parts(&self, parts: Vec<v1::TxnOperation>) -> Translated<Vec<TxnOperation>> {
        let numbered = |(number, part)| {
            self.part(part).map_err(|failure| v1::Failure { part: Some(number as u32), ..failure })
        };
        parts.into_iter().enumerate().map(numbered).collect()
    }

    fn part(&self, part: v1::TxnOperation) -> Translated<TxnOperation> {
        let part =
            part.operation.ok_or_else(|| invalid("an operation of the transaction is not known here"))?;
        Ok(match part {
            Part::SetContents(o) => TxnOperation::SetContents(self.set_contents(o)?),
            Part::CreateDirectory(o) => TxnOperation::CreateDirectory(self.create_directory(&o)?),
            Part::Delete(o) => TxnOperation::Delete(self.delete(&o)?),
            Part::DeleteTree(o) => TxnOperation::DeleteTree(self.delete_tree(&o)?),
            Part::Increment(o) => TxnOperation::Increment(self.increment(&o)?),
            Part::ResetCounter(o) => TxnOperation::ResetCounter(self.reset_counter(&o)?),
            Part::SetAcl(o) => TxnOperation::SetAcl(self.set_acl(o)?),
        })
    }
}

/// What names nothing but handles.
fn with_handles(operation: Operation) -> Translated<Command> {
    Ok(match operation {
        Operation::CloseHandles(o) => {
            if o.handles.len() as u64 > MAX_HANDLES_PER_SESSION {
                return Err(invalid(&format!(
                    "a session has at most {MAX_HANDLES_PER_SESSION} handles to close"
                )));
            }
            Command::CloseHandles(CloseHandles { handles: o.handles.into_iter().map(HandleId).collect() })
        }
        Operation::Acquire(o) => {
            Command::Acquire(Acquire { handle: HandleId(o.handle), shared: o.shared, wait: o.wait })
        }
        Operation::CancelAcquire(o) => Command::CancelAcquire(CancelAcquire { handle: HandleId(o.handle) }),
        Operation::Release(o) => Command::Release(Release { handle: HandleId(o.handle) }),
        Operation::OnHandle(o) => {
            Command::OnHandle(OnHandle { handle: HandleId(o.handle), verb: verb(o.verb)? })
        }
        // All others were taken before: only a new operation that nobody translates gets here.
        _ => return Err(invalid("this version does not know the operation")),
    })
}

fn verb(verb: Option<WireVerb>) -> Translated<Verb> {
    let verb = verb.ok_or_else(|| invalid("what to do through the handle is missing, or not known here"))?;
    Ok(match verb {
        WireVerb::SetContents(o) => {
            no_path(&o.path, o.parents)?;
            Verb::SetContents { contents: o.contents, if_generation: o.if_generation }
        }
        WireVerb::Increment(o) => {
            no_path(&o.path, o.create)?;
            Verb::Increment { delta: o.delta, floor: o.floor, ceiling: o.ceiling }
        }
        WireVerb::ResetCounter(o) => {
            no_path(&o.path, o.create)?;
            Verb::ResetCounter { value: o.value, expect: o.expect }
        }
        WireVerb::SetAcl(o) => {
            no_path(&o.path, false)?;
            let names =
                o.names.ok_or_else(|| invalid("`names` is missing: give all three, empty for everybody"))?;
            Verb::SetAcl { names: acl_names(names), if_generation: o.if_generation }
        }
        WireVerb::Delete(o) => {
            no_path(&o.path, false)?;
            Verb::Delete { if_generation: o.if_generation }
        }
    })
}

fn look_on_handle(o: v1::ReadOnHandle) -> Translated<Read> {
    let verb =
        o.verb.ok_or_else(|| invalid("what to read through the handle is missing, or not known here"))?;
    let handle = HandleId(o.handle);
    let (path, look) = match verb {
        WireLook::Contents(o) => (o.path, Look::Contents),
        WireLook::Stat(o) => (o.path, Look::Stat),
        WireLook::Counter(o) => (o.path, Look::Counter),
        WireLook::Directory(mut o) => (std::mem::take(&mut o.path), listing(o)),
        WireLook::Sequencer(v1::GetSequencer {}) => return Ok(Read::SequencerOf(handle)),
    };
    no_path(&path, false)?;
    Ok(Read::OnHandle(handle, look))
}

/// What goes through a handle has no name of its own, and makes no nodes.
fn no_path(path: &str, makes_nodes: bool) -> Translated<()> {
    match path.is_empty() && !makes_nodes {
        true => Ok(()),
        false => Err(invalid("through a handle there is no path, and nothing is created: leave both out")),
    }
}

fn listing(o: v1::ReadDirectory) -> Look {
    let limit = if o.limit == 0 { DEFAULT_PAGE } else { o.limit.min(MAX_PAGE) as usize };
    Look::Directory { after: o.after, limit, at_revision: o.at_revision }
}

fn list_limit(limit: u32) -> usize {
    if limit == 0 { DEFAULT_LIST } else { limit.min(MAX_LIST) as usize }
}

fn creation(o: v1::Creation) -> Translated<Creation> {
    let kind = match o.kind() {
        v1::Kind::Directory => NodeKind::Directory,
        v1::Kind::File => NodeKind::File,
        v1::Kind::Counter => NodeKind::Counter,
        v1::Kind::Unspecified => {
            return Err(invalid("`create.kind` says what to make: a directory, a file or a counter"));
        }
    };
    let v1::Creation { must, ephemeral, contents, acl, parents, .. } = o;
    Ok(Creation { must, kind, ephemeral, contents, acl: acl.map(acl_names), parents })
}

fn acl_names(names: v1::AclNames) -> AclNames {
    let v1::AclNames { read, write, change_acl } = names;
    AclNames { read: read.into(), write: write.into(), change_acl: change_acl.into() }
}

fn comparison(counter: &v1::CounterCompares) -> Translated<Comparison> {
    Ok(match counter.comparison() {
        WireComparison::Less => Comparison::Less,
        WireComparison::AtMost => Comparison::AtMost,
        WireComparison::Equal => Comparison::Equal,
        WireComparison::NotEqual => Comparison::NotEqual,
        WireComparison::AtLeast => Comparison::AtLeast,
        WireComparison::Greater => Comparison::Greater,
        WireComparison::Unspecified => {
            return Err(invalid("how the counter is to compare is not known here"));
        }
    })
}
