//! Looks at the state. Here, and nowhere else, it is decided who may look at what (spec A-2).

use bramah_machine::{
    DirectoryEntry, HandleId, Lock, Path, Place, Principal, Refusal, Right, Session, SessionId, State,
};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::outcome::Outcome as Reply;
use prost::Message;

use super::failures::{failed, failure, refused};
use super::operations::{Look, Read};
use super::outcomes::{sequencer, stat};
use crate::front::pinned::Pinned;

/// Bytes that a page may take, to stay well within one message.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// Holders, and waiters, that are listed of one lock.
const MAX_PARTIES: usize = 100;

/// Handles that are looked at for one page of sessions.
const MAX_HANDLES_COUNTED: u64 = 100_000;

/// On whose behalf something is looked at.
#[derive(Clone, Debug)]
pub(in crate::front) struct Caller {
    pub(in crate::front) principal: Principal,
    pub(in crate::front) session: Option<SessionId>,
}

impl Caller {
    fn session(&self) -> Result<SessionId, v1::Failure> {
        let why = "handles belong to a session; open one for this";
        self.session.ok_or_else(|| super::invalid(why))
    }
}

/// Looks at the newest state, or at the pinned one that a page continues, and answers.
pub(in crate::front) fn read(state: &State, pinned: &Pinned, caller: &Caller, read: &Read) -> v1::Outcome {
    let looking = Looking { state, pinned, caller };
    let reply = looking.permit(read).and_then(|()| looking.at(read));
    reply.map_or_else(failed, |reply| v1::Outcome { outcome: Some(reply) })
}

struct Looking<'a> {
    state: &'a State,
    pinned: &'a Pinned,
    caller: &'a Caller,
}

impl Looking<'_> {
    /// Refuses what the caller may not see.
    fn permit(&self, read: &Read) -> Result<(), v1::Failure> {
        let refusal = match read {
            Read::Node(path, _) | Read::Quota(path) => {
                self.state.permit_reading(&self.caller.principal, path)
            }
            Read::Check(sequencer) => self.state.permit_reading(&self.caller.principal, &sequencer.path),
            Read::OnHandle(handle, _) => return self.through(*handle, Right::Read).map(drop),
            // Who holds a lock may write, and perhaps not read.
            Read::SequencerOf(handle) => return self.through(*handle, Right::Write).map(drop),
            // Each lock is looked at by itself; sessions are no nodes.
            Read::Locks { .. } | Read::Sessions { .. } => Ok(()),
        };
        refusal.map_err(|refusal| refused(&refusal))
    }

    fn through(&self, handle: HandleId, right: Right) -> Result<&bramah_machine::Handle, v1::Failure> {
        let through = self.state.through_handle(self.caller.session()?, handle, right);
        through.map(|(handle, _)| handle).map_err(|refusal| refused(&refusal))
    }

    fn at(&self, read: &Read) -> Result<Reply, v1::Failure> {
        match read {
            Read::Node(path, look) => self.node(path, look, None),
            Read::OnHandle(handle, look) => {
                let handle = self.through(*handle, Right::Read)?;
                self.node(&handle.path, look, Some(handle.instance))
            }
            Read::SequencerOf(id) => {
                let handle = self.through(*id, Right::Write)?;
                let not_held = || Refusal::LockNotHeld { path: handle.path.clone(), handle: *id };
                let held = self.state.sequencer_of(handle).ok_or_else(|| refused(&not_held()))?;
                Ok(Reply::Sequencer(sequencer(held)))
            }
            Read::Check(sequencer) => {
                let checked = self.state.check_sequencer(sequencer);
                checked.map(|()| Reply::Done(v1::Done {})).map_err(|refusal| refused(&refusal))
            }
            Read::Locks { below, after, limit } => Ok(self.locks(below, after.as_ref(), *limit)),
            Read::Sessions { after, limit } => Ok(self.sessions(*after, *limit)),
            Read::Quota(path) => self.quota(path).map_err(|refusal| refused(&refusal)),
        }
    }

    /// `instance`: the node's, if only that will do.
    fn node(&self, path: &Path, look: &Look, instance: Option<u64>) -> Result<Reply, v1::Failure> {
        let reply = match look {
            Look::Contents => self.state.get_contents(path).map(|file| {
                Reply::Contents(v1::FileContents { contents: file.contents, stat: Some(stat(&file.stat)) })
            }),
            Look::Stat => self.state.stat(path).map(|found| Reply::Stat(stat(&found))),
            Look::Counter => self
                .state
                .get_counter(path)
                .map(|(value, revision)| Reply::Counter(v1::CounterValue { value, revision })),
            Look::Directory { after, limit, at_revision } => {
                let page = Page { path, after, limit: *limit, instance };
                return self.directory(&page, *at_revision);
            }
        };
        reply.map_err(|refusal| refused(&refusal))
    }

    /// One page, all of one revision (spec N-7).
    fn directory(&self, page: &Page<'_>, at_revision: u64) -> Result<Reply, v1::Failure> {
        if at_revision == 0 || at_revision == self.state.revision() {
            let directory = page.of(self.state)?;
            if directory.more {
                self.pinned.keep(self.state, self.caller.session);
            }
            return Ok(Reply::Directory(directory));
        }
        let state = self.pinned.at(at_revision).filter(|state| page.is_there(state));
        let state = state.ok_or_else(|| gone(page.path, at_revision))?;
        // What the caller may see now is not always what it might have seen then.
        state.permit_reading(&self.caller.principal, page.path).map_err(|refusal| refused(&refusal))?;
        page.of(&state).map(Reply::Directory)
    }

    fn locks(&self, below: &Path, after: Option<&Path>, limit: usize) -> Reply {
        let may_read = |lock: &&Lock| self.state.permit_reading(&self.caller.principal, &lock.path).is_ok();
        let mut found = self.state.locks_below(below, after).filter(may_read).peekable();
        let mut room = Room(MAX_PAGE_BYTES);
        let locks = std::iter::from_fn(|| {
            let info = found.peek().map(|lock| self.lock(lock)).filter(|info| room.takes(info))?;
            found.next();
            Some(info)
        });
        let locks = locks.take(limit).collect();
        Reply::Locks(v1::LockPage { locks, more: found.peek().is_some() })
    }

    fn lock(&self, lock: &Lock) -> v1::LockInfo {
        let holder = |(session, handle, since)| self.party(session, handle, since, lock.shared);
        let waiter = |waiter: &bramah_machine::Waiter| {
            self.party(waiter.session, waiter.handle, waiter.since_ms, waiter.shared)
        };
        v1::LockInfo {
            path: lock.path.as_str().to_owned(),
            shared: lock.shared,
            generation: self.state.node(&lock.path).map_or(0, |node| node.lock_generation),
            holders: lock.holders().take(MAX_PARTIES).map(holder).collect(),
            waiters: lock.waiters().take(MAX_PARTIES).map(waiter).collect(),
            holder_count: lock.holders().count() as u64,
            waiter_count: lock.waiters().count() as u64,
            delay_left_ms: lock.free_at_ms.saturating_sub(self.state.time_ms()),
        }
    }

    fn party(&self, session: SessionId, handle: HandleId, since_ms: u64, shared: bool) -> v1::LockParty {
        let (client, principal) = self.state.session(session).map_or_else(Default::default, names);
        let for_ms = self.state.time_ms().saturating_sub(since_ms);
        v1::LockParty { session: session.0, handle: handle.0, client, principal, for_ms, shared }
    }

    fn sessions(&self, after: SessionId, limit: usize) -> Reply {
        let mut found = self.state.sessions_after(after).peekable();
        let (mut room, mut counted) = (Room(MAX_PAGE_BYTES), 0);
        let sessions = std::iter::from_fn(|| {
            let (id, session) = found.next_if(|_| counted < MAX_HANDLES_COUNTED && room.is_left())?;
            counted += session.handles;
            let info = self.session(id, session);
            room.takes(&info);
            Some(info)
        });
        let sessions = sessions.take(limit).collect();
        Reply::Sessions(v1::SessionPage { sessions, more: found.peek().is_some() })
    }

    fn session(&self, id: SessionId, session: &Session) -> v1::SessionInfo {
        let (mut holding, mut waiting) = (0, 0);
        for (_, handle) in self.state.handles_of(id) {
            match handle.place {
                Place::Apart => {}
                Place::Waiting { .. } => waiting += 1,
                Place::Holding { .. } => holding += 1,
            }
        }
        let (client, principal) = names(session);
        v1::SessionInfo {
            session: id.0,
            client,
            principal,
            lease_ms: session.lease_ms,
            handles: session.handles,
            holding,
            waiting,
            open_for_ms: self.state.time_ms().saturating_sub(session.opened_ms),
        }
    }

    fn quota(&self, directory: &Path) -> Result<Reply, Refusal> {
        let (quota, used) = (self.state.quota(directory)?, self.state.usage(directory)?);
        Ok(Reply::Quota(v1::QuotaState {
            nodes: quota.nodes,
            bytes: quota.bytes,
            used_nodes: used.nodes,
            used_bytes: used.bytes,
        }))
    }
}

