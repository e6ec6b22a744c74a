//! What is always true of a state, whatever was applied: checked in tests, in debug builds, and of every
//! snapshot that is read.

use std::collections::BTreeMap;

use crate::handle::{Handle, HandleId, MAX_HANDLES, MAX_HANDLES_PER_SESSION, Place};
use crate::keys::{Keys, MAX_KEY_BYTES};
use crate::planted::{self, Bug};
use crate::quota::{MAX_QUOTAS, Quotas};
use crate::session::{MAX_KEPT_ANSWERS, MAX_KEPT_PER_SESSION, MAX_NUMBERS_AHEAD, MAX_SESSIONS, Session};
use crate::tree::{Kind, Node};
use crate::{Change, Event, MAX_CONTENTS_BYTES, MAX_TXN_PARTS, NodeKind, Path, SessionId, State};

/// No count gets near this in the life of a cell, so counting up can't overflow.
const MAX_COUNT: u64 = u64::MAX / 2;

/// In debug builds a whole state up to this size is checked after each batch,
const SMALL_STATE: usize = 64;
/// and a larger one each time the revision passes a multiple of this.
const REVISIONS_BETWEEN_FULL_CHECKS: u64 = 4096;

type Check = Result<(), String>;

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(broken()) }
}

impl State {
    /// Checks every invariant over the whole state and says which is broken, and where. Looks at all nodes,
    /// sessions, answers and keys.
    pub fn check_invariants(&self) -> Check {
        self.counts_are_sane()?;
        self.root_is_a_directory()?;
        self.nodes_are_sane()?;
        self.every_child_is_counted()?;
        self.answers_belong_to_sessions()?;
        self.handles_belong_to_sessions()?;
        self.locks_belong_to_nodes()?;
        self.quotas_are_counted()?;
        keys_expire_in_order("idempotency key", &self.keys)?;
        keys_expire_in_order("session nonce", &self.nonces)
    }

    /// Checks the nodes that a batch changed, and at times all; a broken invariant ends the process, because
    /// a state that is wrong must not be answered from.
    pub(crate) fn assert_invariants_after(&self, events: &[Event]) {
        let keys = self.key_count() + self.session_nonce_count();
        let size = self.node_count() + self.session_count() + self.kept_answer_count() + keys;
        let first = events.first().map_or(self.revision(), |event| event.revision - 1);
        let passed = first / REVISIONS_BETWEEN_FULL_CHECKS != self.revision() / REVISIONS_BETWEEN_FULL_CHECKS;
        let checked = if size <= SMALL_STATE || passed {
            self.check_invariants()
        } else {
            self.events_tell_the_truth(events)
        };
        if let Err(broken) = checked {
            panic!("the state of the cell is broken: {broken}");
        }
    }

    fn counts_are_sane(&self) -> Check {
        for (name, count) in [
            ("revision", self.tree.revisions.newest),
            ("instance", self.tree.instances),
            ("session", self.sessions.opened),
            ("handle", self.handles.opened),
            ("place", self.locks.tickets),
        ] {
            ensure(count <= MAX_COUNT, || format!("the {name} count {count} is too large to be true"))?;
        }
        Ok(())
    }

    fn root_is_a_directory(&self) -> Check {
        let kind = self.node(&Path::root()).map(|node| node.kind.tag());
        ensure(kind == Some(NodeKind::Directory), || format!("the root is {kind:?} and not a directory"))
    }

    fn nodes_are_sane(&self) -> Check {
        let guarded = self.nodes().filter(|(_, node)| node.is_guarded()).count() as u64;
        ensure(guarded == self.tree.guarded, || {
            format!("{guarded} nodes have ACL names, and that is not counted")
        })?;
        self.nodes().try_for_each(|(path, node)| self.node_is_sane(path, node))
    }

