//! Tests of a handle's place at its lock: no connection, only what was asked, answered and told.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const HANDLE: u64 = 7;

fn grip() -> Grip {
    Grip::new(1, HANDLE, "/l".into(), 5)
}

fn state(place: v1::handle_state::Place, lock_generation: u64, shared: bool) -> v1::HandleState {
    v1::HandleState { handle: HANDLE, place: place.into(), lock_generation, shared, ..Default::default() }
}

fn holding(generation: u64) -> v1::HandleState {
    state(v1::handle_state::Place::Holding, generation, false)
}

fn waiting() -> v1::HandleState {
    state(v1::handle_state::Place::Waiting, 0, false)
}

fn apart() -> v1::HandleState {
    state(v1::handle_state::Place::Apart, 0, false)
}

fn acquire() -> Op {
    Op::Acquire(v1::Acquire { handle: HANDLE, shared: false, wait: true })
}

fn answer(grip: &Grip, asked: Op, state: v1::HandleState) -> Option<Op> {
    let outcome = Outcome::Lock(v1::LockState { state: Some(state), waiters: 0 });
    grip.answered(&v1::Operation { operation: Some(asked) }, &Ok(outcome))
}

fn refuse(grip: &Grip, asked: Op, error: Error) -> Option<Op> {
    grip.answered(&v1::Operation { operation: Some(asked) }, &Err(error))
}

fn cancel() -> Op {
    Op::CancelAcquire(v1::CancelAcquire { handle: HANDLE })
}

fn release() -> Op {
    Op::Release(v1::Release { handle: HANDLE })
}

/// A handle that has asked for the lock.
fn asking(shared: bool) -> Grip {
    let grip = grip();
    grip.want(shared).unwrap();
    assert!(matches!(grip.step(shared), Step::Ask(_)));
    grip.queue(&v1::Operation { operation: Some(acquire()) });
    grip
}

/// A handle that has held the lock once, and has given it back.
fn given_back(generation: u64, shared: bool) -> Grip {
    let grip = asking(shared);
    let held = state(v1::handle_state::Place::Holding, generation, shared);
    assert_eq!(answer(&grip, acquire(), held), None);
    assert!(grip.keep().is_some());
    assert_eq!(grip.give_back(), Some(release()));
    grip.answered(&v1::Operation { operation: Some(release()) }, &Ok(Outcome::Done(v1::Done {})));
    assert_eq!(grip.now().place, Place::Apart);
    grip
}

/// Spec L-1: answered at once, or told later.
#[test]
fn a_lock_is_had_by_answer_or_by_word() {
    let grip = asking(false);
    assert_eq!(grip.step(false), Step::Wait, "asked once");
    assert_eq!(answer(&grip, acquire(), waiting()), None);
    assert_eq!(grip.told(holding(3)), None);
    assert_eq!(grip.step(false), Step::Held(3));
    assert!(grip.keep().is_some());
    assert!(matches!(grip.want(true), Err(Error::LockInUse { .. })));
    grip.want(false).unwrap();
    assert_eq!(grip.step(false), Step::Held(3), "asked again it is the same lock");
}

/// The word that it was given may come before the answer that it waits.
#[test]
fn the_word_may_come_before_the_answer() {
    let grip = asking(false);
    assert_eq!(grip.told(holding(3)), None);
    assert_eq!(answer(&grip, acquire(), waiting()), None);
    assert_eq!(grip.step(false), Step::Held(3));
}

/// An old word is not believed: the lock that it speaks of was given back.
#[test]
fn an_old_word_gives_no_lock() {
    let grip = given_back(3, false);
    grip.want(false).unwrap();
    assert!(matches!(grip.step(false), Step::Ask(_)));
    assert_eq!(grip.told(holding(2)), None);
    assert_eq!(grip.step(false), Step::Wait);
    assert_eq!(answer(&grip, acquire(), waiting()), None);
    assert_eq!(grip.told(holding(2)), None);
    assert_eq!(grip.now().place, Place::Waiting);
    assert_eq!(grip.told(holding(4)), None);
    assert_eq!(grip.step(false), Step::Held(4));
}

