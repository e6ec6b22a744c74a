//! Leases, terms and expiry as a small model, explored whole (spec S-2, S-4, S-5, S-8, L-4; Chubby §2.8).
//!
//! One session, whose client holds a lock; leaders of up to three terms, of whom the deposed ones don't know it; a network
//! that loses, delays and repeats; a client whose clock is as slow as is allowed. Each rule that the product keeps can
//! be broken, and then the checker must find how a session is ended whose client still believes in its lease.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// A lease at its leader, in ticks of the leader's clock.
const LEASE: u8 = 4;
/// What the client leaves out of it: its clock misses at most one tick in [`LEASE`].
const MARGIN: u8 = 1;
const TERMS: usize = 3;
/// Messages under way.
const IN_FLIGHT: usize = 2;
/// The leader's own proposals are committed within so many ticks.
const COMMIT_WITHIN: u8 = 1;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The client counts a lease from when it hears of it.
    CountedFromReply,
    /// The client trusts its clock.
    NoMargin,
    /// A leader extends without proof that it still leads.
    UnprovenExtension,
    /// A new leader knows no lease.
    LeasesNotRestarted,
    /// Whoever sees a lease end may end the session.
    TermNotChecked,
    /// A lease whose end was proposed is extended.
    ExtendedWhileEnding,
    /// Who is sent a write does not look at the lock's generation.
    GenerationNotChecked,
}

/// What the leader of a term believes of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lease {
    /// It leads not yet, or not any more, as far as it knows.
    None,
    /// Ticks left.
    Left(u8),
    /// Its end was proposed.
    Ending,
}

/// The proposal of a term's leader to end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Proposal {
    None,
    /// In the leader's log for so many ticks.
    Logged(u8),
    /// On its way to whoever leads.
    Astray,
}

/// A KeepAlive, or what became of it; ages are in ticks of the client's clock since it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    KeepAlive {
        age: u8,
    },
    /// The leader of this term has proved that it led when it was asked.
    Proven {
        age: u8,
        term: u8,
    },
    Reply {
        age: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The client runs.
    alive: bool,
    /// For how long it believes in its lease, by its own clock.
    believes: u8,
    /// Ticks since its clock missed one.
    since_slow: u8,
    messages: Vec<Message>,
    /// The term that a majority follows.
    term: u8,
    leases: [Lease; TERMS],
    proposals: [Proposal; TERMS],
    ended: bool,
    /// A command of a term whose leader was deposed when it was applied has ended it.
    ended_by_deposed: bool,
    /// The next holder's write has reached the store, and after it one of the first holder's.
    next_wrote: bool,
    stale_write: bool,
    /// Ticks in a row in which the client was gone and nothing extended its lease.
    idle: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick {
        slow: bool,
    },
    Crash,
    Send,
    Lose(usize),
    /// The KeepAlive reaches the leader of a term; a copy may stay under way.
    Prove {
        message: usize,
        term: u8,
        copy: bool,
    },
    Extend(usize),
    Hear(usize),
    /// A new term begins; what is in the old leader's log is kept and committed first, or is not.
    Elect {
        carried: bool,
    },
    /// A deposed leader hears that it is one.
    StepDown(usize),
    Propose(usize),
    Commit,
    /// A proposal reaches the leader of the day.
    Forward(usize),
    LoseProposal(usize),
    NextWrites,
    /// A write that the first holder sent while it believed, however long ago.
    FirstWriteArrives,
}

struct Cell {
    broken: Broken,
}

impl Cell {
    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }

    fn margin(&self) -> u8 {
        if self.is(Broken::NoMargin) { 0 } else { MARGIN }
    }
}

impl State {
    fn newest(&self) -> usize {
        usize::from(self.term)
    }

    /// A command is applied: the state machine has seen the entry's term, and holds the command's against it.
    fn expire(&mut self, cell: &Cell, leader: usize, entry: usize) {
        let deposed = leader < entry;
        if deposed && !cell.is(Broken::TermNotChecked) {
            return;
        }
        self.ended = true;
        self.ended_by_deposed |= deposed;
    }

    fn elect(&mut self, cell: &Cell, carried: bool) {
        let old = self.newest();
        if let Proposal::Logged(_) = self.proposals[old] {
            self.proposals[old] = Proposal::Astray;
            if carried {
                self.proposals[old] = Proposal::None;
                self.expire(cell, old, old);
            }
        }
        // When it deems the lease over is all one from here on: it may be wrong at any time.
        self.leases[old] = Lease::Left(0);
        self.term += 1;
        self.idle = 0;
        let left = if cell.is(Broken::LeasesNotRestarted) { 0 } else { LEASE };
        self.leases[self.newest()] = Lease::Left(left);
    }

