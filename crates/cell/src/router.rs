//! The way of a write: requests wait here, leave in batches for the log if this replica leads, for the
//! leader if it doesn't, and stay until there is one if nobody does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bramah_machine::{BatchBuilder, MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, Outcome};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::barrier::BarrierRequest;
use crate::cell::CellRaft;
use crate::clock::WallClock;
use crate::config::Tuning;
use crate::consensus::EncodedBatch;
use crate::error::ProposeError;
use crate::leadership::Leadership;
use crate::log::{Log, Space};
use crate::peers::Forwarders;
use crate::submission::Submission;

/// How often overdue requests are looked for, and how long a refusal by the engine is respected.
const TICK: Duration = Duration::from_millis(25);

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
    max_requests: usize,
    max_bytes: usize,
}

impl Load {
    fn admit(&self, submission: &Submission) -> Result<(), ProposeError> {
        let (count, bytes) = (submission.count as usize, submission.requests.len());
        let waiting = self.requests.fetch_add(count, Ordering::Relaxed);
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + count > self.max_requests || waiting_bytes + bytes > self.max_bytes {
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

    /// Asks for a barrier; the answer comes through the request's channel.
    pub(crate) fn barrier(&self, request: BarrierRequest) {
        // A request that can't be sent is dropped, and its channel with it: the caller sees that.
        let _ = self.barriers.send(request);
    }
}

/// A batch's submissions, and what became of them.
pub(crate) type Settled = (Vec<Submission>, Result<Vec<Outcome>, Unsettled>);

/// How a batch ended without outcomes.
pub(crate) enum Unsettled {
    /// The engine refused it: certainly not in the log.
    Refused,
    /// It may or may not come to be committed.
    Unknown(ProposeError),
}

/// The one task that decides where requests go.
pub(crate) struct RouterTask {
    pub(crate) raft: CellRaft,
    pub(crate) log: Log,
    pub(crate) clock: WallClock,
    pub(crate) submitted: mpsc::UnboundedReceiver<Submission>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) forwarders: Forwarders,
    pub(crate) returned: mpsc::UnboundedReceiver<Vec<Submission>>,
    pub(crate) members: String,
    pub(crate) max_batches: usize,
    pub(crate) waiting: VecDeque<Submission>,
    pub(crate) batches: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// Requests in `batches`.
    pub(crate) proposed: usize,
    /// Nothing is proposed or forwarded before this: the engine or the leader just refused.
    pub(crate) pause_until: Instant,
}

impl RouterTask {
    /// Runs until every [`Router`] is gone.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                Some((submissions, result)) = self.batches.next(), if !self.batches.is_empty() => {
                    self.settle(submissions, result);
                }
                Some(submissions) = self.returned.recv() => self.take_back(submissions),
                count = self.submitted.recv_many(&mut arrived, 1_024) => {
                    if count == 0 {
                        return self.stop();
                    }
                    self.waiting.extend(arrived.drain(..));
                    self.gather().await;
                }
                Ok(()) = self.leadership.changed() => {}
                _ = tick.tick() => self.expire(),
            }
            self.dispatch();
        }
    }

    /// Lets those who are about to submit do so first: one yield makes larger batches and delays nobody
    /// on an idle cell.
    async fn gather(&mut self) {
        tokio::task::yield_now().await;
        while self.waiting.len() < MAX_BATCH_REQUESTS
            && let Ok(submission) = self.submitted.try_recv()
        {
            self.waiting.push_back(submission);
        }
    }

    fn dispatch(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let leadership = self.leadership.borrow_and_update().clone();
        if leadership.here {
            self.propose();
        } else {
            self.refuse_forwarded();
            if let Some((id, member)) = leadership.leader
                && Instant::now() >= self.pause_until
                && !self.waiting.is_empty()
            {
                let submissions = self.waiting.drain(..).collect();
                if let Err(submissions) = self.forwarders.to(id, &member).submit(submissions) {
                    self.take_back(submissions);
                }
            }
        }
    }

    /// What other replicas sent here goes back to them: they know better by now, or will soon.
    fn refuse_forwarded(&mut self) {
        for submission in std::mem::take(&mut self.waiting) {
            if submission.forwarded {
                submission.fail(ProposeError::NotLeader);
            } else {
                self.waiting.push_back(submission);
            }
        }
    }

    fn propose(&mut self) {
        while self.batch_is_due() && Instant::now() >= self.pause_until {
            if let Space::Short { free, needed } = self.log.space() {
                for submission in self.waiting.drain(..) {
                    submission.fail(ProposeError::NoSpace { free, needed });
                }
                return;
            }
            let batch = self.next_batch();
            self.batches.push(batch);
        }
    }

    /// An entry costs about as much as a hundred requests in it, so another one leaves only when none is
    /// under way or when as much waits as is under way: many callers share few large entries, which still
    /// hide the disk's delay behind each other, and a caller alone never waits (spec G-3).
    fn batch_is_due(&self) -> bool {
        let waiting = || self.waiting.iter().map(|submission| submission.count as usize);
        !self.waiting.is_empty()
            && (self.batches.is_empty()
                || (self.batches.len() < self.max_batches
                    && (waiting().sum::<usize>() >= self.proposed.min(MAX_BATCH_REQUESTS))))
    }

    fn next_batch(&mut self) -> BoxFuture<'static, Settled> {
        let mut builder = BatchBuilder::new();
        let mut submissions = Vec::new();
        while let Some(submission) = self.waiting.front() {
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
        self.proposed += builder.len();
        let batch = EncodedBatch(builder.finish(self.clock.now_ms()));
        let raft = self.raft.clone();
        let members = self.members.clone();
        Box::pin(async move {
            let deadline = submissions.iter().map(|s| s.deadline).max().unwrap_or_else(Instant::now);
            let result = match tokio::time::timeout_at(deadline, raft.client_write(batch)).await {
                Ok(Ok(response)) => Ok(response.data),
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(Unsettled::Refused),
                // Discarded here, but it may live on in another replica's log.
                Ok(Err(RaftError::APIError(_))) => Err(Unsettled::Unknown(ProposeError::LeaderLost)),
                Ok(Err(RaftError::Fatal(fatal))) => Err(Unsettled::Unknown(ProposeError::Stopping {
                    why: fatal.to_string(),
                    under_way: true,
                })),
                Err(_) => Err(Unsettled::Unknown(overdue(&submissions, members))),
            };
            (submissions, result)
        })
    }

    fn settle(&mut self, submissions: Vec<Submission>, result: Result<Vec<Outcome>, Unsettled>) {
        self.proposed -= submissions.iter().map(|submission| submission.count as usize).sum::<usize>();
        match result {
            Ok(outcomes) => hand_out(submissions, outcomes),
            Err(Unsettled::Refused) => self.take_back(submissions),
            Err(Unsettled::Unknown(ProposeError::LeaderLost)) => {
                let (again, lost): (Vec<_>, Vec<_>) = submissions.into_iter().partition(|s| s.retriable);
                self.take_back(again);
                lost.into_iter().for_each(|submission| submission.fail(ProposeError::LeaderLost));
            }
            Err(Unsettled::Unknown(error)) => {
                submissions.into_iter().for_each(|submission| submission.fail(error.clone()));
            }
        }
    }

    /// Back to the head of the queue, in their order.
    fn take_back(&mut self, submissions: Vec<Submission>) {
        self.pause_until = Instant::now() + TICK;
        for submission in submissions.into_iter().rev() {
            self.waiting.push_front(submission);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        if self.waiting.iter().all(|submission| submission.deadline > now) {
            return;
        }
        for submission in std::mem::take(&mut self.waiting) {
            if submission.deadline > now {
                self.waiting.push_back(submission);
            } else {
                let waited = now - submission.submitted;
                submission.fail(ProposeError::NoLeader { waited, members: self.members.clone() });
            }
        }
    }

    fn stop(&mut self) {
        for submission in self.waiting.drain(..) {
            submission.fail(ProposeError::Stopping { why: "it was told to".to_owned(), under_way: false });
        }
    }
}

fn overdue(submissions: &[Submission], members: String) -> ProposeError {
    let since = submissions.iter().map(|s| s.submitted).min().unwrap_or_else(Instant::now);
    ProposeError::Deadline { waited: since.elapsed(), members }
}

fn hand_out(submissions: Vec<Submission>, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for submission in submissions {
        let own = outcomes.by_ref().take(submission.count as usize).collect();
        (submission.done)(Ok(own));
    }
}
