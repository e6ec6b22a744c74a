//! The one task of a client: it owns the stream, keeps the session alive, and moves it between replicas.
//!
//! Each turn of its loop waits for one event (a reply, calls to send, a connection, a time) and then does all
//! that is due, so there is one place where each thing happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::{DEFAULT_DEADLINE, MAX_CALLS_PER_MESSAGE};
use bramah_wire::transport::Transport;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::addresses::Addresses;
use crate::budget::RetryBudget;
use crate::builder::Route;
use crate::calls::{Call, Calls, is_passing};
use crate::error::Error;
use crate::grip::{Ended, FollowUp};
use crate::handles::Handles;
use crate::lease::Lease;
use crate::link::{self, Greeting, Link, OpenError};
use crate::queue::{MAX_BATCH_BYTES, Queue, Wish};
use crate::session_events::SessionEvent;
use crate::timer::Timer;
use crate::token::Token;
use crate::watches::Watches;

mod background;
mod connections;
mod ends;

/// What a client is made with.
pub(crate) struct Settings {
    pub(crate) addresses: Vec<String>,
    pub(crate) route: Route,
    pub(crate) name: String,
    pub(crate) lease_ms: u32,
    pub(crate) grace: Duration,
    pub(crate) token: Token,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) seed: Option<u64>,
}

/// What the task lets the client's handles see.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) session: u64,
    pub(crate) cell: String,
    pub(crate) replica: u64,
    pub(crate) address: String,
    pub(crate) lease_until: Option<Instant>,
    /// For calls outside of the stream; none while there is no connection.
    pub(crate) channel: Option<Channel>,
}

impl View {
    /// The session is over; the cell is the same for ever.
    pub(crate) fn clear(&mut self) {
        *self = Self { cell: std::mem::take(&mut self.cell), ..Self::default() };
    }
}

/// What the task shares with the application's side.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) queue: Arc<Queue>,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) handles: Arc<Handles>,
}

/// Somebody waits for the first session.
pub(crate) struct Opening {
    pub(crate) deadline: Instant,
    pub(crate) allowed: Duration,
    pub(crate) reply: oneshot::Sender<Result<(), Error>>,
}

/// A connection that is being made.
struct Attempt {
    link: BoxFuture<'static, Result<(Link, Greeting), OpenError>>,
    address: String,
    /// There is a connection already, and this one is to take its place.
    moving: bool,
    started: Instant,
}

enum Event {
    Reply(Result<Option<v1::SessionReply>, Status>),
    Attempted(Result<(Link, Greeting), OpenError>),
    Calls,
    Room,
    Time,
}

pub(crate) struct Session {
    settings: Settings,
    queue: Arc<Queue>,
    view: Arc<Mutex<View>>,
    handles: Arc<Handles>,
    events: broadcast::Sender<SessionEvent>,
    opening: Option<Opening>,
    calls: Calls,
    watches: Watches,
    drained: Vec<Call>,
    wishes: Vec<Wish>,
    /// Handles to close, and who waits for it.
    closes: Vec<(u64, Option<oneshot::Sender<()>>)>,
    /// Calls of the task's own.
    background: VecDeque<FollowUp>,
    /// The same, made once and refused for a time.
    again: VecDeque<Call>,
    budget: RetryBudget,
    random: StdRng,
    addresses: Addresses,
    timer: Timer,

    /// 0: no session.
    id: u64,
    cell: String,
    nonce: Bytes,
    lease: Lease,
    /// The lease ran out, and nobody knows yet whether the session lives (spec S-4).
    jeopardy: bool,
    /// When the cell is asked what it has not said of handles on a new connection.
    look_at: Option<Instant>,
    link: Option<Link>,
    attempt: Option<Attempt>,
    /// The present link has given a reply after its greeting.
    proved: bool,
    /// Attempts that failed since a link last proved itself.
    failures: usize,
    next_attempt: Instant,
    /// What the last replica said that will not have this client, since one last had it.
    refusal: Option<v1::Failure>,
    leader: Option<v1::Leader>,
    next_move: Instant,

    /// When the link last said anything.
    heard: Instant,
    /// How long it may owe an answer and say nothing.
    silence: Duration,
    /// Since when the link owes something.
    owed_since: Option<Instant>,
    suspected: Option<Instant>,
    /// Messages wait for the connection; there is room for no further one.
    blocked: bool,
    last_busy: Instant,
    refused_since: Option<Instant>,
    /// Until when the end of the session may take, once it has begun, and whether the word was sent.
    ending: Option<(Instant, bool)>,
    closing_since: Option<Instant>,
    finished: bool,
    _done: watch::Sender<()>,
}

