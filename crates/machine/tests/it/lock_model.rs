//! Sessions, handles, locks and ephemeral nodes against a model of lists that are walked whole each time.

use std::collections::{BTreeMap, BTreeSet};

use bramah_machine::{Answer, HandleId, Outcome, Path, Place, Refusal, Sequencer, SessionId, State};

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) instance: u64,
    pub(crate) ephemeral: bool,
    pub(crate) lock_generation: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) session: u64,
    name: &'static str,
    instance: u64,
    delay_ms: u64,
    holding: Option<Sequencer>,
    tied: Option<Sequencer>,
}

/// What a cell should be: nodes by name, handles by number, and one queue for all locks together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) now_ms: u64,
    pub(crate) nodes: BTreeMap<&'static str, Node>,
    pub(crate) sessions: BTreeSet<u64>,
    pub(crate) handles: BTreeMap<u64, Handle>,
    /// The handle, and whether it would share.
    queue: Vec<(u64, bool)>,
    /// The instances whose lock nobody gets before this.
    free_at: BTreeMap<u64, u64>,
    instances: u64,
    opened: u64,
    /// Whatever was ever held.
    pub(crate) sequencers: Vec<Sequencer>,
}

fn path(name: &str) -> Path {
    Path::parse(name).unwrap()
}

impl Model {
    pub(crate) fn new(now_ms: u64) -> Model {
        Model { now_ms, instances: 1, ..Model::default() }
    }