    fn tick(&mut self, cell: &Cell, slow: bool) {
        for lease in &mut self.leases {
            if let Lease::Left(left) = lease {
                *left = left.saturating_sub(1);
            }
        }
        for proposal in &mut self.proposals {
            if let Proposal::Logged(ticks) = proposal {
                *ticks += 1;
            }
        }
        self.since_slow = if slow { 0 } else { (self.since_slow + 1).min(LEASE - 1) };
        self.idle = (self.idle + u8::from(!self.alive && !self.ended)).min(LEASE + COMMIT_WITHIN + 1);
        if !slow {
            self.believes = self.believes.saturating_sub(1);
            let oldest = LEASE - cell.margin();
            for message in &mut self.messages {
                let (Message::KeepAlive { age } | Message::Proven { age, .. } | Message::Reply { age }) =
                    message;
                *age = (*age + 1).min(oldest);
            }
        }
    }

    fn extend(&mut self, cell: &Cell, age: u8, term: u8) {
        let lease = &mut self.leases[usize::from(term)];
        let refused = match lease {
            Lease::None => true,
            Lease::Ending => !cell.is(Broken::ExtendedWhileEnding),
            Lease::Left(_) => false,
        };
        if !refused {
            *lease = Lease::Left(if term == self.term { LEASE } else { 0 });
            self.idle = 0;
            self.messages.push(Message::Reply { age });
        }
    }

    fn hear(&mut self, cell: &Cell, age: u8) {
        let age = if cell.is(Broken::CountedFromReply) { 0 } else { age };
        let left = (LEASE - cell.margin()).saturating_sub(age);
        self.believes = self.believes.max(left);
    }

    /// Nothing must be done before time goes on: a leader that nobody has deposed sees to its leases at once.
    fn may_tick(&self) -> bool {
        let newest = self.newest();
        let proposed = match self.proposals[newest] {
            Proposal::Logged(ticks) => ticks < COMMIT_WITHIN,
            _ => !matches!(self.leases[newest], Lease::Left(0) | Lease::Ending),
        };
        proposed || self.ended
    }

    /// States that differ only in what makes no difference any more are one.
    fn settle(mut self) -> State {
        if !self.alive {
            (self.believes, self.since_slow) = (0, LEASE - 1);
            self.messages.retain(|message| !matches!(message, Message::Reply { .. }));
        }
        if self.ended {
            self.messages.retain(|message| matches!(message, Message::Reply { .. }));
            self.leases = [Lease::None; TERMS];
            self.proposals = [Proposal::None; TERMS];
            self.idle = 0;
        }
        self.messages.sort();
        self
    }
}

impl Cell {
    fn actions_on_messages(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, message) in state.messages.iter().enumerate() {
            actions.push(Action::Lose(index));
            match message {
                Message::KeepAlive { .. } => self.proofs(state, index, actions),
                Message::Proven { .. } => actions.push(Action::Extend(index)),
                Message::Reply { .. } => actions.push(Action::Hear(index)),
            }
        }
    }

    /// Who leads the newest term can prove it; others only believe that they lead.
    fn proofs(&self, state: &State, message: usize, actions: &mut Vec<Action>) {
        for term in 0..=state.term {
            let believes = state.leases[usize::from(term)] != Lease::None;
            if believes && (term == state.term || self.is(Broken::UnprovenExtension)) {
                actions.push(Action::Prove { message, term, copy: false });
                if state.messages.len() < IN_FLIGHT {
                    actions.push(Action::Prove { message, term, copy: true });
                }
            }
        }
    }

    fn actions_of_leaders(&self, state: &State, actions: &mut Vec<Action>) {
        let newest = state.newest();
        if newest + 1 < TERMS {
            actions.push(Action::Elect { carried: false });
            if let Proposal::Logged(_) = state.proposals[newest] {
                actions.push(Action::Elect { carried: true });
            }
        }
        for term in 0..=newest {
            let over = matches!(state.leases[term], Lease::Left(0) | Lease::Ending);
            match state.proposals[term] {
                Proposal::None if over => actions.push(Action::Propose(term)),
                Proposal::Logged(_) => actions.push(Action::Commit),
                Proposal::Astray => actions.extend([Action::Forward(term), Action::LoseProposal(term)]),
                Proposal::None => {}
            }
            if term < newest && state.leases[term] != Lease::None {
                actions.push(Action::StepDown(term));
            }
        }
    }
}

