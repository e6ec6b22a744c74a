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

/// A cell of one replica.
pub(crate) struct Alone {
    pub(crate) server: Server,
    _folder: tempfile::TempDir,
}

pub(crate) async fn alone() -> Alone {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has ports")
        .port();
    let peer_address = format!("127.0.0.1:{port}");
    let config = ServerConfig {
        cell: "test".to_owned(),
        replica: 1,
        data: folder.path().join("data"),
        clients_listen: "127.0.0.1:0".to_owned(),
        peers_listen: peer_address.clone(),
        members: vec![(1, Member { peer_address, client_address: "127.0.0.1:1".to_owned() })],
        bootstrap: true,
        replace: false,
        join: Vec::new(),
        max_connections: 100,
        token_key_file: None,
        tuning: Tuning::default(),
    };
    Alone { server: Server::start(config).await.expect("a new cell starts"), _folder: folder }
}

impl Alone {
    pub(crate) async fn client(&self) -> BramahClient<Channel> {
        let address = format!("http://{}", self.server.client_address());
        BramahClient::connect(address).await.expect("the port is open").max_decoding_message_size(16 << 20)
    }

    pub(crate) async fn stream(&self, open: v1::OpenSession) -> (Stream, v1::SessionReply) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let first = v1::SessionRequest { open: Some(open), ..v1::SessionRequest::default() };
        requests.send(first).expect("the receiver is here");
        let outbound = UnboundedReceiverStream::new(receiver);
        let replies = self.client().await.session(outbound).await.expect("a stream begins").into_inner();
        let mut stream = Stream { requests, replies };
        let head = stream.reply().await;
        (stream, head)
    }

    pub(crate) async fn new_session(&self) -> (Stream, u64) {
        let nonce = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos())
            .to_le_bytes();
        let open = v1::OpenSession { nonce: nonce.to_vec().into(), ..v1::OpenSession::default() };
        let (stream, head) = self.stream(open).await;
        let session = head.opened.expect("it opens").session;
        (stream, session)
    }
}

pub(crate) struct Stream {
    pub(crate) requests: mpsc::UnboundedSender<v1::SessionRequest>,
    pub(crate) replies: Streaming<v1::SessionReply>,
}

impl Stream {
    pub(crate) async fn reply(&mut self) -> v1::SessionReply {
        tokio::time::timeout(LIMIT, self.replies.message())
            .await
            .expect("an answer within the limit")
            .expect("a good stream")
            .expect("the stream goes on")
    }

    pub(crate) fn send(&self, calls: Vec<v1::SessionCall>, confirmed: u64) {
        let request = v1::SessionRequest { calls, confirmed, ..v1::SessionRequest::default() };
        self.requests.send(request).expect("the stream goes on");
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
