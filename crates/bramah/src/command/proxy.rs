//! `bramah proxy`: carries requests to the instances of a service, until a signal ends it.

use std::sync::Arc;

use bramah_proxy::{
    Limits, Mode, Proxy, Retries, Settings, StartError, Stopped, Times, TlsSettings, Upstream, UpstreamHttp,
    UpstreamTlsSettings, Upstreams,
};
use serde_json::json;
use tokio::sync::watch;

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
    // Held until the end: a list that nobody changes.
    let (_instances, told) = instances(&args).await?;
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
    let answer = json!({ "listen": proxy.address().to_string(), "admin": admin, "instances": count });
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

/// Who the instances are: the place where a source of them is chosen. Whoever holds the sender may change the list.
async fn instances(
    args: &ProxyArgs,
) -> Result<(watch::Sender<Arc<Upstreams>>, watch::Receiver<Arc<Upstreams>>), Failure> {
    let mut instances = Vec::new();
    for name in &args.to {
        let mut found = tokio::net::lookup_host(name).await.map_err(|error| {
            Failure::refused(format!("cannot find the address of {name}: {error}"))
                .with_next("give an IP address with a port, or a name that this machine can look up")
        })?;
        let address = found.next().ok_or_else(|| Failure::refused(format!("{name} has no address")))?;
        instances.push(Upstream { instance: bramah_proxy::Instance::new(name.as_str()), address });
    }
    Ok(watch::channel(Arc::new(Upstreams { instances })))
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
