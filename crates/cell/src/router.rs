//! The way of a write: requests wait here, leave in batches for the log if this replica leads, for the
//! leader if it doesn't, and stay until there is one if nobody does.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bramah_machine::planted::{self, Bug};
use bramah_machine::{BatchBuilder, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, Outcome, State};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use openraft::errors::{ClientWriteError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::barrier::BarrierRequest;
use crate::cell::CellRaft;
use crate::clock::CellTime;
use crate::config::Tuning;
use crate::consensus::EncodedBatch;
use crate::error::ProposeError;
use crate::leadership::Leadership;
use crate::log::{Log, Space};
use crate::machine_store::Machine;
use crate::peers::{Forwarders, Lane};
use crate::roster::Roster;
use crate::submission::Submission;

/// How often overdue requests are looked for, and how long a refusal by the engine is respected.
const TICK: Duration = Duration::from_millis(25);

/// Places that clients' requests leave to the leader's own: without those no session would end, no lock-delay and no
/// handle, just when there is most to do.
const OWN_REQUESTS: usize = 8_192;

/// Bytes that clients' requests leave to the leader's own.
const OWN_BYTES: usize = 1 << 20;

/// How often a router that finishes looks whether it is done.
const FINISH_TICK: Duration = Duration::from_millis(5);

/// The door to the log and the leader, shared by all fronts and by the peers' service.
#[derive(Clone)]
pub(crate) struct Router {
    submissions: mpsc::UnboundedSender<Submission>,
    barriers: mpsc::UnboundedSender<BarrierRequest>,
    load: Arc<Load>,
}

/// What waits or is under way. The channels have no bound of their own: this is it (spec G-11).
pub(crate) struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    barriers: AtomicUsize,
    /// Nothing more is admitted.
    closed: AtomicBool,
    max_requests: usize,
    max_bytes: usize,
}

/// A barrier's place among those that may wait.
pub(crate) struct BarrierPlace(Arc<Load>);

impl Drop for BarrierPlace {
    fn drop(&mut self) {
        self.0.barriers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    /// Reads leave half of the places to those that keep sessions alive (spec S-2).
    fn admit_barrier(&self, keeps_alive: bool) -> Result<(), ProposeError> {
        let waiting = self.barriers.fetch_add(1, Ordering::Relaxed);
        if waiting < self.max_requests * (1 + usize::from(keeps_alive)) {
            return Ok(());
        }
        self.barriers.fetch_sub(1, Ordering::Relaxed);
        Err(ProposeError::Overloaded { waiting, retry_after_ms: 50 })
    }

    fn admit(&self, submission: &Submission) -> Result<(), ProposeError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(ProposeError::Stopping { why: "it was told to".to_owned(), under_way: false });
        }
        let (count, bytes) = (submission.count as usize, submission.requests.len());
        let waiting = self.requests.fetch_add(count, Ordering::Relaxed);
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (own_requests, own_bytes) = if submission.own { (OWN_REQUESTS, OWN_BYTES) } else { (0, 0) };
        let full = waiting + count > self.max_requests + own_requests
            || waiting_bytes + bytes > self.max_bytes + own_bytes;
        if full {
            self.release(count, bytes);
            return Err(ProposeError::Overloaded { waiting, retry_after_ms: 50 });
        }
        Ok(())
    }

    fn release(&self, count: usize, bytes: usize) {
        self.requests.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Router {
    /// A door, and the ends that [`RouterTask`] and the barriers' task take up.
    pub(crate) fn new(
        tuning: &Tuning,
    ) -> (Self, mpsc::UnboundedReceiver<Submission>, mpsc::UnboundedReceiver<BarrierRequest>) {
        let (submissions, submitted) = mpsc::unbounded_channel();
        let (barriers, asked) = mpsc::unbounded_channel();
        let load = Load {
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            barriers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            max_requests: tuning.queue_requests,
            max_bytes: tuning.queue_bytes,
        };
        (Self { submissions, barriers, load: Arc::new(load) }, submitted, asked)
    }

    /// Takes requests. Their `done` is called exactly once, whatever happens.
    pub(crate) fn submit(&self, mut submission: Submission) {
        if submission.requests.len() > MAX_BATCH_BYTES {
            let bytes = submission.requests.len();
            return submission.fail(ProposeError::TooLarge { bytes, limit: MAX_BATCH_BYTES });
        }
        if let Err(overloaded) = self.load.admit(&submission) {
            return submission.fail(overloaded);
        }
        let load = Arc::clone(&self.load);
        let (count, bytes) = (submission.count as usize, submission.requests.len());
        let done = submission.done;
        submission.done = Box::new(move |outcomes| {
            load.release(count, bytes);
            done(outcomes);
        });
        if let Err(mpsc::error::SendError(submission)) = self.submissions.send(submission) {
            submission.fail(ProposeError::Stopping { why: "it was told to".to_owned(), under_way: false });
        }
    }

    /// Takes no more requests, and waits until those that it took are settled, but no longer than `limit`.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.load.closed.store(true, Ordering::Relaxed);
        let until = Instant::now() + limit;
        while self.load.requests.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            tokio::time::sleep(FINISH_TICK).await;
        }
    }

    /// Asks for a barrier; the answer comes through the request's channel.
    pub(crate) fn barrier(&self, request: BarrierRequest) {
        if let Err(overloaded) = self.load.admit_barrier(!request.sessions_alive.is_empty()) {
            let _ = request.done.send(Err(overloaded));
            return;
        }
        // A request that can't be sent is dropped, and its channel with it: the caller sees that.
        let _ = self
            .barriers
            .send(BarrierRequest { _place: Some(BarrierPlace(Arc::clone(&self.load))), ..request });
    }
}