impl Session {
    pub(crate) fn new(
        settings: Settings,
        common: Common,
        events: broadcast::Sender<SessionEvent>,
        opening: Opening,
        done: watch::Sender<()>,
    ) -> Self {
        let Common { queue, view, handles } = common;
        let now = Instant::now();
        let mut random = settings.seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        let first = match settings.route {
            Route::Leader => 0,
            Route::Any => random.random_range(0..settings.addresses.len()),
            Route::Fixed(index) => index,
        };
        let addresses = Addresses::new(settings.addresses.clone(), first);
        let nonce = new_nonce(&mut random);
        Self {
            settings,
            queue,
            view,
            handles,
            events,
            opening: Some(opening),
            calls: Calls::default(),
            watches: Watches::default(),
            drained: Vec::new(),
            wishes: Vec::new(),
            closes: Vec::new(),
            background: VecDeque::new(),
            again: VecDeque::new(),
            budget: RetryBudget::new(now),
            random,
            addresses,
            timer: Timer::new(now),
            id: 0,
            cell: String::new(),
            nonce,
            lease: Lease::default(),
            jeopardy: false,
            look_at: None,
            link: None,
            attempt: None,
            proved: false,
            failures: 0,
            next_attempt: now,
            refusal: None,
            leader: None,
            next_move: now,
            heard: now,
            silence: Duration::ZERO,
            owed_since: None,
            suspected: None,
            blocked: false,
            last_busy: now,
            refused_since: None,
            ending: None,
            closing_since: None,
            finished: false,
            _done: done,
        }
    }

    pub(crate) async fn run(mut self) {
        self.turn(Instant::now());
        while !self.finished {
            let event = self.next_event().await;
            if matches!(event, Event::Calls) {
                // The other callers that are ready get to leave their calls first: one message for all of them.
                tokio::task::yield_now().await;
            }
            let now = Instant::now();
            self.handle(event, now);
            self.turn(now);
        }
    }

    async fn next_event(&mut self) -> Event {
        let blocked = self.link.as_ref().filter(|_| self.blocked).map(|link| link.requests.clone());
        tokio::select! {
            biased;
            reply = next_reply(&mut self.link) => Event::Reply(reply),
            result = next_attempt(&mut self.attempt) => Event::Attempted(result),
            () = room(blocked) => Event::Room,
            () = self.queue.woken() => Event::Calls,
            () = self.timer.fired() => Event::Time,
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Reply(Ok(Some(reply))) => self.replied(reply, now),
            Event::Reply(Ok(None)) => self.stream_ended("the replica ended the stream".into(), now),
            Event::Reply(Err(status)) => self.stream_ended(link::describe(&status), now),
            Event::Attempted(result) => self.attempted(result, now),
            Event::Calls | Event::Room | Event::Time => {}
        }
    }

    /// All that is due, whatever the event was.
    fn turn(&mut self, now: Instant) {
        self.take_calls(now);
        let addresses = &self.addresses;
        self.calls.tick(now, || addresses.troubles());
        self.watches.tick(now);
        self.watch_link(now);
        self.watch_refusal(now);
        self.watch_lease(now);
        self.watch_opening(now);
        self.watch_end(now);
        self.make_own_calls(now);
        self.flush(now);
        self.connect(now);
        self.queue.release(self.calls.take_released());
        self.timer.arm(self.next_due(), now);
    }

    fn take_calls(&mut self, now: Instant) {
        let closing = self.queue.drain(&mut self.drained, &mut self.wishes);
        for call in self.drained.drain(..) {
            self.calls.submit(call);
        }
        for wish in std::mem::take(&mut self.wishes) {
            self.grant(wish);
        }
        if closing {
            self.closing_since.get_or_insert(now);
        }
        if !self.is_idle() {
            self.last_busy = now;
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Watch { number, interest, inbox } => self.watches.begin(number, interest, inbox),
            Wish::Unwatch { number } => self.watches.end(number),
            // Another session's handle is closed already.
            Wish::Close { session, handle, told } if session == self.id => self.closes.push((handle, told)),
            Wish::Close { .. } => {}
            Wish::Call(call) => self.background.push_back(call),
        }
    }

    /// Whether nothing needs the session (spec S-1).
    fn is_idle(&self) -> bool {
        let waiting = self.closes.is_empty() && self.background.is_empty() && self.again.is_empty();
        waiting && self.calls.is_empty() && self.watches.is_empty() && self.handles.is_empty()
    }

    // What the replica says.

    fn replied(&mut self, reply: v1::SessionReply, now: Instant) {
        self.heard = now;
        self.proved = true;
        self.failures = 0;
        self.suspected = None;
        if let Some(leader) = reply.leader {
            self.learn_leader(leader, now);
        }
        if !reply.members.is_empty() {
            self.addresses.members(reply.members.iter().map(|member| &*member.client_address));
        }
        self.calls.answered(reply.answers, now, &mut self.budget, &mut self.random);
        self.told_of_handles(reply.handles, reply.all_handles, now);
        self.watches.replied(reply.events, reply.watches, reply.revision, now);
        if reply.lease_ms > 0 {
            self.lease.extended(Duration::from_millis(reply.lease_ms.into()));
            self.view.lock().lease_until = self.lease.until();
        }
        if self.calls.session_refused() {
            self.refused_since.get_or_insert(now);
        }
        if let Some(failure) = reply.ended {
            self.told_the_end(failure, now);
        }
    }

