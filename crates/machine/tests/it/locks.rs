//! Random rows of commands about locks: what the model says, whatever is restarted from a snapshot meanwhile.

use std::collections::BTreeSet;

use bramah_machine::{
    Acquire, Answer, CancelAcquire, Change, CloseHandles, Command, Creation, Delete, EndSession, Event,
    ExpireSession, HandleId, Identity, Mode, Moment, NodeKind, OnHandle, OpenNode, OpenSession, Outcome,
    Path, Refusal, Release, Request, Sequencer, SessionId, SetSequencer, State, Verb,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::lock_model::Model;
use crate::snapshot::snapshot_of;

const NAMES: [&str; 2] = ["/l", "/m"];
const ALL: Mode = Mode { read: true, write: true, change_acl: true };

#[derive(Clone, Debug)]
enum Step {
    OpenSession,
    End { session: Index, died: bool },
    Open { session: Index, name: usize, ephemeral: bool, delay_ms: u32 },
    Close { handle: Index },
    Acquire { handle: Index, shared: bool, wait: bool },
    Cancel { handle: Index },
    Release { handle: Index },
    Tie { handle: Index, sequencer: Option<Index> },
    Write { handle: Index },
    Delete { name: usize },
    Pass { ms: u64 },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let delay = prop_oneof![2 => Just(0), 1 => Just(1_000_u32), 1 => Just(60_000_u32)];
    let step = prop_oneof![
        1 => Just(Step::OpenSession),
        1 => (index(), any::<bool>()).prop_map(|(session, died)| Step::End { session, died }),
        6 => (index(), 0..NAMES.len(), prop::bool::weighted(0.3), delay).prop_map(
            |(session, name, ephemeral, delay_ms)| Step::Open { session, name, ephemeral, delay_ms }
        ),
        2 => index().prop_map(|handle| Step::Close { handle }),
        12 => (index(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(handle, shared, wait)| Step::Acquire { handle, shared, wait }),
        1 => index().prop_map(|handle| Step::Cancel { handle }),
        5 => index().prop_map(|handle| Step::Release { handle }),
        2 => (index(), prop::option::weighted(0.8, index()))
            .prop_map(|(handle, sequencer)| Step::Tie { handle, sequencer }),
        2 => index().prop_map(|handle| Step::Write { handle }),
        1 => (0..NAMES.len()).prop_map(|name| Step::Delete { name }),
        2 => prop_oneof![Just(500_u64), Just(1_000), Just(60_000)].prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Restart),
    ];
    vec(step, 0..80)
}

/// A state and what should be in it.
struct Pair {
    state: State,
    model: Model,
    events: Vec<Event>,
    /// Each session's last number.
    numbers: Vec<u64>,
}

fn path(name: &str) -> Path {
    Path::parse(name).unwrap()
}

impl Pair {
    fn new() -> Pair {
        let (state, model) = (State::new(), Model::new(1_000_000));
        let mut pair = Pair { state, model, events: Vec::new(), numbers: Vec::new() };
        pair.open_session();
        pair.open_session();
        pair
    }

    fn run(&mut self, identity: Identity, command: Command) -> Outcome {
        let moment = Moment { time_ms: self.model.now_ms, term: 1 };
        self.state.apply(Request { identity, command }, moment, &mut self.events)
    }

    fn by(&mut self, session: u64, command: Command) -> Outcome {
        let number = self.numbers[session as usize - 1] + 1;
        self.numbers[session as usize - 1] = number;
        self.run(Identity::Session { session: SessionId(session), number, confirmed: number - 1 }, command)
    }

    fn open_session(&mut self) {
        let open = OpenSession { lease_ms: 12_000, client: String::new(), secret: [7; 16] };
        self.numbers.push(0);
        self.model.open_session(self.numbers.len() as u64);
        self.run(Identity::Anonymous, Command::OpenSession(open)).unwrap();
    }

    fn session(&self, index: Index) -> u64 {
        index.index(self.numbers.len()) as u64 + 1
    }

    /// A handle and its session, which may also be closed or of a session that is gone.
    fn handle(&self, index: Index) -> (u64, u64) {
        let known: Vec<u64> = self.model.handles.keys().copied().collect();
        let id = known.get(index.index(known.len() + 1)).copied().unwrap_or(1);
        (self.model.handles.get(&id).map_or(1, |handle| handle.session), id)
    }

    /// A session's command through a handle: what is gone says so before anything else (spec H-6).
    fn expect(
        &mut self,
        (session, id): (u64, u64),
        command: Command,
        expected: impl FnOnce(&mut Model, u64, u64) -> Outcome,
    ) {
        let expected = match self.model.sessions.contains(&session) {
            true => expected(&mut self.model, session, id),
            false => Err(Refusal::SessionExpired { session: SessionId(session) }),
        };
        assert_eq!(self.by(session, command.clone()), expected, "{command:?}");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::OpenSession => self.open_session(),
            Step::End { session, died } => self.end(self.session(session), died),
            Step::Open { session, name, ephemeral, delay_ms } => {
                self.open(self.session(session), NAMES[name], ephemeral, delay_ms);
            }
            Step::Close { handle } => {
                let who = self.handle(handle);
                let close = Command::CloseHandles(CloseHandles { handles: vec![HandleId(who.1)] });
                self.expect(who, close, |model, session, id| {
                    model.close(session, id, false);
                    Ok(Answer::Done)
                });
            }
            Step::Acquire { handle, shared, wait } => {
                let who = self.handle(handle);
                let acquire = Command::Acquire(Acquire { handle: HandleId(who.1), shared, wait });
                self.expect(who, acquire, |model, session, id| model.acquire(session, id, shared, wait));
            }
            Step::Cancel { handle } => {
                let who = self.handle(handle);
                let cancel = Command::CancelAcquire(CancelAcquire { handle: HandleId(who.1) });
                self.expect(who, cancel, Model::cancel);
            }
            Step::Release { handle } => {
                let who = self.handle(handle);
                let release = Command::Release(Release { handle: HandleId(who.1) });
                self.expect(who, release, Model::release);
            }
            Step::Tie { handle, sequencer } => self.tie(self.handle(handle), sequencer),
            Step::Write { handle } => self.write(self.handle(handle)),
            Step::Delete { name } => {
                let delete = Delete { path: path(NAMES[name]), if_generation: None };
                let done = self.run(Identity::Anonymous, Command::Delete(delete)).is_ok();
                assert_eq!(done, self.model.delete(NAMES[name]));
            }
            Step::Pass { ms } => {
                self.model.pass(ms);
                self.run(Identity::Anonymous, Command::PassTime).unwrap();
            }
            Step::Restart => {
                self.state = State::read_snapshot(&mut snapshot_of(&self.state).as_slice()).unwrap();
            }
        }
    }

    fn end(&mut self, session: u64, died: bool) {
        let id = SessionId(session);
        let command = match died {
            true => Command::ExpireSession(ExpireSession { session: id, term: 1 }),
            false => Command::EndSession(EndSession { session: id }),
        };
        let expected = self.model.end(session, died);
        assert_eq!(self.run(Identity::Anonymous, command), expected);
    }

    fn open(&mut self, session: u64, name: &'static str, ephemeral: bool, delay_ms: u32) {
        let creation = Creation {
            must: false,
            kind: NodeKind::File,
            ephemeral,
            contents: Default::default(),
            acl: None,
            parents: false,
        };
        let create = Some(creation);
        let open = OpenNode { path: path(name), mode: ALL, create, lock_delay_ms: delay_ms, within: None };
        self.expect((session, 0), Command::OpenNode(open), |model, session, _| {
            model.open(session, name, ephemeral, u64::from(delay_ms))
        });
    }

    fn tie(&mut self, who: (u64, u64), sequencer: Option<Index>) {
        let known = &self.model.sequencers;
        let sequencer: Option<Sequencer> =
            sequencer.filter(|_| !known.is_empty()).map(|index| index.get(known).clone());
        let tie = SetSequencer { handle: HandleId(who.1), sequencer: sequencer.clone() };
        self.expect(who, Command::SetSequencer(tie), |model, session, id| model.tie(session, id, sequencer));
    }

    fn write(&mut self, who: (u64, u64)) {
        let expected = match self.model.sessions.contains(&who.0) {
            true => self.model.write(who.0, who.1),
            false => Err(Refusal::SessionExpired { session: SessionId(who.0) }),
        };
        let verb = Verb::SetContents { contents: "x".into(), if_generation: None };
        let outcome = self.by(who.0, Command::OnHandle(OnHandle { handle: HandleId(who.1), verb }));
        assert_eq!(outcome.map(|_| ()), expected);
    }

    /// Who holds a lock, to somebody who knows only the events.
    fn believed(&self) -> BTreeSet<(SessionId, HandleId)> {
        let mut holders = BTreeSet::new();
        for event in &self.events {
            match event.change {
                Change::LockAcquired { session, handle, .. } => {
                    assert!(holders.insert((session, handle)), "acquired twice");
                }
                Change::LockReleased { session, handle } => {
                    assert!(holders.remove(&(session, handle)), "released and not held");
                }
                Change::LockLost { session, handle } => drop(holders.remove(&(session, handle))),
                _ => {}
            }
        }
        holders
    }

    fn assert_same(&self) {
        self.model.assert_same(&self.state);
        let holders: BTreeSet<_> = self
            .state
            .locks()
            .flat_map(|lock| lock.holders())
            .map(|(session, id, _)| (session, id))
            .collect();
        assert_eq!(self.believed(), holders);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Spec L-1 to L-6, N-4, H-3, H-4, H-6, S-5, E-1: every answer is the model's, and so are holders, queues,
    /// generations, lock-delays, ephemeral nodes, and which of all sequencers are valid; the events alone tell who
    /// holds what; and a restart from a snapshot changes nothing.
    #[test]
    fn locks_behave_as_the_model(steps in steps()) {
        crate::planted::plant_as_told();
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            prop_assert_eq!(pair.state.check_invariants(), Ok(()));
            pair.assert_same();
        }
    }
}
