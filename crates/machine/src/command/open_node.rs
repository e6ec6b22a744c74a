//! `OpenNode` and `CloseHandles`: a session's handles on nodes (spec H-1, H-2, H-4; Chubby §2.2).

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::acl::{AclNames, Right};
use crate::handle::{Handle, HandleId, MAX_HANDLES, MAX_HANDLES_PER_SESSION, MAX_LOCK_DELAY_MS, Mode, Place};
use crate::tree::{Birth, Kind};
use crate::{Answer, Event, MAX_CONTENTS_BYTES, NodeKind, Outcome, Path, Refusal, SessionId, State};

/// Opens a handle on a node, and makes the node if that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenNode {
    /// The node.
    pub path: Path,
    /// What the handle will be used for: at least one thing.
    pub mode: Mode,
    /// What to make if there is no such node; `None` demands that it is there.
    pub create: Option<Creation>,
    /// For how long nobody gets a lock that the handle holds when its session dies, in milliseconds, at most
    /// [`MAX_LOCK_DELAY_MS`] (spec L-5).
    pub lock_delay_ms: u32,
}

/// What node to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    /// Refuse if the node is there already.
    pub must: bool,
    /// Of this kind; a counter begins at 0.
    pub kind: NodeKind,
    /// Whether it goes when no handle has it open, a directory once it is empty, too (spec N-4).
    pub ephemeral: bool,
    /// The first contents of a file; empty for other kinds.
    pub contents: Bytes,
    /// Its ACL names; `None` for the parent's.
    pub acl: Option<AclNames>,
    /// Make the ancestors that are missing, as permanent directories, in the same step.
    pub parents: bool,
}

/// Closes handles. Those that are closed already, or never were, make no difference (spec H-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseHandles {
    /// The handles, of the session that sends this.
    pub handles: Vec<HandleId>,
}

/// Closes a handle whose opener is no longer allowed what it was opened for (spec A-3). Only the leader sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeHandle {
    /// Whose it is.
    pub session: SessionId,
    /// The handle.
    pub handle: HandleId,
}

impl OpenNode {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        self.check()?;
        state.room_for_a_handle(session)?;
        let created = match state.node(&self.path) {
            Some(node) => {
                let is = node.kind.tag();
                self.take_as_it_is(is)?;
                false
            }
            None => true,
        };
        let principal = state.principal_of(session)?;
        if created {
            self.create(state, session, events)?;
        } else {
            for right in self.mode.rights() {
                state.permit(&principal, &self.path, right)?;
            }
        }
        Ok(self.open(state, session, created))
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.mode.rights().next().is_none() {
            return Err(Refusal::invalid("a handle is opened for something: to read, to write or lock, or to change the ACL"));
        }
        if self.lock_delay_ms > MAX_LOCK_DELAY_MS {
            let why = format!("a lock-delay lasts at most {MAX_LOCK_DELAY_MS} ms, not {}", self.lock_delay_ms);
            return Err(Refusal::invalid(why));
        }
        let Some(creation) = &self.create else { return Ok(()) };
        if creation.contents.len() > MAX_CONTENTS_BYTES {
            let bytes = creation.contents.len() as u64;
            return Err(Refusal::TooLarge { path: self.path.clone(), bytes, limit: MAX_CONTENTS_BYTES as u64 });
        }
        if creation.kind != NodeKind::File && !creation.contents.is_empty() {
            return Err(Refusal::invalid(format!("a {} has no contents; leave them empty", creation.kind)));
        }
        creation.acl.as_ref().map_or(Ok(()), AclNames::check)
    }

    fn take_as_it_is(&self, is: NodeKind) -> Result<(), Refusal> {
        let Some(creation) = &self.create else { return Ok(()) };
        if creation.must {
            return Err(Refusal::AlreadyExists { path: self.path.clone() });
        }
        if creation.kind != is {
            return Err(Refusal::WrongKind { path: self.path.clone(), is, wanted: creation.kind });
        }
        Ok(())
    }

    fn create(&self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Result<(), Refusal> {
        let Some(creation) = &self.create else {
            return Err(Refusal::NotFound { path: self.path.clone() });
        };
        let principal = state.principal_of(session)?;
        let (parent, _) = state.tree.ancestors(&self.path, creation.parents)?;
        state.permit(&principal, &parent, Right::Write)?;
        let kind = match creation.kind {
            NodeKind::Directory => Kind::Directory { children: 0 },
            NodeKind::File => Kind::File(creation.contents.clone().into()),
            NodeKind::Counter => Kind::Counter(0),
        };
        let acl = creation.acl.clone().map(Arc::new);
        let birth = Birth { ephemeral: creation.ephemeral, acl };
        state.tree.create(self.path.clone(), kind, creation.parents, birth, events)?;
        Ok(())
    }

    fn open(self, state: &mut State, session: SessionId, created: bool) -> Answer {
        state.handles.opened += 1;
        let id = HandleId(state.handles.opened);
        let opened_ms = state.time_ms;
        let mut instance = 0;
        if let Some(node) = state.tree.node_mut(&self.path) {
            instance = node.instance;
            node.ephemeral = node.ephemeral.map(|open| open + 1);
        }
        let handle = Handle {
            path: self.path,
            instance,
            mode: self.mode,
            lock_delay_ms: self.lock_delay_ms,
            sequencer: None,
            place: Place::Apart,
            opened_ms,
        };
        state.handles.table.insert((session, id), Arc::new(handle));
        state.sessions.count_handles(session, 1);
        Answer::NodeOpened { handle: id, instance, created }
    }
}

