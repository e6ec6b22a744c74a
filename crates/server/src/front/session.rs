//! A session's stream (spec S-3): numbered calls come in lists, answers leave in lists, and the lease with
//! them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bramah_cell::{Cell, Outcomes, ProposeError, Requests};
use bramah_machine::{
    Answer, Command, EndSession, Identity, MAX_BATCH_REQUESTS, OpenSession, Refusal, Request, SessionId,
    State,
};
use bramah_wire::limits::{MAX_CALLS_PER_MESSAGE, MAX_IN_FLIGHT_PER_SESSION};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::outcome::Outcome as Reply;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::translate::{self, Read, Work};

/// The lease of a session whose client doesn't ask for one (Chubby §2.8).
const DEFAULT_LEASE_MS: u32 = 12_000;

/// How long a stream may take to say what session it is for.
const OPEN_LIMIT: Duration = Duration::from_millis(2_500);

/// Calls of a stream that may be in flight. Twice the client's own bound: after a reconnect the calls of the
/// old stream may still be under way.
const MAX_IN_FLIGHT: usize = 2 * MAX_IN_FLIGHT_PER_SESSION;

/// KeepAlives of a stream that may be unanswered; more are ignored. A client has one or two.
const MAX_KEEP_ALIVES: usize = 64;

/// How long a KeepAlive waits for the leader. It is answered in any case: the client takes silence for a
/// dead replica.
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(1);

/// Contents gathered into one reply, above which the next begins.
const REPLY_BYTES: usize = 1 << 20;

/// Answers gathered into one reply.
const REPLY_ANSWERS: usize = 4_096;

/// Requests handed over together: several such submissions fit in one log entry.
const SUBMISSION_BYTES: usize = 256 << 10;

/// What the stream's tasks have for the client. Bounded by the calls that the session may have in flight:
/// a call is in flight until its answer is handed to the stream.
enum Out {
    Outcomes(Vec<u64>, Result<Outcomes, ProposeError>),
    /// Looked up in the view when there is room for the answer.
    Reads(Vec<(u64, Read)>, Arc<State>),
    Answers(Vec<v1::Answer>),
    Lease(u32),
    Leader(v1::Leader),
    Members(Vec<v1::Member>),
    Ended(v1::Failure),
}

/// Answers a stream: opens its session or takes it up again, then serves it in a task until either side
/// ends. The stream that comes back carries what the task sends.
pub(super) async fn serve(
    cell: Cell,
    mut requests: Streaming<v1::SessionRequest>,
    stop: watch::Receiver<bool>,
) -> Result<impl Stream<Item = Result<v1::SessionReply, Status>> + Send, Status> {
    let first = tokio::time::timeout(OPEN_LIMIT, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("a session's stream must begin with `open`"))??
        .ok_or_else(|| Status::invalid_argument("a session's stream must begin with `open`"))?;
    let opened = open(&cell, &first).await;
    let (sender, receiver) = mpsc::unbounded_channel();
    let in_flight: Arc<AtomicUsize> = Arc::default();
    let keep_alives: Arc<AtomicUsize> = Arc::default();
    let head = match opened {
        Ok(opened) => {
            let session = Session {
                cell: cell.clone(),
                id: SessionId(opened.session),
                lease_ms: opened.lease_ms,
                out: sender,
                in_flight: Arc::clone(&in_flight),
                keep_alives: Arc::clone(&keep_alives),
            };
            tokio::spawn(session.run(first, requests, stop));
            let leader = Some(leader(&cell));
            v1::SessionReply {
                lease_ms: opened.lease_ms,
                opened: Some(opened),
                leader,
                ..v1::SessionReply::default()
            }
        }
        Err(failure) => v1::SessionReply { ended: Some(failure), ..v1::SessionReply::default() },
    };
    Ok(replies(head, receiver, in_flight, keep_alives))
}

async fn open(cell: &Cell, first: &v1::SessionRequest) -> Result<v1::Opened, v1::Failure> {
    let open =
        first.open.as_ref().ok_or_else(|| translate::invalid("a session's stream must begin with `open`"))?;
    let deadline = Instant::now() + OPEN_LIMIT;
    let (session, lease_ms) = match open.session {
        0 => start(cell, open, deadline).await?,
        id => resume(cell, SessionId(id), deadline).await?,
    };
    let members = members(cell);
    Ok(v1::Opened {
        session: session.0,
        lease_ms,
        cell: cell.name().to_owned(),
        replica: cell.replica(),
        members,
    })
}

