//! `OpenNode` and `CloseHandles`: a session's handles on nodes (spec H-1, H-2, H-4; Chubby §2.2).

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::acl::{AclNames, Principal, Right, Verdicts, not_permitted};
use crate::handle::{Handle, HandleId, MAX_HANDLES, MAX_HANDLES_PER_SESSION, MAX_LOCK_DELAY_MS, Mode, Place};
use crate::planted::{self, Bug};
use crate::tree::{Birth, Kind};
use crate::{Answer, Change, Event, MAX_CONTENTS_BYTES, NodeKind, Outcome, Path, Refusal, SessionId, State};

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
    /// A handle of the same session on a directory above the node: refused if that can't be used any more.
    pub within: Option<HandleId>,
}

/// What node to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    /// Refuse if the node is there already.
    pub must: bool,
    /// Of this kind; a counter begins at 0.
    pub kind: NodeKind,
    /// Whether it goes when no handle has it open, a directory once it is empty, too (spec N-4); while its lock-delay
    /// runs it stays (spec L-5).
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

/// Closes a handle whose opener is no longer allowed what it was opened for (spec A-3). Only the leader sends it. If
/// the handle holds its lock, the lock-delay begins: the opener may be at work still (spec L-5).
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
        self.check_within(state, session)?;
        state.room_for_a_handle(session)?;
        let principal = state.principal_of(session)?;
        let found = state.node(&self.path).map(|node| node.kind.tag());
        match found {
            Some(is) => self.take_as_it_is(is, state, &principal)?,
            None => self.create(state, &principal, events)?,
        }
        Ok(self.open(state, session, found.is_none()))
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.mode.rights().next().is_none() {
            return Err(Refusal::invalid(
                "a handle is opened for something: to read, to write or lock, or to change the ACL",
            ));
        }
        if self.lock_delay_ms > MAX_LOCK_DELAY_MS {
            let why =
                format!("a lock-delay lasts at most {MAX_LOCK_DELAY_MS} ms, not {}", self.lock_delay_ms);
            return Err(Refusal::invalid(why));
        }
        let Some(creation) = &self.create else { return Ok(()) };
        if creation.contents.len() > MAX_CONTENTS_BYTES {
            let bytes = creation.contents.len() as u64;
            return Err(Refusal::TooLarge {
                path: self.path.clone(),
                bytes,
                limit: MAX_CONTENTS_BYTES as u64,
            });
        }
        if creation.kind != NodeKind::File && !creation.contents.is_empty() {
            return Err(Refusal::invalid(format!("a {} has no contents; leave them empty", creation.kind)));
        }
        creation.acl.as_ref().map_or(Ok(()), AclNames::check)
    }

    /// The name was put together from that of the handle's node: it must still be that node's.
    fn check_within(&self, state: &State, session: SessionId) -> Result<(), Refusal> {
        let Some(within) = self.within else { return Ok(()) };
        let (directory, _) = state.usable_handle(session, within)?;
        if self.path.is_below(&directory.path) {
            return Ok(());
        }
        let why = format!("{} is not below {}, which handle {within} is on", self.path, directory.path);
        Err(Refusal::invalid(why))
    }

    /// What is there is told only to who may use it.
    fn take_as_it_is(&self, is: NodeKind, state: &State, principal: &Principal) -> Result<(), Refusal> {
        self.mode.rights().try_for_each(|right| state.permit(principal, &self.path, right))?;
        let Some(creation) = &self.create else { return Ok(()) };
        if creation.must {
            return Err(Refusal::AlreadyExists { path: self.path.clone() });
        }
        if creation.kind != is {
            return Err(Refusal::WrongKind { path: self.path.clone(), is, wanted: creation.kind });
        }
        Ok(())
    }

    fn create(
        &self,
        state: &mut State,
        principal: &Principal,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let Some(creation) = &self.create else {
            // Who may not read the directory does not learn which names are in it, nor which are not.
            state.permit_reading(principal, &self.path)?;
            return Err(Refusal::NotFound { path: self.path.clone() });
        };
        state.permit_nearest(principal, &self.path, Right::Write)?;
        let (parent, _) = state.tree.ancestors(&self.path, creation.parents)?;
        self.permit_born(state, principal, &parent)?;
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

    /// The handle must be allowed by the ACLs that the node will have.
    fn permit_born(&self, state: &State, principal: &Principal, parent: &Path) -> Result<(), Refusal> {
        let given = self.create.as_ref().and_then(|creation| creation.acl.as_ref());
        let inherited = || state.node(parent).map(|parent| &*parent.acl);
        let Some(acl) = given.or_else(inherited) else { return Ok(()) };
        let refused = self.mode.rights().find(|right| !state.may(principal, acl, *right));
        refused.map_or(Ok(()), |right| Err(not_permitted(principal, &self.path, acl, right)))
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
        let (session, handle) = (self.session, self.handle);
        let found = Arc::clone(state.handles.find(session, handle)?);
        if !state.allows(&mut Verdicts::of(state), session, &found) {
            state.close_handle((session, handle), crate::lock::Leaving::Taken, events);
            let revision = state.tree.revisions.stamp();
            let change = Change::HandleClosed { session, handle };
            events.push(Event { revision, path: found.path.clone(), change });
        }
        Ok(Answer::Done)
    }
}