/// A shared lock may be given again in the generation that was given back: in doubt the cell is asked.
#[test]
fn in_doubt_the_cell_is_asked() {
    let again = Op::Acquire(v1::Acquire { handle: HANDLE, shared: true, wait: true });
    let told = state(v1::handle_state::Place::Holding, 3, true);
    for before_the_answer in [true, false] {
        let grip = given_back(3, true);
        grip.want(true).unwrap();
        assert!(matches!(grip.step(true), Step::Ask(_)));
        let asked = if before_the_answer {
            assert_eq!(grip.told(told), None);
            answer(&grip, acquire(), waiting())
        } else {
            assert_eq!(answer(&grip, acquire(), waiting()), None);
            grip.told(told)
        };
        assert_eq!(asked, Some(again.clone()));
        assert_eq!(grip.step(true), Step::Wait);
        assert_eq!(answer(&grip, again.clone(), told), None);
        assert_eq!(grip.step(true), Step::Held(3));
    }
}

/// Spec H-4: a wait that is given up leaves the queue; a lock that was given meanwhile is given back.
#[test]
fn what_nobody_wants_is_given_back() {
    let grip = asking(false);
    answer(&grip, acquire(), waiting());
    assert_eq!(grip.unwant(), Some(cancel()));
    assert_eq!(grip.told(holding(3)), None, "the answer to the cancelling says it too");
    assert_eq!(answer(&grip, cancel(), holding(3)), Some(release()));
    assert_eq!(answer(&grip, release(), apart()), None);
    assert_eq!(grip.now().place, Place::Apart);

    let grip = asking(false);
    assert_eq!(grip.unwant(), None, "there is no answer yet");
    assert_eq!(answer(&grip, acquire(), holding(1)), Some(release()));
    let grip = asking(false);
    grip.unwant();
    assert_eq!(answer(&grip, acquire(), waiting()), Some(cancel()));
    let grip = asking(false);
    grip.told(holding(1));
    assert_eq!(grip.unwant(), Some(release()), "it was told, and nobody has taken it");
    let grip = asking(false);
    let lost = Error::Internal { message: "?".into(), may_have_been_done: true };
    assert_eq!(refuse(&grip, acquire(), lost), Some(cancel()), "it may stand in the queue");
}

/// One who comes while the wait of another is being cancelled waits for that, and then asks.
#[test]
fn one_may_come_while_another_leaves() {
    let grip = asking(false);
    answer(&grip, acquire(), waiting());
    grip.unwant();
    grip.want(false).unwrap();
    assert_eq!(grip.step(false), Step::Wait);
    assert_eq!(answer(&grip, cancel(), apart()), None);
    assert!(matches!(grip.step(false), Step::Ask(_)));

    let grip = asking(false);
    answer(&grip, acquire(), waiting());
    grip.unwant();
    grip.want(false).unwrap();
    assert_eq!(answer(&grip, cancel(), holding(3)), None, "then it is for the one who came");
    assert_eq!(grip.step(false), Step::Held(3));
}

/// Two wait through one handle: when one gives up the other has the lock all the same.
#[test]
fn two_may_want_the_same() {
    let grip = asking(false);
    grip.want(false).unwrap();
    assert_eq!(grip.unwant(), None);
    assert_eq!(answer(&grip, acquire(), holding(1)), None);
    assert_eq!(grip.step(false), Step::Held(1));
    assert!(matches!(grip.want(true), Err(Error::LockInUse { .. })));
}

