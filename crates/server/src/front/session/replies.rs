//! What goes out on a session's stream, in replies of bounded size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bramah_cell::{Delivery, Outcomes, ProposeError};
use bramah_machine::State;
use bramah_wire::v1;
use futures_util::Stream;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::front::pinned::Pinned;
use crate::front::translate::{self, Caller, Read};

/// Bytes of answers gathered into one reply, above which the next begins; and as many of news, which answers must not
/// keep waiting: a lock that was granted is news.
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
    /// Of a long read: the next but one may begin when the stream has taken it.
    Walked(v1::Answer, OwnedSemaphorePermit),
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

/// Gathers all that is ready into one message at a time. Ends after the one that says that the session is over.
pub(super) fn replies(
    head: v1::SessionReply,
    mut receiver: mpsc::UnboundedReceiver<Out>,
    flow: Arc<Flow>,
) -> impl Stream<Item = Result<v1::SessionReply, Status>> + Send {
    let mut head = Some(head);
    let (mut gathered, mut over) = (Vec::new(), false);
    let mut packer = Packer { flow, ..Packer::default() };
    futures_util::stream::poll_fn(move |cx| {
        if let Some(head) = head.take() {
            over = head.ended.is_some();
            return Poll::Ready(Some(Ok(head)));
        }
        while !over {
            // Also while there is something to pack: a lease does not wait for answers.
            match receiver.poll_recv_many(cx, &mut gathered, 256) {
                Poll::Ready(0) if packer.is_empty() => return Poll::Ready(None),
                Poll::Pending if packer.is_empty() => return Poll::Pending,
                _ => gathered.drain(..).for_each(|out| packer.put(out)),
            }
            if let Some(reply) = packer.pack() {
                over = reply.ended.is_some();
                return Poll::Ready(Some(Ok(reply)));
            }
        }
        Poll::Ready(None)
    })
}

/// An answer, or what it takes to make it.
enum Ready {
    Answer(v1::Answer),
    Walked(v1::Answer, OwnedSemaphorePermit),
    Read(u64, Read, Arc<View>),
}

