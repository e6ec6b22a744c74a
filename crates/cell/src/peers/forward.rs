//! What a follower hands to the leader for its clients: one stream a leader, lists both ways.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bramah_machine::{SessionId, check_requests, decode_outcomes, encode_outcomes};
use bramah_wire::v1::{self, ForwardReply, ForwardRequest, ForwardedBatch, ForwardedOutcomes};
use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::{PeerNetwork, encode};
use crate::barrier::{Barrier, BarrierRequest};
use crate::consensus::{Member, ReplicaId};
use crate::error::ProposeError;
use crate::roster::Roster;
use crate::router::Router;
use crate::submission::Submission;

/// How long the leader may take to accept the stream.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How often overdue requests are looked for.
const TICK: Duration = Duration::from_millis(100);

/// How long the leader tries for requests that a follower sent; the follower has the caller's own deadline.
const LEADER_LIMIT: Duration = Duration::from_secs(60);

/// Bytes gathered into one message to the leader, above which the next message begins.
const MESSAGE_BYTES: usize = 1 << 20;

enum Forwarded {
    Submissions(Vec<Submission>),
    Barrier(Vec<SessionId>, oneshot::Sender<Result<Barrier, ProposeError>>),
}

/// What a stream is for: each has a connection of its own, so that what keeps sessions alive never stands behind
/// megabytes of writes (spec S-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Requests.
    Writes,
    /// Read indexes and leases.
    Barriers,
}

/// The streams to whoever leads, made anew when the leader changes or a stream breaks.
#[derive(Clone)]
pub(crate) struct Forwarders {
    network: PeerNetwork,
    returned: mpsc::UnboundedSender<Vec<Submission>>,
    lanes: Arc<[Mutex<Option<Current>>; 2]>,
}

/// The stream of one lane, and to whom it goes.
type Current = (ReplicaId, Member, Forwarder);

impl Forwarders {
    /// `returned` gets what was not done and may safely be proposed again.
    pub(crate) fn new(network: PeerNetwork, returned: mpsc::UnboundedSender<Vec<Submission>>) -> Self {
        Self { network, returned, lanes: Arc::default() }
    }

    /// The stream to this leader. Called on the runtime of consensus.
    pub(crate) fn to(&self, leader: ReplicaId, member: &Member, lane: Lane) -> Forwarder {
        let mut current = self.lanes[lane as usize].lock();
        if let Some((id, at, forwarder)) = &*current
            && (*id, at) == (leader, member)
            && !forwarder.outbox.is_closed()
        {
            return forwarder.clone();
        }
        let (outbox, inbox) = mpsc::unbounded_channel();
        let forwarder = Forwarder { outbox };
        let address = self.network.roster.peer_address(leader, member);
        tokio::spawn(self.clone().run(leader, address, inbox));
        *current = Some((leader, member.clone(), forwarder.clone()));
        forwarder
    }

    /// Ends the streams to any other leader than this one; what they carry comes back.
    pub(crate) fn leave_unless(&self, leader: Option<ReplicaId>) {
        for lane in &*self.lanes {
            drop(lane.lock().take_if(|(id, ..)| Some(*id) != leader));
        }
    }

    async fn run(self, leader: ReplicaId, address: String, mut inbox: mpsc::UnboundedReceiver<Forwarded>) {
        let mut stream = InFlight { roster: self.network.roster.clone(), ..InFlight::default() };
        let ended = self.carry(&address, &mut inbox, &mut stream).await;
        if let Err(status) = ended {
            // A replica that says that it does not lead is where it was looked for.
            if status.code() != Code::FailedPrecondition {
                self.network.roster.failed(leader, &address);
            }
            tracing::info!(leader = %address, %status, "the stream to the leader ended");
        }
        // From here on nobody can put anything in; what is in goes back.
        inbox.close();
        let mut again = stream.end();
        while let Ok(forwarded) = inbox.try_recv() {
            match forwarded {
                Forwarded::Submissions(submissions) => again.extend(submissions),
                Forwarded::Barrier(_, done) => drop(done.send(Err(ProposeError::NotLeader))),
            }
        }
        if let Err(mpsc::error::SendError(again)) = self.returned.send(again) {
            let why = || ProposeError::Stopping { why: "it was told to".to_owned(), under_way: true };
            again.into_iter().for_each(|submission| submission.fail(why()));
        }
    }