/// One who asked and left before the question was on its way leaves the asking to the others.
#[test]
fn a_question_that_was_never_put_is_put_by_another() {
    let ask = |grip: &Grip| match grip.step(false) {
        Step::Ask(question) => question,
        step => panic!("{step:?}"),
    };
    let grip = grip();
    grip.want(false).unwrap();
    grip.want(false).unwrap();
    let first = ask(&grip);
    grip.unask(first);
    grip.unwant();
    let second = ask(&grip);
    grip.unask(first);
    assert_eq!(grip.step(false), Step::Wait, "only its own is taken back");
    grip.queue(&v1::Operation { operation: Some(acquire()) });
    grip.unask(second);
    assert_eq!(grip.step(false), Step::Wait, "it was put");
}

fn shared_holding(generation: u64) -> v1::HandleState {
    state(v1::handle_state::Place::Holding, generation, true)
}

/// Spec L-2: a shared lock that comes for one who is gone is none for one who wants it alone.
#[test]
fn a_shared_lock_is_never_taken_for_an_exclusive_one() {
    // Asked in the other mode, before there was an answer.
    let grip = asking(true);
    assert_eq!(grip.unwant(), None);
    grip.want(false).unwrap();
    assert!(matches!(grip.want(true), Err(Error::LockInUse { .. })));
    assert_eq!(grip.step(false), Step::Wait);
    assert_eq!(answer(&grip, acquire(), shared_holding(3)), Some(release()));
    assert_eq!(grip.step(false), Step::Wait);
    assert_eq!(grip.keep(), None);
    assert_eq!(answer(&grip, release(), apart()), None);
    assert!(matches!(grip.step(false), Step::Ask(_)));
    assert_eq!(answer(&grip, acquire(), holding(4)), None);
    assert_eq!((grip.step(false), grip.keep()), (Step::Held(4), Some((4, false))));

    // The wait in the other mode was being cancelled.
    let grip = asking(true);
    answer(&grip, acquire(), state(v1::handle_state::Place::Waiting, 0, true));
    assert_eq!(grip.unwant(), Some(cancel()));
    grip.want(false).unwrap();
    assert!(matches!(grip.want(true), Err(Error::LockInUse { .. })), "one mode at a time");
    assert_eq!(answer(&grip, cancel(), shared_holding(3)), Some(release()));
    assert_eq!((grip.step(false), grip.keep()), (Step::Wait, None));

    // A wait in the other mode, told while it was asked for.
    let grip = asking(true);
    grip.unwant();
    grip.want(false).unwrap();
    assert_eq!(grip.told(shared_holding(3)), Some(release()));
    assert_eq!((grip.step(false), grip.keep()), (Step::Wait, None));
}

/// Spec S-6, L-6: an answer that the cell has kept from before a connection broke may speak of what is over.
#[test]
fn a_kept_answer_is_not_believed() {
    for kept in [holding(3), waiting()] {
        let grip = asking(false);
        grip.reconnected();
        assert_eq!(answer(&grip, acquire(), kept), Some(acquire()), "asked anew, once");
        assert_eq!(grip.step(false), Step::Wait);
        assert_eq!(answer(&grip, acquire(), holding(5)), None);
        assert_eq!(grip.step(false), Step::Held(5));

        let grip = asking(false);
        grip.unwant();
        grip.reconnected();
        assert_eq!(answer(&grip, acquire(), kept), Some(cancel()), "nobody wants it");
        assert_eq!(answer(&grip, cancel(), holding(5)), Some(release()));
    }
    let grip = asking(false);
    answer(&grip, acquire(), waiting());
    grip.unwant();
    grip.want(false).unwrap();
    grip.reconnected();
    assert_eq!(answer(&grip, cancel(), holding(3)), Some(cancel()));
    assert_eq!(grip.step(false), Step::Wait);
    assert_eq!(answer(&grip, cancel(), apart()), None);
    assert!(matches!(grip.step(false), Step::Ask(_)));

    let told = asking(false);
    told.reconnected();
    told.told(holding(4));
    assert_eq!(answer(&told, acquire(), waiting()), None, "the new connection has said it");
    assert_eq!(told.step(false), Step::Held(4));
}

