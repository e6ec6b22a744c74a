//! What a handle is to its node's lock, as this client knows it. No I/O and no clock of its own.
//!
//! The session's task tells it the answers and the cell's own words in the order in which they came; the application's
//! side says what it wants. What nobody wants any more is given back: that comes out as a follow-up.
//!
//! A cell's word that the lock was given may be older than the newest answer. So it is believed only for a lock
//! generation newer than all that this handle has given back; in doubt the cell is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation as Op;
use bramah_wire::v1::outcome::Outcome;
use tokio::sync::watch;

use crate::error::Error;

/// A call that a handle wants made because of what came.
pub(crate) type FollowUp = (Arc<Grip>, Op);

/// Why a lock that was held is not held any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The session expired, and with it all its handles.
    SessionExpired,
    /// The node was deleted.
    NodeDeleted,
    /// The cell closed the handle: an ACL change no longer allows it.
    HandleClosed,
    /// The cell says that the handle holds nothing.
    NotHeld,
}

/// A handle's place at its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Apart,
    /// The lock was asked for, and there is no answer yet. `doubt`: the cell spoke of a generation that may be an old one.
    Asked {
        doubt: bool,
    },
    Waiting,
    Holding {
        generation: u64,
    },
    /// It is being given back, or the wait is being cancelled.
    Leaving,
}

/// Why no call through the handle can succeed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    SessionExpired(String),
    NodeDeleted,
    /// By the cell.
    Revoked,
    /// The client was closed.
    ClientClosed,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) place: Place,
    /// The mode of `place`: as it was asked for, is held, or is being left.
    shared: bool,
    /// How many wait for the lock here, and in which mode.
    wanters: usize,
    wanted_shared: bool,
    /// Questions so far, so that one who gives up takes back only its own.
    questions: u64,
    /// The application holds the lock, and gives it back itself.
    kept: bool,
    /// The newest generation that was given back.
    given_back: u64,
    /// A new connection has not said yet what the place is; an answer may be one that was kept from before.
    unconfirmed: bool,
    pub(crate) poisoned: bool,
    pub(crate) ended: Option<Ended>,
    pub(crate) lost: Option<LostReason>,
}

/// What the application's side of an acquire has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// With the question's number.
    Ask(u64),
    Wait,
    Held(u64),
}

/// One handle of a session.
#[derive(Debug)]
pub(crate) struct Grip {
    pub(crate) session: u64,
    pub(crate) handle: u64,
    pub(crate) path: String,
    pub(crate) instance: u64,
    state: watch::Sender<State>,
    /// The question that [`Step::Ask`] stands for is on its way to the task.
    queued: AtomicBool,
}

impl Grip {
    pub(crate) fn new(session: u64, handle: u64, path: String, instance: u64) -> Self {
        let state = State {
            place: Place::Apart,
            shared: false,
            wanters: 0,
            wanted_shared: false,
            questions: 0,
            kept: false,
            given_back: 0,
            unconfirmed: false,
            poisoned: false,
            ended: None,
            lost: None,
        };
        Self {
            session,
            handle,
            path,
            instance,
            state: watch::Sender::new(state),
            queued: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Those who look on are woken only by what concerns them: else one who looks on and changes nothing wakes itself.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_if_modified(|state| {
            let before = state.outlook();
            result = Some(change(state));
            state.outlook() != before
        });
        // It always calls the change.
        result.unwrap_or_else(|| unreachable!("a state was not changed"))
    }

    /// Why nothing can be done through the handle.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let state = self.state.borrow();
        let (handle, path) = (self.handle, &self.path);
        match &state.ended {
            Some(Ended::SessionExpired(message)) => {
                let message =
                    format!("{message}; handle {handle} on {path} went with its session: open another");
                return Err(Error::SessionExpired { message, may_have_been_done: false });
            }
            Some(Ended::NodeDeleted) => {
                let message = format!(
                    "{path}, as handle {handle} had it open, was deleted: open the node there is now"
                );
                return Err(Error::NodeDeleted { message });
            }
            Some(Ended::Revoked) => {
                let message =
                    format!("the cell closed handle {handle} on {path}: its ACL no longer allows it");
                return Err(Error::UnknownHandle { message });
            }
            Some(Ended::ClientClosed) => return Err(Error::closed(false)),
            None => {}
        }
        if state.poisoned {
            return Err(self.poisoned());
        }
        Ok(())
    }

