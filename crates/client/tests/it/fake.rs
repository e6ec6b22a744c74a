//! A cell that remembers as a real one does, and misbehaves as it is told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bramah_client::transport::{Transport, incoming};
use bramah_client::{Client, ClientBuilder};
use bramah_wire::v1;
use bramah_wire::v1::bramah_server::{Bramah, BramahServer};
use bramah_wire::v1::failure::Code;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::network::Network;
use crate::world::World;

pub(crate) const LEASE: Duration = Duration::from_secs(12);

/// What a replica does with a message that carries calls.
#[derive(Clone)]
pub(crate) enum Act {
    /// Does the calls and says so.
    Answer,
    /// Does the calls and says so after this long.
    AnswerLate(Duration),
    /// Does nothing, and says nothing.
    Ignore,
    /// Does the calls, then its connection breaks.
    DoAndBreak,
    /// Its connection breaks.
    Break,
    /// Refuses each call.
    Refuse(v1::Failure),
    /// Ends the session without a word on the calls.
    End(v1::Failure),
}

/// What a replica does with a wish to open a session.
#[derive(Clone)]
pub(crate) enum Open {
    Accept,
    /// Opens, and says so after this long.
    AcceptLate(Duration),
    Ignore,
    Refuse(v1::Failure),
    /// Opens, and loses the answer.
    AcceptAndBreak,
}

/// How one replica behaves. Of the lists each element counts once; then the default holds.
pub(crate) struct Behaviour {
    pub(crate) opens: VecDeque<Open>,
    pub(crate) acts: VecDeque<Act>,
    pub(crate) then: Act,
    /// Says nothing at all, also not to keep-alives.
    pub(crate) stopped: bool,
    /// Extends no lease when a keep-alive asks for it.
    pub(crate) extends_nothing: bool,
    pub(crate) leader: Option<v1::Leader>,
}

/// A message from a client, as a replica saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) replica: u64,
    pub(crate) session: u64,
    pub(crate) numbers: Vec<u64>,
    pub(crate) confirmed: u64,
    pub(crate) keep_alive: bool,
    pub(crate) end: bool,
}

#[derive(Default)]
struct Remembered {
    confirmed: u64,
    answers: BTreeMap<u64, v1::Outcome>,
}

/// What the cell holds, and what was seen of its clients.
#[derive(Default)]
pub(crate) struct State {
    sessions: HashMap<u64, Remembered>,
    nonces: HashMap<Vec<u8>, u64>,
    last_session: u64,
    pub(crate) opened: Vec<(u64, v1::OpenSession)>,
    pub(crate) counters: HashMap<String, i64>,
    pub(crate) world: World,
    pub(crate) seen: Vec<Seen>,
    behaviours: HashMap<u64, Behaviour>,
    streams: Vec<Told>,
    /// Nothing is told of events and handles while this holds.
    pub(crate) mute: bool,
    /// The `authorization` of each stream and call.
    pub(crate) tokens: Vec<Option<String>>,
}

/// A stream, and what its client is told of.
struct Told {
    replica: u64,
    session: u64,
    replies: Replies,
    watches: Vec<v1::Watch>,
    /// Events and words on handles that it has been told.
    events: usize,
    places: usize,
}

type Replies = mpsc::UnboundedSender<Result<v1::SessionReply, Status>>;

/// The cell: its replicas have the addresses `replica-1:1` and so on.
#[derive(Clone)]
pub(crate) struct Cell {
    pub(crate) network: Network,
    state: Arc<Mutex<State>>,
    replicas: u64,
}

pub(crate) fn address(replica: u64) -> String {
    format!("replica-{replica}:1")
}

pub(crate) fn leader(replica: u64, term: u64) -> v1::Leader {
    v1::Leader { replica, term, address: address(replica) }
}

pub(crate) fn failure(code: Code, message: &str) -> v1::Failure {
    v1::Failure { code: code.into(), message: message.into(), ..Default::default() }
}

pub(crate) fn expired() -> v1::Failure {
    failure(Code::SessionExpired, "its lease ran out")
}

impl Cell {
    pub(crate) async fn start(replicas: u64) -> Self {
        let cell = Self { network: Network::default(), state: Arc::default(), replicas };
        for replica in 1..=replicas {
            cell.start_replica(replica).await;
        }
        cell
    }

