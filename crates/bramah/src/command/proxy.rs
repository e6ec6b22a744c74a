//! `bramah proxy`: carries requests to the instances of a service, until a signal ends it.

use std::net::SocketAddr;
use std::sync::Arc;

use bramah_client::Client;
use bramah_client::discovery::{Follower, Registered};
use bramah_proxy::{
    Chosen, Followed, Limits, Mode, Proxy, Retries, Settings, StartError, Stopped, Times, TlsSettings,
    Upstream, UpstreamHttp, UpstreamTlsSettings, Upstreams,
};
use serde_json::json;
use tokio::sync::watch;

use bramah_server::dns;

use super::connect::long_client;
use super::server::{Signals, exit_with_parent, start_log};
use crate::cli::{ProxyArgs, ProxyHttp, ProxyMode, Shared};
use crate::output::{Failure, Printer};

/// Runs the proxy. Returns once it has stopped.
pub async fn run(shared: &Shared, args: ProxyArgs) -> Result<(), Failure> {
    if let Some(parent) = args.exit_with_parent {
        exit_with_parent(parent)?;
    }
    start_log("warn", false)?;
    let mut signals = Signals::install()?;
    // The source is held until the end.
    let (source, told) = instances(shared, &args).await?;
    let dns = match args.dns_listen {
        Some(listen) => Some(source.serve_dns(listen, &args.dns_domain).await?),
        None => None,
    };
    let count = told.borrow().instances.len();
    let drain = args.limits.drain;
    let proxy = Proxy::start(settings(args), told).await?;
    let admin = proxy.admin_address().map(|address| address.to_string());
    let text = match &admin {
        Some(admin) => format!(
            "The proxy is up on {} for {count} instances; figures on http://{admin}/metrics.",
            proxy.address()
        ),
        None => format!("The proxy is up on {} for {count} instances.", proxy.address()),
    };
    let dns_address = dns.as_ref().and_then(|dns| dns.addresses().first().map(ToString::to_string));
    let answer = json!({ "listen": proxy.address().to_string(), "admin": admin, "dns": dns_address, "instances": count });
    Printer { json: shared.is_json() }.answer(text, answer)?;

    signals.next().await;
    tracing::info!(limit = ?drain, "stopping; a second signal exits at once");
    tokio::select! {
        stopped = proxy.stop(drain) => match stopped {
            Stopped::Drained => Ok(()),
            Stopped::BrokenOff { connections } => Err(Failure::refused(format!(
                "{connections} connections had not ended within {drain:?} and were broken off"
            ))
            .with_next("give more time with --drain")),
        },
        () = signals.next() => {
            Failure::refused("a second signal came before all requests had ended").write(shared.is_json());
            std::process::exit(crate::output::Exit::Refused.code().into())
        }
    }
}

/// Who knows the instances, for as long as it is held.
enum Source {
    Fixed { _list: watch::Sender<Arc<Upstreams>> },
    Registry { client: Client, _followed: Followed },
}

impl Source {
    async fn serve_dns(&self, listen: SocketAddr, domain: &str) -> Result<dns::Server, Failure> {
        let Source::Registry { client, .. } = self else {
            return Err(Failure::usage("--dns-listen needs a cell: name a --service"));
        };
        let cell = client.session().map(|session| session.cell).unwrap_or_default();
        let follower = client.registry().follow_all().await?;
        let settings = dns::Settings { listen: vec![listen], ..dns::Settings::new(&cell, domain) };
        let served = dns::Server::start(settings, Services(follower)).await;
        served.map_err(|error| Failure::refused(error.to_string()))
    }
}

/// The registry as DNS is told it.
struct Services(Follower);

impl dns::Directory for Services {
    fn view(&self) -> dns::View {
        let snapshot = self.0.snapshot();
        let services = snapshot.services.iter().map(|(name, instances)| {
            let of = |one: &Arc<Registered>| {
                Some((Arc::clone(&one.id), Arc::new(bramah_server::dns_instance(&one.instance)?)))
            };
            let service = dns::Service { instances: instances.values().filter_map(of).collect() };
            (Arc::clone(name), Arc::new(service))
        });
        dns::View { revision: snapshot.revision, services: services.collect() }
    }

    async fn changed(&self, known: u64) {
        let mut snapshots = self.0.subscribe();
        if snapshots.wait_for(|snapshot| snapshot.revision != known).await.is_err() {
            // The client is closed: what was known last is served on.
            std::future::pending::<()>().await;
        }
    }
}

/// Who the instances are.
async fn instances(
    shared: &Shared,
    args: &ProxyArgs,
) -> Result<(Source, watch::Receiver<Arc<Upstreams>>), Failure> {
    if let Some(service) = &args.service {
        let client = long_client(shared, &format!("bramah proxy --service {service}")).await?;
        let follower = client.registry().follow(service).await?;
        let chosen = Chosen { service: service.clone(), tag: args.tag.clone() };
        let (followed, told) = Followed::start(follower, chosen);
        return Ok((Source::Registry { client, _followed: followed }, told));
    }
    let mut instances = Vec::new();
    for name in &args.to {
        let mut found = tokio::net::lookup_host(name).await.map_err(|error| {
            Failure::refused(format!("cannot find the address of {name}: {error}"))
                .with_next("give an IP address with a port, or a name that this machine can look up")
        })?;
        let address = found.next().ok_or_else(|| Failure::refused(format!("{name} has no address")))?;
        instances.push(Upstream { instance: bramah_proxy::Instance::new(name.as_str()), address });
    }
    let (list, told) = watch::channel(Arc::new(Upstreams { instances }));
    Ok((Source::Fixed { _list: list }, told))
}

fn settings(args: ProxyArgs) -> Settings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = args.limits;
    let tls = args.tls;
    Settings {
        listen: args.listen,
        mode: match args.mode {
            ProxyMode::Http => Mode::Http,
            ProxyMode::Tcp => Mode::Tcp,
        },
        workers: args.workers.map_or(cores, usize::from),
        policy: args.policy.into(),
        hash_by: args.hash_by,
        seed: rand::random(),
        retries: Retries { tries: limits.tries, ..Retries::default() },
        upstream_http: match args.upstream_http {
            ProxyHttp::Http1 => UpstreamHttp::Http1,
            ProxyHttp::Http2 => UpstreamHttp::Http2,
        },
        tls: tls.tls_cert.zip(tls.tls_key).map(|(certificates, key)| TlsSettings { certificates, key }),
        upstream_tls: tls
            .upstream_ca
            .map(|roots| UpstreamTlsSettings { roots, name: tls.upstream_name.map(Arc::from) }),
        trust_forwarded: args.trust_forwarded,
        limits: Limits {
            connections: limits.max_connections,
            requests: limits.max_requests,
            head_bytes: limits.max_head as usize,
            headers: usize::from(limits.max_headers),
            body_bytes: limits.max_body,
            ..Limits::default()
        },
        times: Times {
            head: limits.head_timeout,
            idle: limits.idle_timeout,
            request: limits.request_timeout,
            each_try: limits.try_timeout,
            stream_idle: limits.stream_timeout,
            connect: limits.connect_timeout,
            upstream_idle: limits.upstream_idle_timeout,
        },
        admin: args.admin,
        ..Settings::default()
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Failure::refused(error.to_string())
    }
}