    fn node_is_sane(&self, path: &Path, node: &Node) -> Check {
        let broken = |what: &str| format!("{path}: {what}");
        ensure((1..=self.tree.instances).contains(&node.instance), || broken("instance was never given"))?;
        ensure((1..=MAX_COUNT).contains(&node.content_generation), || {
            broken("content generation out of range")
        })?;
        ensure(node.lock_generation.max(node.acl_generation) <= MAX_COUNT, || {
            broken("generation out of range")
        })?;
        ensure(node.created_revision <= node.modified_revision, || broken("changed before it was made"))?;
        ensure(node.modified_revision <= self.tree.revisions.newest, || broken("changed in the future"))?;
        match &node.kind {
            Kind::File(file) => {
                ensure(file.contents().len() <= MAX_CONTENTS_BYTES, || broken("contents too long"))
            }
            _ => Ok(()),
        }
    }

    /// The tree is strict: the paths are in order, so a directory's children stand together and one walk
    /// with a look-up a directory finds them all.
    fn every_child_is_counted(&self) -> Check {
        let mut counted = 0;
        let mut children = self.tree.nodes.keys().filter(|path| !path.is_root()).peekable();
        while let Some(first) = children.next() {
            let Some(directory) = first.parent() else { continue };
            let mut found = 1;
            while children.next_if(|path| path.is_child_of(&directory)).is_some() {
                found += 1;
            }
            let holds = self.node(&directory).map(|node| &node.kind);
            ensure(matches!(holds, Some(Kind::Directory { children }) if *children == found), || {
                format!("{directory} should be a directory of {found}, as {first} shows")
            })?;
            counted += found;
        }
        let claimed: u64 = self.nodes().map(|(_, node)| claimed_children(node)).fold(0, u64::saturating_add);
        ensure(claimed == counted, || {
            format!("directories count {claimed} children, and there are {counted}")
        })
    }

    fn answers_belong_to_sessions(&self) -> Check {
        let sessions = &self.sessions;
        ensure(sessions.sessions.len() <= MAX_SESSIONS, || "too many sessions".to_owned())?;
        let parts = sessions.answers.values().map(crate::session::parts).sum::<usize>();
        ensure(parts == sessions.parts, || {
            format!("the kept answers have {parts} parts, and {} are counted", sessions.parts)
        })?;
        ensure(parts < MAX_KEPT_ANSWERS + MAX_TXN_PARTS, || "too many kept answers".to_owned())?;
        let mut kept = 0;
        for (&id, session) in &sessions.sessions {
            self.session_is_sane(id, session)?;
            kept += session.kept as usize;
        }
        ensure(kept == sessions.answers.len(), || {
            format!("sessions count {kept} answers, and there are {}", sessions.answers.len())
        })
    }

    fn session_is_sane(&self, id: SessionId, session: &Session) -> Check {
        let broken = |what: &str| format!("session {id}: {what}");
        ensure((1..=self.sessions.opened).contains(&id.0), || broken("was never opened"))?;
        ensure(session.kept <= MAX_KEPT_PER_SESSION, || broken("keeps too many answers"))?;
        let mut found = 0;
        for ((_, number), _) in self.sessions.answers.range((id, 0)..=(id, u64::MAX)) {
            found += 1;
            ensure(*number > session.confirmed, || broken("keeps a confirmed answer"))?;
            ensure(*number - session.confirmed <= MAX_NUMBERS_AHEAD, || {
                broken("keeps an answer too far ahead")
            })?;
            ensure(*number <= session.highest, || broken("keeps an answer that a retry would not find"))?;
        }
        ensure(found == session.kept, || broken("counts its answers wrongly"))
    }