/// How a batch ended without outcomes.
pub(crate) enum Unsettled {
    /// The engine refused it: certainly not in the log.
    Refused,
    /// It may or may not come to be committed.
    Unknown,
    /// The engine has stopped.
    Stopped(String),
}

/// What became of the batch of this number.
pub(crate) type Settled = (u64, Result<Vec<Outcome>, Unsettled>);

/// The batches that are proposed and not settled.
#[derive(Default)]
pub(crate) struct UnderWay {
    next: u64,
    requests: usize,
    /// A submission whose deadline has passed is gone from its place; its outcomes are nobody's any more.
    batches: HashMap<u64, Vec<(u32, Option<Submission>)>>,
    settling: FuturesUnordered<BoxFuture<'static, Settled>>,
}

/// Submissions that are not on their way yet, in their order.
#[derive(Default)]
pub(crate) struct Waiting {
    submissions: VecDeque<Submission>,
    /// How many requests they have.
    requests: usize,
}

impl Waiting {
    fn push_back(&mut self, submission: Submission) {
        self.requests += submission.count as usize;
        self.submissions.push_back(submission);
    }

    fn push_front(&mut self, submission: Submission) {
        self.requests += submission.count as usize;
        self.submissions.push_front(submission);
    }

    fn pop_front(&mut self) -> Option<Submission> {
        let submission = self.submissions.pop_front()?;
        self.requests -= submission.count as usize;
        Some(submission)
    }

    fn take(&mut self) -> VecDeque<Submission> {
        std::mem::take(self).submissions
    }

    fn is_empty(&self) -> bool {
        self.submissions.is_empty()
    }
}

/// The one task that decides where requests go.
pub(crate) struct RouterTask {
    pub(crate) raft: CellRaft,
    pub(crate) log: Log,
    pub(crate) machine: Arc<Machine>,
    pub(crate) time: Arc<Mutex<CellTime>>,
    pub(crate) submitted: mpsc::UnboundedReceiver<Submission>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) forwarders: Forwarders,
    pub(crate) returned: mpsc::UnboundedReceiver<Vec<Submission>>,
    pub(crate) roster: Roster,
    pub(crate) max_batches: usize,
    pub(crate) waiting: Waiting,
    pub(crate) under_way: UnderWay,
    /// Nothing is proposed or forwarded before this: the engine or the leader just refused.
    pub(crate) pause_until: Instant,
    pub(crate) stop: watch::Receiver<bool>,
}

