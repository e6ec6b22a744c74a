//! The calls of one session: numbered, sent, answered, sent again, given up. No I/O and no clock of its own.
//!
//! Numbers count up from 1 and lie in a window behind `confirmed`, the number up to which every call is answered
//! or given up. A call keeps its number over all connections of the session, so the cell does it once
//! (spec S-6). Giving a call up confirms it: a copy that arrives later is refused as stale.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::DEFAULT_DEADLINE;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::budget::RetryBudget;
use crate::error::Error;
use crate::grip::{FollowUp, Grip};

mod describe;

pub(crate) use describe::{Lasting, describe, has_effect};

/// What a call gives its caller.
pub(crate) type Answer = Result<Answered, Error>;

/// The cell's answer, and in which session it was given.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) outcome: v1::outcome::Outcome,
    pub(crate) session: u64,
}

/// Rests before a refused call is sent again: doubled each time, and half of it random.
const RETRY_REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The most of a call's time that is kept back from the cell, so that its own word on the failure still arrives.
const KEPT_BACK: Duration = Duration::from_millis(250);
/// Between two tries of a call that nobody waits for any more.
const LASTING_REST: Duration = Duration::from_secs(1);
/// When a call ends that goes on until it is answered.
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365);

/// A call as its caller made it.
pub(crate) struct Call {
    pub(crate) operation: v1::Operation,
    /// Bytes of the operation, encoded.
    pub(crate) size: usize,
    /// Whether it changes anything; a read that is given up was certainly not "done".
    pub(crate) has_effect: bool,
    pub(crate) deadline: Instant,
    /// From the caller's start to the deadline, for the error text.
    pub(crate) allowed: Duration,
    /// The handle that it is made through: the call is of no other session than the handle's (spec H-6), and what
    /// comes of it is told to the handle first.
    pub(crate) grip: Option<Arc<Grip>>,
    /// The session it is of; none: any.
    pub(crate) session: Option<u64>,
    /// Whether it goes on after its caller gave up.
    pub(crate) lasting: Lasting,
    pub(crate) reply: Reply,
}

/// Who waits for a call.
pub(crate) enum Reply {
    Caller(oneshot::Sender<Answer>),
    /// They only want to know when it is over: then these are dropped.
    Waiters(#[expect(dead_code, reason = "to be dropped is all they are for")] Vec<oneshot::Sender<()>>),
    Nobody,
}

impl Reply {
    /// Whether nobody wants to know what comes of it. They that wait for no answer want it done.
    fn is_closed(&self) -> bool {
        matches!(self, Self::Caller(caller) if caller.is_closed())
    }

    /// The answer that nobody took, if it is one.
    fn tell(&mut self, answer: Answer) -> Option<Answered> {
        match std::mem::replace(self, Self::Nobody) {
            Self::Caller(caller) => caller.send(answer).err()?.ok(),
            Self::Waiters(_) => None,
            Self::Nobody => answer.ok(),
        }
    }
}

/// Where a call stands.
enum Stage {
    /// In the queue of those to send.
    ToSend,
    /// Sent on the present connection.
    Sent,
    /// Refused for now; sent again at its time.
    Resting,
    /// The cell said that the session is over, and that nothing was done.
    Refused,
}

struct Pending {
    call: Call,
    stage: Stage,
    /// How often it was sent.
    sent: u32,
    /// Copies that were sent and of which nobody can say whether they were done.
    unknown: u32,
    last_failure: Option<String>,
}

impl Pending {
    fn new(call: Call) -> Self {
        Self { call, stage: Stage::ToSend, sent: 0, unknown: 0, last_failure: None }
    }

    fn uncertain(&self) -> bool {
        self.call.has_effect && self.unknown > 0
    }

    /// Whether it goes on, though its caller is told of a failure.
    fn goes_on(&self) -> bool {
        match self.call.lasting {
            Lasting::No => false,
            Lasting::OnceSent => self.unknown > 0,
            Lasting::Always => true,
        }
    }

