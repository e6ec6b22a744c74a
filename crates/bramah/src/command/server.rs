//! `bramah server`: one replica, until a signal ends it.

use std::time::Duration;

use bramah_server::{LogOptions, Member, Server, ServerConfig, StartError, Tuning, dns};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::ServerArgs;
use crate::output::Failure;
use crate::settings::value::{self, MemberAddresses};
use crate::settings::{Settings, source};

/// Runs the replica. Returns once it has stopped.
pub async fn run(args: ServerArgs) -> Result<(), Failure> {
    if let Some(parent) = args.exit_with_parent {
        exit_with_parent(parent)?;
    }
    let values = source::collect(args.config.as_deref(), std::env::vars(), args.flags);
    let settings =
        values.and_then(Settings::from_values).map_err(|error| Failure::usage(error.to_string()))?;
    start_log(&settings.log_level, settings.log_json)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    // Before the start, which may take a while: a signal then should stop it too, and not kill it.
    let mut signals = Signals::install()?;
    let stop_timeout = settings.stop_timeout;
    let server = tokio::select! {
        server = Server::start(server_config(settings)) => server?,
        () = signals.next() => return Ok(()),
    };
    tracing::info!(clients = %server.client_address(), peers = %server.peer_address(), "the replica is up");
    tokio::select! {
        () = server.failed() => Err(ended(&server)),
        () = signals.next() => stop(server, signals, stop_timeout).await,
    }
}

fn ended(server: &Server) -> Failure {
    let trouble = server.status().trouble;
    Failure::refused(format!("the replica cannot go on and has stopped: {trouble}"))
}

/// Finishes what is under way and hands leadership over, within the limit (spec G-12). A second signal ends the
/// process at once.
async fn stop(server: Server, mut signals: Signals, limit: Duration) -> Result<(), Failure> {
    tracing::info!(?limit, "stopping; a second signal exits at once");
    tokio::select! {
        () = server.stop() => Ok(()),
        () = signals.next() => exit_now("a second signal came before the replica had stopped"),
        () = tokio::time::sleep(limit) => exit_now("the replica had not stopped within `stop_timeout`"),
    }
}

/// Ends the process without waiting for anything: what is acknowledged is on the disk of a majority.
fn exit_now(why: &str) -> ! {
    Failure::refused(why).write(false);
    std::process::exit(crate::output::Exit::Refused.code().into())
}

/// SIGINT and SIGTERM: they mean the same.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the signals are ours.
    pub fn install() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::refused(format!("cannot listen for signals: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// From now on the kernel kills this process when the one that started it dies.
pub fn exit_with_parent(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::refused(format!("cannot tie this process to process {parent}: {error}")))?;
    // It may have died before the line above.
    match getppid() {
        Some(actual) if actual.as_raw_nonzero().get() as u32 == parent => Ok(()),
        _ => Err(Failure::refused(format!("process {parent}, which this one was to end with, is gone"))),
    }
}

/// DNS, with each member that has an IP address as a name server.
fn dns(settings: &Settings) -> Option<dns::Settings> {
    if settings.dns_listen.is_empty() {
        return None;
    }
    let usual = dns::Settings::new(&settings.cell, &settings.dns_domain);
    let name_servers: Vec<_> = settings.members.iter().filter_map(name_server).collect();
    Some(dns::Settings {
        listen: settings.dns_listen.clone(),
        ttl: settings.dns_ttl.as_secs().try_into().unwrap_or(u32::MAX),
        forward: Some(&settings.dns_forward).filter(|to| !to.is_empty()).cloned().map(dns::Forward::to),
        name_servers: if name_servers.is_empty() { usual.name_servers.clone() } else { name_servers },
        ..usual
    })
}

fn name_server(member: &MemberAddresses) -> Option<dns::NameServer> {
    let (host, _) = value::address(&member.clients).ok()?;
    let address = host.trim_matches(['[', ']']).parse().ok()?;
    Some(dns::NameServer { label: format!("ns{}", member.id), addresses: vec![address] })
}

/// What the library is told.
fn server_config(settings: Settings) -> ServerConfig {
    let dns = dns(&settings);
    let members = settings.members.into_iter().map(|member| {
        let addresses = Member { peer_address: member.peers, client_address: member.clients };
        (member.id, addresses)
    });
    ServerConfig {
        cell: settings.cell,
        replica: settings.replica,
        data: settings.data,
        clients_listen: settings.clients_listen,
        peers_listen: settings.peers_listen,
        members: members.collect(),
        bootstrap: settings.bootstrap,
        replace: settings.replace,
        join: settings.join,
        max_connections: settings.max_connections as usize,
        token_key_file: settings.token_key_file,
        dns,
        tuning: Tuning {
            heartbeat: settings.heartbeat,
            election_min: settings.election_min,
            election_max: settings.election_max,
            slow_disk: settings.slow_disk,
            digest_interval: settings.digest_interval,
            snapshot_log_bytes: settings.snapshot_log_bytes,
            log: LogOptions { segment_bytes: settings.log_segment_bytes, ..LogOptions::default() },
            ..Tuning::default()
        },
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Failure::refused(message)
    }
}

/// The process's own log goes to standard error.
pub fn start_log(level: &str, json: bool) -> Result<(), Failure> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(level).map_err(|error| {
        Failure::usage(format!(
            "`log_level`: {level:?} is not a filter ({error}); write info, or info,openraft=warn"
        ))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|error| Failure::refused(format!("cannot start logging: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::file;

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_library() {
        let text = "cell = \"a\"\nreplica = 1\ndata = \"d\"\nmembers = \"1=a:2/a:1\"";
        let mut values = source::Values::default();
        values.override_with(file::parse(text, "test").expect("TOML")).expect("values of their kinds");
        let config = server_config(Settings::from_values(values).expect("valid settings"));
        let (ours, library) = (config.tuning, Tuning::default());
        assert_eq!(ours.heartbeat, library.heartbeat);
        assert_eq!((ours.election_min, ours.election_max), (library.election_min, library.election_max));
        assert_eq!((ours.slow_disk, ours.digest_interval), (library.slow_disk, library.digest_interval));
        assert_eq!(ours.snapshot_log_bytes, library.snapshot_log_bytes);
        assert_eq!(ours.log.segment_bytes, library.log.segment_bytes);
    }
}
