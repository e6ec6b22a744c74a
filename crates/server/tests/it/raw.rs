//! A client without any cleverness: what the tests send is what travels.

use std::time::Duration;

use bramah_server::{Member, Server, ServerConfig, Tuning};
use bramah_wire::v1;
use bramah_wire::v1::bramah_client::BramahClient;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// How long anything in these tests may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A replica, and the folder that it has for itself.
pub(crate) struct Alone {
    pub(crate) server: Server,
    _folder: tempfile::TempDir,
}

/// A cell of one replica.
pub(crate) async fn alone() -> Alone {
    alone_with(|_| ()).await
}

pub(crate) async fn alone_with(change: impl FnOnce(&mut ServerConfig)) -> Alone {
    let (folder, mut config) = config(1, &[(1, member())]);
    change(&mut config);
    Alone { server: Server::start(config).await.expect("a new cell starts"), _folder: folder }
}

/// A cell of three replicas.
pub(crate) async fn three() -> Vec<Alone> {
    let members = [(1, member()), (2, member()), (3, member())];
    let mut replicas = Vec::new();
    for number in 1..=3 {
        let (folder, config) = config(number, &members);
        let server = Server::start(config).await.expect("a new cell starts");
        replicas.push(Alone { server, _folder: folder });
    }
    replicas
}

fn config(replica: u64, members: &[(u64, Member)]) -> (tempfile::TempDir, ServerConfig) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config_of(folder.path(), replica, members);
    (folder, config)
}

/// Of a cell of one in a folder.
pub(crate) fn config_in(folder: &std::path::Path) -> ServerConfig {
    config_of(folder, 1, &[(1, member())])
}

fn config_of(folder: &std::path::Path, replica: u64, members: &[(u64, Member)]) -> ServerConfig {
    let own = members.iter().find(|(number, _)| *number == replica).expect("it is one of them");
    ServerConfig {
        cell: "test".to_owned(),
        replica,
        data: folder.join("data"),
        clients_listen: "127.0.0.1:0".to_owned(),
        peers_listen: own.1.peer_address.clone(),
        members: members.to_vec(),
        bootstrap: true,
        replace: false,
        join: Vec::new(),
        max_connections: 100,
        token_key_file: None,
        dns: None,
        tuning: Tuning::default(),
    }
}

fn member() -> Member {
    let address = || {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("loopback has ports")
            .port();
        format!("127.0.0.1:{port}")
    };
    Member { peer_address: address(), client_address: address() }
}

impl Alone {
    pub(crate) async fn client(&self) -> BramahClient<Channel> {
        let address = format!("http://{}", self.server.client_address());
        BramahClient::connect(address).await.expect("the port is open").max_decoding_message_size(16 << 20)
    }

    pub(crate) async fn stream(&self, open: v1::OpenSession) -> (Stream, v1::SessionReply) {
        self.stream_as("", open).await
    }

    /// A stream of whoever has a token; of nobody in particular if that is empty.
    pub(crate) async fn stream_as(&self, token: &str, open: v1::OpenSession) -> (Stream, v1::SessionReply) {
        let first = v1::SessionRequest { open: Some(open), ..v1::SessionRequest::default() };
        self.stream_with(token, first).await
    }