impl Model for Cell {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut leases = [Lease::None; TERMS];
        leases[0] = Lease::Left(LEASE);
        vec![State {
            alive: true,
            believes: LEASE - self.margin(),
            since_slow: LEASE - 1,
            messages: Vec::new(),
            term: 0,
            leases,
            proposals: [Proposal::None; TERMS],
            ended: false,
            ended_by_deposed: false,
            next_wrote: false,
            stale_write: false,
            idle: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.may_tick() {
            actions.push(Action::Tick { slow: false });
            if state.alive && state.since_slow == LEASE - 1 {
                actions.push(Action::Tick { slow: true });
            }
        }
        if state.alive {
            actions.push(Action::Crash);
        }
        if state.alive && state.messages.len() < IN_FLIGHT {
            actions.push(Action::Send);
        }
        self.actions_on_messages(state, actions);
        if state.ended {
            actions.extend([Action::NextWrites, Action::FirstWriteArrives]);
        } else {
            self.actions_of_leaders(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick { slow } => state.tick(self, slow),
            Action::Crash => state.alive = false,
            Action::Send => state.messages.push(Message::KeepAlive { age: 0 }),
            Action::Lose(message) => drop(state.messages.remove(message)),
            Action::Prove { message, term, copy } => {
                let Message::KeepAlive { age } = state.messages[message] else { return None };
                if !copy {
                    state.messages.remove(message);
                }
                state.messages.push(Message::Proven { age, term });
            }
            Action::Extend(message) => {
                let Message::Proven { age, term } = state.messages.remove(message) else { return None };
                state.extend(self, age, term);
            }
            Action::Hear(message) => {
                let Message::Reply { age } = state.messages.remove(message) else { return None };
                state.hear(self, age);
            }
            Action::Elect { carried } => state.elect(self, carried),
            Action::StepDown(term) => state.leases[term] = Lease::None,
            Action::Propose(term) => {
                let leads = term == state.newest();
                state.leases[term] = Lease::Ending;
                state.proposals[term] = if leads { Proposal::Logged(0) } else { Proposal::Astray };
            }
            Action::Commit => {
                let newest = state.newest();
                state.proposals[newest] = Proposal::None;
                state.expire(self, newest, newest);
            }
            Action::Forward(term) => {
                state.proposals[term] = Proposal::None;
                let entry = state.newest();
                state.expire(self, term, entry);
            }
            Action::LoseProposal(term) => state.proposals[term] = Proposal::None,
            Action::NextWrites => state.next_wrote = true,
            Action::FirstWriteArrives => {
                state.stale_write |= state.next_wrote && self.is(Broken::GenerationNotChecked);
            }
        }
        let state = state.settle();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Cell>> {
        vec![
            Property::always(NEVER_TOO_EARLY, |_, state: &State| !(state.ended && state.believes > 0)),
            Property::always(DEPOSED, |_, state: &State| !state.ended_by_deposed),
            Property::always(IN_THE_END, |_, state: &State| state.idle <= LEASE + COMMIT_WITHIN),
            Property::always(ONE_HOLDER, |_, state: &State| !state.stale_write),
            Property::sometimes("a session is ended", |_, state: &State| state.ended),
            Property::sometimes(
                "a client is in jeopardy, and word of a lease is under way",
                |_, state: &State| {
                    state.alive && state.believes == 0 && state.messages.contains(&Message::Reply { age: 0 })
                },
            ),
            Property::sometimes("two leaders say that the lease is over", |_, state: &State| {
                state.leases.iter().filter(|lease| **lease == Lease::Ending).count() == 2
            }),
            Property::sometimes(
                "a deposed leader's word is under way while the client is safe",
                |_, state: &State| state.proposals.contains(&Proposal::Astray) && state.believes > 0,
            ),
        ]
    }
}

const NEVER_TOO_EARLY: &str = "no session is ended whose client believes in its lease (S-2, S-4)";
const DEPOSED: &str = "a deposed leader ends nothing (S-8)";
const IN_THE_END: &str = "a session whose client is gone is ended (S-1)";
const ONE_HOLDER: &str = "no write of a lock's earlier holder follows one of a later holder (L-4)";

/// Spec S-2, S-4, S-5, S-8, L-4: in every order of events.
#[test]
fn leases_hold_whatever_happens() {
    let checked = Cell { broken: Broken::Nothing }.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
    assert!(checked.is_done());
    println!("{} states, {} steps deep", checked.unique_state_count(), checked.max_depth());
    assert!(checked.unique_state_count() > 10_000, "it explored next to nothing");
}

/// Each rule is needed: without it the checker finds what goes wrong.
#[test]
fn no_rule_can_be_left_out() {
    for (broken, property) in [
        (Broken::CountedFromReply, NEVER_TOO_EARLY),
        (Broken::NoMargin, NEVER_TOO_EARLY),
        (Broken::UnprovenExtension, NEVER_TOO_EARLY),
        (Broken::LeasesNotRestarted, NEVER_TOO_EARLY),
        (Broken::TermNotChecked, NEVER_TOO_EARLY),
        (Broken::TermNotChecked, DEPOSED),
        (Broken::ExtendedWhileEnding, NEVER_TOO_EARLY),
        (Broken::GenerationNotChecked, ONE_HOLDER),
    ] {
        let wanted = HasDiscoveries::AllOf([property].into());
        let checked = Cell { broken }.checker().finish_when(wanted).threads(2).spawn_bfs().join();
        assert!(
            checked.discovery(property).is_some(),
            "without a rule ({broken:?}) it still holds that {property}"
        );
    }
}