async fn start(
    cell: &Cell,
    open: &v1::OpenSession,
    deadline: Instant,
) -> Result<(SessionId, u32), v1::Failure> {
    if open.nonce.len() != 16 {
        return Err(translate::invalid("`open.nonce` must be 16 random bytes"));
    }
    let lease_ms = if open.lease_ms == 0 { DEFAULT_LEASE_MS } else { open.lease_ms };
    let request = Request {
        identity: translate::session_key(&open.nonce),
        command: Command::OpenSession(OpenSession { lease_ms, client: open.client.clone() }),
    };
    match cell.propose(&request, deadline).await {
        // This may be a repeat, long after the first: the lease begins now.
        Ok(Ok(Answer::SessionOpened { session, .. })) => resume(cell, session, deadline).await,
        Ok(Ok(_)) => Err(translate::invalid("`open.nonce` was used for something else")),
        Ok(Err(refusal)) => Err(translate::refused(&refusal)),
        Err(error) => Err(translate::undone(&error)),
    }
}

async fn resume(cell: &Cell, id: SessionId, deadline: Instant) -> Result<(SessionId, u32), v1::Failure> {
    let barrier = cell.barrier(vec![id], deadline).await.map_err(|error| translate::undone(&error))?;
    let lease_ms = cell.read(|state| state.session(id).map(|session| session.lease_ms));
    match lease_ms {
        Some(lease_ms) if !barrier.lapsed.contains(&id) => Ok((id, lease_ms)),
        _ => Err(expired(id)),
    }
}

fn expired(session: SessionId) -> v1::Failure {
    translate::refused(&Refusal::SessionExpired { session })
}

pub(super) fn members(cell: &Cell) -> Vec<v1::Member> {
    let member = |(replica, member, voter): (u64, bramah_cell::Member, bool)| v1::Member {
        replica,
        client_address: member.client_address,
        peer_address: member.peer_address,
        voter,
    };
    cell.members().into_iter().map(member).collect()
}

pub(super) fn leader(cell: &Cell) -> v1::Leader {
    let leadership = cell.leadership().borrow().clone();
    match leadership.leader {
        Some((replica, member)) => {
            v1::Leader { replica, term: leadership.term, address: member.client_address }
        }
        None => v1::Leader { term: leadership.term, ..v1::Leader::default() },
    }
}

/// Gathers all that is ready into one message at a time.
fn replies(
    head: v1::SessionReply,
    mut receiver: mpsc::UnboundedReceiver<Out>,
    in_flight: Arc<AtomicUsize>,
    keep_alives: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<v1::SessionReply, Status>> + Send {
    let mut head = Some(head);
    let mut gathered = Vec::new();
    let mut packer = Packer { in_flight, keep_alives, ..Packer::default() };
    futures_util::stream::poll_fn(move |cx| {
        if let Some(head) = head.take() {
            return Poll::Ready(Some(Ok(head)));
        }
        if packer.is_empty() {
            ready!(receiver.poll_recv_many(cx, &mut gathered, 256));
            if gathered.is_empty() {
                return Poll::Ready(None);
            }
            gathered.drain(..).for_each(|out| packer.put(out));
        }
        Poll::Ready(Some(Ok(packer.pack())))
    })
}

/// An answer, or what it takes to make it.
enum Ready {
    Answer(v1::Answer),
    Read(u64, Read, Arc<State>),
}

impl Ready {
    fn answer(self) -> v1::Answer {
        match self {
            Ready::Answer(answer) => answer,
            Ready::Read(number, read, view) => {
                v1::Answer { number, outcome: Some(translate::read(&view, &read)) }
            }
        }
    }
}

/// Makes replies of bounded size out of what was gathered.
#[derive(Default)]
struct Packer {
    reply: v1::SessionReply,
    answers: VecDeque<Ready>,
    /// One a reply.
    leases: VecDeque<u32>,
    in_flight: Arc<AtomicUsize>,
    keep_alives: Arc<AtomicUsize>,
    something: bool,
}

impl Packer {
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.leases.is_empty() && !self.something
    }

    fn put(&mut self, out: Out) {
        self.something = true;
        match out {
            Out::Outcomes(numbers, outcomes) => self.put_outcomes(numbers, outcomes),
            Out::Reads(reads, view) => {
                let ready = |(number, read)| Ready::Read(number, read, Arc::clone(&view));
                self.answers.extend(reads.into_iter().map(ready));
            }
            Out::Answers(answers) => self.answers.extend(answers.into_iter().map(Ready::Answer)),
            Out::Lease(lease_ms) => self.leases.push_back(lease_ms),
            Out::Leader(leader) => self.reply.leader = Some(leader),
            Out::Members(members) => self.reply.members = members,
            Out::Ended(failure) => self.reply.ended = Some(failure),
        }
    }

    fn put_outcomes(&mut self, numbers: Vec<u64>, outcomes: Result<Outcomes, ProposeError>) {
        match outcomes {
            Ok(Outcomes { list, tried_before }) => {
                let answer = |(number, outcome)| {
                    let outcome = Some(translate::outcome(outcome, tried_before));
                    Ready::Answer(v1::Answer { number, outcome })
                };
                self.answers.extend(numbers.into_iter().zip(list).map(answer));
            }
            Err(error) => {
                let failure = translate::undone(&error);
                let answer = |number| Ready::Answer(failed(number, failure.clone()));
                self.answers.extend(numbers.into_iter().map(answer));
            }
        }
    }

    /// The answers that fit. What else there is to say goes with the last of them: a session must not be
    /// said to be over before its calls are answered.
    fn pack(&mut self) -> v1::SessionReply {
        let mut bytes = 0;
        let mut answers = Vec::new();
        while bytes < REPLY_BYTES
            && answers.len() < REPLY_ANSWERS
            && let Some(ready) = self.answers.pop_front()
        {
            let answer = ready.answer();
            bytes += contents_bytes(&answer);
            answers.push(answer);
        }
        self.in_flight.fetch_sub(answers.len(), Ordering::Relaxed);
        let lease_ms = self.leases.pop_front().inspect(|_| {
            self.keep_alives.fetch_sub(1, Ordering::Relaxed);
        });
        let lease_ms = lease_ms.unwrap_or(0);
        if !self.answers.is_empty() || !self.leases.is_empty() {
            return v1::SessionReply { answers, lease_ms, ..v1::SessionReply::default() };
        }
        self.something = false;
        v1::SessionReply { answers, lease_ms, ..std::mem::take(&mut self.reply) }
    }
}