    /// Handles are counted by their sessions, and an ephemeral node by its handles: without one it would be gone.
    fn handles_belong_to_sessions(&self) -> Check {
        ensure(self.handle_count() <= MAX_HANDLES, || "too many handles".to_owned())?;
        let mut open: BTreeMap<u64, u64> = BTreeMap::new();
        let mut placed = 0;
        for (&(session, id), handle) in &self.handles.table {
            let broken = |what: &str| format!("handle {id} of session {session}: {what}");
            ensure((1..=self.handles.opened).contains(&id.0), || broken("was never opened"))?;
            ensure(self.session(session).is_some(), || broken("there is no such session"))?;
            *open.entry(handle.instance).or_default() += 1;
            placed += usize::from(handle.place != Place::Apart);
            self.place_is_kept(session, id, handle).map_err(|what| broken(&what))?;
        }
        let at_locks: usize = self.locks().map(|lock| lock.holders.len() + lock.waiters.len()).sum();
        ensure(placed == at_locks, || {
            format!("{placed} handles hold or wait, and locks know of {at_locks}")
        })?;
        for (id, session) in self.sessions() {
            let handles = self.handles.of(id).count() as u64;
            ensure(handles == session.handles && handles <= MAX_HANDLES_PER_SESSION, || {
                format!("session {id} counts {} handles and has {handles}", session.handles)
            })?;
        }
        for (path, node) in self.nodes() {
            let Some(count) = node.ephemeral else { continue };
            let found = open.get(&node.instance).copied().unwrap_or(0);
            ensure(count == found, || format!("{path} is open {count} times and has {found} handles"))?;
            let stays = planted::is(Bug::EphemeralStays);
            let kept = claimed_children(node) > 0 || self.is_delayed(node.instance);
            ensure(count > 0 || kept || stays, || format!("{path} is ephemeral and nobody has it open"))?;
        }
        Ok(())
    }

    /// The lock knows the handle where the handle says it stands.
    fn place_is_kept(&self, session: SessionId, id: HandleId, handle: &Handle) -> Check {
        let lock = self.locks.table.get(&handle.instance);
        let kept = match handle.place {
            Place::Apart => lock.is_none_or(|lock| !lock.holders.contains_key(&(session, id))),
            Place::Waiting { ticket } => lock
                .and_then(|lock| lock.waiters.get(&ticket))
                .is_some_and(|waiter| (waiter.session, waiter.handle) == (session, id)),
            Place::Holding { generation } => {
                let current = self.node(&handle.path).map(|node| node.lock_generation);
                lock.is_some_and(|lock| lock.holders.contains_key(&(session, id)))
                    && current == Some(generation)
            }
        };
        ensure(kept, || "its place is another one at the lock".to_owned())
    }

    /// Mutual exclusion, and nobody waits for what they could have.
    fn locks_belong_to_nodes(&self) -> Check {
        let mut delays = 0;
        for (instance, lock) in &self.locks.table {
            let broken = |what: &str| format!("lock {}: {what}", lock.path);
            let node = self.node(&lock.path).map(|node| node.instance);
            ensure(node == Some(*instance), || broken("its node is gone"))?;
            let alone = lock.holders.len() <= 1 || planted::is(Bug::ExclusiveBesideShared);
            ensure(lock.shared || alone, || broken("more than one holds it alone"))?;
            delays += usize::from(lock.free_at_ms != 0);
            ensure(
                lock.free_at_ms == 0 || self.locks.delays.contains(&(lock.free_at_ms, *instance)),
                || broken("its lock-delay never ends"),
            )?;
            let first = lock.waiters.get_min().map(|(_, waiter)| waiter);
            ensure(first.is_none_or(|first| !lock.takes(first.shared)), || {
                broken("the first could have it")
            })?;
            ensure(!lock.is_idle(), || broken("nobody has to do with it"))?;
            let waiters = lock.waiters.values().map(|waiter| (waiter.session, waiter.handle));
            let mut all = lock.holders.keys().copied().chain(waiters);
            ensure(all.all(|who| self.handles.table.contains_key(&who)), || broken("a handle is gone"))?;
            ensure(lock.waiters.get_max().is_none_or(|(last, _)| *last <= self.locks.tickets), || {
                broken("a place was never given")
            })?;
        }
        let locks = self.locks.table.len();
        ensure(locks == self.locks.named(), || format!("of {locks} locks not all are found by name"))?;
        ensure(delays == self.locks.delays.len(), || "a lock-delay runs for no lock".to_owned())
    }

