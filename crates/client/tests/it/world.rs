//! What the fake cell holds beside counters: files, handles, locks, and what happened to them.

use std::collections::{BTreeMap, VecDeque};

use bramah_wire::v1;
use bramah_wire::v1::event::Kind;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::handle_state::Place;
use bramah_wire::v1::operation::Operation as Op;
use bramah_wire::v1::outcome::Outcome;

use crate::fake::failure;

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) instance: u64,
    pub(crate) contents: Vec<u8>,
    generation: u64,
    lock_generation: u64,
    shared: bool,
    holders: Vec<u64>,
    waiters: VecDeque<(u64, bool)>,
}

pub(crate) struct Handle {
    pub(crate) session: u64,
    pub(crate) path: String,
    instance: u64,
}

/// Files, each a lock with a queue.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) handles: BTreeMap<u64, Handle>,
    last_handle: u64,
    pub(crate) revision: u64,
    pub(crate) events: Vec<v1::Event>,
    /// Events up to this revision are not kept for watches that begin.
    pub(crate) kept_after: u64,
    /// What was said of sessions' handles.
    pub(crate) places: Vec<(u64, v1::HandleState)>,
    /// All that was done, with its session and number.
    pub(crate) done: Vec<(u64, u64, Op)>,
    pub(crate) watch_messages: usize,
}

fn refused(code: Code, message: &str) -> Outcome {
    Outcome::Failure(failure(code, message))
}

impl World {
    fn tell(&mut self, path: &str, kind: Kind, more: v1::Event) {
        let (revision, path) = (self.revision, path.to_owned());
        self.events.push(v1::Event { revision, path, kind: kind.into(), ..more });
    }