fn contents_bytes(answer: &v1::Answer) -> usize {
    match answer.outcome.as_ref().and_then(|outcome| outcome.outcome.as_ref()) {
        Some(Reply::Contents(file)) => file.contents.len(),
        Some(Reply::Directory(page)) => page.entries.len() * translate::ENTRY_BYTES,
        _ => 0,
    }
}

/// The task behind one stream.
struct Session {
    cell: Cell,
    id: SessionId,
    lease_ms: u32,
    out: mpsc::UnboundedSender<Out>,
    /// Calls that were taken and whose answers the stream has not taken yet.
    in_flight: Arc<AtomicUsize>,
    keep_alives: Arc<AtomicUsize>,
}

/// Writes of one message that share a deadline.
#[derive(Default)]
struct Writes {
    numbers: Vec<u64>,
    requests: Requests,
    deadline_ms: u32,
}

impl Session {
    async fn run(
        self,
        first: v1::SessionRequest,
        mut requests: Streaming<v1::SessionRequest>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (mut leadership, mut members_now) = (self.cell.leadership(), self.cell.follow_members());
        leadership.mark_unchanged();
        members_now.mark_unchanged();
        if self.take(first) {
            return self.finish().await;
        }
        loop {
            tokio::select! {
                message = requests.message() => match message {
                    Ok(Some(message)) if message.open.is_some() => return self.refuse("`open` came twice on one stream"),
                    Ok(Some(message)) if message.calls.len() > MAX_CALLS_PER_MESSAGE => {
                        return self.refuse("more than 4,096 calls in one message: send several messages");
                    }
                    // Even refusals take memory until they are read.
                    Ok(Some(_)) if self.in_flight.load(Ordering::Relaxed) > 2 * MAX_IN_FLIGHT => {
                        return self.refuse("calls come faster than their answers are read");
                    }
                    Ok(Some(message)) => if self.take(message) {
                        return self.finish().await;
                    },
                    // The client is gone, or on its way to another replica: its session lives until its lease ends.
                    Ok(None) | Err(_) => return,
                },
                Ok(()) = leadership.changed() => {
                    leadership.mark_unchanged();
                    self.send(Out::Leader(leader(&self.cell)));
                }
                Ok(()) = members_now.changed() => {
                    members_now.mark_unchanged();
                    self.send(Out::Members(members(&self.cell)));
                }
                () = stopped(&mut stop) => return,
                () = self.out.closed() => return,
            }
        }
    }

    /// Ends the session for the client, which asked for it.
    async fn finish(self) {
        let request = Request {
            identity: Identity::Anonymous,
            command: Command::EndSession(EndSession { session: self.id }),
        };
        // If this fails the lease ends the session.
        let _ = self.cell.propose(&request, Instant::now() + OPEN_LIMIT).await;
        self.send(Out::Ended(translate::failure(
            Code::SessionExpired,
            "the session ended as asked".to_owned(),
        )));
    }

    fn refuse(&self, why: &str) {
        self.send(Out::Ended(translate::invalid(why)));
    }

    fn send(&self, out: Out) {
        // Nobody listens any more: `closed` ends the task.
        let _ = self.out.send(out);
    }

