//! One stream to one replica: how it is opened, and how its troubles are told.

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::limits::MAX_REPLY_BYTES;
use bramah_wire::transport::{Timeouts, Transport, channel};
use bramah_wire::v1;
use bramah_wire::v1::bramah_client::BramahClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::error::with_causes;
use crate::token::Token;

/// For a connection to come about, and then for the replica to take the session up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages that may wait for the connection. Beyond these calls gather, and the next message is larger.
const MESSAGES_AHEAD: usize = 2;

/// How connections of clients notice that a replica is gone: they hold no lease long, so they look often.
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    connect: CONNECT_TIMEOUT,
    keep_alive_interval: Duration::from_secs(5),
    keep_alive_timeout: Duration::from_secs(5),
};

/// A session's stream at a replica.
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) replica: u64,
    pub(crate) requests: mpsc::Sender<v1::SessionRequest>,
    pub(crate) replies: Streaming<v1::SessionReply>,
    /// For calls outside of the stream.
    pub(crate) channel: Channel,
    /// How long it took to connect: about one round trip.
    pub(crate) connected_in: Duration,
}

/// What a replica said when it took the session up.
pub(crate) struct Greeting {
    pub(crate) opened: v1::Opened,
    pub(crate) leader: Option<v1::Leader>,
    /// What the session's handles are to their locks.
    pub(crate) handles: Vec<v1::HandleState>,
}

/// Why there is no stream.
pub(crate) enum OpenError {
    /// Nobody there, or nobody who understands.
    Unreachable(String),
    /// The replica said no.
    Refused(v1::Failure),
}

/// Connects to `address` and asks for the session.
pub(crate) async fn open(
    transport: Arc<dyn Transport>,
    token: Token,
    address: String,
    request: v1::OpenSession,
) -> Result<(Link, Greeting), OpenError> {
    let started = Instant::now();
    let channel = channel(transport, &address, TIMEOUTS)
        .await
        .map_err(|error| OpenError::Unreachable(with_causes(&error)))?;
    let connected_in = started.elapsed();
    match tokio::time::timeout(OPEN_TIMEOUT, greet(channel, connected_in, token, address, request)).await {
        Ok(result) => result,
        Err(_) => Err(OpenError::Unreachable(format!(
            "connected, but the session was not opened within {} s",
            OPEN_TIMEOUT.as_secs()
        ))),
    }
}

async fn greet(
    channel: Channel,
    connected_in: Duration,
    token: Token,
    address: String,
    request: v1::OpenSession,
) -> Result<(Link, Greeting), OpenError> {
    let (requests, outgoing) = mpsc::channel(MESSAGES_AHEAD);
    let first = v1::SessionRequest { open: Some(request), ..Default::default() };
    let unreachable = |status: Status| match refusal(&status) {
        Some(failure) => OpenError::Refused(failure),
        None => OpenError::Unreachable(describe(&status)),
    };
    requests.try_send(first).map_err(|error| OpenError::Unreachable(error.to_string()))?;
    let asked = token.sign(ReceiverStream::new(outgoing)).await.map_err(OpenError::Unreachable)?;
    let mut replies = client(channel.clone()).session(asked).await.map_err(unreachable)?.into_inner();
    loop {
        let reply = replies.message().await.map_err(unreachable)?;
        let Some(reply) = reply else {
            return Err(OpenError::Unreachable(
                "the replica ended the stream before it opened the session".into(),
            ));
        };
        if let Some(failure) = reply.ended {
            return Err(OpenError::Refused(failure));
        }
        if let Some(opened) = reply.opened {
            let link = Link { address, replica: opened.replica, requests, replies, channel, connected_in };
            return Ok((link, Greeting { opened, leader: reply.leader, handles: reply.handles }));
        }
    }
}

/// A gRPC client that takes replies as large as a full page or many answers at once can be.
pub(crate) fn client(channel: Channel) -> BramahClient<Channel> {
    BramahClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

/// What a replica says of a client it doesn't want to know.
fn refusal(status: &Status) -> Option<v1::Failure> {
    let code = match status.code() {
        Code::Unauthenticated => v1::failure::Code::Unauthenticated,
        Code::PermissionDenied => v1::failure::Code::PermissionDenied,
        _ => return None,
    };
    let message = status.message().to_owned();
    Some(v1::Failure { code: code.into(), message, ..Default::default() })
}

/// What went wrong on a connection, for people.
pub(crate) fn describe(status: &Status) -> String {
    let text = with_causes(status);
    match status.code() {
        Code::Unimplemented => format!("what listens there is not a replica of Bramah ({text})"),
        Code::Internal | Code::Unknown if garbled(&text) => {
            format!("what listens there does not speak Bramah's protocol, gRPC over HTTP/2 ({text})")
        }
        _ => text,
    }
}

/// Whether the other side broke the rules of HTTP/2 or gRPC, rather than breaking off.
fn garbled(text: &str) -> bool {
    [
        "protocol error",
        "frame with invalid size",
        "FRAME_SIZE",
        "grpc-status",
        "content-type",
        "compression flag",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}
