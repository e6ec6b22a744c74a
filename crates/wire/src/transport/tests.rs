//! Tests of the transport: over loopback, and with scripted listeners.

use std::collections::VecDeque;
use std::future;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::v1;
use crate::v1::bramah_client::BramahClient;
use crate::v1::bramah_server::{Bramah, BramahServer};

/// Knows only how to say its name.
struct Named;

#[tonic::async_trait]
impl Bramah for Named {
    type SessionStream = stream::Empty<Result<v1::SessionReply, Status>>;

    async fn session(
        &self,
        _: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(stream::empty()))
    }

    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallReply>, Status> {
        Ok(Response::new(v1::CallReply::default()))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        assert!(request.remote_addr().is_some(), "a service learns where a connection comes from");
        Ok(Response::new(v1::StatusReply { cell: "named".into(), ..Default::default() }))
    }

    async fn change_members(
        &self,
        _: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersReply>, Status> {
        Ok(Response::new(v1::ChangeMembersReply::default()))
    }
}

async fn serve(max_connections: usize) -> String {
    let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_address().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(BramahServer::new(Named));
    tokio::spawn(server.serve_with_incoming(incoming(listener, max_connections)));
    address
}

async fn ask(client: &mut BramahClient<Channel>) -> String {
    client.status(v1::StatusRequest::default()).await.unwrap().into_inner().cell
}

/// Spec: a garbled frame on a port disturbs nobody else, and the port stays open.
#[tokio::test]
async fn garbled_bytes_end_their_own_connection_only() {
    let address = serve(8).await;
    let channel = channel(Arc::new(Tcp), &address, Timeouts::default()).await.unwrap();
    let mut client = BramahClient::new(channel);
    assert_eq!(ask(&mut client).await, "named");

    let truncated = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 255, 255, 9, 9, 9, 9]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 4096], truncated] {
        let mut stream = Tcp.connect(&address).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The connection ends, with or without a parting word; an error here is an end as well.
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(ask(&mut client).await, "named", "the older connection goes on");
    }
    let fresh = channel_lazy(Arc::new(Tcp), &address, Timeouts::default()).unwrap();
    assert_eq!(ask(&mut BramahClient::new(fresh)).await, "named", "new connections are accepted");
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_its_place_is_given_on() {
    let address = serve(1).await;
    let mut first = Tcp.connect(&address).await.unwrap();
    // The server's SETTINGS: from here on the first connection holds the only place.
    let mut byte = [0];
    first.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    first.read_exact(&mut byte).await.unwrap();

    let mut second = Tcp.connect(&address).await.unwrap();
    assert!(matches!(second.read(&mut byte).await, Ok(0) | Err(_)), "closed at once");

    drop(first);
    loop {
        let retry = channel(Arc::new(Tcp), &address, Timeouts::default()).await.unwrap();
        if BramahClient::new(retry).status(v1::StatusRequest::default()).await.is_ok() {
            break;
        }
    }
}

/// Answers each accept with what the script says, then waits for ever.
struct Scripted(VecDeque<io::Result<DuplexStream>>);

impl Listener for Scripted {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        match self.0.pop_front() {
            Some(Ok(stream)) => {
                Box::pin(future::ready(Ok((Box::new(stream) as Box<dyn Stream>, ([127, 0, 0, 1], 9).into()))))
            }
            Some(Err(error)) => Box::pin(future::ready(Err(error))),
            None => Box::pin(future::pending()),
        }
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 7501).into())
    }
}

#[tokio::test(start_paused = true)]
async fn accepting_survives_errors() {
    const EMFILE: i32 = 24;
    let script = [
        Err(io::Error::from_raw_os_error(EMFILE)),
        Err(io::ErrorKind::ConnectionReset.into()),
        Ok(tokio::io::duplex(16).0),
        Err(io::Error::from_raw_os_error(EMFILE)),
        Ok(tokio::io::duplex(16).0),
    ];
    let mut connections = std::pin::pin!(incoming(Box::new(Scripted(script.into())), 2));
    let first = connections.next().await.unwrap().expect("errors never reach the server loop");
    let second = connections.next().await.unwrap().expect("errors never reach the server loop");
    assert_eq!(first.remote_address(), second.remote_address());
}

/// Accepts nothing and refuses nothing.
struct BlackHole;

impl Transport for BlackHole {
    fn connect(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(future::pending())
    }

    fn listen(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_has_a_deadline_and_names_the_address() {
    let error = channel(Arc::new(BlackHole), "192.0.2.1:7501", Timeouts::default()).await.unwrap_err();
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        text += &format!("{error}; ");
        cause = error.source();
    }
    assert!(text.contains("no connection to 192.0.2.1:7501 within 1000 ms"), "{text}");
}