    pub(crate) async fn stream_with(
        &self,
        token: &str,
        first: v1::SessionRequest,
    ) -> (Stream, v1::SessionReply) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut open = first.open.clone().unwrap_or_default();
        requests.send(first).expect("the receiver is here");
        let outbound = shown(token, UnboundedReceiverStream::new(receiver));
        let replies = self.client().await.session(outbound).await.expect("a stream begins").into_inner();
        let mut stream = Stream { requests, replies, open: open.clone(), told: Told::default() };
        let head = stream.reply().await;
        open.session = head.opened.as_ref().map_or(open.session, |opened| opened.session);
        stream.open = open;
        (stream, head)
    }

    pub(crate) async fn new_session(&self) -> (Stream, u64) {
        self.new_session_as("").await
    }

    pub(crate) async fn new_session_as(&self, token: &str) -> (Stream, u64) {
        let open = v1::OpenSession { nonce: nonce(), ..v1::OpenSession::default() };
        let (stream, head) = self.stream_as(token, open).await;
        let session = head.opened.expect("it opens").session;
        (stream, session)
    }

    /// A call without a session.
    pub(crate) async fn single(&self, token: &str, what: Operation) -> Outcome {
        let request = v1::CallRequest { operation: operation(what), ..v1::CallRequest::default() };
        let reply = self.client().await.call(shown(token, request)).await;
        let reply = reply.expect("failures are inside the reply").into_inner();
        reply.outcome.and_then(|outcome| outcome.outcome).expect("an outcome")
    }
}

/// One that was never used before.
pub(crate) fn nonce() -> bytes::Bytes {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    [[9; 8], next.to_le_bytes()].concat().into()
}

pub(crate) fn shown<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if !token.is_empty() {
        let bearer = format!("Bearer {token}").parse().expect("tokens are ASCII");
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

/// What a stream told unasked, in order.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<v1::Event>,
    pub(crate) watches: Vec<v1::WatchState>,
    pub(crate) handles: Vec<v1::HandleState>,
    /// The handles of each reply that had all.
    pub(crate) all_handles: Vec<Vec<u64>>,
    pub(crate) revision: u64,
}

pub(crate) struct Stream {
    pub(crate) requests: mpsc::UnboundedSender<v1::SessionRequest>,
    pub(crate) replies: Streaming<v1::SessionReply>,
    /// What takes the session up again.
    pub(crate) open: v1::OpenSession,
    pub(crate) told: Told,
}

impl Stream {
    pub(crate) async fn reply(&mut self) -> v1::SessionReply {
        let reply = tokio::time::timeout(LIMIT, self.replies.message())
            .await
            .expect("an answer within the limit")
            .expect("a good stream")
            .expect("the stream goes on");
        self.told.events.extend(reply.events.iter().cloned());
        self.told.watches.extend(reply.watches.iter().cloned());
        self.told.handles.extend(reply.handles.iter().copied());
        if reply.all_handles {
            self.told.all_handles.push(reply.handles.iter().map(|state| state.handle).collect());
        }
        if reply.revision > 0 {
            self.told.revision = reply.revision;
        }
        reply
    }

    /// Waits for the end of the stream, before which nothing more comes.
    pub(crate) async fn is_over(&mut self) {
        let next = tokio::time::timeout(LIMIT, self.replies.message()).await.expect("within the limit");
        assert!(matches!(next, Ok(None)), "{next:?}");
    }

    /// Reads until what was told is enough.
    pub(crate) async fn until(&mut self, enough: impl Fn(&Told) -> bool) {
        while !enough(&self.told) {
            let reply = self.reply().await;
            assert!(reply.ended.is_none(), "{reply:?}");
        }
    }

    pub(crate) fn send(&self, calls: Vec<v1::SessionCall>, confirmed: u64) {
        let request = v1::SessionRequest { calls, confirmed, ..v1::SessionRequest::default() };
        self.requests.send(request).expect("the stream goes on");
    }

    pub(crate) fn watch(&self, watches: Vec<v1::Watch>) {
        let request = v1::SessionRequest { watches, ..v1::SessionRequest::default() };
        self.requests.send(request).expect("the stream goes on");
    }

    pub(crate) fn keep_alive(&self) {
        let request = v1::SessionRequest { keep_alive: true, ..v1::SessionRequest::default() };
        self.requests.send(request).expect("the stream goes on");
    }

    /// One call and its answer.
    pub(crate) async fn done(&mut self, number: u64, what: Operation) -> Outcome {
        self.send(vec![call(number, what)], 0);
        self.answers(1).await.remove(0).1
    }