impl CloseHandles {
    pub(crate) fn apply(self, state: &mut State, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        for handle in self.handles {
            state.close_handle((session, handle), crate::lock::Leaving::InOrder, events);
        }
        Ok(Answer::Done)
    }
}

impl RevokeHandle {
    pub(crate) fn apply(self, state: &mut State, events: &mut Vec<Event>) -> Outcome {
        let handle = state.handles.find(self.session, self.handle)?;
        let principal = state.principal_of(self.session)?;
        let allowed = state.node(&handle.path).is_none_or(|node| {
            node.instance != handle.instance
                || handle.mode.rights().all(|right| state.may(&principal, &node.acl, right))
        });
        if !allowed {
            state.close_handle((self.session, self.handle), crate::lock::Leaving::InOrder, events);
        }
        Ok(Answer::Done)
    }
}

impl State {
    fn room_for_a_handle(&self, session: SessionId) -> Result<(), Refusal> {
        let mine = self.session(session).ok_or(Refusal::SessionExpired { session })?.handles;
        if mine >= MAX_HANDLES_PER_SESSION {
            return Err(Refusal::TooManyHandles { handles: mine, whose: Some(session) });
        }
        if self.handle_count() >= MAX_HANDLES {
            return Err(Refusal::TooManyHandles { handles: MAX_HANDLES as u64, whose: None });
        }
        Ok(())
    }

    /// Closes a handle: what it held goes to the next, and an ephemeral node goes with the last handle on it.
    pub(crate) fn close_handle(
        &mut self,
        who: crate::lock::Who,
        leaving: crate::lock::Leaving,
        events: &mut Vec<Event>,
    ) {
        let Some(handle) = self.handles.table.get(&who).map(Arc::clone) else { return };
        self.leave_lock(who, &handle, leaving, events);
        self.handles.table.remove(&who);
        self.sessions.count_handles(who.0, -1);
        let node = self.tree.nodes.get(&handle.path).filter(|node| node.instance == handle.instance);
        if node.is_none_or(|node| node.ephemeral.is_none()) {
            return;
        }
        if let Some(node) = self.tree.node_mut(&handle.path) {
            node.ephemeral = node.ephemeral.map(|open| open.saturating_sub(1));
        }
        self.reap(handle.path.clone(), events);
    }

    /// Removes an ephemeral node that nobody has open, unless it is a directory with children; then the same for
    /// the directory that it was in (spec N-4).
    pub(crate) fn reap(&mut self, path: Path, events: &mut Vec<Event>) {
        let mut path = Some(path);
        while let Some(reaped) = path.take() {
            let Some(node) = self.node(&reaped) else { return };
            let empty = !matches!(node.kind, Kind::Directory { children } if children > 0);
            if node.ephemeral == Some(0) && empty && !reaped.is_root() {
                path = reaped.parent();
                self.remove_node(reaped, events);
            }
        }
    }

    /// Removes a node and the lock that it was; answers the revision. Its parent is not looked at.
    pub(crate) fn remove_node(&mut self, path: Path, events: &mut Vec<Event>) -> u64 {
        if let Some(instance) = self.node(&path).map(|node| node.instance) {
            self.lose_lock(instance, events);
        }
        self.tree.remove(path, events)
    }
}