    async fn carry(
        &self,
        address: &str,
        inbox: &mut mpsc::UnboundedReceiver<Forwarded>,
        stream: &mut InFlight,
    ) -> Result<(), Status> {
        let (messages, outbound) = mpsc::channel(16);
        let mut client = self.network.client(address)?;
        let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
        let mut replies = tokio::time::timeout(CONNECT_LIMIT, client.forward(outbound))
            .await
            .map_err(|_| Status::deadline_exceeded("the leader does not answer"))??
            .into_inner();
        let mut tick = tokio::time::interval(TICK);
        let mut gathered = Vec::new();
        loop {
            tokio::select! {
                count = inbox.recv_many(&mut gathered, 256) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for message in stream.pack(self.network.cell_id, gathered.drain(..)) {
                        messages.send(message).await.map_err(|_| Status::cancelled("the leader hung up"))?;
                    }
                }
                reply = replies.message() => match reply? {
                    Some(reply) => self.settle(stream, reply)?,
                    None => return Ok(()),
                },
                _ = tick.tick() => stream.expire(),
            }
        }
    }

    fn settle(&self, stream: &mut InFlight, reply: ForwardReply) -> Result<(), Status> {
        for answer in reply.barriers {
            stream.settle_barrier(answer)?;
        }
        for outcomes in reply.outcomes {
            if let Some(submission) = stream.settle_batch(outcomes)? {
                stream.refused.push(submission);
            }
        }
        if stream.refused.is_empty() {
            return Ok(());
        }
        // The leader says that it is none. End this stream: the router looks who leads now.
        Err(Status::failed_precondition("the replica does not lead any more"))
    }
}

/// Puts things on the stream to one leader.
#[derive(Clone)]
pub(crate) struct Forwarder {
    outbox: mpsc::UnboundedSender<Forwarded>,
}

impl Forwarder {
    /// Hands them over, or back if the stream has ended.
    pub(crate) fn submit(&self, submissions: Vec<Submission>) -> Result<(), Vec<Submission>> {
        self.outbox.send(Forwarded::Submissions(submissions)).map_err(|refused| match refused.0 {
            Forwarded::Submissions(submissions) => submissions,
            Forwarded::Barrier(..) => Vec::new(),
        })
    }

    /// Asks the leader for a read index and for leases.
    pub(crate) async fn barrier(&self, sessions: Vec<SessionId>) -> Result<Barrier, ProposeError> {
        let (done, answered) = oneshot::channel();
        let _ = self.outbox.send(Forwarded::Barrier(sessions, done));
        answered.await.unwrap_or(Err(ProposeError::NotLeader))
    }
}

/// What was sent and is not answered. Bounded by the router's load: nothing gets here without a place there.
#[derive(Default)]
struct InFlight {
    next_id: u64,
    batches: HashMap<u64, Submission>,
    barriers: HashMap<u64, oneshot::Sender<Result<Barrier, ProposeError>>>,
    /// Not done, to be tried elsewhere.
    refused: Vec<Submission>,
    roster: Roster,
}

impl InFlight {
    /// Messages that carry all of it.
    fn pack(&mut self, cell_id: u64, gathered: impl Iterator<Item = Forwarded>) -> Vec<ForwardRequest> {
        let mut messages = vec![ForwardRequest { cell_id, ..ForwardRequest::default() }];
        let mut bytes = 0;
        for forwarded in gathered {
            match forwarded {
                Forwarded::Submissions(submissions) => {
                    for submission in submissions {
                        bytes += submission.requests.len();
                        if bytes > MESSAGE_BYTES {
                            bytes = submission.requests.len();
                            messages.push(ForwardRequest { cell_id, ..ForwardRequest::default() });
                        }
                        let batch = self.send_batch(submission);
                        messages.last_mut().expect("there is always one").batches.push(batch);
                    }
                }
                Forwarded::Barrier(sessions, done) => {
                    let barrier = self.send_barrier(sessions, done);
                    messages.last_mut().expect("there is always one").barriers.push(barrier);
                }
            }
        }
        messages
    }