    /// Starts a replica, or starts it again.
    pub(crate) async fn start_replica(&self, replica: u64) {
        let usual = Behaviour {
            opens: VecDeque::new(),
            acts: VecDeque::new(),
            then: Act::Answer,
            stopped: false,
            extends_nothing: false,
            leader: None,
        };
        self.state().behaviours.insert(replica, usual);
        let listener = self.network.listen(&address(replica)).await.unwrap();
        let service = BramahServer::new(Replica { cell: self.clone(), replica });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming(listener, 100)));
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn behave(&self, replica: u64, change: impl FnOnce(&mut Behaviour)) {
        change(self.state().behaviours.get_mut(&replica).unwrap());
    }

    /// A client's settings, with replica 1 as the only address.
    pub(crate) fn client(&self) -> ClientBuilder {
        Client::builder().addresses(address(1)).transport(Arc::new(self.network.clone())).seed(1)
    }

    pub(crate) fn kill(&self, replica: u64) {
        self.network.kill(&address(replica));
    }

    /// Forgets all sessions, as if their leases had run out.
    pub(crate) fn expire_sessions(&self) {
        let mut state = self.state();
        let over: Vec<_> = state.sessions.drain().map(|(session, _)| session).collect();
        over.into_iter().for_each(|session| state.world.end(session));
        state.tell();
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.state().sessions.len()
    }

    /// Says something on all streams of `replica`.
    pub(crate) fn tell(&self, replica: u64, reply: &v1::SessionReply) {
        for stream in self.state().streams.iter().filter(|stream| stream.replica == replica) {
            let _ = stream.replies.send(Ok(reply.clone()));
        }
    }

    /// The messages with calls that were seen so far.
    pub(crate) fn messages(&self) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| !seen.numbers.is_empty()).cloned().collect()
    }

    /// Does something as another client would.
    pub(crate) fn act(&self, act: impl FnOnce(&mut World)) {
        let mut state = self.state();
        act(&mut state.world);
        state.tell();
    }

    /// Says all that was not said.
    pub(crate) fn unmute(&self) {
        let mut state = self.state();
        state.mute = false;
        state.tell();
    }

    pub(crate) fn counter(&self, path: &str) -> i64 {
        self.state().counters.get(path).copied().unwrap_or_default()
    }
}

impl State {
    fn open(&mut self, replica: u64, open: v1::OpenSession) -> Result<u64, v1::Failure> {
        let (wanted, nonce) = (open.session, open.nonce.to_vec());
        self.opened.push((replica, open));
        if wanted != 0 {
            return if self.sessions.contains_key(&wanted) { Ok(wanted) } else { Err(expired()) };
        }
        let next = self.last_session + 1;
        let session = *self.nonces.entry(nonce).or_insert(next);
        self.last_session = self.last_session.max(session);
        self.sessions.entry(session).or_default();
        Ok(session)
    }

    fn execute(&mut self, session: u64, confirmed: u64, call: v1::SessionCall) -> v1::Answer {
        let number = call.number;
        let answer = |outcome| v1::Answer { number, outcome: Some(outcome) };
        let refused = |failure| answer(v1::Outcome { outcome: Some(v1::outcome::Outcome::Failure(failure)) });
        let Some(remembered) = self.sessions.get_mut(&session) else {
            return refused(expired());
        };
        remembered.confirmed = remembered.confirmed.max(confirmed);
        remembered.answers = remembered.answers.split_off(&(remembered.confirmed + 1));
        if number <= remembered.confirmed {
            return refused(failure(Code::StaleDuplicate, "stale"));
        }
        if let Some(outcome) = remembered.answers.get(&number) {
            return answer(outcome.clone());
        }
        let operation = call.operation.unwrap().operation.unwrap();
        self.world.done.push((session, number, operation.clone()));
        let outcome = match self.world.perform(session, &operation) {
            Some(outcome) => v1::Outcome { outcome: Some(outcome) },
            None => perform(&mut self.counters, operation),
        };
        remembered.answers.insert(number, outcome.clone());
        answer(outcome)
    }
}

impl State {
    /// Tells each stream what it has not been told, in one message.
    fn tell(&mut self) {
        if self.mute {
            return;
        }
        self.streams.retain(|stream| !stream.replies.is_closed());
        for stream in &mut self.streams {
            let mut events = Vec::new();
            for event in &self.world.events[stream.events..] {
                let watches = stream.watches.iter().filter(|watch| wants(watch, event));
                let watches: Vec<_> = watches.map(|watch| watch.number).collect();
                if !watches.is_empty() {
                    events.push(v1::Event { watches, ..event.clone() });
                }
            }
            let places = self.world.places[stream.places..].iter();
            let handles: Vec<_> =
                places.filter(|(session, _)| *session == stream.session).map(|(_, state)| *state).collect();
            (stream.events, stream.places) = (self.world.events.len(), self.world.places.len());
            if !events.is_empty() || !handles.is_empty() {
                let revision = self.world.revision;
                let reply = v1::SessionReply { events, handles, revision, ..Default::default() };
                let _ = stream.replies.send(Ok(reply));
            }
        }
    }

