//! TLS on either side.

use std::path::PathBuf;
use std::sync::Arc;

use bramah_proxy::{Mode, Proxy, Settings, StartError, TlsSettings, UpstreamHttp, UpstreamTlsSettings};
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::*;

/// A certificate for `localhost` that is its own root, in files.
struct Identity {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    folder: tempfile::TempDir,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Identity { made, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn for_clients(&self) -> TlsSettings {
        TlsSettings { certificates: self.file("cert.pem"), key: self.file("key.pem") }
    }

    fn for_instances(&self, name: Option<&str>) -> UpstreamTlsSettings {
        UpstreamTlsSettings { roots: self.file("cert.pem"), name: name.map(Arc::from) }
    }

    /// A client that trusts it and speaks this.
    async fn connect(&self, address: std::net::SocketAddr, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.made.cert.der().clone()).expect("a root");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        within(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.expect("TLS")
    }

    /// An instance that speaks TLS; says which protocol was agreed on and answers by it.
    async fn instance(&self) -> std::net::SocketAddr {
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.made.cert.der().clone()], key)
            .expect("a configuration");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = hyper::service::service_fn(
                        move |request: Request<hyper::body::Incoming>| async move {
                            let uri = request.uri().to_string();
                            Ok::<_, std::convert::Infallible>(text(format!("{uri} {:?}", request.version())))
                        },
                    );
                    if h2 {
                        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = http.serve_connection(TokioIo::new(tls), service).await;
                    } else {
                        let http = hyper::server::conn::http1::Builder::new();
                        let _ = http.serve_connection(TokioIo::new(tls), service).await;
                    }
                });
            }
        });
        address
    }
}

/// Spec F-2: TLS towards clients, who choose HTTP/1.1 or HTTP/2 in the handshake; instances are told.
#[tokio::test]
async fn f_2_tls_towards_clients() {
    let identity = Identity::new();
    let server = Server::mirror(false).await;
    let settings = Settings { tls: Some(identity.for_clients()), ..Settings::default() };
    let running = Running::start(settings, &[server.address]).await;

    let mut one = identity.connect(running.address(), b"http/1.1").await;
    one.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    within(one.read_to_string(&mut answer)).await.expect("an answer with an orderly end");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-proto: https\n"), "{answer}");

    let two = identity.connect(running.address(), b"h2").await;
    assert_eq!(two.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(two)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("https://a/").body(full("")).expect("a request");
    let answer = read(within(sender.send_request(request)).await.expect("an answer")).await;
    assert!(answer.contains("x-forwarded-proto: https\n"), "{answer}");

    let mut plain = running.client().await;
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!plain.rest().await.0.contains("HTTP/1.1"), "who speaks no TLS is not answered");
}

/// Spec F-2: TLS towards instances, of either version, whose certificate must be for the name.
#[tokio::test]
async fn f_2_tls_towards_instances() {
    let identity = Identity::new();
    let address = identity.instance().await;
    for (upstream_http, wanted) in
        [(UpstreamHttp::Http1, "/x HTTP/1.1"), (UpstreamHttp::Http2, "https://test.example/x HTTP/2.0")]
    {
        let upstream_tls = Some(identity.for_instances(Some("localhost")));
        let settings = Settings { upstream_tls, upstream_http, ..Settings::default() };
        let running = Running::start(settings, &[address]).await;
        let mut client = running.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/x").await.body, wanted);
        }
    }
    for distrusted in [identity.for_instances(Some("other.example")), identity.for_instances(None)] {
        let settings = Settings { upstream_tls: Some(distrusted), ..Settings::default() };
        let running = Running::start(settings, &[address]).await;
        let answer = running.client().await.get("/").await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let stranger = Identity::new();
    let upstream_tls = Some(stranger.for_instances(Some("localhost")));
    let running = Running::start(Settings { upstream_tls, ..Settings::default() }, &[address]).await;
    assert_eq!(running.client().await.get("/").await.status, 503, "its root is another");
}

/// Spec F-2: TLS for bytes, from the client to the proxy and from there to the instance.
#[tokio::test]
async fn f_2_tls_for_plain_tcp() {
    let identity = Identity::new();
    let settings = Settings {
        mode: Mode::Tcp,
        tls: Some(identity.for_clients()),
        upstream_tls: Some(identity.for_instances(Some("localhost"))),
        ..Settings::default()
    };
    let running = Running::start(settings, &[identity.instance().await]).await;
    let mut client = identity.connect(running.address(), b"http/1.1").await;
    client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.expect("an answer with an orderly end");
    assert!(answer.ends_with("/x HTTP/1.1"), "{answer}");
}

/// Spec F-2: files that can't be used are named before anything listens.
#[tokio::test]
async fn f_2_bad_files_are_named() {
    let identity = Identity::new();
    std::fs::write(identity.file("empty.pem"), "").expect("written");
    let missing = TlsSettings { certificates: identity.file("none.pem"), key: identity.file("key.pem") };
    let empty = TlsSettings { certificates: identity.file("empty.pem"), key: identity.file("key.pem") };
    let other = TlsSettings { certificates: identity.file("cert.pem"), key: Identity::new().file("key.pem") };
    for (tls, named) in [(missing, "none.pem"), (empty, "empty.pem"), (other, "key.pem")] {
        let (_instances, told) = tokio::sync::watch::channel(Arc::default());
        let error = Proxy::start(Settings { tls: Some(tls), ..Settings::default() }, told)
            .await
            .expect_err("bad files");
        assert!(matches!(error, StartError::Tls(_)) && error.to_string().contains(named), "{error}");
    }
    let (_instances, told) = tokio::sync::watch::channel(Arc::default());
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let listen = taken.local_addr().expect("an address");
    let error =
        Proxy::start(Settings { listen, ..Settings::default() }, told).await.expect_err("a taken port");
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}