    /// Tells the caller that its time is over.
    fn time_out(&mut self, why: &str) -> Error {
        let asked = describe(&self.call.operation);
        let seconds = self.call.allowed.as_secs_f64();
        let mut message = match self.sent {
            0 => format!("{asked} was not sent within its {seconds} s"),
            1 => format!("no answer to {asked} within its {seconds} s"),
            times => format!("no answer to {asked} within its {seconds} s, sent {times} times"),
        };
        for more in [self.last_failure.as_deref().unwrap_or_default(), why] {
            if !more.is_empty() {
                message = format!("{message}; {more}");
            }
        }
        Error::DeadlineExceeded { message, may_have_been_done: self.uncertain() }
    }
}

/// All calls of a client that are not finished.
#[derive(Default)]
pub(crate) struct Calls {
    /// The session that the numbers are of; 0: none.
    session: u64,
    /// All calls numbered up to this are finished.
    confirmed: u64,
    /// The calls from `confirmed + 1` on; `None`: finished.
    window: VecDeque<Option<Pending>>,
    /// Calls that have no number yet, in the order they were made.
    unnumbered: VecDeque<Pending>,
    /// Numbers to send again.
    again: VecDeque<u64>,
    resting: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Calls that were certainly not done and are to be made anew at their time, under another number.
    aside: Vec<(Instant, Call)>,
    /// Calls in the window that are sent and unanswered.
    awaited: usize,
    /// No call's deadline is before this.
    earliest: Option<Instant>,
    /// Places in the [queue](crate::queue::Queue) that finished calls no longer need and nobody has taken back.
    released: usize,
    refused: bool,
    /// Handles that were opened for somebody who is gone.
    orphans: Vec<u64>,
    /// What handles want done because of what came.
    follow_ups: Vec<FollowUp>,
}

impl Calls {
    /// Takes a call in.
    pub(crate) fn submit(&mut self, call: Call) {
        if let Some(session) = call.session.filter(|session| *session != self.session) {
            self.released += 1;
            return self.finish(Pending::new(call), Err(Error::session_over(session)));
        }
        self.earliest = Some(self.earliest.map_or(call.deadline, |earliest| earliest.min(call.deadline)));
        self.unnumbered.push_back(Pending::new(call));
    }

    /// Calls are of this session from now on.
    pub(crate) fn session_is(&mut self, session: u64) {
        self.session = session;
    }

    /// Handles that nobody has, each told once.
    pub(crate) fn take_orphans(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.orphans)
    }

    /// What handles want done, each told once.
    pub(crate) fn take_follow_ups(&mut self) -> Vec<FollowUp> {
        std::mem::take(&mut self.follow_ups)
    }

    fn finish(&mut self, mut pending: Pending, result: Result<v1::outcome::Outcome, Error>) {
        if let Some(grip) = &pending.call.grip {
            let follow_up = grip.answered(&pending.call.operation, &result);
            self.follow_ups.extend(follow_up.map(|operation| (grip.clone(), operation)));
        }
        let session = self.session;
        let answer = result.map(|outcome| Answered { outcome, session });
        // A caller that stopped waiting doesn't want to know, unless it now has a handle that nobody would close.
        if let Some(Answered { outcome: v1::outcome::Outcome::NodeOpened(opened), .. }) =
            pending.call.reply.tell(answer)
        {
            self.orphans.push(opened.handle);
        }
    }

