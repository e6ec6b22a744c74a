//! A session's stream (spec S-3): numbered calls come in lists, answers leave in lists, and the lease and what the
//! session watches with them.

mod news;
mod opening;
mod replies;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bramah_cell::{Cell, ProposeError, Requests};
use bramah_machine::{Command, EndSession, Identity, MAX_BATCH_REQUESTS, Principal, Request, SessionId};
use bramah_wire::limits::{MAX_CALLS_PER_MESSAGE, MAX_IN_FLIGHT_PER_SESSION};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use self::news::{MAX_WATCH_STATES, Teller};
use self::opening::expired;
use self::replies::{Flow, Out, View, replies};
use super::pinned::Pinned;
use super::translate::{self, Caller, Read, Work};
use super::walks::Walks;

/// How long a stream may take to say what session it is for.
const OPEN_LIMIT: Duration = Duration::from_millis(2_500);

/// Calls of a stream that may be in flight. Twice the client's own bound: after a reconnect the calls of the
/// old stream may still be under way.
const MAX_IN_FLIGHT: usize = 2 * MAX_IN_FLIGHT_PER_SESSION;

/// KeepAlives of a stream that may be unanswered; more are ignored. A client has one or two.
const MAX_KEEP_ALIVES: usize = 64;

/// When a client that was too fast for its own watches may come again, in milliseconds.
const WATCHES_AGAIN_MS: u32 = 100;

/// How long a KeepAlive waits for the leader. It is answered in any case: the client takes silence for a
/// dead replica.
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(1);

/// Long reads of a stream that are under way, or whose answers it has not taken. The others wait: their answers may
/// be large.
const MAX_WALKS: usize = 2;

/// Requests handed over together: several such submissions fit in one log entry.
const SUBMISSION_BYTES: usize = 256 << 10;

/// What a stream is served with.
pub(super) struct Host {
    pub(super) cell: Cell,
    pub(super) pinned: Pinned,
    pub(super) walks: Walks,
    pub(super) stop: watch::Receiver<bool>,
}

/// Answers a stream: opens its session or takes it up again, then serves it in a task until either side
/// ends. The stream that comes back carries what the task sends.
pub(super) async fn serve(
    host: Host,
    principal: Result<Principal, v1::Failure>,
    mut requests: Streaming<v1::SessionRequest>,
) -> Result<impl Stream<Item = Result<v1::SessionReply, Status>> + Send, Status> {
    let first = tokio::time::timeout(OPEN_LIMIT, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("a session's stream must begin with `open`"))??
        .ok_or_else(|| Status::invalid_argument("a session's stream must begin with `open`"))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let flow: Arc<Flow> = Arc::default();
    let head = match begin(&host, principal, &first, sender, &flow).await {
        Ok((session, head)) => {
            tokio::spawn(session.run(first, requests, host.stop));
            head
        }
        Err(failure) => v1::SessionReply { ended: Some(failure), ..v1::SessionReply::default() },
    };
    Ok(replies(head, receiver, flow))
}

