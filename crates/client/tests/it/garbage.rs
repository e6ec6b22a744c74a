//! What listens at an address is no replica: over TCP, with a clear word to the caller.

use std::time::Duration;

use bramah_client::{Client, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each connection with `bytes` and reads what comes.
async fn chatter(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(bytes).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

async fn error_from(address: &str) -> Error {
    let deadline = Duration::from_millis(400);
    Client::builder().addresses(address).deadline(deadline).connect().await.expect_err("no cell")
}

#[tokio::test]
async fn a_web_server_is_no_replica() {
    let address = chatter(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let error = error_from(&address).await;
    assert!(matches!(error, Error::Unavailable { may_have_been_done: false, .. }), "{error:?}");
    let expected = format!("{address}: what listens there does not speak Bramah's protocol");
    assert!(error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn garbled_bytes_are_no_replica() {
    for bytes in [&[0xff; 1000], b"\0\0\x06\x04\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".as_slice()]
    {
        let address = chatter(bytes).await;
        let error = error_from(&address).await;
        let expected = format!("{address}: what listens there does not speak Bramah's protocol");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_grpc_server_of_something_else_is_no_replica() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let routes = tonic::service::Routes::default();
    tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let error = error_from(&address).await;
    let expected = format!("{address}: what listens there is not a replica of Bramah");
    assert!(error.to_string().contains(&expected), "{error}");
    let error = Client::status_of(&address, false, Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
}

/// A garbled answer ends its own connection; the client goes on elsewhere, and says what was wrong if nowhere else is.
#[tokio::test]
async fn a_server_that_hangs_up_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let error = error_from(&address).await;
    assert!(error.to_string().contains(&format!("{address}: ")), "{error}");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}
