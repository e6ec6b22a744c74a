//! The command line of the proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bramah_proxy::{HashBy, PolicyKind};
use clap::{Args, ValueEnum};

use crate::settings::value;

/// `bramah proxy`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// The service whose instances it is, as the cell's registry has them: the proxy follows it
    #[arg(long, required_unless_present = "to", conflicts_with = "to", value_name = "NAME")]
    pub service: Option<String>,
    /// With --service: only its instances with this tag
    #[arg(long, requires = "service", value_name = "TAG")]
    pub tag: Option<String>,
    /// The instances, HOST:PORT separated by commas, in place of a service
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', value_parser = parse_instance)]
    pub to: Vec<String>,
    /// What is carried: requests of HTTP/1.1, HTTP/2 and gRPC with upgrades, or bytes
    #[arg(long, value_enum, default_value_t = ProxyMode::Http)]
    pub mode: ProxyMode,
    /// Who picks the instance for a request
    #[arg(long, value_enum, default_value_t = ProxyPolicy::Automatic)]
    pub policy: ProxyPolicy,
    /// What a request is about, for maglev and ring: header:NAME or source
    #[arg(long, value_name = "WHAT", value_parser = parse_hash_by)]
    pub hash_by: Option<HashBy>,
    /// Threads [default: one a core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub workers: Option<u16>,
    /// HTTP's version towards instances; gRPC always has HTTP/2
    #[arg(long, value_enum, default_value_t = ProxyHttp::Http1)]
    pub upstream_http: ProxyHttp,
    /// Answer DNS queries for all services of the cell here, as its replicas do
    #[arg(long, requires = "service", value_name = "IP:PORT")]
    pub dns_listen: Option<SocketAddr>,
    /// With --dns-listen: a service is found as <service>.service.<cell>.<this>
    #[arg(long, default_value = "internal", value_name = "DOMAIN")]
    pub dns_domain: String,
    /// Where figures and health are told: /metrics, /figures, /ready
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<SocketAddr>,
    /// Keep and add to the x-forwarded headers that clients send, as behind another proxy
    #[arg(long)]
    pub trust_forwarded: bool,
    /// TLS.
    #[command(flatten)]
    pub tls: ProxyTls,
    /// How much and how long.
    #[command(flatten)]
    pub limits: ProxyLimits,
    /// Process whose death ends this one.
    #[arg(long, hide = true, value_name = "PID")]
    pub exit_with_parent: Option<u32>,
}

/// TLS on either side.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct ProxyTls {
    /// Certificate for clients, with those that lead to a root, in PEM
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Speak TLS with the instances
    #[arg(long, requires = "upstream_ca")]
    pub upstream_tls: bool,
    /// Root certificates of the instances' certificates, in PEM
    #[arg(long, requires = "upstream_tls", value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,
    /// The name in the instances' certificates [default: the address of each]
    #[arg(long, requires = "upstream_tls", value_name = "NAME")]
    pub upstream_name: Option<String>,
}

/// How much and how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct ProxyLimits {
    /// Clients' connections at once; more are closed
    #[arg(long, default_value_t = 20_000, value_name = "COUNT")]
    pub max_connections: usize,
    /// Requests at once; more are answered with 503
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    pub max_requests: usize,
    /// Bytes of a request's head, from 8KiB
    #[arg(long, default_value = "16KiB", value_name = "BYTES", value_parser = parse_head_bytes)]
    pub max_head: u64,
    /// Headers of a request
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub max_headers: u16,
    /// Bytes of a request's body
    #[arg(long, default_value = "1GiB", value_name = "BYTES", value_parser = value::bytes)]
    pub max_body: u64,
    /// From a request's first byte to the end of its head
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_time)]
    pub head_timeout: Duration,
    /// A client's connection without a request
    #[arg(long, default_value = "75s", value_name = "DURATION", value_parser = parse_time)]
    pub idle_timeout: Duration,
    /// From a request's end to the beginning of its answer
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = parse_time)]
    pub request_timeout: Duration,
    /// One try of a request that may be tried again [default: as --request-timeout]
    #[arg(long, value_name = "DURATION", value_parser = parse_time)]
    pub try_timeout: Option<Duration>,
    /// A body or a tunnel in which nothing moves
    #[arg(long, default_value = "300s", value_name = "DURATION", value_parser = parse_time)]
    pub stream_timeout: Duration,
    /// Connecting to an instance
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = parse_time)]
    pub connect_timeout: Duration,
    /// A connection to an instance that waits for work
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_time)]
    pub upstream_idle_timeout: Duration,
    /// Tries of a request, the first among them; 1: never again
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub tries: u32,
    /// How long to finish what is under way when told to stop
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_time)]
    pub drain: Duration,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// Requests.
    Http,
    /// Bytes.
    Tcp,
}

/// HTTP's version towards instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyHttp {
    /// HTTP/1.1
    #[value(name = "1")]
    Http1,
    /// HTTP/2
    #[value(name = "2")]
    Http2,
}

/// Policies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyPolicy {
    /// Least request up to 32 instances, p2c above
    Automatic,
    /// In turns
    RoundRobin,
    /// By chance
    Random,
    /// In turns, by weight
    SmoothWeighted,
    /// By chance, by weight
    WeightedRandom,
    /// Who has least in flight
    LeastRequest,
    /// Of two random ones who has less in flight
    P2c,
    /// Of two random ones who answers sooner
    Ewma,
    /// The same key to the same instance, by a table
    Maglev,
    /// The same key to the same instance, by a ring
    Ring,
}

impl From<ProxyPolicy> for PolicyKind {
    fn from(policy: ProxyPolicy) -> Self {
        match policy {
            ProxyPolicy::Automatic => PolicyKind::Automatic,
            ProxyPolicy::RoundRobin => PolicyKind::RoundRobin,
            ProxyPolicy::Random => PolicyKind::Random,
            ProxyPolicy::SmoothWeighted => PolicyKind::SmoothWeighted,
            ProxyPolicy::WeightedRandom => PolicyKind::WeightedRandom,
            ProxyPolicy::LeastRequest => PolicyKind::LeastRequest,
            ProxyPolicy::P2c => PolicyKind::TwoChoices,
            ProxyPolicy::Ewma => PolicyKind::PeakEwma,
            ProxyPolicy::Maglev => PolicyKind::Maglev,
            ProxyPolicy::Ring => PolicyKind::Ring,
        }
    }
}

fn parse_instance(text: &str) -> Result<String, String> {
    value::address(text)?;
    if value::is_dialable(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} can't be connected to; give the address that the instance is reached by"))
    }
}

fn parse_hash_by(text: &str) -> Result<HashBy, String> {
    match text.split_once(':') {
        None if text == "source" => Ok(HashBy::Source),
        Some(("header", name)) => {
            name.parse().map(HashBy::Header).map_err(|_| format!("{name:?} is no header's name"))
        }
        _ => Err("write header:NAME or source".into()),
    }
}

fn parse_head_bytes(text: &str) -> Result<u64, String> {
    let bytes = value::bytes(text)?;
    let good = 8 * 1024..=1024 * 1024;
    if good.contains(&bytes) { Ok(bytes) } else { Err("it must be from 8KiB to 1MiB".into()) }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = value::duration(text)?;
    if time >= Duration::from_millis(1) { Ok(time) } else { Err("it must be at least 1ms".into()) }
}
