//! Tests of a handle's place at its lock: no connection, only what was asked, answered and told.

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
    assert_eq!(grip.step(shared), Step::Ask);
    grip.queue(&v1::Operation { operation: Some(acquire()) });
    grip
}

/// A handle that has held the lock once, and has given it back.
fn given_back(generation: u64, shared: bool) -> Grip {
    let grip = asking(shared);
    let held = state(v1::handle_state::Place::Holding, generation, shared);
    assert_eq!(answer(&grip, acquire(), held), None);
    assert!(grip.keep());
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
    assert!(grip.keep());
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
    assert_eq!(grip.step(false), Step::Ask);
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
        assert_eq!(grip.step(true), Step::Ask);
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
    assert_eq!(grip.step(false), Step::Ask);

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
    let grip = grip();
    grip.want(false).unwrap();
    grip.want(false).unwrap();
    assert_eq!(grip.step(false), Step::Ask);
    grip.unask();
    grip.unwant();
    assert_eq!(grip.step(false), Step::Ask);
    grip.queue(&v1::Operation { operation: Some(acquire()) });
    grip.unask();
    assert_eq!(grip.step(false), Step::Wait, "it was put");
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
        assert!(grip.keep());
        grip.reconnected();
        grip
    };
    let confirmed = held();
    confirmed.told(holding(3));
    assert_eq!(confirmed.look(), None);
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
    /// The handle's place in the cell.
    truth: Place,
    generation: u64,
    /// Asked, and not done yet; done, and not answered yet; told.
    asked: std::collections::VecDeque<Op>,
    answers: std::collections::VecDeque<(Op, v1::HandleState)>,
    told: std::collections::VecDeque<v1::HandleState>,
}

impl Bench {
    fn place(&self) -> v1::HandleState {
        match self.truth {
            Place::Waiting => waiting(),
            Place::Holding { generation } => holding(generation),
            _ => apart(),
        }
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
            (Op::Acquire(_), Place::Apart) => self.truth = Place::Waiting,
            (Op::CancelAcquire(_), Place::Waiting) | (Op::Release(_), Place::Holding { .. }) => {
                self.truth = Place::Apart;
            }
            _ => {}
        }
        self.answers.push_back((operation, self.place()));
    }
}

/// Whatever the order of answers, words and wishes: who believes to hold the lock holds it, and in the end nothing is
/// held or waited for that nobody wants (spec H-4, L-2).
#[test]
fn belief_and_truth_agree() {
    for seed in 0..2000 {
        let mut random = StdRng::seed_from_u64(seed);
        let (grip, truth) = (grip(), Place::Apart);
        let (asked, answers, told) = Default::default();
        let mut bench = Bench { grip, truth, generation: 0, asked, answers, told };
        let (mut wanted, mut kept) = (false, false);
        for round in 0..600 {
            let stops = round > 200;
            let follow_up = match random.random_range(0..8) {
                0 if !wanted && !kept && !stops => {
                    wanted = bench.grip.want(false).is_ok();
                    None
                }
                1 if wanted && !stops => match bench.grip.step(false) {
                    Step::Ask => Some(acquire()),
                    Step::Held(_) => {
                        kept = bench.grip.keep();
                        wanted &= !kept;
                        None
                    }
                    Step::Wait => None,
                },
                2 if wanted && (stops || random.random_bool(0.3)) => {
                    wanted = false;
                    bench.grip.unwant()
                }
                3 if kept && (stops || random.random_bool(0.5)) => {
                    kept = false;
                    bench.grip.give_back()
                }
                4 => {
                    bench.perform();
                    None
                }
                5 => {
                    bench.grant();
                    None
                }
                6 => bench.answers.pop_front().and_then(|(asked, state)| answer(&bench.grip, asked, state)),
                7 => bench.told.pop_front().and_then(|state| bench.grip.told(state)),
                _ => None,
            };
            if let Some(operation) = follow_up {
                bench.grip.queue(&v1::Operation { operation: Some(operation.clone()) });
                bench.asked.push_back(operation);
            }
            if kept {
                assert!(matches!(bench.truth, Place::Holding { .. }), "seed {seed}: believes to hold it");
            }
        }
        assert_eq!((bench.truth, bench.grip.now().place), (Place::Apart, Place::Apart), "seed {seed}");
    }
}