    /// Begins watches, each with what it has missed.
    fn watch(&mut self, replica: u64, session: u64, watches: Vec<v1::Watch>, ended: &[u64]) {
        let Self { streams, world, .. } = self;
        let mut own = streams.iter_mut().rev();
        let Some(stream) = own.find(|stream| (stream.replica, stream.session) == (replica, session)) else {
            return;
        };
        stream.watches.retain(|watch| !ended.contains(&watch.number));
        for watch in watches {
            let gap = watch.after_revision.is_some_and(|after| after < world.kept_after);
            let begins = watch.after_revision.unwrap_or(world.revision);
            let begins = if gap { world.kept_after } else { begins };
            let state = v1::WatchState { number: watch.number, revision: begins, gap, failure: None };
            let missed = world.events[..stream.events].iter();
            let missed = missed.filter(|event| event.revision > begins && wants(&watch, event));
            let events =
                missed.map(|event| v1::Event { watches: vec![watch.number], ..event.clone() }).collect();
            let reply = v1::SessionReply { watches: vec![state], events, ..Default::default() };
            let _ = stream.replies.send(Ok(reply));
            stream.watches.retain(|before| before.number != watch.number);
            stream.watches.push(watch);
        }
        let reply = v1::SessionReply { revision: world.revision, ..Default::default() };
        if stream.events == world.events.len() && world.revision > 0 {
            let _ = stream.replies.send(Ok(reply));
        }
    }
}

fn wants(watch: &v1::Watch, event: &v1::Event) -> bool {
    let below = format!("{}/", watch.path.trim_end_matches('/'));
    let kind = if watch.kinds.is_empty() { event.kind < 6 } else { watch.kinds.contains(&event.kind) };
    kind && (event.path == watch.path || (watch.subtree && event.path.starts_with(&below)))
}

fn perform(counters: &mut HashMap<String, i64>, operation: v1::operation::Operation) -> v1::Outcome {
    use v1::operation::Operation as Op;
    let value = |value| v1::outcome::Outcome::Counter(v1::CounterValue { value, revision: 1 });
    let outcome = match operation {
        Op::Increment(increment) => {
            let counter = counters.entry(increment.path).or_default();
            *counter += increment.delta;
            value(*counter)
        }
        Op::GetCounter(get) => match counters.get(&get.path) {
            Some(counter) => value(*counter),
            None => v1::outcome::Outcome::Failure(failure(Code::NotFound, "no such counter")),
        },
        Op::ReadDirectory(read) => v1::outcome::Outcome::Directory(page(&read)),
        other => panic!("the fake cell has no {other:?}"),
    };
    v1::Outcome { outcome: Some(outcome) }
}

/// Every directory has 2,500 files.
fn page(read: &v1::ReadDirectory) -> v1::DirectoryPage {
    let names = (0..2500).map(|index| format!("file-{index:04}")).filter(|name| *name > read.after);
    let stat = v1::Stat { kind: v1::Kind::File.into(), length: 5, ..Default::default() };
    let entry = |name| v1::DirectoryEntry { name, stat: Some(stat.clone()) };
    let mut entries: Vec<_> = names.map(entry).collect();
    let limit = if read.limit == 0 { 1000 } else { read.limit as usize };
    let more = entries.len() > limit;
    entries.truncate(limit);
    v1::DirectoryPage { entries, more, revision: 7.max(read.at_revision) }
}

struct Replica {
    cell: Cell,
    replica: u64,
}

#[tonic::async_trait]
impl Bramah for Replica {
    type SessionStream = UnboundedReceiverStream<Result<v1::SessionReply, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (replies, outgoing) = mpsc::unbounded_channel();
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.cell.state().tokens.push(token);
        let stream = Stream { cell: self.cell.clone(), replica: self.replica, session: 0, replies };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }

    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallReply>, Status> {
        Err(Status::unimplemented("the client has no use for it"))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        if self.cell.state().behaviours[&self.replica].stopped {
            std::future::pending::<()>().await;
        }
        let digest = request.into_inner().digest.then_some(99);
        let cell = "fake".to_owned();
        Ok(Response::new(v1::StatusReply { cell, replica: self.replica, digest, ..Default::default() }))
    }

    async fn change_members(
        &self,
        _: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        Err(Status::unimplemented("the client's session has no use for it"))
    }
}