    /// All calls numbered up to this are finished.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Whether there is no unfinished call.
    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty() && self.unnumbered.is_empty() && self.aside.is_empty()
    }

    /// Whether an answer is due from the present connection.
    pub(crate) fn awaits_answers(&self) -> bool {
        self.awaited > 0
    }

    /// Whether [`Calls::next_batch`] may have something.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.again.is_empty() || !self.unnumbered.is_empty()
    }

    /// Whether the cell refused a call because the session is over.
    pub(crate) fn session_refused(&self) -> bool {
        self.refused
    }

    /// Before this nothing here has to be looked at.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let rest_ends = self.resting.peek().map(|Reverse((at, _))| *at);
        let aside = self.aside.iter().map(|(at, _)| *at);
        self.earliest.into_iter().chain(rest_ends).chain(aside).min()
    }

    /// Places of finished calls, each told once.
    pub(crate) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// What to send now: at most `most` calls and, from the second on, at most `bytes` of operations.
    pub(crate) fn next_batch(&mut self, now: Instant, most: usize, bytes: usize) -> Vec<v1::SessionCall> {
        let mut batch = Vec::with_capacity(most.min(self.again.len() + self.unnumbered.len()));
        let mut left = bytes;
        while batch.len() < most {
            let Some(number) = self.next_to_send(batch.is_empty(), left) else {
                break;
            };
            let Some(pending) = self.waiting(number) else {
                continue;
            };
            pending.stage = Stage::Sent;
            pending.sent += 1;
            pending.unknown += 1;
            left = left.saturating_sub(pending.call.size);
            let left = pending
                .call
                .deadline
                .saturating_duration_since(now)
                .min(DEFAULT_DEADLINE.max(pending.call.allowed));
            let deadline_ms = cell_deadline(left);
            let operation = Some(pending.call.operation.clone());
            batch.push(v1::SessionCall { number, deadline_ms, operation });
            self.awaited += 1;
        }
        batch
    }

    /// The number of the next call to send if it fits into `left` bytes; the first one always fits.
    fn next_to_send(&mut self, first: bool, left: usize) -> Option<u64> {
        while let Some(&number) = self.again.front() {
            match self.waiting(number) {
                Some(pending) if !matches!(pending.stage, Stage::ToSend) => {}
                Some(pending) if !first && pending.call.size > left => return None,
                Some(_) => {
                    self.again.pop_front();
                    return Some(number);
                }
                None => {}
            }
            self.again.pop_front();
        }
        while let Some(next) = self.unnumbered.front() {
            if next.call.reply.is_closed() && next.call.lasting != Lasting::Always {
                // Its caller gave up before anything was sent: nobody will ever know of it.
                let pending = self.unnumbered.pop_front()?;
                self.released += 1;
                self.finish(pending, Err(Error::closed(false)));
                continue;
            }
            if !first && next.call.size > left {
                return None;
            }
            let next = self.unnumbered.pop_front();
            self.window.push_back(next);
            return Some(self.confirmed + self.window.len() as u64);
        }
        None
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.confirmed + 1)?).ok()
    }

    fn waiting(&mut self, number: u64) -> Option<&mut Pending> {
        let index = self.index(number)?;
        self.window.get_mut(index)?.as_mut()
    }

    fn take(&mut self, number: u64) -> Option<Pending> {
        let index = self.index(number)?;
        let pending = self.window.get_mut(index)?.take()?;
        if matches!(pending.stage, Stage::Sent) {
            self.awaited -= 1;
        }
        Some(pending)
    }

    /// Moves `confirmed` over all calls at the window's front that are finished.
    fn confirm(&mut self) {
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.confirmed += 1;
            self.released += 1;
        }
    }

    /// The answers of one message. Answers to calls that are finished already are passed over.
    pub(crate) fn answered(
        &mut self,
        answers: Vec<v1::Answer>,
        now: Instant,
        budget: &mut RetryBudget,
        random: &mut StdRng,
    ) {
        for v1::Answer { number, outcome } in answers {
            match outcome.and_then(|outcome| outcome.outcome) {
                Some(v1::outcome::Outcome::Failure(failure)) => {
                    self.failed(number, failure, now, budget, random);
                }
                Some(outcome) => {
                    let Some(pending) = self.take(number) else {
                        continue;
                    };
                    budget.earn();
                    self.finish(pending, Ok(outcome));
                }
                None => {
                    let Some(pending) = self.take(number) else {
                        continue;
                    };
                    let error = Error::unexpected(&describe(&pending.call.operation));
                    self.finish(pending, Err(error));
                }
            }
        }
        self.confirm();
    }

    fn failed(
        &mut self,
        number: u64,
        failure: v1::Failure,
        now: Instant,
        budget: &mut RetryBudget,
        random: &mut StdRng,
    ) {
        let Some(pending) = self.waiting(number) else {
            return;
        };
        if !failure.may_have_been_done {
            pending.unknown = pending.unknown.saturating_sub(1);
        }
        let passing = is_passing(failure.code());
        let mut rest = retry_rest(pending.sent, failure.retry_after_ms, random);
        let stage = match failure.code() {
            Code::SessionExpired => Stage::Refused,
            Code::Overloaded | Code::Unavailable if budget.take(now) => Stage::Resting,
            // A disk that is full may have room again.
            code if (passing || code == Code::NoSpace) && pending.goes_on() => {
                let error = Error::from_failure(failure.clone(), pending.uncertain());
                // Without a caller it is tried again all the same.
                let _ = pending.call.reply.tell(Err(error));
                pending.call.deadline = now + FAR;
                rest = rest.max(LASTING_REST);
                if pending.unknown == 0 {
                    return self.set_aside(number, now + rest);
                }
                Stage::Resting
            }
            _ => {
                let Some(pending) = self.take(number) else { return };
                let error = Error::from_failure(failure, pending.uncertain());
                return self.finish(pending, Err(error));
            }
        };
        let was_sent = matches!(pending.stage, Stage::Sent);
        pending.last_failure = Some(format!("the last answer was: {}", failure.message));
        let rests = matches!(stage, Stage::Resting);
        pending.stage = stage;
        self.refused |= !rests;
        self.resting.extend(rests.then_some(Reverse((now + rest, number))));
        self.awaited -= usize::from(was_sent);
    }

    /// Finishes a call's number, which would hold up the window for as long as it rests.
    fn set_aside(&mut self, number: u64, until: Instant) {
        if let Some(pending) = self.take(number) {
            self.aside.push((until, pending.call));
        }
    }

    /// Calls to be made anew, each told once. They have no place.
    pub(crate) fn take_rested(&mut self, now: Instant) -> Vec<Call> {
        let rested = self.aside.extract_if(.., |(at, _)| *at <= now);
        rested.map(|(_, call)| call).collect()
    }

    /// Wakes the calls whose rest is over and gives up those whose deadline has passed.
    /// `why` says what the client knows of the cell's trouble.
    pub(crate) fn tick(&mut self, now: Instant, why: impl FnOnce() -> String) {
        while self.resting.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            self.wake_next();
        }
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.give_up(now, &why());
        }
    }

    /// Ends all rests.
    pub(crate) fn wake_all(&mut self) {
        while !self.resting.is_empty() {
            self.wake_next();
        }
    }

    fn wake_next(&mut self) {
        let Some(Reverse((_, number))) = self.resting.pop() else {
            return;
        };
        if let Some(pending) = self.waiting(number)
            && matches!(pending.stage, Stage::Resting)
        {
            pending.stage = Stage::ToSend;
            self.again.push_back(number);
        }
    }

    fn give_up(&mut self, now: Instant, why: &str) {
        let mut over = Vec::new();
        for slot in &mut self.window {
            let Some(pending) = slot.as_mut().filter(|pending| pending.call.deadline <= now) else {
                continue;
            };
            let error = pending.time_out(why);
            if pending.goes_on() {
                let _ = pending.call.reply.tell(Err(error));
                pending.call.deadline = now + FAR;
            } else if let Some(pending) = slot.take() {
                self.awaited -= usize::from(matches!(pending.stage, Stage::Sent));
                over.push((pending, error));
            }
        }
        for mut pending in std::mem::take(&mut self.unnumbered) {
            if pending.call.deadline > now {
                self.unnumbered.push_back(pending);
                continue;
            }
            let error = pending.time_out(why);
            if pending.goes_on() {
                let _ = pending.call.reply.tell(Err(error));
                pending.call.deadline = now + FAR;
                self.unnumbered.push_back(pending);
            } else {
                self.released += 1;
                over.push((pending, error));
            }
        }
        over.into_iter().for_each(|(pending, error)| self.finish(pending, Err(error)));
        let all = self.window.iter().flatten().chain(&self.unnumbered);
        self.earliest = all.map(|pending| pending.call.deadline).min();
        self.confirm();
    }

    /// The connection is gone: what was sent on it is to be sent again, in the order of its numbers.
    pub(crate) fn connection_lost(&mut self) {
        self.awaited = 0;
        self.again.clear();
        for (index, slot) in self.window.iter_mut().enumerate() {
            let Some(pending) = slot else { continue };
            if matches!(pending.stage, Stage::Sent | Stage::ToSend) {
                pending.stage = Stage::ToSend;
                self.again.push_back(self.confirmed + 1 + index as u64);
            }
        }
    }

    /// The session is over. Calls that certainly were not done wait for the next session, where they get new
    /// numbers; calls of which that can't be said fail.
    pub(crate) fn session_lost(&mut self, message: &str) {
        let mut moved = VecDeque::with_capacity(self.window.len());
        for pending in std::mem::take(&mut self.window) {
            let Some(mut pending) = pending else {
                self.released += 1;
                continue;
            };
            let (bound, uncertain) = (pending.call.session.is_some(), pending.uncertain());
            if !bound && !uncertain && !matches!(pending.call.reply, Reply::Nobody) {
                pending.stage = Stage::ToSend;
                pending.unknown = 0;
                moved.push_back(pending);
                continue;
            }
            self.released += 1;
            let error = expired(message, uncertain.then_some(&pending.call.operation));
            self.finish(pending, Err(error));
        }
        moved.append(&mut self.unnumbered);
        for pending in moved {
            if pending.call.session.is_none() {
                self.unnumbered.push_back(pending);
                continue;
            }
            self.released += 1;
            self.finish(pending, Err(expired(message, None)));
        }
        (self.confirmed, self.session) = (0, 0);
        (self.orphans, self.follow_ups) = (Vec::new(), Vec::new());
        // What they were to take back has gone with the session.
        self.aside.clear();
        self.awaited = 0;
        self.refused = false;
        self.again.clear();
        self.resting.clear();
    }

    /// Fails all calls with what `error` makes of whether they may have been done.
    pub(crate) fn fail_all(&mut self, error: impl Fn(bool) -> Error) {
        self.released += self.window.len() + self.unnumbered.len();
        let numbered = std::mem::take(&mut self.window).into_iter().flatten();
        for pending in numbered.chain(std::mem::take(&mut self.unnumbered)) {
            let uncertain = pending.uncertain();
            self.finish(pending, Err(error(uncertain)));
        }
        self.session_lost("");
    }
}

/// What the cell is told of a call's deadline: a little less than is left.
fn cell_deadline(left: Duration) -> u32 {
    let told = left - (left / 10).min(KEPT_BACK);
    u32::try_from(told.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn retry_rest(tries: u32, retry_after_ms: u32, random: &mut StdRng) -> Duration {
    let rest = RETRY_REST.0.saturating_mul(1 << tries.min(8)).min(RETRY_REST.1);
    let jittered = rest.mul_f64(random.random_range(0.5..1.0));
    jittered.max(Duration::from_millis(retry_after_ms.into()))
}

/// The session is over; `sent`: the call that was sent and has no answer.
fn expired(message: &str, sent: Option<&v1::Operation>) -> Error {
    let message = match sent {
        Some(operation) => format!(
            "{message}; {} was sent and may have been done: look before doing it again",
            describe(operation)
        ),
        None => message.to_owned(),
    };
    Error::SessionExpired { message, may_have_been_done: sent.is_some() }
}

/// Whether a refusal speaks of the replica's state now, so that another replica or time may do better.
pub(crate) fn is_passing(code: Code) -> bool {
    matches!(code, Code::Overloaded | Code::Unavailable | Code::DeadlineExceeded | Code::Internal)
}

#[cfg(test)]
mod tests;