    pub(crate) fn poisoned(&self) -> Error {
        let message =
            format!("handle {} on {} was poisoned: close it and open another", self.handle, self.path);
        Error::Poisoned { message }
    }

    pub(crate) fn poison(&self) {
        self.change(|state| state.poisoned = true);
    }

    // The application's side.

    /// Somebody wants the lock; until [`Grip::unwant`] or [`Grip::keep`].
    pub(crate) fn want(&self, shared: bool) -> Result<(), Error> {
        self.change(|state| {
            let other = state.wanters > 0 && state.wanted_shared != shared;
            if other || (state.kept && state.shared != shared) {
                let message = format!(
                    "handle {} holds the lock of {}, or waits for it, in the other mode: release it first",
                    self.handle, self.path
                );
                return Err(Error::LockInUse { message });
            }
            state.wanted_shared = shared;
            state.wanters += 1;
            Ok(())
        })
    }

    /// What one who wants the lock does next; asking is left to one at a time.
    pub(crate) fn step(&self, shared: bool) -> Step {
        self.change(|state| match state.place {
            Place::Apart => {
                state.shared = shared;
                state.ask();
                self.queued.store(false, Ordering::Relaxed);
                Step::Ask(state.questions)
            }
            Place::Holding { generation } if state.shared == shared => Step::Held(generation),
            // One in the other mode, that nobody wanted any more, is given back first.
            _ => Step::Wait,
        })
    }

    /// The question goes to the task, which will say what came of it.
    pub(crate) fn queue(&self, operation: &v1::Operation) {
        if matches!(operation.operation, Some(Op::Acquire(_))) {
            self.queued.store(true, Ordering::Relaxed);
        }
    }

    /// The one who asked is gone: if its question is with nobody, somebody else may ask.
    pub(crate) fn unask(&self, question: u64) {
        self.change(|state| {
            let open = matches!(state.place, Place::Asked { .. }) && state.questions == question;
            if open && !self.queued.load(Ordering::Relaxed) {
                state.place = Place::Apart;
            }
        });
    }

    /// The application has the lock now: its generation, and whether it is shared. None: it was lost in between, and is
    /// still wanted.
    pub(crate) fn keep(&self) -> Option<(u64, bool)> {
        self.change(|state| {
            let Place::Holding { generation } = state.place else { return None };
            if state.shared != state.wanted_shared {
                return None;
            }
            state.wanters -= 1;
            (state.kept, state.lost) = (true, None);
            Some((generation, state.shared))
        })
    }

    /// Somebody doesn't want the lock any more.
    pub(crate) fn unwant(&self) -> Option<Op> {
        self.change(|state| {
            state.wanters -= 1;
            self.settle(state)
        })
    }

    /// The application gives the lock back, if there is one to give.
    pub(crate) fn give_back(&self) -> Option<Op> {
        self.change(|state| {
            let Place::Holding { generation } = state.place else { return None };
            state.leave(generation);
            Some(Op::Release(v1::Release { handle: self.handle }))
        })
    }

    // The task's side.

    /// What the cell answered to a call through this handle.
    pub(crate) fn answered(&self, asked: &v1::Operation, answer: &Result<Outcome, Error>) -> Option<Op> {
        match &asked.operation {
            Some(Op::Acquire(_)) => self.change(|state| self.acquired(state, answer)),
            Some(Op::CancelAcquire(_)) => self.change(|state| self.cancelled(state, answer)),
            Some(Op::Release(_)) => {
                self.change(|state| state.apart());
                None
            }
            Some(Op::ReadOnHandle(v1::ReadOnHandle {
                verb: Some(v1::read_on_handle::Verb::Sequencer(_)),
                ..
            })) => {
                self.looked(answer);
                None
            }
            _ => None,
        }
    }