/// One client's stream at one replica.
struct Stream {
    cell: Cell,
    replica: u64,
    session: u64,
    replies: Replies,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<v1::SessionRequest>) {
        while let Ok(Some(mut request)) = requests.message().await {
            let goes_on = match request.open.take() {
                Some(open) => self.open(open),
                None => self.serve(request),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn say(&self, reply: v1::SessionReply) {
        let _ = self.replies.send(Ok(reply));
    }

    fn say_late(&self, reply: v1::SessionReply, delay: Duration) {
        if delay.is_zero() {
            return self.say(reply);
        }
        let replies = self.replies.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = replies.send(Ok(reply));
        });
    }

    fn break_off(&self) -> bool {
        self.cell.network.cut(&address(self.replica));
        false
    }

    fn end(&self, failure: v1::Failure) -> bool {
        self.say(v1::SessionReply { ended: Some(failure), ..Default::default() });
        false
    }

    fn open(&mut self, open: v1::OpenSession) -> bool {
        let mut state = self.cell.state();
        let behaviour = state.behaviours.get_mut(&self.replica).unwrap();
        let act = behaviour.opens.pop_front().unwrap_or(Open::Accept);
        let leader = behaviour.leader.clone();
        let stopped = behaviour.stopped;
        let opened = match act {
            Open::Accept | Open::AcceptLate(_) | Open::AcceptAndBreak => state.open(self.replica, open),
            Open::Ignore => {
                state.opened.push((self.replica, open));
                return true;
            }
            Open::Refuse(ref failure) => Err(failure.clone()),
        };
        let session = *opened.as_ref().unwrap_or(&0);
        let (events, places) = (state.world.events.len(), state.world.places.len());
        let (replica, replies) = (self.replica, self.replies.clone());
        state.streams.push(Told { replica, session, replies, watches: Vec::new(), events, places });
        let handles = state.world.standing(session);
        drop(state);
        match (opened, act) {
            _ if stopped => {}
            (_, Open::AcceptAndBreak) => return self.break_off(),
            (Err(failure), _) => return self.end(failure),
            (Ok(session), act) => {
                self.session = session;
                let opened = Some(self.greeting());
                let reply = v1::SessionReply { opened, leader, handles, ..Default::default() };
                let delay = if let Open::AcceptLate(delay) = act { delay } else { Duration::ZERO };
                self.say_late(reply, delay);
            }
        }
        true
    }

    fn greeting(&self) -> v1::Opened {
        let members = (1..=self.cell.replicas).map(|replica| v1::Member {
            replica,
            client_address: address(replica),
            voter: true,
            ..Default::default()
        });
        let lease_ms = LEASE.as_millis().try_into().unwrap();
        let (session, replica) = (self.session, self.replica);
        v1::Opened { session, lease_ms, cell: "fake".into(), replica, members: members.collect() }
    }

    fn serve(&mut self, request: v1::SessionRequest) -> bool {
        let v1::SessionRequest { calls, confirmed, keep_alive, end, watches, unwatches, .. } = request;
        let mut state = self.cell.state();
        let numbers = calls.iter().map(|call| call.number).collect();
        let (replica, session) = (self.replica, self.session);
        state.seen.push(Seen { replica, session, numbers, confirmed, keep_alive, end });
        let behaviour = state.behaviours.get_mut(&self.replica).unwrap();
        if behaviour.stopped {
            return true;
        }
        let extends = !behaviour.extends_nothing;
        let act = match calls.is_empty() {
            true => Act::Answer,
            false => behaviour.acts.pop_front().unwrap_or(behaviour.then.clone()),
        };
        let does = matches!(act, Act::Answer | Act::AnswerLate(_) | Act::DoAndBreak);
        let (mut answers, all) = (Vec::new(), calls.iter().map(|call| call.number).collect::<Vec<_>>());
        if does {
            answers.extend(calls.into_iter().map(|call| state.execute(session, confirmed, call)));
        }
        if end {
            state.sessions.remove(&session);
            state.world.end(session);
        }
        if !watches.is_empty() || !unwatches.is_empty() {
            state.world.watch_messages += 1;
            state.watch(replica, session, watches, &unwatches);
        }
        drop(state);
        if keep_alive {
            let lease = if extends { LEASE } else { Duration::ZERO };
            let lease_ms = lease.as_millis().try_into().unwrap();
            self.say(v1::SessionReply { lease_ms, ..Default::default() });
        }
        if end {
            return self.end(failure(Code::SessionExpired, "ended by its client"));
        }
        let goes_on = self.act(act, answers, all);
        self.cell.state().tell();
        goes_on
    }

    fn act(&self, act: Act, answers: Vec<v1::Answer>, numbers: Vec<u64>) -> bool {
        match act {
            Act::Answer if answers.is_empty() => {}
            Act::Answer => self.say(v1::SessionReply { answers, ..Default::default() }),
            Act::AnswerLate(delay) => {
                self.say_late(v1::SessionReply { answers, ..Default::default() }, delay);
            }
            Act::Ignore => {}
            Act::DoAndBreak | Act::Break => return self.break_off(),
            Act::Refuse(failure) => {
                let failure = Some(v1::outcome::Outcome::Failure(failure));
                let outcome = Some(v1::Outcome { outcome: failure });
                let refuse = |number| v1::Answer { number, outcome: outcome.clone() };
                let answers = numbers.into_iter().map(refuse).collect();
                self.say(v1::SessionReply { answers, ..Default::default() });
            }
            Act::End(failure) => return self.end(failure),
        }
        true
    }
}
