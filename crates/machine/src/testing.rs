//! A small cell for the unit tests: commands in short form, time and identity where a test cares.

use bytes::Bytes;

use crate::{
    Acquire, Answer, CloseHandles, Command, CreateDirectory, Creation, Delete, Event, ExpireSession,
    HandleId, Identity, Increment, Mode, Moment, NodeKind, OpenNode, OpenSession, Outcome, Path, Place,
    Refusal, Release, Request, ResetCounter, SessionId, SetContents, State,
};

/// A state, and what applying to it needs.
pub(crate) struct Cell {
    pub(crate) state: State,
    pub(crate) events: Vec<Event>,
    pub(crate) moment: Moment,
}

impl Cell {
    pub(crate) fn new() -> Cell {
        Cell { state: State::new(), events: Vec::new(), moment: Moment { time_ms: 1_000_000, term: 1 } }
    }

    /// A cell with these directories.
    pub(crate) fn with(directories: &[&str]) -> Cell {
        let mut cell = Cell::new();
        for directory in directories {
            cell.run(create_directory(directory)).unwrap();
        }
        cell.events.clear();
        cell
    }

    pub(crate) fn apply(&mut self, identity: Identity, command: Command) -> Outcome {
        let outcome = self.state.apply(Request { identity, command }, self.moment, &mut self.events);
        self.state.check_invariants().unwrap();
        outcome
    }

    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        self.apply(Identity::Anonymous, command)
    }

    /// Runs a command that must be refused, and shows that it changed nothing at all.
    pub(crate) fn refused(&mut self, command: Command) -> Refusal {
        // Time goes on whatever becomes of a command.
        self.state.time_ms = self.state.time_ms.max(self.moment.time_ms);
        self.state.highest_term = self.state.highest_term.max(self.moment.term);
        let (before, told) = (self.state.digest(), self.events.len());
        let refusal = self.run(command).expect_err("the command should have been refused");
        assert_eq!(self.state.digest(), before, "a refused command changed the state");
        assert_eq!(self.events.len(), told, "a refused command told an event");
        refusal
    }

    pub(crate) fn open_session(&mut self) -> SessionId {
        match self.run(open_session(12_000)) {
            Ok(Answer::SessionOpened { session, .. }) => session,
            other => panic!("no session was opened: {other:?}"),
        }
    }

    /// Runs a session's next command.
    pub(crate) fn by(&mut self, session: SessionId, command: Command) -> Outcome {
        let number = self.state.session(session).map_or(1, |it| it.highest.max(it.confirmed) + 1);
        self.apply(numbered(session, number, number - 1), command)
    }

    /// Opens a handle that may do all, on a node that is there.
    pub(crate) fn open(&mut self, session: SessionId, text: &str) -> HandleId {
        opened(self.by(session, open_node(text, None)))
    }

    /// Opens a handle on a new ephemeral file, or the file that is there.
    pub(crate) fn open_ephemeral(&mut self, session: SessionId, text: &str) -> HandleId {
        let creation = Creation { ephemeral: true, ..file() };
        opened(self.by(session, open_node(text, Some(creation))))
    }

    pub(crate) fn acquire(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::Acquire(Acquire { handle, shared: false, wait: true }))
    }

    pub(crate) fn share(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::Acquire(Acquire { handle, shared: true, wait: true }))
    }

    pub(crate) fn try_acquire(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::Acquire(Acquire { handle, shared: false, wait: false }))
    }

    pub(crate) fn release(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::Release(Release { handle }))
    }

    pub(crate) fn close(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.by(session, Command::CloseHandles(CloseHandles { handles: vec![handle] }))
    }

    /// The session's lease ran out.
    pub(crate) fn die(&mut self, session: SessionId) {
        let term = self.moment.term;
        self.run(Command::ExpireSession(ExpireSession { session, term })).unwrap();
    }

    /// What a handle is to its lock.
    pub(crate) fn place(&self, session: SessionId, handle: HandleId) -> Place {
        self.state.handle(session, handle).unwrap().place
    }

    pub(crate) fn holds(&self, session: SessionId, handle: HandleId) -> bool {
        matches!(self.place(session, handle), Place::Holding { .. })
    }

    /// What was told since the last call.
    pub(crate) fn told(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn value(&self, counter: &str) -> i64 {
        self.state.get_counter(&path(counter)).unwrap().0
    }
}

pub(crate) fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

pub(crate) fn numbered(session: SessionId, number: u64, confirmed: u64) -> Identity {
    Identity::Session { session, number, confirmed }
}

pub(crate) fn key(text: &str) -> Identity {
    Identity::Key(text.as_bytes().to_vec())
}

pub(crate) fn open_session(lease_ms: u32) -> Command {
    Command::OpenSession(OpenSession { lease_ms, client: "test".to_owned(), secret: [7; 16] })
}

pub(crate) const ALL: Mode = Mode { read: true, write: true, change_acl: true };

pub(crate) fn open_node(text: &str, create: Option<Creation>) -> Command {
    Command::OpenNode(OpenNode { path: path(text), mode: ALL, create, lock_delay_ms: 0, within: None })
}

/// A new, empty, permanent file.
pub(crate) fn file() -> Creation {
    Creation {
        must: false,
        kind: NodeKind::File,
        ephemeral: false,
        contents: Bytes::new(),
        acl: None,
        parents: false,
    }
}

pub(crate) fn opened(outcome: Outcome) -> HandleId {
    match outcome {
        Ok(Answer::NodeOpened { handle, .. }) => handle,
        other => panic!("no handle was opened: {other:?}"),
    }
}

pub(crate) fn set(text: &str, contents: &'static str) -> Command {
    set_with(text, contents, None, false)
}

pub(crate) fn set_with(
    text: &str,
    contents: &'static str,
    if_generation: Option<u64>,
    parents: bool,
) -> Command {
    let contents = Bytes::from_static(contents.as_bytes());
    Command::SetContents(SetContents { path: path(text), contents, if_generation, parents })
}

pub(crate) fn create_directory(text: &str) -> Command {
    Command::CreateDirectory(CreateDirectory { path: path(text), parents: false })
}

pub(crate) fn create_directories(text: &str) -> Command {
    Command::CreateDirectory(CreateDirectory { path: path(text), parents: true })
}

pub(crate) fn delete(text: &str) -> Command {
    Command::Delete(Delete { path: path(text), if_generation: None })
}

pub(crate) fn increment(text: &str, delta: i64) -> Command {
    Command::Increment(Increment { path: path(text), delta, create: true, floor: None, ceiling: None })
}

pub(crate) fn reset(text: &str, value: i64, expect: Option<i64>) -> Command {
    Command::ResetCounter(ResetCounter { path: path(text), value, expect, create: true })
}

pub(crate) fn written(generation: u64, revision: u64, created: bool) -> Outcome {
    Ok(Answer::Written { generation, revision, created })
}

pub(crate) fn counted(value: i64, revision: u64) -> Outcome {
    Ok(Answer::Counter { value, revision })
}