/// What the cell says of a handle that should not be at the lock is ended; an old word is none of that.
#[test]
fn what_should_not_be_is_ended() {
    assert_eq!(grip().told(waiting()), Some(cancel()));
    assert_eq!(grip().told(holding(1)), Some(release()));
    assert_eq!(given_back(3, false).told(holding(3)), None);
    let ended = grip();
    ended.end(Ended::Revoked, LostReason::HandleClosed);
    assert_eq!(ended.told(waiting()), None);
}

/// Spec L-6: on a new connection the cell says what is held; what it doesn't say it is asked for.
#[test]
fn a_new_connection_confirms_or_is_asked() {
    let look = Op::ReadOnHandle(v1::ReadOnHandle {
        handle: HANDLE,
        verb: Some(v1::read_on_handle::Verb::Sequencer(v1::GetSequencer {})),
    });
    let held = || {
        let grip = asking(false);
        answer(&grip, acquire(), holding(3));
        assert!(grip.keep().is_some());
        grip.reconnected();
        grip
    };
    let confirmed = held();
    confirmed.told(holding(3));
    assert_eq!(confirmed.look(), None);
    let confirmed = held();
    assert_eq!(confirmed.look(), Some(look.clone()));
    let sequencer = Outcome::Sequencer(v1::Sequencer::default());
    confirmed.answered(&v1::Operation { operation: Some(look.clone()) }, &Ok(sequencer));
    assert_eq!(confirmed.look(), None, "it was said");
    let lost = held();
    assert_eq!(lost.look(), Some(look.clone()));
    let error = Error::NodeDeleted { message: "gone".into() };
    assert_eq!(refuse(&lost, look.clone(), error), None);
    assert_eq!(lost.now().lost, Some(LostReason::NodeDeleted));
    let unknown = held();
    unknown.look();
    refuse(&unknown, look, Error::closed(false));
    assert_eq!(unknown.step(false), Step::Held(3), "no answer says nothing");

    let waits = asking(false);
    answer(&waits, acquire(), waiting());
    waits.reconnected();
    assert_eq!(waits.look(), Some(acquire()));
    assert_eq!(waits.unwant(), None);
    assert_eq!(answer(&waits, acquire(), waiting()), Some(cancel()), "and nothing is left behind");
}

/// Spec A-3, H-3, H-6: what ends a handle ends it for good, and says why.
#[test]
fn an_end_is_an_end() {
    for (told, reason) in [
        (v1::handle_state::Place::Closed, LostReason::HandleClosed),
        (v1::handle_state::Place::Lost, LostReason::NodeDeleted),
    ] {
        let grip = asking(false);
        answer(&grip, acquire(), holding(3));
        grip.keep();
        grip.told(state(told, 0, false));
        assert_eq!(grip.now().lost, Some(reason.clone()));
        grip.end(Ended::SessionExpired("over".into()), LostReason::SessionExpired);
        assert_eq!(grip.now().lost, Some(reason));
        assert!(!matches!(grip.check(), Ok(()) | Err(Error::SessionExpired { .. })));
    }
    let never = grip();
    never.end(Ended::NodeDeleted, LostReason::NodeDeleted);
    assert_eq!(never.now().lost, None, "it held nothing");
}

/// The cell's lock, and all that is on its way.
struct Bench {
    grip: Grip,
    /// The handle's place in the cell, and its mode.
    truth: Place,
    shared: bool,
    generation: u64,
    /// Asked, and not done yet; done, and not answered yet; told.
    asked: VecDeque<Op>,
    answers: VecDeque<(Op, v1::HandleState)>,
    told: VecDeque<v1::HandleState>,
    /// In which mode somebody wants the lock, or has it.
    wanted: Option<bool>,
    kept: Option<bool>,
}

impl Bench {
    fn new() -> Self {
        let (asked, answers, told) = Default::default();
        let (truth, generation, shared) = (Place::Apart, 0, false);
        Self { grip: grip(), truth, shared, generation, asked, answers, told, wanted: None, kept: None }
    }