impl State {
    /// Whether a handle is still allowed what it was opened for. One whose node is gone is of no use anyway.
    fn allows(&self, verdicts: &mut Verdicts<'_>, session: SessionId, handle: &Handle) -> bool {
        let Some(session) = self.session(session) else { return true };
        let node = self.node(&handle.path).filter(|node| node.instance == handle.instance);
        node.is_none_or(|node| {
            handle.mode.rights().all(|right| verdicts.may(&session.principal, &node.acl, right))
        })
    }

    /// The handles for which the leader sends [`RevokeHandle`], because of an ACL that changed since they were
    /// opened ([`Event::changes_acls`]), or before a leader that changed could send it (spec A-3). Looks at all
    /// handles after `after`, if any node has ACL names at all: ask a view, and not the applying thread.
    pub fn handles_not_allowed(
        &self,
        after: Option<(SessionId, HandleId)>,
    ) -> impl Iterator<Item = (SessionId, HandleId)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let handles = self.uses_acls().then(|| self.handles.table.range((start, Bound::Unbounded)));
        let handles = handles.into_iter().flatten();
        let mut verdicts = Verdicts::of(self);
        handles
            .filter(move |((session, _), handle)| !self.allows(&mut verdicts, *session, handle))
            .map(|(who, _)| *who)
    }

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
        if leaving == crate::lock::Leaving::Taken && planted::is(Bug::EphemeralStays) {
            return;
        }
        self.reap(handle.path.clone(), events);
    }

    /// Removes an ephemeral node that nobody has open, unless it is a directory with children or its lock-delay
    /// runs; then the same for the directory that it was in (spec N-4, L-5).
    pub(crate) fn reap(&mut self, path: Path, events: &mut Vec<Event>) {
        let mut path = Some(path);
        while let Some(reaped) = path.take() {
            let Some(node) = self.node(&reaped) else { return };
            let empty = !matches!(node.kind, Kind::Directory { children } if children > 0);
            let done_with = empty && !self.is_delayed(node.instance);
            if node.ephemeral == Some(0) && done_with && !reaped.is_root() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Command, EndSession, Identity, SetContents, Verb};

    fn close(handles: Vec<HandleId>) -> Command {
        Command::CloseHandles(CloseHandles { handles })
    }

    /// Spec H-1: opening says whether it made the node, and makes it as asked.
    #[test]
    fn opens_and_makes() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let missing = cell.by(session, open_node("/a/f", None));
        assert_eq!(missing, Err(Refusal::NotFound { path: path("/a/f") }));
        let creation = Creation { contents: "first".into(), parents: true, ..file() };
        let made = cell.by(session, open_node("/a/f", Some(creation.clone())));
        assert_eq!(made, Ok(Answer::NodeOpened { handle: HandleId(1), instance: 3, created: true }));
        assert_eq!(cell.state.get_contents(&path("/a/f")).unwrap().contents, "first");
        let again = cell.by(session, open_node("/a/f", Some(creation.clone())));
        assert_eq!(again, Ok(Answer::NodeOpened { handle: HandleId(2), instance: 3, created: false }));
        let must = Creation { must: true, ..creation };
        let refusal = Refusal::AlreadyExists { path: path("/a/f") };
        assert_eq!(cell.by(session, open_node("/a/f", Some(must))), Err(refusal));
        let counter = Creation { kind: NodeKind::Counter, ..file() };
        let refusal =
            Refusal::WrongKind { path: path("/a/f"), is: NodeKind::File, wanted: NodeKind::Counter };
        assert_eq!(cell.by(session, open_node("/a/f", Some(counter.clone()))), Err(refusal));
        opened(cell.by(session, open_node("/n", Some(counter))));
        assert_eq!(cell.value("/n"), 0);
        opened(cell.by(session, open_node("/", None)));
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let mut cell = Cell::new();
        let session = cell.open_session();
        let nothing =
            OpenNode { path: path("/"), mode: Mode::default(), create: None, lock_delay_ms: 0, within: None };
        let directory = Creation { kind: NodeKind::Directory, contents: "x".into(), ..file() };
        let acl = AclNames { read: "a/b".into(), ..AclNames::default() };
        for command in [
            Command::OpenNode(nothing),
            open_node("/d", Some(directory)),
            open_node("/f", Some(Creation { acl: Some(acl), ..file() })),
        ] {
            let refusal = cell.by(session, command).unwrap_err();
            assert!(matches!(refusal, Refusal::InvalidArgument { .. }), "{refusal}");
        }
        let long = Creation { contents: vec![0; MAX_CONTENTS_BYTES + 1].into(), ..file() };
        assert!(matches!(cell.by(session, open_node("/f", Some(long))), Err(Refusal::TooLarge { .. })));
        assert!(
            matches!(cell.run(open_node("/", None)), Err(Refusal::InvalidArgument { .. })),
            "without a session"
        );
        assert_eq!(cell.state.handle_count(), 0);
    }

    /// Spec N-4: an ephemeral file goes with the last handle on it, an ephemeral directory once it is empty, too.
    #[test]
    fn ephemeral_nodes_go() {
        let mut cell = Cell::new();
        let (a, b) = (cell.open_session(), cell.open_session());
        let (ha, hb) = (cell.open_ephemeral(a, "/f"), cell.open_ephemeral(b, "/f"));
        assert!(cell.state.stat(&path("/f")).unwrap().ephemeral);
        cell.close(a, ha).unwrap();
        assert!(cell.state.node(&path("/f")).is_some(), "b has it open");
        cell.run(set("/f", "written")).unwrap();
        cell.told();
        cell.close(b, hb).unwrap();
        let told: Vec<_> = cell.told().into_iter().map(|event| (event.path, event.change)).collect();
        assert_eq!(told, [(path("/f"), Change::Deleted)]);

        let directory = Creation { kind: NodeKind::Directory, ephemeral: true, ..file() };
        let hd = opened(cell.by(a, open_node("/d", Some(directory))));
        let hf = cell.open_ephemeral(b, "/d/f");
        cell.close(a, hd).unwrap();
        assert!(cell.state.node(&path("/d")).is_some(), "it is not empty");
        cell.close(b, hf).unwrap();
        assert_eq!(cell.state.node_count(), 1, "the directory went with what was in it");
    }

    /// Spec N-4: whoever dies takes along what it alone had open, at once and together.
    #[test]
    fn ephemeral_nodes_die_with_their_session() {
        let mut cell = Cell::new();
        let (a, b) = (cell.open_session(), cell.open_session());
        for text in ["/1", "/2", "/3"] {
            cell.open_ephemeral(a, text);
        }
        cell.open_ephemeral(b, "/2");
        let before = cell.state.revision();
        cell.told();
        cell.die(a);
        let told: Vec<_> = cell.told().into_iter().map(|event| (event.revision, event.path)).collect();
        assert_eq!(told, [(before + 1, path("/1")), (before + 1, path("/3"))]);
        assert_eq!((cell.state.node_count(), cell.state.handle_count()), (2, 1));
        cell.run(Command::EndSession(EndSession { session: b })).unwrap();
        assert_eq!((cell.state.node_count(), cell.state.handle_count()), (1, 0));
    }

    /// Spec H-4, H-5: closing is done however often; what was closed does not come back.
    #[test]
    fn a_closed_handle_stays_closed() {
        let mut cell = Cell::new();
        cell.run(set("/f", "x")).unwrap();
        let (a, b) = (cell.open_session(), cell.open_session());
        let (ha, hb) = (cell.open(a, "/f"), cell.open(b, "/f"));
        assert_eq!(cell.by(a, close(vec![ha, ha, hb, HandleId(99)])), Ok(Answer::Done));
        assert!(cell.state.handle(b, hb).is_some(), "another session's is not closed");
        assert_eq!(cell.close(a, ha), Ok(Answer::Done));
        let unknown = Refusal::UnknownHandle { session: a, handle: ha };
        assert_eq!(cell.try_acquire(a, ha), Err(unknown));
        let number = cell.state.session(a).unwrap().confirmed;
        let late = cell.apply(numbered(a, number, number), open_node("/f", None));
        assert!(
            matches!(late, Err(Refusal::StaleDuplicate { .. })),
            "a late copy of its opening opens nothing"
        );
        assert_eq!(cell.state.handles_of(a).count(), 0);
        assert_ne!(cell.open(a, "/f"), ha);
    }

    /// Spec H-3: what is done through a handle is done to the instance that it was opened on, or not at all.
    #[test]
    fn a_handle_is_on_one_instance() {
        let mut cell = Cell::new();
        cell.run(set("/f", "x")).unwrap();
        let session = cell.open_session();
        let handle = cell.open(session, "/f");
        let write = |contents: &'static str| {
            let verb = Verb::SetContents { contents: contents.into(), if_generation: None };
            Command::OnHandle(crate::OnHandle { handle, verb })
        };
        assert_eq!(cell.by(session, write("y")), written(2, 2, false));
        cell.run(delete("/f")).unwrap();
        cell.run(set("/f", "another")).unwrap();
        let deleted = Refusal::NodeDeleted { path: path("/f"), handle };
        assert_eq!(cell.by(session, write("z")), Err(deleted));
        assert_eq!(cell.state.get_contents(&path("/f")).unwrap().contents, "another");
        assert_eq!(cell.close(session, handle), Ok(Answer::Done));
    }

    fn known(name: &str) -> Principal {
        Principal::named(name).unwrap()
    }

    fn by_name(cell: &mut Cell, name: &str, command: Command) -> Outcome {
        cell.apply(Identity::Known { principal: known(name), key: None }, command)
    }

    fn session_of(cell: &mut Cell, name: &str) -> SessionId {
        match by_name(cell, name, open_session(12_000)) {
            Ok(Answer::SessionOpened { session, .. }) => session,
            other => panic!("no session was opened: {other:?}"),
        }
    }

    fn set_acl(text: &str, read: &str, write: &str, change_acl: &str) -> Command {
        let names = AclNames { read: read.into(), write: write.into(), change_acl: change_acl.into() };
        Command::SetAcl(crate::SetAcl { path: path(text), names, if_generation: None })
    }

    /// A cell in which `team` may write /d, `team` and `guest` may read it, and only `boss` may change that.
    fn guarded() -> Cell {
        let mut cell = Cell::with(&["/acl", "/d"]);
        for (name, lines) in [("team", "# who works\nann\n bob \n"), ("all", "*"), ("boss", "boss")] {
            let contents = lines.as_bytes().to_vec().into();
            let file = SetContents {
                path: path(&format!("/acl/{name}")),
                contents,
                if_generation: None,
                parents: false,
            };
            cell.run(Command::SetContents(file)).unwrap();
        }
        cell.run(set_acl("/d", "all", "team", "boss")).unwrap();
        cell
    }

    /// Spec: who is in an ACL's file may do what it governs, by path and by handle; children inherit.
    #[test]
    fn acls_govern() {
        let mut cell = guarded();
        for name in ["ann", "bob"] {
            by_name(&mut cell, name, set(&format!("/d/{name}"), "x")).unwrap();
        }
        let refusal = by_name(&mut cell, "eve", set("/d/eve", "x")).unwrap_err();
        assert_eq!(refusal.to_string(), "eve may not write /d: that takes a line in the ACL /acl/team");
        assert!(matches!(cell.run(set("/d/ann", "x")), Err(Refusal::NotPermitted { .. })), "anonymous");
        assert!(
            matches!(by_name(&mut cell, "eve", delete("/d/ann")), Err(Refusal::NotPermitted { .. })),
            "inherited"
        );
        assert!(matches!(
            by_name(&mut cell, "ann", set_acl("/d", "", "", "")),
            Err(Refusal::NotPermitted { .. })
        ));
        let (ann, eve) = (session_of(&mut cell, "ann"), session_of(&mut cell, "eve"));
        let write = Mode { read: true, write: true, change_acl: false };
        let open = |mode| {
            Command::OpenNode(OpenNode {
                path: path("/d/ann"),
                mode,
                create: None,
                lock_delay_ms: 0,
                within: None,
            })
        };
        opened(cell.by(ann, open(write)));
        assert!(matches!(cell.by(eve, open(write)), Err(Refusal::NotPermitted { .. })));
        opened(cell.by(eve, open(Mode { read: true, ..Mode::default() })));
        assert!(matches!(cell.by(ann, open(ALL)), Err(Refusal::NotPermitted { .. })));
        let acl = Some(AclNames { write: "boss".into(), ..AclNames::default() });
        let mine = Creation { acl, ..file() };
        let refused = cell.by(eve, open_node("/d/new", Some(mine.clone())));
        assert!(matches!(refused, Err(Refusal::NotPermitted { .. })), "{refused:?}");
        let nodes = cell.state.node_count();
        let refused = cell.by(ann, open_node("/d/new", Some(mine.clone())));
        let said = "ann may not write /d/new: that takes a line in the ACL /acl/boss";
        assert_eq!(refused.unwrap_err().to_string(), said, "made, it would not be hers to write");
        let refused = cell.by(ann, open_node("/d/new", Some(file())));
        let said = "ann may not change the ACL of /d/new: that takes a line in the ACL /acl/boss";
        assert_eq!(refused.unwrap_err().to_string(), said, "inherited");
        assert_eq!(cell.state.node_count(), nodes);
        let read = Mode { read: true, ..Mode::default() };
        let open =
            OpenNode { path: path("/d/new"), mode: read, create: Some(mine), lock_delay_ms: 0, within: None };
        opened(cell.by(ann, Command::OpenNode(open)));
        assert!(matches!(by_name(&mut cell, "ann", set("/d/new", "x")), Err(Refusal::NotPermitted { .. })));
        by_name(&mut cell, "boss", set("/d/new", "x")).unwrap();
        by_name(&mut cell, "boss", set_acl("/d", "all", "gone", "boss")).unwrap();
        assert!(
            matches!(by_name(&mut cell, "ann", set("/d/x", "x")), Err(Refusal::NotPermitted { .. })),
            "no such file"
        );
    }

    /// Spec A-2: a directory that may not be read, or written, does not show which names are in it.
    #[test]
    fn names_are_not_probed() {
        let mut cell = guarded();
        by_name(&mut cell, "ann", set("/d/f", "x")).unwrap();
        by_name(&mut cell, "boss", set_acl("/d", "team", "team", "boss")).unwrap();
        by_name(&mut cell, "boss", set_acl("/d/f", "team", "team", "boss")).unwrap();
        let eve = session_of(&mut cell, "eve");
        let must = Creation { must: true, ..file() };
        for (text, create) in
            [("/d/f", None), ("/d/none", None), ("/d/f", Some(must)), ("/d/none/x", Some(file()))]
        {
            let refused = cell.by(eve, open_node(text, create));
            assert!(matches!(refused, Err(Refusal::NotPermitted { .. })), "{text}: {refused:?}");
        }
    }

    /// Spec A-3: an ACL that changes closes the handles that it no longer allows, once the leader looked; no others.
    #[test]
    fn a_handle_is_revoked_when_its_acl_changes() {
        let mut cell = guarded();
        by_name(&mut cell, "ann", set("/d/f", "x")).unwrap();
        let (ann, eve) = (session_of(&mut cell, "ann"), session_of(&mut cell, "eve"));
        let read = Mode { read: true, ..Mode::default() };
        let write = Mode { read: true, write: true, change_acl: false };
        let open = |mode| {
            Command::OpenNode(OpenNode {
                path: path("/d/f"),
                mode,
                create: None,
                lock_delay_ms: 0,
                within: None,
            })
        };
        let (writer, reader) = (opened(cell.by(ann, open(write))), opened(cell.by(eve, open(read))));
        cell.acquire(ann, writer).unwrap();
        let revoke = |session, handle| Command::RevokeHandle(RevokeHandle { session, handle });
        cell.run(revoke(ann, writer)).unwrap();
        assert!(cell.state.handle(ann, writer).is_some(), "it is allowed");
        cell.run(set("/acl/team", "bob")).unwrap();
        for (session, handle) in [(ann, writer), (eve, reader)] {
            cell.run(revoke(session, handle)).unwrap();
        }
        assert!(cell.state.handle(ann, writer).is_none());
        assert!(cell.state.handle(eve, reader).is_some());
        assert_eq!(cell.state.locks().count(), 0);
        let open =
            OpenNode { path: path("/d/f"), mode: write, create: None, lock_delay_ms: 5_000, within: None };
        cell.run(set("/acl/team", "ann")).unwrap();
        let writer = opened(cell.by(ann, Command::OpenNode(open)));
        cell.acquire(ann, writer).unwrap();
        cell.run(set("/acl/team", "bob")).unwrap();
        cell.run(revoke(ann, writer)).unwrap();
        assert_eq!(
            cell.state.next_lock_delay_ms(),
            Some(cell.state.time_ms() + 5_000),
            "she may not know yet"
        );
        let by_client = cell.by(eve, revoke(eve, reader));
        assert!(matches!(by_client, Err(Refusal::InvalidArgument { .. })), "only the leader revokes");
    }
}