    fn send_batch(&mut self, submission: Submission) -> ForwardedBatch {
        self.next_id += 1;
        let batch = ForwardedBatch {
            id: self.next_id,
            count: submission.count,
            requests: submission.requests.clone(),
        };
        self.batches.insert(self.next_id, submission);
        batch
    }

    fn send_barrier(
        &mut self,
        sessions: Vec<SessionId>,
        done: oneshot::Sender<Result<Barrier, ProposeError>>,
    ) -> v1::Barrier {
        self.next_id += 1;
        self.barriers.insert(self.next_id, done);
        v1::Barrier { id: self.next_id, sessions_alive: sessions.into_iter().map(|id| id.0).collect() }
    }

    fn settle_barrier(&mut self, answer: v1::BarrierAnswer) -> Result<(), Status> {
        let Some(done) = self.barriers.remove(&answer.id) else { return Ok(()) };
        let passed = if answer.failure.is_empty() {
            let lapsed = answer.lapsed.into_iter().map(SessionId).collect();
            Ok(Barrier { index: answer.index, lapsed, granted_ms: answer.granted_ms })
        } else {
            Err(super::decode(&answer.failure)?)
        };
        let _ = done.send(passed);
        Ok(())
    }

    /// Gives a batch back if the leader refused it because it does not lead.
    fn settle_batch(&mut self, outcomes: ForwardedOutcomes) -> Result<Option<Submission>, Status> {
        let Some(submission) = self.batches.remove(&outcomes.id) else { return Ok(None) };
        if outcomes.failure.is_empty() {
            match decode_outcomes(&outcomes.outcomes) {
                Ok(list) if list.len() == submission.count as usize => submission.succeed(list),
                _ => {
                    submission.fail(ProposeError::LeaderLost);
                    return Err(Status::invalid_argument("the leader's answer can't be read"));
                }
            }
            return Ok(None);
        }
        let failure = match super::decode(&outcomes.failure) {
            Ok(failure) => failure,
            Err(status) => {
                submission.fail(ProposeError::LeaderLost);
                return Err(status);
            }
        };
        match failure {
            ProposeError::NotLeader => return Ok(Some(submission)),
            error @ (ProposeError::LeaderLost | ProposeError::Stopping { .. }) => {
                match (error.may_have_been_done(), submission.retriable) {
                    (false, _) => return Ok(Some(submission)),
                    (true, true) => return Ok(Some(submission.retried())),
                    (true, false) => submission.fail(error),
                }
            }
            error => submission.fail(error),
        }
        Ok(None)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for (_, submission) in self.batches.extract_if(|_, submission| submission.deadline <= now) {
            let waited = now - submission.submitted;
            let members = self.roster.describe();
            submission.fail(ProposeError::Deadline { waited, members });
        }
    }

    /// The stream is over: what may be proposed again comes back, oldest first; the rest may have been done.
    fn end(&mut self) -> Vec<Submission> {
        for (_, done) in self.barriers.drain() {
            let _ = done.send(Err(ProposeError::NotLeader));
        }
        let mut left: Vec<_> = self.batches.drain().collect();
        left.sort_by_key(|(id, _)| *id);
        let (again, lost): (Vec<_>, Vec<_>) =
            left.into_iter().map(|(_, submission)| submission).partition(|submission| submission.retriable);
        lost.into_iter().for_each(|submission| submission.fail(ProposeError::LeaderLost));
        let again = again.into_iter().map(Submission::retried);
        std::mem::take(&mut self.refused).into_iter().chain(again).collect()
    }
}

enum Answer {
    Batch(ForwardedOutcomes),
    Barrier(v1::BarrierAnswer),
}