    fn place(&self) -> v1::HandleState {
        let (place, generation) = match self.truth {
            Place::Waiting => (v1::handle_state::Place::Waiting, 0),
            Place::Holding { generation } => (v1::handle_state::Place::Holding, generation),
            _ => (v1::handle_state::Place::Apart, 0),
        };
        state(place, generation, self.shared)
    }

    fn grant(&mut self) {
        if self.truth == Place::Waiting {
            self.generation += 1;
            self.truth = Place::Holding { generation: self.generation };
            self.told.push_back(self.place());
        }
    }

    fn perform(&mut self) {
        let Some(operation) = self.asked.pop_front() else { return };
        match (&operation, self.truth) {
            (Op::Acquire(acquire), Place::Apart) => {
                (self.truth, self.shared) = (Place::Waiting, acquire.shared);
            }
            (Op::Acquire(acquire), _) => assert_eq!(acquire.shared, self.shared, "the cell refuses it"),
            (Op::CancelAcquire(_), Place::Waiting) | (Op::Release(_), Place::Holding { .. }) => {
                self.truth = Place::Apart;
            }
            _ => {}
        }
        self.answers.push_back((operation, self.place()));
    }

    /// A new connection tells the state as it is, and answers from before again.
    fn reconnect(&mut self) {
        self.grip.reconnected();
        self.told = VecDeque::from([self.place()]);
    }

    /// Somebody who wants the lock goes on.
    fn step(&mut self, shared: bool) -> Option<Op> {
        match self.grip.step(shared) {
            Step::Ask(_) => return Some(Op::Acquire(v1::Acquire { handle: HANDLE, shared, wait: true })),
            Step::Held(_) => {
                let (_, mode) = self.grip.keep().expect("nobody else is there");
                assert_eq!(mode, shared);
                (self.kept, self.wanted) = (Some(shared), None);
            }
            Step::Wait => {}
        }
        None
    }

    fn event(&mut self, random: &mut StdRng, stops: bool) -> Option<Op> {
        match (random.random_range(0..9), self.wanted) {
            (0, None) if self.kept.is_none() && !stops => {
                let mode = random.random();
                self.grip.want(mode).unwrap();
                self.wanted = Some(mode);
            }
            (1, Some(mode)) if !stops => return self.step(mode),
            (2, Some(_)) if stops || random.random_bool(0.3) => {
                self.wanted = None;
                return self.grip.unwant();
            }
            (3, _) if stops || random.random_bool(0.5) => {
                self.kept.take()?;
                return self.grip.give_back();
            }
            (4, _) => self.perform(),
            (5, _) => self.grant(),
            (6, _) => {
                let (asked, state) = self.answers.pop_front()?;
                return answer(&self.grip, asked, state);
            }
            (7, _) => return self.told.pop_front().and_then(|state| self.grip.told(state)),
            (8, _) if !stops && random.random_bool(0.1) => self.reconnect(),
            _ => {}
        }
        None
    }
}

/// Whatever the order of answers, words and wishes, in whichever mode: who believes to hold the lock holds it so, and in
/// the end nothing is held or waited for that nobody wants (spec H-4, L-2).
#[test]
fn belief_and_truth_agree() {
    for seed in 0..3000 {
        let (mut random, mut bench) = (StdRng::seed_from_u64(seed), Bench::new());
        for round in 0..600 {
            if let Some(operation) = bench.event(&mut random, round > 200) {
                bench.grip.queue(&v1::Operation { operation: Some(operation.clone()) });
                bench.asked.push_back(operation);
            }
            if let Some(mode) = bench.kept {
                assert!(matches!(bench.truth, Place::Holding { .. }), "seed {seed}: believes to hold it");
                assert_eq!(mode, bench.shared, "seed {seed}");
            }
        }
        assert_eq!((bench.truth, bench.grip.now().place), (Place::Apart, Place::Apart), "seed {seed}");
    }
}