    fn acquired(&self, state: &mut State, answer: &Result<Outcome, Error>) -> Option<Op> {
        use v1::handle_state::Place as Told;
        let Place::Asked { doubt } = state.place else { return self.settle(state) };
        match place_in(answer) {
            Ok(told) if state.unconfirmed && matches!(told.place(), Told::Holding | Told::Waiting) => {
                return Some(self.verify(state));
            }
            Ok(told) if told.place() == Told::Holding => state.hold(&told),
            // It may hold the lock by now, or not: asked again, the cell says so.
            Ok(told) if told.place() == Told::Waiting && doubt => return Some(self.ask_again(state)),
            Ok(told) if told.place() == Told::Waiting => state.place = Place::Waiting,
            Err(error) if error.may_have_been_done() => {
                state.place = Place::Leaving;
                return Some(self.cancel());
            }
            _ => state.place = Place::Apart,
        }
        self.settle(state)
    }

    fn cancelled(&self, state: &mut State, answer: &Result<Outcome, Error>) -> Option<Op> {
        match place_in(answer) {
            Ok(told) if told.place() == v1::handle_state::Place::Holding => {
                if std::mem::take(&mut state.unconfirmed) {
                    return Some(self.cancel());
                }
                state.hold(&told);
                self.settle(state)
            }
            _ => {
                state.apart();
                None
            }
        }
    }

    /// The cell may have kept the answer from before the connection was lost, and what it says may be over. A call of
    /// a new number tells the truth.
    fn verify(&self, state: &mut State) -> Op {
        if state.is_wanted() {
            return self.ask_again(state);
        }
        (state.place, state.unconfirmed) = (Place::Leaving, false);
        self.cancel()
    }

    /// An answer to [`Grip::look`].
    fn looked(&self, answer: &Result<Outcome, Error>) {
        let lost = match answer {
            Err(Error::NodeDeleted { .. }) => LostReason::NodeDeleted,
            Err(Error::UnknownHandle { .. }) => LostReason::HandleClosed,
            Err(Error::LockNotHeld { .. }) => LostReason::NotHeld,
            Ok(_) => return self.change(|state| state.unconfirmed = false),
            Err(_) => return,
        };
        self.state.send_if_modified(|state| {
            let holds = state.unconfirmed && matches!(state.place, Place::Holding { .. });
            if holds {
                state.lose(lost);
            }
            holds
        });
    }

    /// The cell's word on the handle, outside of any answer.
    pub(crate) fn told(&self, told: v1::HandleState) -> Option<Op> {
        use v1::handle_state::Place as Told;
        self.change(|state| match told.place() {
            Told::Holding => {
                if state.is_stray() && told.lock_generation > state.given_back {
                    state.hold(&told);
                }
                self.given(state, told.lock_generation, told.shared).or_else(|| self.settle(state))
            }
            Told::Waiting => {
                state.unconfirmed &= state.place != Place::Waiting;
                if state.is_stray() {
                    state.place = Place::Waiting;
                }
                self.settle(state)
            }
            Told::Closed => {
                state.end(Ended::Revoked, LostReason::HandleClosed);
                None
            }
            Told::Lost => {
                state.end(Ended::NodeDeleted, LostReason::NodeDeleted);
                None
            }
            // It comes of what this handle itself has asked for.
            Told::Apart | Told::Unspecified => None,
        })
    }

    fn given(&self, state: &mut State, generation: u64, shared: bool) -> Option<Op> {
        // Others may have shared the lock on, so a generation that was given back may come again.
        let doubtful = generation == state.given_back;
        match state.place {
            Place::Holding { generation: held } if held == generation => state.unconfirmed = false,
            Place::Asked { .. } | Place::Waiting
                if generation < state.given_back || shared != state.shared => {}
            Place::Asked { .. } if doubtful => state.place = Place::Asked { doubt: true },
            Place::Waiting if doubtful => return Some(self.ask_again(state)),
            Place::Asked { .. } | Place::Waiting => {
                state.place = Place::Holding { generation };
                state.unconfirmed = false;
            }
            _ => {}
        }
        None
    }