impl RouterTask {
    /// Runs until it is told to stop, or every [`Router`] is gone.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                Some((batch, result)) = self.under_way.settling.next(), if !self.under_way.settling.is_empty() => {
                    self.settle(batch, result);
                }
                () = stopped(&mut self.stop) => return self.end(),
                Some(submissions) = self.returned.recv() => self.take_back(submissions),
                count = self.submitted.recv_many(&mut arrived, 1_024) => {
                    if count == 0 {
                        return self.end();
                    }
                    arrived.drain(..).for_each(|submission| self.waiting.push_back(submission));
                    self.gather().await;
                }
                Ok(()) = self.leadership.changed() => self.leave_old_leader(),
                _ = tick.tick() => self.expire(),
            }
            self.dispatch();
        }
    }

    /// Lets those who are about to submit do so first: one yield makes larger batches and delays nobody
    /// on an idle cell.
    async fn gather(&mut self) {
        tokio::task::yield_now().await;
        while self.waiting.requests < MAX_BATCH_REQUESTS
            && let Ok(submission) = self.submitted.try_recv()
        {
            self.waiting.push_back(submission);
        }
    }

    /// What was sent to a leader that leads no more comes back, to be tried with the next one.
    fn leave_old_leader(&self) {
        let leadership = self.leadership.borrow();
        self.forwarders
            .leave_unless(leadership.leader.as_ref().map(|(id, _)| *id).filter(|_| !leadership.here));
    }

    fn dispatch(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let leadership = self.leadership.borrow_and_update().clone();
        if leadership.here {
            self.propose(leadership.term);
        } else {
            self.refuse_forwarded();
            if let Some((id, member)) = leadership.leader
                && Instant::now() >= self.pause_until
                && !self.waiting.is_empty()
            {
                let submissions = self.waiting.take().into();
                if let Err(submissions) = self.forwarders.to(id, &member, Lane::Writes).submit(submissions) {
                    self.take_back(submissions);
                }
            }
        }
    }

    /// What other replicas sent here goes back to them: they know better by now, or will soon.
    fn refuse_forwarded(&mut self) {
        for submission in self.waiting.take() {
            if submission.forwarded {
                submission.fail(ProposeError::NotLeader);
            } else {
                self.waiting.push_back(submission);
            }
        }
    }

    fn propose(&mut self, term: u64) {
        while self.batch_is_due() && Instant::now() >= self.pause_until {
            if let Space::Short { free, needed } = self.log.space() {
                for submission in self.waiting.take() {
                    submission.fail(ProposeError::NoSpace { free, needed });
                }
                return;
            }
            self.propose_batch(term);
        }
    }

    /// An entry costs about as much as a hundred requests in it, so another one leaves only when none is
    /// under way or when as much waits as is under way: many callers share few large entries, which still
    /// hide the disk's delay behind each other, and a caller alone never waits (spec G-3).
    fn batch_is_due(&self) -> bool {
        !self.waiting.is_empty()
            && (self.under_way.batches.is_empty()
                || (self.under_way.batches.len() < self.max_batches
                    && (self.waiting.requests >= self.under_way.requests.min(MAX_BATCH_REQUESTS))))
    }

    fn propose_batch(&mut self, term: u64) {
        let (builder, submissions) = self.next_batch();
        if builder.is_empty() {
            return;
        }
        let state_ms = self.machine.read(State::time_ms);
        let batch = EncodedBatch(builder.finish(self.time.lock().now_ms(term, state_ms)));
        let raft = self.raft.clone();
        let too_early = planted::is(Bug::AnswerBeforeCommit).then(|| self.guess(&batch, term));
        self.under_way.add(submissions, move |id| {
            Box::pin(async move {
                if let Some(outcomes) = too_early {
                    tokio::spawn(async move { raft.client_write(batch).await });
                    return (id, Ok(outcomes));
                }
                let result = match raft.client_write(batch).await {
                    Ok(response) => Ok(response.data),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Unsettled::Refused),
                    // Discarded here, but it may live on in another replica's log.
                    Err(RaftError::APIError(_)) => Err(Unsettled::Unknown),
                    Err(RaftError::Fatal(fatal)) => Err(Unsettled::Stopped(fatal.to_string())),
                };
                (id, result)
            })
        });
    }

    /// What the batch would do if nothing came between: see [`Bug::AnswerBeforeCommit`].
    fn guess(&self, batch: &EncodedBatch, term: u64) -> Vec<Outcome> {
        let mut state = self.machine.view().state;
        state.apply_batch(&batch.0, term, &mut Vec::new()).unwrap_or_default()
    }

    fn next_batch(&mut self) -> (BatchBuilder, Vec<Submission>) {
        let mut builder = BatchBuilder::new();
        let mut submissions = Vec::new();
        while let Some(submission) = self.waiting.submissions.front() {
            let fits = builder.len() + submission.count as usize <= MAX_BATCH_REQUESTS
                && builder.len_bytes() + submission.requests.len() <= MAX_BATCH_BYTES;
            if !fits && !builder.is_empty() {
                break;
            }
            let pushed = builder.push_all_encoded(submission.count as usize, &submission.requests);
            let Some(submission) = self.waiting.pop_front() else { break };
            match pushed {
                Ok(()) => submissions.push(submission),
                // Too large for any entry: nothing of it was added.
                Err(_) => {
                    let bytes = submission.requests.len();
                    submission.fail(ProposeError::TooLarge { bytes, limit: MAX_BATCH_BYTES });
                }
            }
        }
        (builder, submissions)
    }

    fn settle(&mut self, batch: u64, result: Result<Vec<Outcome>, Unsettled>) {
        let batch = self.under_way.remove(batch);
        match result {
            Ok(outcomes) => hand_out(batch, outcomes),
            Err(Unsettled::Refused) => self.take_back(left_of(batch).collect()),
            Err(Unsettled::Unknown) => {
                let (again, lost): (Vec<_>, Vec<_>) = left_of(batch).partition(|s| s.retriable);
                self.take_back(again.into_iter().map(Submission::retried).collect());
                lost.into_iter().for_each(|submission| submission.fail(ProposeError::LeaderLost));
            }
            Err(Unsettled::Stopped(why)) => left_of(batch).for_each(|submission| {
                submission.fail(ProposeError::Stopping { why: why.clone(), under_way: true });
            }),
        }
    }

    /// Back to the head of the queue, in their order.
    fn take_back(&mut self, submissions: Vec<Submission>) {
        self.pause_until = Instant::now() + TICK;
        for submission in submissions.into_iter().rev() {
            self.waiting.push_front(submission);
        }
    }

    /// Everybody hears at their own deadline, whatever their neighbours in a batch have.
    fn expire(&mut self) {
        let now = Instant::now();
        for submission in self.under_way.overdue(now) {
            let (waited, members) = (now - submission.submitted, self.roster.describe());
            submission.fail(ProposeError::Deadline { waited, members });
        }
        if self.waiting.submissions.iter().all(|submission| submission.deadline > now) {
            return;
        }
        for submission in self.waiting.take() {
            if submission.deadline > now {
                self.waiting.push_back(submission);
            } else {
                let (waited, members) = (now - submission.submitted, self.roster.describe());
                submission.fail(ProposeError::NoLeader { waited, members });
            }
        }
    }

    /// Whoever still waits is told, and so is everybody who comes later.
    fn end(&mut self) {
        self.submitted.close();
        let stopping = |under_way| ProposeError::Stopping { why: "it was told to".to_owned(), under_way };
        while let Ok(submission) = self.submitted.try_recv() {
            self.waiting.push_back(submission);
        }
        self.waiting.take().into_iter().for_each(|submission| submission.fail(stopping(false)));
        for (_, batch) in self.under_way.batches.drain() {
            left_of(batch).for_each(|submission| submission.fail(stopping(true)));
        }
    }
}