    /// Writes a file, and makes it if it is missing.
    pub(crate) fn set(&mut self, path: &str, contents: &str) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        let made = !self.nodes.contains_key(path);
        let node = self.nodes.entry(path.to_owned()).or_default();
        if made {
            node.instance = revision;
        }
        node.generation += 1;
        node.contents = contents.into();
        let generation = node.generation;
        let kind = if made { Kind::Created } else { Kind::ContentsModified };
        self.tell(path, kind, v1::Event { generation, ..Default::default() });
        generation
    }

    pub(crate) fn delete(&mut self, path: &str) {
        self.revision += 1;
        let node = self.nodes.remove(path).unwrap();
        let waiters = node.waiters.into_iter().map(|(handle, _)| handle);
        for handle in node.holders.into_iter().chain(waiters) {
            self.say(handle, Place::Lost, 0, false);
        }
        self.tell(path, Kind::Deleted, v1::Event::default());
    }

    fn say(&mut self, handle: u64, place: Place, lock_generation: u64, shared: bool) {
        let session = self.handles[&handle].session;
        let state =
            v1::HandleState { handle, place: place.into(), lock_generation, shared, ..Default::default() };
        self.places.push((session, state));
    }

    /// The cell closes a handle because of an ACL.
    pub(crate) fn revoke(&mut self, handle: u64) {
        self.say(handle, Place::Closed, 0, false);
        self.close(handle);
    }

    /// A session's handles that hold or wait.
    pub(crate) fn standing(&self, session: u64) -> Vec<v1::HandleState> {
        let own = self.handles.iter().filter(|(_, handle)| handle.session == session);
        let states = own.map(|(number, _)| self.state(*number));
        states.filter(|state| state.place() != Place::Apart).collect()
    }

    pub(crate) fn state(&self, handle: u64) -> v1::HandleState {
        let apart = v1::HandleState { handle, place: Place::Apart.into(), ..Default::default() };
        let open = &self.handles[&handle];
        let Some(node) = self.nodes.get(&open.path).filter(|node| node.instance == open.instance) else {
            return apart;
        };
        if node.holders.contains(&handle) {
            let (lock_generation, shared) = (node.lock_generation, node.shared);
            return v1::HandleState { place: Place::Holding.into(), lock_generation, shared, ..apart };
        }
        let waits = node.waiters.iter().any(|(waiter, _)| *waiter == handle);
        v1::HandleState { place: if waits { Place::Waiting } else { Place::Apart }.into(), ..apart }
    }

    /// Opens a handle for somebody who is not one of the clients, and takes the lock.
    pub(crate) fn stranger_locks(&mut self, path: &str) -> u64 {
        if !self.nodes.contains_key(path) {
            self.set(path, "");
        }
        let handle = self.open(u64::MAX, path);
        self.stand(handle, false, true);
        assert_eq!(self.state(handle).place(), Place::Holding);
        handle
    }

    fn open(&mut self, session: u64, path: &str) -> u64 {
        self.last_handle += 1;
        let instance = self.nodes[path].instance;
        self.handles.insert(self.last_handle, Handle { session, path: path.to_owned(), instance });
        self.last_handle
    }

    pub(crate) fn close(&mut self, handle: u64) {
        self.leave(handle);
        self.handles.remove(&handle);
    }

    pub(crate) fn end(&mut self, session: u64) {
        let own = self.handles.iter().filter(|(_, handle)| handle.session == session);
        let own: Vec<_> = own.map(|(number, _)| *number).collect();
        own.into_iter().for_each(|handle| self.close(handle));
    }

    fn leave(&mut self, handle: u64) {
        let Some(open) = self.handles.get(&handle) else { return };
        let (path, instance) = (open.path.clone(), open.instance);
        if let Some(node) = self.nodes.get_mut(&path).filter(|node| node.instance == instance) {
            node.holders.retain(|holder| *holder != handle);
            node.waiters.retain(|(waiter, _)| *waiter != handle);
            self.hand_on(&path);
        }
    }

    fn hand_on(&mut self, path: &str) {
        while let Some(node) = self.nodes.get_mut(path)
            && let Some((handle, shared)) = node.waiters.front().copied()
            && (node.holders.is_empty() || (node.shared && shared))
        {
            if node.holders.is_empty() {
                node.lock_generation += 1;
            }
            node.shared = shared;
            node.waiters.pop_front();
            node.holders.push(handle);
            let generation = node.lock_generation;
            self.revision += 1;
            self.say(handle, Place::Holding, generation, shared);
            let session = self.handles[&handle].session;
            let more = v1::Event { session, handle, generation, shared, ..Default::default() };
            self.tell(path, Kind::LockAcquired, more);
        }
    }

    fn stand(&mut self, handle: u64, shared: bool, wait: bool) -> Outcome {
        let path = self.handles[&handle].path.clone();
        if self.state(handle).place() == Place::Apart {
            let node = self.nodes.get_mut(&path).unwrap();
            let free = node.waiters.is_empty() && (node.holders.is_empty() || (node.shared && shared));
            if !free && !wait {
                return refused(Code::LockHeld, "somebody holds it");
            }
            node.waiters.push_back((handle, shared));
            self.hand_on(&path);
        }
        self.answer(handle)
    }

    fn answer(&self, handle: u64) -> Outcome {
        Outcome::Lock(v1::LockState { state: Some(self.state(handle)), waiters: 0 })
    }

    /// None: it is not of this world.
    pub(crate) fn perform(&mut self, session: u64, operation: &Op) -> Option<Outcome> {
        let through = match operation {
            Op::Acquire(acquire) => Some(acquire.handle),
            Op::OnHandle(on) => Some(on.handle),
            Op::ReadOnHandle(on) => Some(on.handle),
            Op::Release(release) => Some(release.handle),
            Op::CancelAcquire(cancel) => Some(cancel.handle),
            _ => None,
        };
        if let Some(number) = through {
            let Some(handle) = self.handles.get(&number).filter(|handle| handle.session == session) else {
                return Some(refused(Code::UnknownHandle, "no such handle"));
            };
            let node = self.nodes.get(&handle.path);
            if node.is_none_or(|node| node.instance != handle.instance) {
                return Some(refused(Code::NodeDeleted, "it is gone"));
            }
        }
        Some(match operation {
            Op::OpenNode(open) => self.open_node(session, open),
            Op::CloseHandles(close) => {
                close.handles.iter().for_each(|handle| self.close(*handle));
                Outcome::Done(v1::Done {})
            }
            Op::Acquire(acquire) => self.stand(acquire.handle, acquire.shared, acquire.wait),
            Op::CancelAcquire(cancel) => {
                if self.state(cancel.handle).place() == Place::Waiting {
                    self.leave(cancel.handle);
                }
                self.answer(cancel.handle)
            }
            Op::Release(release) if self.state(release.handle).place() == Place::Holding => {
                self.leave(release.handle);
                Outcome::Done(v1::Done {})
            }
            Op::Release(_) => refused(Code::LockNotHeld, "it holds nothing"),
            Op::OnHandle(on) => self.write(on),
            Op::ReadOnHandle(on) => self.read(on),
            _ => return None,
        })
    }

    fn open_node(&mut self, session: u64, open: &v1::OpenNode) -> Outcome {
        let created = !self.nodes.contains_key(&open.path);
        match &open.create {
            None if created => return refused(Code::NotFound, "no such node"),
            Some(create) if create.must && !created => return refused(Code::AlreadyExists, "it is there"),
            Some(create) if created => {
                self.set(&open.path, &String::from_utf8_lossy(&create.contents));
            }
            _ => {}
        }
        let handle = self.open(session, &open.path);
        Outcome::NodeOpened(v1::NodeOpened { handle, instance: self.nodes[&open.path].instance, created })
    }

    fn write(&mut self, on: &v1::OnHandle) -> Outcome {
        let path = self.handles[&on.handle].path.clone();
        match &on.verb {
            Some(v1::on_handle::Verb::SetContents(set)) => {
                let generation = self.set(&path, &String::from_utf8_lossy(&set.contents));
                Outcome::Written(v1::Written { generation, revision: self.revision, created: false })
            }
            Some(v1::on_handle::Verb::Delete(_)) => {
                self.delete(&path);
                Outcome::Deleted(v1::Deleted { revision: self.revision })
            }
            other => panic!("the fake cell has no {other:?}"),
        }
    }

    fn read(&self, on: &v1::ReadOnHandle) -> Outcome {
        let handle = &self.handles[&on.handle];
        let node = &self.nodes[&handle.path];
        match &on.verb {
            Some(v1::read_on_handle::Verb::Contents(_)) => {
                let stat = Some(v1::Stat {
                    kind: v1::Kind::File.into(),
                    instance: node.instance,
                    ..Default::default()
                });
                Outcome::Contents(v1::FileContents { contents: node.contents.clone().into(), stat })
            }
            Some(v1::read_on_handle::Verb::Sequencer(_)) if node.holders.contains(&on.handle) => {
                let (path, instance) = (handle.path.clone(), node.instance);
                let (generation, shared) = (node.lock_generation, node.shared);
                Outcome::Sequencer(v1::Sequencer { path, instance, generation, shared })
            }
            Some(v1::read_on_handle::Verb::Sequencer(_)) => refused(Code::LockNotHeld, "it holds nothing"),
            other => panic!("the fake cell has no {other:?}"),
        }
    }
}