fn names(session: &Session) -> (String, String) {
    (session.client.as_ref().to_owned(), session.principal.name().to_owned())
}

/// Which entries of a directory are wanted.
struct Page<'a> {
    path: &'a Path,
    after: &'a str,
    limit: usize,
    instance: Option<u64>,
}

impl Page<'_> {
    /// A handle's node may have had this name only later, or before.
    fn is_there(&self, state: &State) -> bool {
        let node = state.node(self.path).map(|node| node.instance);
        self.instance.is_none_or(|instance| node == Some(instance))
    }

    fn of(&self, state: &State) -> Result<v1::DirectoryPage, v1::Failure> {
        let after = (!self.after.is_empty()).then_some(self.after);
        let (found, more) =
            state.read_directory(self.path, after, self.limit).map_err(|refusal| refused(&refusal))?;
        let (asked, mut room) = (found.len(), Room(MAX_PAGE_BYTES));
        let entries: Vec<_> = found.into_iter().map(entry).take_while(|entry| room.takes(entry)).collect();
        let more = more || entries.len() < asked;
        Ok(v1::DirectoryPage { entries, more, revision: state.revision() })
    }
}

fn entry(entry: DirectoryEntry) -> v1::DirectoryEntry {
    v1::DirectoryEntry { name: entry.name, stat: Some(stat(&entry.stat)) }
}

fn gone(path: &Path, revision: u64) -> v1::Failure {
    let why = format!(
        "revision {revision} of {path} is not kept here: a listing's next page is given for 30 s, by the replica that \
         gave the one before; begin the listing again"
    );
    failure(Code::RevisionGone, why)
}

/// How many bytes a page may still take.
struct Room(usize);

impl Room {
    /// Whether there was any left for this. What comes first is taken in any case: one thing is never too large.
    fn takes(&mut self, message: &impl Message) -> bool {
        let fits = self.is_left();
        self.0 = self.0.saturating_sub(message.encoded_len() + 4);
        fits
    }

    fn is_left(&self) -> bool {
        self.0 > 0
    }
}