    fn quotas_are_counted(&self) -> Check {
        let quotas = &self.tree.quotas.table;
        ensure(quotas.len() <= MAX_QUOTAS, || "too many quotas".to_owned())?;
        let limits = quotas.iter().map(|(directory, (quota, _))| (directory.clone(), *quota));
        let counted = Quotas::over(limits, self.nodes());
        quotas.iter().zip(&counted.table).try_for_each(|((directory, (_, usage)), (_, (_, found)))| {
            let there = self.tree.directory_node(directory).is_ok();
            ensure(there, || format!("{directory} has a quota and is no directory"))?;
            ensure(found == usage, || format!("{directory} counts {usage:?} and holds {found:?}"))
        })
    }

    /// The cheap check after a batch: each node is as the last event of it says, and its parent holds it. What the
    /// events before say may be over, even within one command, if that is a transaction.
    fn events_tell_the_truth(&self, events: &[Event]) -> Check {
        let of_nodes = events.iter().filter(|event| event.change.is_of_the_node());
        let last: BTreeMap<&Path, &Event> = of_nodes.map(|event| (&event.path, event)).collect();
        last.into_values().try_for_each(|event| self.event_tells_the_truth(event))
    }

    fn event_tells_the_truth(&self, event: &Event) -> Check {
        let path = &event.path;
        let found = self.node(path);
        let Some(node) = found.filter(|_| event.change != Change::Deleted) else {
            let gone = found.is_none() && event.change == Change::Deleted;
            return ensure(gone, || format!("{path} should be as {:?} says", event.change));
        };
        self.node_is_sane(path, node)?;
        ensure(node.modified_revision == event.revision, || format!("{path} is not as its event says"))?;
        let parent = path.parent().and_then(|parent| self.node(&parent).map(claimed_children));
        ensure(path.is_root() || parent.is_some_and(|children| children > 0), || {
            format!("{path} is in no directory")
        })
    }
}

fn keys_expire_in_order(what: &str, keys: &Keys) -> Check {
    ensure(keys.kept.len() <= keys.most, || format!("too many of {what}"))?;
    ensure(keys.kept.len() == keys.by_expiry.len(), || format!("a {what} is not in the order of expiry"))?;
    for (key, kept) in &keys.kept {
        let broken = |why: &str| format!("{what} {key:02x?}: {why}");
        ensure((1..=MAX_KEY_BYTES).contains(&key.len()), || broken("has a length that is never admitted"))?;
        ensure(keys.by_expiry.contains(&(kept.expires_ms, key.clone())), || broken("never expires"))?;
    }
    Ok(())
}

