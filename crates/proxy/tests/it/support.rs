//! Proxies, instances and clients for tests, all on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bramah_proxy::{Figures, Instance, Limits, Proxy, Settings, Times, Upstream, Upstreams};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Every wait has an end, far beyond what it should take.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it takes far too long")
}

/// Waits until this holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A proxy with who tells it of instances.
pub(crate) struct Running {
    pub(crate) proxy: Proxy,
    pub(crate) instances: watch::Sender<Arc<Upstreams>>,
}

impl Running {
    pub(crate) async fn start(settings: Settings, addresses: &[SocketAddr]) -> Self {
        let (instances, told) = watch::channel(Arc::new(Upstreams::fixed(addresses.iter().copied())));
        let proxy = Proxy::start(settings, told).await.expect("a proxy");
        Running { proxy, instances }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    pub(crate) fn figures(&self) -> Figures {
        self.proxy.figures()
    }

    pub(crate) fn tell(&self, addresses: &[SocketAddr]) {
        self.instances.send_replace(Arc::new(Upstreams::fixed(addresses.iter().copied())));
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }
}

/// Long enough to do something in it, and short enough to wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// Some times are short, for tests of what takes too long.
pub(crate) fn impatient(shorten: impl FnOnce(&mut Times)) -> Settings {
    let mut times = Times::default();
    shorten(&mut times);
    Settings { times, ..Settings::default() }
}

pub(crate) fn with_limits(limits: Limits) -> Settings {
    Settings { limits, ..Settings::default() }
}

pub(crate) fn upstream(id: &str, address: SocketAddr) -> Upstream {
    Upstream { instance: Instance::new(id), address }
}

/// A port at which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

/// An instance of HTTP, of either version.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Server {
    /// It answers with what `answer` makes of a request.
    pub(crate) async fn start<F, Fut>(http2: bool, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (Arc::clone(&connections), Arc::new(answer));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut each = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                each.spawn(async move {
                    if http2 {
                        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = http.serve_connection(TokioIo::new(tcp), service).await;
                    } else {
                        let http = hyper::server::conn::http1::Builder::new();
                        let _ = http.serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
                    }
                });
            }
        });
        Server { address, connections, tasks }
    }

    /// It answers with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Server::start(false, move |_| async move { text(name) }).await
    }

    /// It answers with the request's head and body, as text.
    pub(crate) async fn mirror(http2: bool) -> Self {
        Server::start(http2, |request| async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let mut answer = format!("{} {} {:?}\n", head.method, head.uri, head.version);
            for (name, value) in &head.headers {
                answer += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            answer += &format!("\n{:?}", body.map_err(|_| "broken"));
            text(answer)
        })
        .await
    }

    /// So many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Dies: nobody listens, and connections break.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(text.into()).boxed())
}

/// An instance that does as it is told with each connection: the number of it, and the connection.
pub(crate) async fn scripted<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(script(number, tcp));
            number += 1;
        }
    });
    address
}

/// Reads a request's head from a connection, and what else came with it.
pub(crate) async fn read_head(tcp: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        match tcp.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A client that sends any bytes.
pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Client { tcp: within(TcpStream::connect(address)).await.expect("a connection") }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        within(self.tcp.write_all(text.as_bytes())).await.expect("sent");
    }

    /// Sends a GET, and reads the answer.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n")).await;
        self.answer().await
    }

    /// Reads an answer with Content-Length or none, and leaves the rest.
    pub(crate) async fn answer(&mut self) -> Answer {
        within(async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.tcp.read_u8().await.expect("a whole head"));
            }
            let head = String::from_utf8(head).expect("text");
            let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            self.tcp.read_exact(&mut body).await.expect("a whole body");
            Answer::new(head, &body)
        })
        .await
    }

    /// All until the connection ends; whether it ended orderly.
    pub(crate) async fn rest(&mut self) -> (String, bool) {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        within(async {
            loop {
                match self.tcp.read(&mut buffer).await {
                    Ok(0) => return (String::from_utf8_lossy(&all).into_owned(), true),
                    Ok(count) => all.extend_from_slice(&buffer[..count]),
                    Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
                }
            }
        })
        .await
    }
}

impl Answer {
    fn new(head: String, body: &[u8]) -> Self {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head, body: String::from_utf8_lossy(body).into_owned() }
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head
        .lines()
        .find(|line| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name)))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// A client's connection of HTTP/2, with prior knowledge.
pub(crate) async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let tcp = within(TcpStream::connect(address)).await.expect("a connection");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

pub(crate) async fn read(response: Response<Incoming>) -> String {
    let body = within(response.into_body().collect()).await.expect("a whole body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}