    /// A handle that holds the lock or waits for it is told so, whatever it was told before.
    fn ask_again(&self, state: &mut State) -> Op {
        state.ask();
        self.queued.store(true, Ordering::Relaxed);
        Op::Acquire(v1::Acquire { handle: self.handle, shared: state.shared, wait: true })
    }

    /// Gives back what nobody wants, or not in this mode.
    fn settle(&self, state: &mut State) -> Option<Op> {
        if state.is_wanted() {
            return None;
        }
        match state.place {
            Place::Waiting => {
                state.place = Place::Leaving;
                Some(self.cancel())
            }
            Place::Holding { generation } => {
                state.leave(generation);
                Some(Op::Release(v1::Release { handle: self.handle }))
            }
            _ => None,
        }
    }

    fn cancel(&self) -> Op {
        Op::CancelAcquire(v1::CancelAcquire { handle: self.handle })
    }

    /// A new connection: the cell is about to say what the handle is to its lock.
    pub(crate) fn reconnected(&self) {
        self.state.send_if_modified(|state| {
            state.unconfirmed = state.place != Place::Apart;
            false
        });
    }

    /// What the cell has not said, it is asked for.
    pub(crate) fn look(&self) -> Option<Op> {
        if !self.state.borrow().unconfirmed {
            return None;
        }
        self.change(|state| match state.place {
            Place::Waiting => Some(self.ask_again(state)),
            Place::Holding { .. } => {
                let verb = Some(v1::read_on_handle::Verb::Sequencer(v1::GetSequencer {}));
                Some(Op::ReadOnHandle(v1::ReadOnHandle { handle: self.handle, verb }))
            }
            _ => None,
        })
    }

    pub(crate) fn end(&self, ended: Ended, lost: LostReason) {
        self.change(|state| state.end(ended, lost));
    }
}

impl State {
    /// What others wait for.
    fn outlook(&self) -> (Place, bool, bool, bool) {
        (self.place, self.poisoned, self.ended.is_some(), self.lost.is_some())
    }

    fn is_wanted(&self) -> bool {
        self.kept || (self.wanters > 0 && self.wanted_shared == self.shared)
    }

    /// It should not be at the lock at all: what the cell says of it there is to be ended.
    fn is_stray(&self) -> bool {
        self.place == Place::Apart && self.wanters == 0 && self.ended.is_none()
    }

    fn ask(&mut self) {
        (self.place, self.unconfirmed) = (Place::Asked { doubt: false }, false);
        self.questions += 1;
    }

    fn hold(&mut self, told: &v1::HandleState) {
        self.place = Place::Holding { generation: told.lock_generation };
        self.shared = told.shared;
    }

    fn leave(&mut self, generation: u64) {
        self.given_back = self.given_back.max(generation);
        self.place = Place::Leaving;
        self.kept = false;
    }

    fn apart(&mut self) {
        self.place = Place::Apart;
        self.kept = false;
    }

    fn lose(&mut self, reason: LostReason) {
        self.lost.get_or_insert(reason);
        self.apart();
    }

    fn end(&mut self, ended: Ended, lost: LostReason) {
        if self.ended.is_some() {
            return;
        }
        if matches!(self.place, Place::Holding { .. }) {
            self.lost.get_or_insert(lost);
        }
        self.apart();
        self.ended = Some(ended);
    }
}

/// Where an answer says that the handle stands.
fn place_in(answer: &Result<Outcome, Error>) -> Result<v1::HandleState, Error> {
    match answer {
        Ok(Outcome::Lock(v1::LockState { state: Some(state), .. })) => Ok(*state),
        Ok(_) => Err(Error::unexpected("a call to a lock")),
        Err(error) => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests;
