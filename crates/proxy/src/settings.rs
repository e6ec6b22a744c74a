//! What a proxy is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bramah_balance::{
    Automatic, BudgetSettings, LeastRequest, Maglev, OutlierSettings, Policy, Random, Ring, RoundRobin,
    SlowStart, SmoothWeighted, TwoChoices, WeightedRandom,
};
use http::HeaderName;

/// A proxy's settings. `Settings::default()` listens on a free port of loopback.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What is carried.
    pub mode: Mode,
    /// How many threads, each with a core's work.
    pub workers: usize,
    /// Who picks instances.
    pub policy: PolicyKind,
    /// What a request is about, for policies that send the same to the same instance.
    pub hash_by: Option<HashBy>,
    /// The policy's seed. Each proxy wants its own.
    pub seed: u64,
    /// When an instance that fails is left out for a time; `None`: never.
    pub outliers: Option<OutlierSettings>,
    /// How newcomers warm up.
    pub slow_start: SlowStart,
    /// How a request that failed is tried again.
    pub retries: Retries,
    /// HTTP's version towards instances.
    pub upstream_http: UpstreamHttp,
    /// TLS towards clients.
    pub tls: Option<TlsSettings>,
    /// TLS towards instances.
    pub upstream_tls: Option<UpstreamTlsSettings>,
    /// Whether `x-forwarded-…` headers of clients are kept and added to, as behind another proxy; else they are replaced.
    pub trust_forwarded: bool,
    /// How much of everything.
    pub limits: Limits,
    /// How long for everything.
    pub times: Times,
    /// Where figures and health are told; `None`: nowhere.
    pub admin: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            mode: Mode::Http,
            workers: 1,
            policy: PolicyKind::Automatic,
            hash_by: None,
            seed: 0,
            outliers: Some(OutlierSettings::default()),
            slow_start: SlowStart::default(),
            retries: Retries::default(),
            upstream_http: UpstreamHttp::Http1,
            tls: None,
            upstream_tls: None,
            trust_forwarded: false,
            limits: Limits::default(),
            times: Times::default(),
            admin: None,
        }
    }
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1.1 and HTTP/2, request by request.
    Http,
    /// Bytes, connection by connection.
    Tcp,
}

/// HTTP's version towards instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1, but HTTP/2 for gRPC, which needs it.
    Http1,
    /// HTTP/2, and HTTP/1.1 for upgrades such as WebSocket.
    Http2,
}

/// What decides which instance a request goes to, for policies that hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// This header's value. A request without it goes anywhere.
    Header(HeaderName),
    /// The client's address.
    Source,
}

/// A policy by name; `docs/balancing.md` says which to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyKind {
    /// Least request for up to 32 instances, and two choices above.
    Automatic,
    /// In turns.
    RoundRobin,
    /// By chance.
    Random,
    /// By weight, in turns.
    SmoothWeighted,
    /// By weight, by chance.
    WeightedRandom,
    /// Whoever has least in flight.
    LeastRequest,
    /// The one of two random ones that has less in flight.
    TwoChoices,
    /// The one of two random ones that answers sooner.
    PeakEwma,
    /// The same key to the same instance, by Maglev's table; nobody above 1.25 of the mean.
    Maglev,
    /// The same, by a ring.
    Ring,
}

/// What hashing policies let an instance have above its share.
const EXCESS: f64 = 0.25;

impl PolicyKind {
    /// The policy, over no instances yet.
    pub fn policy(self, seed: u64) -> Box<dyn Policy> {
        match self {
            PolicyKind::Automatic => Box::new(Automatic::seeded(seed)),
            PolicyKind::RoundRobin => Box::new(RoundRobin::seeded(seed)),
            PolicyKind::Random => Box::new(Random::seeded(seed)),
            PolicyKind::SmoothWeighted => Box::new(SmoothWeighted::new()),
            PolicyKind::WeightedRandom => Box::new(WeightedRandom::seeded(seed)),
            PolicyKind::LeastRequest => Box::new(LeastRequest::seeded(seed)),
            PolicyKind::TwoChoices => Box::new(TwoChoices::least_request(seed)),
            PolicyKind::PeakEwma => Box::new(TwoChoices::peak_ewma(seed)),
            PolicyKind::Maglev => Box::new(Maglev::seeded(seed).bounded(EXCESS)),
            PolicyKind::Ring => Box::new(Ring::seeded(seed).bounded(EXCESS)),
        }
    }
}

/// How a request that failed is tried again: only if that is safe (`docs/proxy.md`), and within a budget.
#[derive(Clone, Debug)]
pub struct Retries {
    /// So many tries at most, the first among them. 3.
    pub tries: u32,
    /// Retries in proportion to requests.
    pub budget: BudgetSettings,
    /// So much of a request's body is kept until the answer begins, so that it can be sent again. 16 KiB.
    pub kept_body: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { tries: 3, budget: BudgetSettings::default(), kept_body: 16 * 1024 }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients' connections at once; more are closed as they come. 20,000.
    pub connections: usize,
    /// Requests at once; more are answered with 503. 10,000.
    pub requests: usize,
    /// Bytes of a request's head. 16 KiB; at least 8 KiB.
    pub head_bytes: usize,
    /// Headers of a request. 100.
    pub headers: usize,
    /// Bytes of a request's body. 1 GiB.
    pub body_bytes: u64,
    /// Requests at once on one HTTP/2 connection of a client. 128.
    pub streams: u32,
    /// Connections without work that each worker keeps to each instance. 256.
    pub idle_upstream: usize,
    /// Requests at once on one HTTP/2 connection to an instance. 100.
    pub upstream_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20_000,
            requests: 10_000,
            head_bytes: 16 * 1024,
            headers: 100,
            body_bytes: 1024 * 1024 * 1024,
            streams: 128,
            idle_upstream: 256,
            upstream_streams: 100,
        }
    }
}

/// How long for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From a request's first byte to the end of its head, and for a TLS handshake. 10 s.
    pub head: Duration,
    /// A client's connection without a request. 75 s.
    pub idle: Duration,
    /// From a request's end to the beginning of its answer, over all tries. 60 s. Not for gRPC, which says itself how long.
    pub request: Duration,
    /// One try of a request that may be tried again; `None`: as long as the request may take.
    pub each_try: Option<Duration>,
    /// A body, or a tunnel, in which nothing moves. 300 s.
    pub stream_idle: Duration,
    /// Connecting to an instance, with TLS. 2 s.
    pub connect: Duration,
    /// A connection to an instance without work. 30 s: less than servers usually wait.
    pub upstream_idle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            request: Duration::from_secs(60),
            each_try: None,
            stream_idle: Duration::from_secs(300),
            connect: Duration::from_secs(2),
            upstream_idle: Duration::from_secs(30),
        }
    }
}

/// TLS towards clients: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, and those that lead to a root.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// TLS towards instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTlsSettings {
    /// Roots that instances' certificates lead to, in PEM.
    pub roots: PathBuf,
    /// The name in instances' certificates; `None`: each one's address.
    pub name: Option<Arc<str>>,
}