impl UnderWay {
    fn add(&mut self, submissions: Vec<Submission>, settle: impl FnOnce(u64) -> BoxFuture<'static, Settled>) {
        self.next += 1;
        self.requests += submissions.iter().map(|submission| submission.count as usize).sum::<usize>();
        let batch = submissions.into_iter().map(|submission| (submission.count, Some(submission)));
        self.batches.insert(self.next, batch.collect());
        self.settling.push(settle(self.next));
    }

    fn remove(&mut self, batch: u64) -> Vec<(u32, Option<Submission>)> {
        let batch = self.batches.remove(&batch).unwrap_or_default();
        self.requests -= batch.iter().map(|(count, _)| *count as usize).sum::<usize>();
        batch
    }

    fn overdue(&mut self, now: Instant) -> Vec<Submission> {
        let places = self.batches.values_mut().flatten();
        places.filter_map(|(_, place)| place.take_if(|submission| submission.deadline <= now)).collect()
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the replica is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn left_of(batch: Vec<(u32, Option<Submission>)>) -> impl Iterator<Item = Submission> {
    batch.into_iter().filter_map(|(_, submission)| submission)
}

fn hand_out(batch: Vec<(u32, Option<Submission>)>, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for (count, submission) in batch {
        let own = outcomes.by_ref().take(count as usize).collect();
        if let Some(submission) = submission {
            submission.succeed(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use bramah_machine::SessionId;
    use tokio::sync::oneshot;

    use super::*;

    /// Spec S-2, L-5: when no more of the clients' requests are taken, the leader can still end sessions, lock-delays and
    /// handles; that has a bound, too.
    #[tokio::test]
    async fn clients_leave_room_for_the_leaders_own() {
        use crate::submission::Requests;
        use bramah_machine::{Command, Identity, Request};
        let (router, mut submitted, _asked) =
            Router::new(&Tuning { queue_requests: 10, queue_bytes: 10_000, ..Tuning::default() });
        let submit = |own| {
            let (done, mut outcomes) = oneshot::channel();
            let mut requests = Requests::default();
            let request = Request { identity: Identity::Anonymous, command: Command::PassTime };
            requests.push(&request).expect("it is small");
            let done = Box::new(move |outcome| drop(done.send(outcome)));
            router.submit(Submission { own, ..requests.submission(Instant::now(), done) });
            !matches!(outcomes.try_recv(), Ok(Err(ProposeError::Overloaded { .. })))
        };
        assert!((0..10).all(|_| submit(false)) && !submit(false));
        assert!((0..OWN_REQUESTS).all(|_| submit(true)) && !submit(true));
        while let Ok(submission) = submitted.try_recv() {
            submission.succeed(Vec::new());
        }
        assert!(submit(false) && submit(true), "there is room again");
    }

    /// Spec S-2: when no more reads are taken, KeepAlives still are.
    #[tokio::test]
    async fn reads_leave_room_for_keep_alives() {
        let (router, _submitted, mut asked) =
            Router::new(&Tuning { queue_requests: 10, ..Tuning::default() });
        let ask = |sessions_alive: Vec<SessionId>| {
            let (done, mut passed) = oneshot::channel();
            let now = Instant::now();
            let request = BarrierRequest {
                sessions_alive,
                forwarded: false,
                asked: now,
                deadline: now,
                done,
                _place: None,
            };
            router.barrier(request);
            // Refused at once, or waiting.
            !matches!(passed.try_recv(), Ok(Err(ProposeError::Overloaded { .. })))
        };
        assert!((0..10).all(|_| ask(Vec::new())) && !ask(Vec::new()));
        assert!((0..10).all(|_| ask(vec![SessionId(1)])) && !ask(vec![SessionId(1)]));
        while asked.try_recv().is_ok() {}
        assert!(ask(Vec::new()), "those that were passed have left their places");
    }
}