fn claimed_children(node: &Node) -> u64 {
    match node.kind {
        Kind::Directory { children } => children,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::testing::*;

    fn cell() -> Cell {
        let mut cell = Cell::with(&["/a", "/a/b"]);
        let session = cell.open_session();
        cell.apply(numbered(session, 5, 3), set("/a/f", "x")).unwrap();
        cell.apply(key("k"), increment("/n", 1)).unwrap();
        cell.apply(key("k"), open_session(12_000)).unwrap();
        cell
    }

    fn damage(node: &str, change: impl FnOnce(&mut Node)) -> State {
        let mut state = cell().state;
        change(Arc::make_mut(state.tree.nodes.get_mut(&path(node)).unwrap()));
        state
    }

    /// Each invariant sees the damage it is there for.
    #[test]
    fn every_invariant_can_be_broken() {
        let mut damaged = vec![
            damage("/a", |node| node.kind = Kind::Directory { children: 1 }),
            damage("/a", |node| node.kind = Kind::Counter(0)),
            damage("/a/b", |node| node.kind = Kind::Directory { children: 1 }),
            damage("/", |node| node.kind = Kind::Counter(0)),
            damage("/a/f", |node| node.instance = 99),
            damage("/a/f", |node| node.content_generation = 0),
            damage("/a/f", |node| node.lock_generation = u64::MAX),
            damage("/a/f", |node| node.modified_revision = 1),
            damage("/a/f", |node| node.modified_revision = 99),
            damage("/a/f", |node| {
                node.kind = Kind::File(Bytes::from(vec![0; MAX_CONTENTS_BYTES + 1]).into())
            }),
        ];
        let mut damage_with = |change: fn(&mut State)| {
            let mut state = cell().state;
            change(&mut state);
            damaged.push(state);
        };
        damage_with(|state| drop(state.tree.nodes.remove(&path("/a"))));
        damage_with(|state| drop(state.tree.nodes.remove(&Path::root())));
        damage_with(|state| state.tree.revisions = crate::tree::Revisions::at(u64::MAX));
        damage_with(|state| state.sessions.opened = 0);
        damage_with(|state| drop(state.sessions.sessions.remove(&SessionId(1))));
        damage_with(|state| drop(state.sessions.answers.remove(&(SessionId(1), 5))));
        damage_with(|state| state.sessions.sessions.get_mut(&SessionId(1)).unwrap().confirmed = 5);
        damage_with(|state| state.sessions.sessions.get_mut(&SessionId(1)).unwrap().highest = 4);
        damage_with(|state| state.keys.by_expiry.clear());
        damage_with(|state| state.nonces.by_expiry.clear());
        damage_with(|state| state.nonces.most = 0);
        for (index, state) in damaged.iter().enumerate() {
            assert!(state.check_invariants().is_err(), "damage {index} was not seen");
        }
        assert_eq!(cell().state.check_invariants(), Ok(()));
    }

    /// The cheap check after a batch sees a change that its event does not tell.
    #[test]
    fn events_are_held_to_the_state() {
        let cell = cell();
        let told = |text, change| Event { revision: cell.state.revision(), path: path(text), change };
        assert_eq!(cell.state.events_tell_the_truth(&cell.events), Ok(()));
        for lie in [
            told("/n", Change::Deleted),
            told("/gone", Change::CounterChanged { value: 1 }),
            told("/a/f", Change::ContentsModified { generation: 2 }),
        ] {
            assert!(cell.state.events_tell_the_truth(&[lie]).is_err());
        }
    }

    /// In a state that is too large to be checked whole, what a transaction does and undoes, or does to the root, is
    /// no lie.
    #[test]
    fn a_large_state_takes_every_legal_history() {
        use crate::{Batch, Command, Delete, Identity, Request, SetAcl, SetContents, Txn, TxnOperation};
        let mut cell = cell();
        for number in 0..2 * SMALL_STATE {
            cell.run(increment(&format!("/a/{number}"), 1)).unwrap();
        }
        let write = |text| {
            let contents = bytes::Bytes::from_static(b"x");
            TxnOperation::SetContents(SetContents {
                path: path(text),
                contents,
                if_generation: None,
                parents: false,
            })
        };
        let remove = |text| TxnOperation::Delete(Delete { path: path(text), if_generation: None });
        let txn = |then| Command::Txn(Txn { guards: Vec::new(), then, otherwise: Vec::new() });
        let names = crate::AclNames::default();
        for command in [
            txn(vec![remove("/a/f"), write("/a/f")]),
            txn(vec![write("/t"), remove("/t")]),
            txn(vec![
                remove("/a/f"),
                write("/a/f"),
                remove("/a/f"),
                write("/a/b/f"),
                remove("/a/b/f"),
                remove("/a/b"),
            ]),
            Command::SetAcl(SetAcl { path: Path::root(), names, if_generation: None }),
        ] {
            let request = Request { identity: Identity::Anonymous, command };
            let batch = Batch { time_ms: 0, requests: vec![request] };
            let outcomes = cell.state.apply_decoded(batch, 1, &mut cell.events);
            assert!(outcomes[0].is_ok(), "{outcomes:?}");
            cell.state.check_invariants().unwrap();
        }
    }
}