async fn begin(
    host: &Host,
    principal: Result<Principal, v1::Failure>,
    first: &v1::SessionRequest,
    out: mpsc::UnboundedSender<Out>,
    flow: &Arc<Flow>,
) -> Result<(Session, v1::SessionReply), v1::Failure> {
    let principal = principal?;
    let cell = host.cell.clone();
    let opening::Opened { id, mut head } = opening::open(&cell, &principal, first).await?;
    let teller = Teller::new(cell.clone(), id, principal, Arc::clone(flow));
    head.handles = teller.standing();
    let (pinned, flow) = (host.pinned.clone(), Arc::clone(flow));
    let walks = Walking { walks: host.walks.clone(), turns: Arc::new(Semaphore::new(MAX_WALKS)) };
    Ok((Session { cell, id, pinned, walks, out, flow, teller }, head))
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

/// The task behind one stream.
struct Session {
    cell: Cell,
    id: SessionId,
    pinned: Pinned,
    walks: Walking,
    out: mpsc::UnboundedSender<Out>,
    flow: Arc<Flow>,
    teller: Teller,
}

/// How a stream's long reads are made.
#[derive(Clone)]
struct Walking {
    walks: Walks,
    turns: Arc<Semaphore>,
}

/// A call that reads, and until when it may.
struct Asked {
    number: u64,
    deadline: Instant,
    read: Read,
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
        mut self,
        first: v1::SessionRequest,
        mut requests: Streaming<v1::SessionRequest>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (mut leadership, mut members_now) = (self.cell.leadership(), self.cell.follow_members());
        leadership.mark_unchanged();
        members_now.mark_unchanged();
        if let Some(why) = self.too_much(&first) {
            return self.refuse(why);
        }
        if self.take(first) {
            return self.finish().await;
        }
        loop {
            tokio::select! {
                message = requests.message() => match message {
                    Ok(Some(message)) if message.open.is_some() => return self.refuse(translate::invalid("`open` came twice on one stream")),
                    Ok(Some(message)) => {
                        if let Some(why) = self.too_much(&message) {
                            return self.refuse(why);
                        }
                        if self.take(message) {
                            return self.finish().await;
                        }
                    }
                    // The client is gone, or on its way to another replica: its session lives until its lease ends.
                    Ok(None) | Err(_) => return,
                },
                news = self.teller.next() => self.send(Out::News(news)),
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

    fn refuse(&self, why: v1::Failure) {
        self.send(Out::Ended(why));
    }

    fn send(&self, out: Out) {
        // Nobody listens any more: `closed` ends the task.
        let _ = self.out.send(out);
    }

    /// Why a message is not even refused part by part. Even refusals take memory until they are read.
    fn too_much(&self, message: &v1::SessionRequest) -> Option<v1::Failure> {
        let waiting = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        if message.calls.len() > MAX_CALLS_PER_MESSAGE {
            return Some(translate::invalid("more than 4,096 calls in one message: send several messages"));
        }
        if !message.calls.is_empty() && waiting(&self.flow.in_flight) > 2 * MAX_IN_FLIGHT {
            return Some(translate::invalid("calls come faster than their answers are read"));
        }
        if waiting(&self.flow.watch_states) + message.watches.len() > MAX_WATCH_STATES {
            // A client that took its watches up again often may come here: it loses its stream, not its session.
            let why = "watches come faster than what is said of them is read; a session has at most 10,000";
            let failure = translate::failure(Code::Overloaded, why.to_owned());
            return Some(v1::Failure { retry_after_ms: WATCHES_AGAIN_MS, ..failure });
        }
        None
    }

    /// Takes up a message. Says whether the client wants the session ended.
    fn take(&self, message: v1::SessionRequest) -> bool {
        if message.keep_alive {
            self.take_keep_alive();
        }
        // Before the calls: what these change is told.
        if !message.watches.is_empty() || !message.unwatches.is_empty() {
            self.send(Out::News(self.teller.change_watches(&message.unwatches, &message.watches)));
        }
        self.take_calls(message.calls, message.confirmed);
        message.end
    }

    /// Each gets an answer of its own: the client counts its lease from the ask that was answered. Only this task
    /// adds to the count, so nothing gets between the look and the addition.
    fn take_keep_alive(&self) {
        if self.flow.keep_alives.load(Ordering::Relaxed) < MAX_KEEP_ALIVES {
            self.flow.keep_alives.fetch_add(1, Ordering::Relaxed);
            self.send(Out::News(self.teller.seen().into_iter().collect()));
            tokio::spawn(keep_alive(self.cell.clone(), self.id, self.out.clone()));
        }
    }

    fn take_calls(&self, calls: Vec<v1::SessionCall>, confirmed: u64) {
        let mut writes = Writes::default();
        let mut reads = Vec::new();
        let mut refused = Vec::new();
        for call in calls {
            self.flow.in_flight.fetch_add(1, Ordering::Relaxed);
            let work =
                self.admit(call.number).and_then(|()| translate::work(call.operation, self.cell.name()));
            match work {
                Ok(Work::Read(read)) => {
                    let deadline = translate::deadline(call.deadline_ms);
                    reads.push(Asked { number: call.number, deadline, read });
                }
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
        let waiting = self.flow.in_flight.load(Ordering::Relaxed);
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
    fn read(&self, reads: Vec<Asked>) {
        let Some(longest) = reads.iter().map(|asked| asked.deadline).max() else { return };
        let walks = self.walks.clone();
        let (cell, out) = (self.cell.clone(), self.out.clone());
        let (caller, pinned) = (self.teller.caller().clone(), self.pinned.clone());
        tokio::spawn(async move {
            if let Err(error) = cell.barrier(Vec::new(), longest).await {
                let failure = translate::undone(&error);
                let answers = reads.iter().map(|asked| failed(asked.number, failure.clone())).collect();
                let _ = out.send(Out::Answers(answers));
                return;
            }
            let (long, short): (Vec<_>, Vec<_>) = reads.into_iter().partition(|asked| asked.read.is_long());
            if !short.is_empty() {
                let view = View { state: cell.view(), caller: caller.clone(), pinned: pinned.clone() };
                let short = short.into_iter().map(|asked| (asked.number, asked.read)).collect();
                let _ = out.send(Out::Reads(short, Arc::new(view)));
            }
            for asked in long {
                if out.is_closed() {
                    return;
                }
                let _ = out.send(walks.walk(&cell, pinned.clone(), caller.clone(), asked).await);
            }
        });
    }
}

impl Walking {
    async fn walk(&self, cell: &Cell, pinned: Pinned, caller: Caller, asked: Asked) -> Out {
        let turn = Arc::clone(&self.turns).acquire_owned();
        // Nobody closes it.
        let Ok(Ok(turn)) = tokio::time::timeout_at(asked.deadline, turn).await else {
            let why =
                "the stream's long reads before this one took until its deadline; read their answers faster";
            let failure = translate::failure(Code::DeadlineExceeded, why.to_owned());
            return Out::Answers(vec![failed(asked.number, failure)]);
        };
        let outcome = self.walks.read(cell, pinned, caller, asked.read).await;
        Out::Walked(v1::Answer { number: asked.number, outcome: Some(outcome) }, turn)
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
async fn keep_alive(cell: Cell, id: SessionId, out: mpsc::UnboundedSender<Out>) {
    let deadline = Instant::now() + KEEP_ALIVE_LIMIT;
    let answer = match cell.barrier(vec![id], deadline).await {
        Ok(barrier) if barrier.lapsed.contains(&id) => Out::Ended(expired(id)),
        // That is the least that any session was granted which shares the barrier.
        Ok(barrier) => {
            let own_ms = cell.read(|state| state.session(id).map_or(0, |session| session.lease_ms));
            Out::Lease(barrier.granted_ms.max(own_ms))
        }
        // No leader: the client goes on asking, here or elsewhere, until its own lease is over.
        Err(_) => Out::Lease(0),
    };
    let _ = out.send(answer);
}