    fn told_of_handles(&mut self, states: Vec<v1::HandleState>, all: bool, now: Instant) {
        if all {
            // Changes were left out: of those that are not told as they were the cell is asked.
            self.handles.unconfirmed();
            self.look_at = Some(now);
        }
        self.background.extend(self.handles.told(states));
    }

    fn told_the_end(&mut self, failure: v1::Failure, now: Instant) {
        match failure.code() {
            _ if self.ending.is_some() => self.end_session(now),
            Code::SessionExpired => self.session_over(&failure.message, now),
            code if is_passing(code) => self.link_lost(failure.message, now),
            _ => self.refused_for_good(&failure, now),
        }
    }

    fn stream_ended(&mut self, text: String, now: Instant) {
        if self.ending.is_some() {
            self.end_session(now);
        } else if self.refused_since.is_some() {
            self.session_over("a call was refused because the session has expired", now);
        } else {
            self.link_lost(text, now);
        }
    }

    /// Sends what waits, in as few messages as the connection takes.
    fn flush(&mut self, now: Instant) {
        self.blocked = false;
        let mut end = self.ending.is_some_and(|(_, sent)| !sent);
        let open = self.ending.is_none() && self.refused_since.is_none();
        let calls = open && !self.jeopardy;
        let mut keep_alive = self.link.is_some() && self.wants_keep_alive(now);
        let Some(link) = &self.link else { return };
        while end || keep_alive || (calls && self.calls.has_unsent()) || (open && self.watches.has_unsent()) {
            let place = match link.requests.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Full(())) => {
                    self.blocked = true;
                    return;
                }
                // The stream's end is on its way to be read.
                Err(TrySendError::Closed(())) => return,
            };
            let most = if calls { MAX_CALLS_PER_MESSAGE } else { 0 };
            let batch = self.calls.next_batch(now, most, MAX_BATCH_BYTES);
            let (watches, unwatches) = if open { self.watches.next_batch() } else { Default::default() };
            if batch.is_empty() && watches.is_empty() && unwatches.is_empty() && !keep_alive && !end {
                return;
            }
            let confirmed = self.calls.confirmed();
            let calls = batch;
            place.send(v1::SessionRequest {
                open: None,
                calls,
                confirmed,
                keep_alive,
                end,
                watches,
                unwatches,
            });
            if keep_alive {
                self.lease.ask(now);
            }
            self.owed_since.get_or_insert(now);
            if end && let Some((_, sent)) = &mut self.ending {
                *sent = true;
            }
            (keep_alive, end) = (false, false);
        }
    }

    /// When something has to be done next if nothing happens before.
    fn next_due(&self) -> Option<Instant> {
        let looking = self.look_at.filter(|_| self.link.is_some());
        let times =
            [self.calls.next_due(), self.connection_due(), self.end_due(), self.watches.next_due(), looking];
        times.into_iter().flatten().min()
    }
}

impl Drop for Session {
    /// However the task ends, nobody is left waiting.
    fn drop(&mut self) {
        self.queue.close();
        self.queue.drain(&mut self.drained, &mut self.wishes);
        for call in self.drained.drain(..) {
            self.calls.submit(call);
        }
        for wish in std::mem::take(&mut self.wishes) {
            self.grant(wish);
        }
        self.handles.session_over(&Ended::ClientClosed);
        self.calls.fail_all(Error::closed);
        self.watches.fail_all(&Error::closed(false));
        self.view.lock().clear();
    }
}

fn new_nonce(random: &mut StdRng) -> Bytes {
    let nonce: [u8; 16] = random.random();
    Bytes::copy_from_slice(&nonce)
}

async fn next_reply(link: &mut Option<Link>) -> Result<Option<v1::SessionReply>, Status> {
    match link {
        Some(link) => link.replies.message().await,
        None => std::future::pending().await,
    }
}

async fn next_attempt(attempt: &mut Option<Attempt>) -> Result<(Link, Greeting), OpenError> {
    match attempt {
        Some(attempt) => (&mut attempt.link).await,
        None => std::future::pending().await,
    }
}

async fn room(blocked: Option<mpsc::Sender<v1::SessionRequest>>) {
    match blocked {
        // A failure means that the stream has ended, which its reply tells.
        Some(requests) => drop(requests.reserve().await),
        None => std::future::pending().await,
    }
}