    /// One call, which is refused.
    pub(crate) async fn refused(&mut self, number: u64, what: Operation) -> v1::Failure {
        match self.done(number, what).await {
            Outcome::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// The next answer to a call.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let reply = self.reply().await;
            assert!(reply.ended.is_none(), "{reply:?}");
            let answer = |a: v1::Answer| (a.number, a.outcome.and_then(|o| o.outcome).expect("an outcome"));
            answers.extend(reply.answers.into_iter().map(answer));
        }
        answers.sort_by_key(|(number, _)| *number);
        answers
    }

    /// Opens a handle for everything on a file, which is made if it is missing.
    pub(crate) async fn open(&mut self, number: u64, path: &str) -> u64 {
        handle(&self.done(number, open_file(path)).await)
    }
}

pub(crate) fn open_file(path: &str) -> Operation {
    Operation::OpenNode(v1::OpenNode {
        path: path.to_owned(),
        mode: Some(v1::Mode { read: true, write: true, change_acl: true }),
        create: Some(v1::Creation { kind: v1::Kind::File.into(), ..v1::Creation::default() }),
        ..v1::OpenNode::default()
    })
}

pub(crate) fn open_for_reading(path: &str) -> Operation {
    Operation::OpenNode(v1::OpenNode {
        path: path.to_owned(),
        mode: Some(v1::Mode { read: true, ..v1::Mode::default() }),
        ..v1::OpenNode::default()
    })
}

pub(crate) fn handle(outcome: &Outcome) -> u64 {
    let Outcome::NodeOpened(opened) = outcome else { panic!("{outcome:?}") };
    opened.handle
}

pub(crate) fn acquire(handle: u64, wait: bool) -> Operation {
    Operation::Acquire(v1::Acquire { handle, shared: false, wait })
}

pub(crate) fn release(handle: u64) -> Operation {
    Operation::Release(v1::Release { handle })
}

pub(crate) fn place(outcome: &Outcome) -> v1::handle_state::Place {
    let Outcome::Lock(lock) = outcome else { panic!("{outcome:?}") };
    lock.state.expect("a state").place()
}

pub(crate) fn delete(path: &str) -> Operation {
    Operation::Delete(v1::Delete { path: path.to_owned(), if_generation: None })
}

pub(crate) fn get(path: &str) -> Operation {
    Operation::GetContents(v1::GetContents { path: path.to_owned() })
}

pub(crate) fn watch(number: u64, path: &str, after_revision: u64) -> v1::Watch {
    let after_revision = (after_revision > 0).then_some(after_revision);
    v1::Watch { number, path: path.to_owned(), subtree: true, kinds: Vec::new(), after_revision }
}

pub(crate) fn operation(operation: Operation) -> Option<v1::Operation> {
    Some(v1::Operation { operation: Some(operation) })
}

pub(crate) fn increment(path: &str, delta: i64) -> Operation {
    Operation::Increment(v1::Increment {
        path: path.to_owned(),
        delta,
        create: true,
        ..v1::Increment::default()
    })
}

pub(crate) fn set(path: &str, bytes: usize) -> Operation {
    Operation::SetContents(v1::SetContents {
        path: path.to_owned(),
        contents: vec![7; bytes].into(),
        ..v1::SetContents::default()
    })
}

pub(crate) fn get_counter(path: &str) -> Operation {
    Operation::GetCounter(v1::GetCounter { path: path.to_owned() })
}

pub(crate) fn call(number: u64, what: Operation) -> v1::SessionCall {
    v1::SessionCall { number, deadline_ms: 0, operation: operation(what) }
}

pub(crate) fn counter(outcome: &Outcome) -> i64 {
    let Outcome::Counter(counter) = outcome else { panic!("{outcome:?}") };
    counter.value
}

pub(crate) fn failure(outcome: &Outcome) -> (Code, &v1::Failure) {
    let Outcome::Failure(failure) = outcome else { panic!("{outcome:?}") };
    (failure.code(), failure)
}