/// The leader's end: submits what comes, and answers in lists as things get done.
pub(super) fn answer_forwards(
    cell_id: u64,
    router: Router,
    requests: Streaming<ForwardRequest>,
) -> impl Stream<Item = Result<ForwardReply, Status>> + Send {
    // Bounded by the router's load, which each batch had to pass, and by the follower's barriers in flight.
    let (answers, mut answered) = mpsc::unbounded_channel();
    tokio::spawn(take_forwards(cell_id, router, requests, answers));
    let mut gathered = Vec::new();
    futures_util::stream::poll_fn(move |cx| {
        std::task::ready!(answered.poll_recv_many(cx, &mut gathered, 1_024));
        if gathered.is_empty() {
            return std::task::Poll::Ready(None);
        }
        let mut reply = ForwardReply::default();
        for answer in gathered.drain(..) {
            match answer {
                Answer::Batch(outcomes) => reply.outcomes.push(outcomes),
                Answer::Barrier(barrier) => reply.barriers.push(barrier),
            }
        }
        std::task::Poll::Ready(Some(Ok(reply)))
    })
}

async fn take_forwards(
    cell_id: u64,
    router: Router,
    mut requests: Streaming<ForwardRequest>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    loop {
        let message = match requests.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a follower's stream ended");
                return;
            }
        };
        if message.cell_id != cell_id {
            tracing::warn!(
                theirs = message.cell_id,
                "a replica of another cell forwards to this one: refused"
            );
            return;
        }
        for batch in message.batches {
            submit_forwarded(&router, batch, answers.clone());
        }
        for barrier in message.barriers {
            tokio::spawn(pass_forwarded(router.clone(), barrier, answers.clone()));
        }
    }
}

fn submit_forwarded(router: &Router, batch: ForwardedBatch, answers: mpsc::UnboundedSender<Answer>) {
    let id = batch.id;
    if let Err(error) = check_requests(batch.count as usize, &batch.requests) {
        // In the log it would stop every replica, so it must not get there.
        tracing::error!(%error, "a follower forwards requests that can't be read: not proposed");
        let failure = encode(&ProposeError::Unreadable { why: error.to_string() }).unwrap_or_default();
        let _ =
            answers.send(Answer::Batch(ForwardedOutcomes { id, failure, ..ForwardedOutcomes::default() }));
        return;
    }
    router.submit(Submission {
        requests: batch.requests,
        count: batch.count,
        // The follower decides whether to try again; here it is either done or not.
        retriable: false,
        forwarded: true,
        own: false,
        submitted: Instant::now(),
        deadline: Instant::now() + LEADER_LIMIT,
        tried_before: false,
        done: Box::new(move |result| {
            let (outcomes, failure) = match result {
                Ok(outcomes) => match encode_outcomes(&outcomes.list) {
                    Ok(outcomes) => (Bytes::from(outcomes), Bytes::new()),
                    Err(_) => (Bytes::new(), encode(&ProposeError::LeaderLost).unwrap_or_default()),
                },
                Err(error) => (Bytes::new(), encode(&error).unwrap_or_default()),
            };
            let _ = answers.send(Answer::Batch(ForwardedOutcomes { id, outcomes, failure }));
        }),
    });
}

async fn pass_forwarded(router: Router, barrier: v1::Barrier, answers: mpsc::UnboundedSender<Answer>) {
    let (done, passed) = oneshot::channel();
    router.barrier(BarrierRequest {
        sessions_alive: barrier.sessions_alive.into_iter().map(SessionId).collect(),
        forwarded: true,
        asked: Instant::now(),
        deadline: Instant::now() + LEADER_LIMIT,
        done,
        _place: None,
    });
    let mut answer = v1::BarrierAnswer { id: barrier.id, ..v1::BarrierAnswer::default() };
    match passed.await.unwrap_or(Err(ProposeError::NotLeader)) {
        Ok(passed) => {
            (answer.index, answer.granted_ms) = (passed.index, passed.granted_ms);
            answer.lapsed = passed.lapsed.into_iter().map(|id| id.0).collect();
        }
        Err(error) => answer.failure = encode(&error).unwrap_or_default(),
    }
    let _ = answers.send(Answer::Barrier(answer));
}