    /// Takes up a message. Says whether the client wants the session ended.
    fn take(&self, message: v1::SessionRequest) -> bool {
        // Each gets an answer of its own: the client counts its lease from the ask that was answered.
        // Only this task adds to the count, so nothing gets between the look and the addition.
        if message.keep_alive && self.keep_alives.load(Ordering::Relaxed) < MAX_KEEP_ALIVES {
            self.keep_alives.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(keep_alive(self.cell.clone(), self.id, self.lease_ms, self.out.clone()));
        }
        self.take_calls(message.calls, message.confirmed);
        message.end
    }

    fn take_calls(&self, calls: Vec<v1::SessionCall>, confirmed: u64) {
        let mut writes = Writes::default();
        let mut reads = Vec::new();
        let mut refused = Vec::new();
        for call in calls {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            let work =
                self.admit(call.number).and_then(|()| translate::work(call.operation, self.cell.name()));
            match work {
                Ok(Work::Read(read)) => reads.push((call.number, call.deadline_ms, read)),
                Ok(Work::Write(command)) => {
                    let identity = Identity::Session { session: self.id, number: call.number, confirmed };
                    let request = Request { identity, command };
                    if !writes.fits(call.deadline_ms) {
                        self.submit(std::mem::take(&mut writes));
                    }
                    if let Err(error) = writes.push(call.number, call.deadline_ms, &request) {
                        refused.push(failed(call.number, translate::invalid(&error.to_string())));
                    }
                }
                Err(failure) => refused.push(failed(call.number, failure)),
            }
        }
        self.submit(writes);
        self.read(reads);
        if !refused.is_empty() {
            self.send(Out::Answers(refused));
        }
    }

    fn admit(&self, number: u64) -> Result<(), v1::Failure> {
        if number == 0 {
            return Err(translate::invalid("calls are numbered from 1"));
        }
        let waiting = self.in_flight.load(Ordering::Relaxed);
        if waiting > MAX_IN_FLIGHT {
            return Err(translate::undone(&ProposeError::Overloaded { waiting, retry_after_ms: 50 }));
        }
        Ok(())
    }

    fn submit(&self, writes: Writes) {
        if writes.requests.is_empty() {
            return;
        }
        let out = self.out.clone();
        let numbers = writes.numbers;
        let done = Box::new(move |outcomes| drop(out.send(Out::Outcomes(numbers, outcomes))));
        self.cell.submit(writes.requests, translate::deadline(writes.deadline_ms), done);
    }

    /// All reads of a message share a barrier, and all barriers that wait share a read index.
    fn read(&self, reads: Vec<(u64, u32, Read)>) {
        if reads.is_empty() {
            return;
        }
        let (cell, out) = (self.cell.clone(), self.out.clone());
        tokio::spawn(async move {
            let longest = reads.iter().map(|(_, deadline_ms, _)| *deadline_ms).max().unwrap_or(0);
            let passed = cell.barrier(Vec::new(), translate::deadline(longest)).await;
            let answers = match passed {
                Ok(_) => {
                    let reads = reads.into_iter().map(|(number, _, read)| (number, read)).collect();
                    Out::Reads(reads, Arc::new(cell.view()))
                }
                Err(error) => {
                    let failure = translate::undone(&error);
                    Out::Answers(reads.iter().map(|(number, ..)| failed(*number, failure.clone())).collect())
                }
            };
            let _ = out.send(answers);
        });
    }
}

impl Writes {
    fn fits(&self, deadline_ms: u32) -> bool {
        self.requests.is_empty()
            || (self.deadline_ms == deadline_ms
                && self.requests.bytes() < SUBMISSION_BYTES
                && self.requests.len() < MAX_BATCH_REQUESTS)
    }

    fn push(
        &mut self,
        number: u64,
        deadline_ms: u32,
        request: &Request,
    ) -> Result<(), bramah_machine::BatchError> {
        self.requests.push(request)?;
        self.numbers.push(number);
        self.deadline_ms = deadline_ms;
        Ok(())
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn failed(number: u64, failure: v1::Failure) -> v1::Answer {
    v1::Answer { number, outcome: Some(translate::failed(failure)) }
}

/// Has the lease extended by the leader, and tells the client so, or that the session is over.
async fn keep_alive(cell: Cell, id: SessionId, lease_ms: u32, out: mpsc::UnboundedSender<Out>) {
    let deadline = Instant::now() + KEEP_ALIVE_LIMIT;
    let answer = match cell.barrier(vec![id], deadline).await {
        Ok(barrier) if barrier.lapsed.contains(&id) => Out::Ended(expired(id)),
        Ok(_) => Out::Lease(lease_ms),
        // No leader: the client goes on asking, here or elsewhere, until its own lease is over.
        Err(_) => Out::Lease(0),
    };
    let _ = out.send(answer);
}