    /// Time goes on, and lock-delays end.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let mut over: Vec<(u64, u64)> = self
            .free_at
            .iter()
            .filter(|(_, end)| **end <= self.now_ms)
            .map(|(id, end)| (*end, *id))
            .collect();
        over.sort();
        for (_, instance) in over {
            self.free_at.remove(&instance);
            self.serve(instance);
            self.reap(instance);
        }
    }

    /// An ephemeral node goes when nobody has it open, and no lock-delay runs.
    fn reap(&mut self, instance: u64) {
        let open = self.handles.values().any(|handle| handle.instance == instance);
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(_, node)| node.instance == instance && node.ephemeral);
        if let Some(name) = found.map(|(name, _)| *name)
            && !open
            && !self.free_at.contains_key(&instance)
        {
            self.delete(name);
        }
    }

    fn holders(&self, instance: u64) -> Vec<(u64, &Sequencer)> {
        let of_it = self.handles.iter().filter(|(_, handle)| handle.instance == instance);
        of_it.filter_map(|(id, handle)| Some((*id, handle.holding.as_ref()?))).collect()
    }

    fn waiters(&self, instance: u64) -> Vec<u64> {
        let of_it = self.queue.iter().filter(|(id, _)| self.handles[id].instance == instance);
        of_it.map(|(id, _)| *id).collect()
    }

    fn is_free_for(&self, instance: u64, shared: bool) -> bool {
        !self.free_at.contains_key(&instance)
            && self.holders(instance).iter().all(|(_, held)| held.shared && shared)
    }

    fn grant(&mut self, id: u64, shared: bool) {
        let (name, instance) = (self.handles[&id].name, self.handles[&id].instance);
        let first = self.holders(instance).is_empty();
        let node = self.nodes.get_mut(name).unwrap();
        node.lock_generation += u64::from(first);
        let held = Sequencer { path: path(name), instance, generation: node.lock_generation, shared };
        self.handles.get_mut(&id).unwrap().holding = Some(held.clone());
        self.sequencers.push(held);
    }

    fn serve(&mut self, instance: u64) {
        while let Some(&id) = self.waiters(instance).first() {
            let place = self.queue.iter().position(|(waiting, _)| *waiting == id).unwrap();
            let shared = self.queue[place].1;
            if !self.is_free_for(instance, shared) {
                return;
            }
            self.queue.remove(place);
            self.grant(id, shared);
        }
    }

    fn is_valid(&self, sequencer: &Sequencer) -> bool {
        self.holders(sequencer.instance).iter().any(|(_, held)| *held == sequencer)
    }

    /// The checks that come before whatever is done through a handle.
    fn usable(&self, session: u64, id: u64) -> Result<&Handle, Refusal> {
        let handle = self.own(session, id)?;
        if self.nodes.get(handle.name).is_none_or(|node| node.instance != handle.instance) {
            return Err(Refusal::NodeDeleted { path: path(handle.name), handle: HandleId(id) });
        }
        match &handle.tied {
            Some(tied) if !self.is_valid(tied) => Err(Refusal::SequencerInvalid { sequencer: tied.clone() }),
            _ => Ok(handle),
        }
    }

    fn own(&self, session: u64, id: u64) -> Result<&Handle, Refusal> {
        let unknown = Refusal::UnknownHandle { session: SessionId(session), handle: HandleId(id) };
        self.handles.get(&id).filter(|handle| handle.session == session).ok_or(unknown)
    }

    fn place_of(&self, id: u64) -> Answer {
        let handle = &self.handles[&id];
        match &handle.holding {
            Some(held) => Answer::LockAcquired { generation: held.generation, shared: held.shared },
            None if self.queue.iter().any(|(waiting, _)| *waiting == id) => {
                Answer::LockWaiting { waiters: self.waiters(handle.instance).len() as u64 }
            }
            None => Answer::LockApart,
        }
    }

    pub(crate) fn open_session(&mut self, session: u64) {
        self.sessions.insert(session);
    }

    pub(crate) fn open(
        &mut self,
        session: u64,
        name: &'static str,
        ephemeral: bool,
        delay_ms: u64,
    ) -> Outcome {
        let created = !self.nodes.contains_key(name);
        if created {
            self.instances += 1;
            let node = Node { instance: self.instances, ephemeral, lock_generation: 0 };
            self.nodes.insert(name, node);
        }
        self.opened += 1;
        let instance = self.nodes[name].instance;
        let handle = Handle { session, name, instance, delay_ms, holding: None, tied: None };
        self.handles.insert(self.opened, handle);
        Ok(Answer::NodeOpened { handle: HandleId(self.opened), instance, created })
    }

    pub(crate) fn acquire(&mut self, session: u64, id: u64, shared: bool, wait: bool) -> Outcome {
        let handle = self.usable(session, id)?;
        let (instance, path) = (handle.instance, path(handle.name));
        let mine = handle.holding.as_ref().map(|held| held.shared);
        let (holders, waiters) = (self.holders(instance).len() as u64, self.waiters(instance).len() as u64);
        let held = Refusal::LockHeld { path: path.clone(), holders, waiters };
        let asked = self.queue.iter().find(|(waiting, _)| *waiting == id).map(|(_, shared)| *shared);
        if let Some(as_before) = mine.or(asked) {
            let in_use = Refusal::LockInUse { path, handle: HandleId(id) };
            if as_before != shared {
                return Err(in_use);
            }
            return if mine.is_some() || wait { Ok(self.place_of(id)) } else { Err(held) };
        }
        if waiters == 0 && self.is_free_for(instance, shared) {
            self.grant(id, shared);
        } else if wait {
            self.queue.push((id, shared));
        } else {
            return Err(held);
        }
        Ok(self.place_of(id))
    }

    pub(crate) fn cancel(&mut self, session: u64, id: u64) -> Outcome {
        let instance = self.own(session, id)?.instance;
        self.queue.retain(|(waiting, _)| *waiting != id);
        self.serve(instance);
        Ok(self.place_of(id))
    }

    pub(crate) fn release(&mut self, session: u64, id: u64) -> Outcome {
        let handle = self.own(session, id)?;
        let instance = handle.instance;
        if handle.holding.is_none() {
            if self.nodes.get(handle.name).is_none_or(|node| node.instance != instance) {
                return Err(Refusal::NodeDeleted { path: path(handle.name), handle: HandleId(id) });
            }
            return Err(Refusal::LockNotHeld { path: path(handle.name), handle: HandleId(id) });
        }
        self.handles.get_mut(&id).unwrap().holding = None;
        self.serve(instance);
        Ok(Answer::Done)
    }

    pub(crate) fn tie(&mut self, session: u64, id: u64, sequencer: Option<Sequencer>) -> Outcome {
        match &sequencer {
            Some(sequencer) if !self.is_valid(sequencer) => {
                return Err(Refusal::SequencerInvalid { sequencer: sequencer.clone() });
            }
            _ => self.own(session, id)?,
        };
        self.handles.get_mut(&id).unwrap().tied = sequencer;
        Ok(Answer::Done)
    }

    pub(crate) fn close(&mut self, session: u64, id: u64, died: bool) {
        if self.own(session, id).is_err() {
            return;
        }
        let instance = self.handles[&id].instance;
        self.queue.retain(|(waiting, _)| *waiting != id);
        let handle = self.handles.remove(&id).unwrap();
        if died && handle.holding.is_some() && handle.delay_ms > 0 {
            let end = self.free_at.entry(instance).or_default();
            *end = (*end).max(self.now_ms + handle.delay_ms);
        }
        self.serve(instance);
        self.reap(instance);
    }

    pub(crate) fn end(&mut self, session: u64, died: bool) -> Outcome {
        if !self.sessions.remove(&session) {
            return Err(Refusal::SessionExpired { session: SessionId(session) });
        }
        let of_it = |(_, handle): &(&u64, &Handle)| handle.session == session;
        let mine: Vec<u64> = self.handles.iter().filter(of_it).map(|(id, _)| *id).collect();
        let left: Vec<u64> =
            mine.iter().copied().filter(|id| self.queue.iter().any(|(it, _)| it == id)).collect();
        self.queue.retain(|(waiting, _)| !mine.contains(waiting));
        for id in left {
            self.serve(self.handles[&id].instance);
        }
        for id in mine {
            self.close(session, id, died);
        }
        Ok(Answer::SessionEnded)
    }

    /// Whether there was such a node.
    pub(crate) fn delete(&mut self, name: &'static str) -> bool {
        let Some(node) = self.nodes.remove(name) else { return false };
        self.free_at.remove(&node.instance);
        let handles = &self.handles;
        self.queue.retain(|(waiting, _)| handles[waiting].instance != node.instance);
        for handle in self.handles.values_mut().filter(|handle| handle.instance == node.instance) {
            handle.holding = None;
        }
        true
    }

    /// Whether a write through the handle would be done.
    pub(crate) fn write(&self, session: u64, id: u64) -> Result<(), Refusal> {
        self.usable(session, id).map(|_| ())
    }

    pub(crate) fn assert_same(&self, state: &State) {
        let names: Vec<&str> =
            state.nodes().map(|(path, _)| path.as_str()).filter(|name| *name != "/").collect();
        assert_eq!(names, Vec::from_iter(self.nodes.keys().copied()));
        assert_eq!(state.session_count(), self.sessions.len());
        assert_eq!(state.handle_count(), self.handles.len());
        assert_eq!(state.next_lock_delay_ms(), self.free_at.values().min().copied());
        for (name, node) in &self.nodes {
            self.assert_same_lock(state, name, node);
        }
        for (id, handle) in &self.handles {
            self.assert_same_place(state, *id, handle);
        }
        for sequencer in &self.sequencers {
            assert_eq!(state.check_sequencer(sequencer).is_ok(), self.is_valid(sequencer), "{sequencer}");
        }
        let below = Vec::from_iter(state.locks_below(&Path::root(), None).map(|lock| lock.path.as_str()));
        let busy = |name: &&str| state.lock(&path(name)).is_some();
        assert_eq!(below, Vec::from_iter(self.nodes.keys().copied().filter(busy)));
    }

    fn assert_same_lock(&self, state: &State, name: &str, node: &Node) {
        let stat = state.stat(&path(name)).unwrap();
        assert_eq!((stat.instance, stat.lock_generation), (node.instance, node.lock_generation), "{name}");
        assert_eq!(stat.ephemeral, node.ephemeral, "{name}");
        let lock = state.lock(&path(name));
        let mut holders: Vec<u64> =
            lock.iter().flat_map(|lock| lock.holders()).map(|(_, id, _)| id.0).collect();
        holders.sort();
        assert_eq!(holders, Vec::from_iter(self.holders(node.instance).iter().map(|(id, _)| *id)), "{name}");
        let waiters =
            Vec::from_iter(lock.iter().flat_map(|lock| lock.waiters()).map(|waiter| waiter.handle.0));
        assert_eq!(waiters, self.waiters(node.instance), "{name}");
        let free_at = lock.map_or(0, |lock| lock.free_at_ms);
        assert_eq!(free_at, self.free_at.get(&node.instance).copied().unwrap_or(0), "{name}");
    }

    fn assert_same_place(&self, state: &State, id: u64, handle: &Handle) {
        let found = state.handle(SessionId(handle.session), HandleId(id)).unwrap();
        assert_eq!(state.sequencer_of(found), handle.holding, "handle {id}");
        let waits = matches!(found.place, Place::Waiting { .. });
        assert_eq!(waits, self.queue.iter().any(|(waiting, _)| *waiting == id), "handle {id}");
    }
}