impl Ready {
    fn answer(self) -> v1::Answer {
        match self {
            Ready::Answer(answer) => answer,
            Ready::Walked(answer, turn) => {
                drop(turn);
                answer
            }
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
    leader: Option<v1::Leader>,
    members: Vec<v1::Member>,
    /// The last that is said. Nothing is taken after it.
    ended: Option<v1::Failure>,
    answers: VecDeque<Ready>,
    /// One a reply.
    leases: VecDeque<u32>,
    news: VecDeque<News>,
    flow: Arc<Flow>,
}

impl Packer {
    fn is_empty(&self) -> bool {
        let rest = self.leader.is_none() && self.members.is_empty() && self.ended.is_none();
        rest && self.nothing_waits()
    }

    fn nothing_waits(&self) -> bool {
        self.answers.is_empty() && self.leases.is_empty() && self.news.is_empty()
    }

    fn put(&mut self, out: Out) {
        match out {
            // What a client does with its session from then on fails.
            _ if self.ended.is_some() => {}
            Out::Outcomes(numbers, outcomes) => self.put_outcomes(numbers, outcomes),
            Out::Reads(reads, view) => {
                let ready = |(number, read)| Ready::Read(number, read, Arc::clone(&view));
                self.answers.extend(reads.into_iter().map(ready));
            }
            Out::Answers(answers) => self.answers.extend(answers.into_iter().map(Ready::Answer)),
            Out::Walked(answer, turn) => self.answers.push_back(Ready::Walked(answer, turn)),
            Out::Lease(lease_ms) => self.leases.push_back(lease_ms),
            Out::News(news) => self.news.extend(news),
            Out::Leader(leader) => self.leader = Some(leader),
            Out::Members(members) => self.members = members,
            Out::Ended(failure) => self.ended = Some(failure),
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
                let answer = |number| Ready::Answer(super::failed(number, failure.clone()));
                self.answers.extend(numbers.into_iter().map(answer));
            }
        }
    }

    /// The answers and the news that fit, and what else there is to say. A session must not be said to be over before
    /// its calls are answered. `None` if there was nothing to say after all.
    fn pack(&mut self) -> Option<v1::SessionReply> {
        let mut reply = v1::SessionReply {
            leader: self.leader.take(),
            members: std::mem::take(&mut self.members),
            ..v1::SessionReply::default()
        };
        self.pack_answers(&mut reply);
        self.pack_news(&mut reply);
        self.flow.in_flight.fetch_sub(reply.answers.len(), Ordering::Relaxed);
        self.flow.watch_states.fetch_sub(reply.watches.len(), Ordering::Relaxed);
        let lease = self.leases.pop_front();
        if let Some(lease_ms) = lease {
            self.flow.keep_alives.fetch_sub(1, Ordering::Relaxed);
            reply.lease_ms = lease_ms;
        }
        if self.nothing_waits() {
            reply.ended = self.ended.take();
        }
        // A KeepAlive is answered though there is nothing to say of the lease.
        (lease.is_some() || reply != v1::SessionReply::default()).then_some(reply)
    }

    fn pack_answers(&mut self, reply: &mut v1::SessionReply) {
        let mut bytes = 0;
        while bytes < REPLY_BYTES
            && reply.answers.len() < REPLY_ITEMS
            && let Some(ready) = self.answers.pop_front()
        {
            let answer = ready.answer();
            bytes += answer.encoded_len();
            reply.answers.push(answer);
        }
    }

    fn pack_news(&mut self, reply: &mut v1::SessionReply) {
        let mut bytes = 0;
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

#[cfg(test)]
mod tests {
    use bramah_machine::{Change, Event, Path};

    use super::*;

    fn event(revision: u64, watches: usize) -> News {
        let path = Path::parse("/f").expect("a name");
        let event = Arc::new(Event { revision, path, change: Change::Deleted });
        News::Event(Delivery { event, watches: vec![u64::MAX; watches], own: false })
    }

    fn begun(number: u64) -> News {
        News::Watch(v1::WatchState { number, ..v1::WatchState::default() })
    }

    fn handle(handle: u64) -> v1::HandleState {
        v1::HandleState { handle, ..v1::HandleState::default() }
    }

    /// All that a packer makes of what it is given at once.
    fn packed(out: Vec<Out>) -> Vec<v1::SessionReply> {
        let mut packer = Packer::default();
        packer.flow.watch_states.store(1_000, Ordering::Relaxed);
        packer.flow.keep_alives.store(1_000, Ordering::Relaxed);
        out.into_iter().for_each(|out| packer.put(out));
        std::iter::from_fn(|| (!packer.is_empty()).then(|| packer.pack())).flatten().collect()
    }

    /// Spec E-3: what was told of all watches is not taken for a watch that began after it, nor an event of an ended
    /// watch for one that has its number now.
    #[test]
    fn a_reply_does_not_mix_what_came_before_and_after_a_watch_began() {
        let news = vec![News::UpTo(9), begun(1), begun(2)];
        let replies = packed(vec![Out::News(news)]);
        assert_eq!((replies.len(), replies[0].revision, replies[0].watches.len()), (1, 0, 2));
        let news = vec![begun(1), event(4, 1), News::UpTo(4), begun(1), event(3, 1), News::UpTo(3)];
        let replies = packed(vec![Out::News(news)]);
        let told: Vec<_> = replies.iter().map(|reply| (reply.watches.len(), reply.revision)).collect();
        assert_eq!(told, [(1, 4), (1, 3)]);
    }

    /// A list of all handles stands alone: what else is told of handles is older or newer.
    #[test]
    fn a_list_of_all_handles_stands_alone() {
        let news = vec![News::Handle(handle(1)), News::Handles(vec![handle(2)]), News::Handle(handle(3))];
        let replies = packed(vec![Out::News(news)]);
        let told: Vec<_> = replies.iter().map(|reply| (reply.handles[0].handle, reply.all_handles)).collect();
        assert_eq!(told, [(1, false), (2, true), (3, false)]);
    }

    /// Spec E-4, S-2: large events are spread over replies, the revision comes after the last of them, and a lease does
    /// not wait for them.
    #[test]
    fn events_are_spread_over_replies_and_leases_are_not_kept_waiting() {
        let mut news: Vec<_> = (1..=50).map(|revision| event(revision, 10_000)).collect();
        news.push(News::UpTo(50));
        let replies = packed(vec![Out::News(news), Out::Lease(12_000)]);
        assert!(replies.len() >= 4, "{} replies", replies.len());
        assert_eq!(replies[0].lease_ms, 12_000);
        assert!(replies.iter().all(|reply| reply.encoded_len() < 2 * REPLY_BYTES));
        let revisions: Vec<_> =
            replies.iter().flat_map(|r| r.events.iter().map(|event| event.revision)).collect();
        assert_eq!(revisions, (1..=50).collect::<Vec<_>>());
        let told: Vec<_> = replies.iter().map(|reply| reply.revision).collect();
        assert_eq!((told[0], told.last()), (0, Some(&50)));
    }

    fn large(number: u64) -> v1::Answer {
        let file = v1::FileContents { contents: vec![7; 256 << 10].into(), stat: None };
        let outcome = v1::Outcome { outcome: Some(v1::outcome::Outcome::Contents(file)) };
        v1::Answer { number, outcome: Some(outcome) }
    }

    /// Spec L-4, E-4: a lock that was granted, an event, and who leads don't wait until all answers are read.
    #[test]
    fn answers_do_not_keep_news_waiting() {
        let answers = Out::Answers((1..=100).map(large).collect());
        let news = Out::News(vec![News::Handle(handle(1)), event(9, 1), News::UpTo(9)]);
        let leader = v1::Leader { replica: 2, ..v1::Leader::default() };
        let rest = [Out::Leader(leader.clone()), Out::Members(vec![v1::Member::default()])];
        let replies = packed([answers, news].into_iter().chain(rest).collect());
        let first = &replies[0];
        assert!(replies.len() > 10 && first.answers.len() < 10);
        assert_eq!((first.handles.len(), first.events.len(), first.revision), (1, 1, 9));
        assert_eq!((first.leader.as_ref(), first.members.len()), (Some(&leader), 1));
        assert!(replies[1..].iter().all(|reply| reply.leader.is_none() && reply.members.is_empty()));
    }

    /// Spec S-3: a session is said to be over after all that was to say before, and the stream ends with that, whoever
    /// has more to say.
    #[tokio::test]
    async fn a_stream_ends_with_its_session() {
        use futures_util::StreamExt;
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut replies = Box::pin(replies(v1::SessionReply::default(), receiver, Arc::default()));
        let send = |out| assert!(sender.send(out).is_ok(), "the stream goes on");
        send(Out::Answers((1..=9).map(large).collect()));
        send(Out::Ended(v1::Failure::default()));
        send(Out::Leader(v1::Leader::default()));
        let mut all = Vec::new();
        while let Some(reply) = replies.next().await {
            all.push(reply.expect("no error"));
        }
        let ended: Vec<_> = all.iter().map(|reply| reply.ended.is_some()).collect();
        assert!(
            ended.len() > 2 && ended.iter().rposition(|ended| !ended) == Some(ended.len() - 2),
            "{ended:?}"
        );
        assert_eq!(all.iter().map(|reply| reply.answers.len()).sum::<usize>(), 9);
        drop(replies);
        assert!(sender.is_closed(), "the task behind it is told");
    }

    /// Spec S-2: a lease that comes while many answers wait for a slow client goes with the next reply.
    #[tokio::test]
    async fn a_lease_goes_before_answers_that_wait() {
        use futures_util::StreamExt;
        let (sender, receiver) = mpsc::unbounded_channel();
        let flow = Arc::new(Flow { keep_alives: AtomicUsize::new(1), ..Flow::default() });
        let mut replies = Box::pin(replies(v1::SessionReply::default(), receiver, flow));
        let send = |out| assert!(sender.send(out).is_ok(), "the stream goes on");
        send(Out::Answers((1..=100).map(large).collect()));
        replies.next().await.expect("the head").expect("no error");
        let first = replies.next().await.expect("answers").expect("no error");
        assert!(first.lease_ms == 0 && first.answers.len() < 10);
        send(Out::Lease(12_000));
        let second = replies.next().await.expect("more").expect("no error");
        assert!(second.lease_ms == 12_000 && !second.answers.is_empty());
        drop(sender);
        let rest: Vec<_> = replies.collect().await;
        let rest: usize = rest.into_iter().map(|reply| reply.expect("no error").answers.len()).sum();
        assert_eq!(first.answers.len() + second.answers.len() + rest, 100);
    }

    /// A KeepAlive is answered though no leader is there; an event that nobody may see makes no reply.
    #[test]
    fn nothing_is_sent_when_there_is_nothing_to_say() {
        let turn = Arc::new(tokio::sync::Semaphore::new(1));
        let taken = Arc::clone(&turn).try_acquire_owned().expect("it is free");
        assert!(packed(vec![Out::News(vec![News::More(taken)]), Out::News(Vec::new())]).is_empty());
        assert_eq!(turn.available_permits(), 1, "more may be taken");
        assert_eq!(packed(vec![Out::Lease(0)]).len(), 1);
    }
}
