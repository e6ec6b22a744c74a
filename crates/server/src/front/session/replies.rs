//! What goes out on a session's stream, in replies of bounded size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};

use bramah_cell::{Delivery, Outcomes, ProposeError};
use bramah_machine::State;
use bramah_wire::v1;
use futures_util::Stream;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::front::pinned::Pinned;
use crate::front::translate::{self, Caller, Read};

/// Bytes gathered into one reply, above which the next begins.
const REPLY_BYTES: usize = 1 << 20;

/// Answers, or events, gathered into one reply.
const REPLY_ITEMS: usize = 4_096;

/// What the stream's tasks have for the client. Bounded by the calls that the session may have in flight: a call is
/// in flight until its answer is handed to the stream. So are KeepAlives, and the states of watches; events come
/// only when the stream has taken those before.
pub(super) enum Out {
    Outcomes(Vec<u64>, Result<Outcomes, ProposeError>),
    /// Looked up in the view when there is room for the answer.
    Reads(Vec<(u64, Read)>, Arc<View>),
    Answers(Vec<v1::Answer>),
    Lease(u32),
    Leader(v1::Leader),
    Members(Vec<v1::Member>),
    Ended(v1::Failure),
    /// What is told in this order.
    News(Vec<News>),
}

/// What has an order of its own among what the client is told.
pub(super) enum News {
    Event(Delivery),
    Watch(v1::WatchState),
    Handle(v1::HandleState),
    /// All handles that are open.
    Handles(Vec<v1::HandleState>),
    /// All events of the session's watches up to this revision came before this.
    UpTo(u64),
    /// When this is reached, there may be more.
    More(OwnedSemaphorePermit),
}

/// The state as the session's reads see it.
pub(super) struct View {
    pub(super) state: State,
    pub(super) caller: Caller,
    pub(super) pinned: Pinned,
}

/// How much is on its way to a client that has not been handed to its stream yet.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Calls that were taken and whose answers the stream has not taken yet.
    pub(super) in_flight: AtomicUsize,
    pub(super) keep_alives: AtomicUsize,
    pub(super) watch_states: AtomicUsize,
}

/// Gathers all that is ready into one message at a time.
pub(super) fn replies(
    head: v1::SessionReply,
    mut receiver: mpsc::UnboundedReceiver<Out>,
    flow: Arc<Flow>,
) -> impl Stream<Item = Result<v1::SessionReply, Status>> + Send {
    let mut head = Some(head);
    let mut gathered = Vec::new();
    let mut packer = Packer { flow, ..Packer::default() };
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
    Read(u64, Read, Arc<View>),
}

impl Ready {
    fn answer(self) -> v1::Answer {
        match self {
            Ready::Answer(answer) => answer,
            Ready::Read(number, read, view) => {
                let outcome = translate::read(&view.state, &view.pinned, &view.caller, &read);
                v1::Answer { number, outcome: Some(outcome) }
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
    news: VecDeque<News>,
    flow: Arc<Flow>,
    something: bool,
}

impl Packer {
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.leases.is_empty() && self.news.is_empty() && !self.something
    }

    fn put(&mut self, out: Out) {
        match out {
            Out::Outcomes(numbers, outcomes) => self.put_outcomes(numbers, outcomes),
            Out::Reads(reads, view) => {
                let ready = |(number, read)| Ready::Read(number, read, Arc::clone(&view));
                self.answers.extend(reads.into_iter().map(ready));
            }
            Out::Answers(answers) => self.answers.extend(answers.into_iter().map(Ready::Answer)),
            Out::Lease(lease_ms) => self.leases.push_back(lease_ms),
            Out::News(news) => self.news.extend(news),
            Out::Leader(leader) => self.put_rest(|reply| reply.leader = Some(leader)),
            Out::Members(members) => self.put_rest(|reply| reply.members = members),
            Out::Ended(failure) => self.put_rest(|reply| reply.ended = Some(failure)),
        }
    }

    fn put_rest(&mut self, set: impl FnOnce(&mut v1::SessionReply)) {
        set(&mut self.reply);
        self.something = true;
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
                let answer = |number| Ready::Answer(super::failed(number, failure.clone()));
                self.answers.extend(numbers.into_iter().map(answer));
            }
        }
    }

    /// The answers and the news that fit. What else there is to say goes with the last of them: a session must
    /// not be said to be over before its calls are answered.
    fn pack(&mut self) -> v1::SessionReply {
        let mut reply = v1::SessionReply::default();
        let bytes = self.pack_answers(&mut reply);
        self.pack_news(&mut reply, bytes);
        self.flow.in_flight.fetch_sub(reply.answers.len(), Ordering::Relaxed);
        self.flow.watch_states.fetch_sub(reply.watches.len(), Ordering::Relaxed);
        if let Some(lease_ms) = self.leases.pop_front() {
            self.flow.keep_alives.fetch_sub(1, Ordering::Relaxed);
            reply.lease_ms = lease_ms;
        }
        if self.answers.is_empty() && self.leases.is_empty() && self.news.is_empty() {
            self.something = false;
            let rest = std::mem::take(&mut self.reply);
            (reply.leader, reply.members, reply.ended) = (rest.leader, rest.members, rest.ended);
        }
        reply
    }

    fn pack_answers(&mut self, reply: &mut v1::SessionReply) -> usize {
        let mut bytes = 0;
        while bytes < REPLY_BYTES
            && reply.answers.len() < REPLY_ITEMS
            && let Some(ready) = self.answers.pop_front()
        {
            let answer = ready.answer();
            bytes += answer.encoded_len();
            reply.answers.push(answer);
        }
        bytes
    }

    fn pack_news(&mut self, reply: &mut v1::SessionReply, mut bytes: usize) {
        while bytes < REPLY_BYTES && reply.events.len() < REPLY_ITEMS {
            let Some(news) = self.news.pop_front() else { return };
            if !goes_with(&news, reply) {
                return self.news.push_front(news);
            }
            bytes += tell(news, reply);
        }
    }
}

/// Whether the client can't take this for older, or newer, than what the reply holds already.
fn goes_with(news: &News, reply: &v1::SessionReply) -> bool {
    match news {
        // Its number may have been another watch's, which the events were for.
        News::Watch(_) => reply.events.is_empty(),
        News::Handles(_) => reply.handles.is_empty(),
        News::Handle(_) => !reply.all_handles,
        News::Event(_) | News::UpTo(_) | News::More(_) => true,
    }
}

/// Adds to a reply, and says about how many bytes that takes.
fn tell(news: News, reply: &mut v1::SessionReply) -> usize {
    match news {
        News::Event(Delivery { event, watches, .. }) => {
            let Some(event) = translate::event(&event, watches) else { return 0 };
            let bytes = event.encoded_len();
            reply.events.push(event);
            bytes
        }
        News::Watch(state) => {
            let bytes = state.encoded_len();
            // What was said of all watches before is not so for this one.
            reply.revision = 0;
            reply.watches.push(state);
            bytes
        }
        News::Handle(state) => {
            reply.handles.push(state);
            0
        }
        News::Handles(states) => {
            (reply.handles, reply.all_handles) = (states, true);
            0
        }
        News::UpTo(revision) => {
            reply.revision = revision;
            0
        }
        News::More(turn) => {
            drop(turn);
            0
        }
    }
}
