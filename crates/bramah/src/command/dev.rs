//! `bramah dev`: a whole cell in this process, for development. Its data stays.

use std::path::Path;
use std::time::Duration;

use bramah_server::{Member, Server, ServerConfig, Tuning};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::server::Signals;
use crate::cli::{DevArgs, Shared};
use crate::output::{Failure, Printer};

const CELL: &str = "dev";
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Ports between one replica and the next: room for what else a replica may listen on one day.
const PORTS_A_REPLICA: u16 = 10;

/// How the cell in a data folder was made. Replicas know each other by their addresses, so these stay.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    replicas: u64,
    port_base: u16,
}

/// Starts the cell, says how to talk to it, and stops it at a signal.
pub async fn run(shared: &Shared, args: DevArgs) -> Result<(), Failure> {
    let shape = Shape { replicas: args.replicas, port_base: args.port_base };
    remember(&args.data, &shape)?;
    let mut signals = Signals::install()?;
    let mut servers = Vec::new();
    for replica in 1..=shape.replicas {
        servers.push(Server::start(config(&args.data, &shape, replica)).await?);
    }
    let addresses: Vec<String> = (1..=shape.replicas).map(|replica| shape.clients(replica)).collect();
    let answer = json!({ "cell": CELL, "addresses": addresses, "data": args.data });
    Printer { json: shared.is_json() }.answer(greeting(&args.data, &addresses), answer)?;

    signals.next().await;
    let stopping = async {
        // One after the other: each hands leadership to one that is still there.
        for server in servers {
            server.stop().await;
        }
    };
    tokio::select! {
        () = stopping => Ok(()),
        () = signals.next() => std::process::exit(crate::output::Exit::Refused.code().into()),
        () = tokio::time::sleep(STOP_LIMIT) => {
            Failure::refused(format!("the cell had not stopped within {STOP_LIMIT:?}")).write(shared.is_json());
            std::process::exit(crate::output::Exit::Refused.code().into())
        }
    }
}

impl Shape {
    fn clients(&self, replica: u64) -> String {
        self.address(replica, 0)
    }

    fn peers(&self, replica: u64) -> String {
        self.address(replica, 1)
    }

    fn address(&self, replica: u64, offset: u16) -> String {
        // At most 65,000 + 21: `--port-base` is bounded so that it fits.
        format!("127.0.0.1:{}", self.port_base + (replica as u16 - 1) * PORTS_A_REPLICA + offset)
    }
}

fn config(data: &Path, shape: &Shape, replica: u64) -> ServerConfig {
    let members = (1..=shape.replicas).map(|member| {
        let addresses = Member { peer_address: shape.peers(member), client_address: shape.clients(member) };
        (member, addresses)
    });
    ServerConfig {
        cell: CELL.into(),
        replica,
        data: data.join(format!("replica-{replica}")),
        clients_listen: shape.clients(replica),
        peers_listen: shape.peers(replica),
        members: members.collect(),
        bootstrap: true,
        replace: false,
        join: Vec::new(),
        max_connections: 4_096,
        token_key_file: None,
        dns: None,
        tuning: Tuning::default(),
    }
}

/// Notes the cell's shape in its folder, or checks that it is still the same.
fn remember(data: &Path, shape: &Shape) -> Result<(), Failure> {
    let path = data.join("dev.toml");
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::refused(format!("cannot {what} {}: {error}", path.display()))
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let made: Shape = toml::from_str(&text).map_err(|error| cannot("understand", &error))?;
            if made == *shape {
                return Ok(());
            }
            Err(Failure::usage(format!(
                "{} holds a cell made with --replicas {} --port-base {}",
                data.display(),
                made.replicas,
                made.port_base
            ))
            .with_next("start it with these, or give another folder with --data"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(data).map_err(|error| cannot("make the folder of", &error))?;
            let text = toml::to_string(shape).map_err(|error| cannot("write", &error))?;
            std::fs::write(&path, text).map_err(|error| cannot("write", &error))
        }
        Err(error) => Err(cannot("read", &error)),
    }
}

fn greeting(data: &Path, addresses: &[String]) -> String {
    let list = addresses.join(",");
    let flag = if crate::cli::DEFAULT_ADDRESSES.starts_with(&addresses[0]) {
        String::new()
    } else {
        format!(" --addresses {list}")
    };
    format!(
        "The cell is up: {} replica{} at {list}, data in {}.\n\nTalk to it from another terminal:\n  \
         bramah{flag} counter incr /visits\n  bramah{flag} set /greeting hello\n  bramah{flag} status\n\nCtrl-C stops it; its data stays.",
        addresses.len(),
        if addresses.len() == 1 { "" } else { "s" },
        data.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_the_shape_it_was_made_with() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("cell");
        let shape = Shape { replicas: 3, port_base: 7501 };
        remember(&data, &shape).expect("a new folder");
        remember(&data, &shape).expect("the same shape");
        let failure = remember(&data, &Shape { replicas: 1, ..shape }).expect_err("another shape");
        assert!(failure.message.contains("--replicas 3 --port-base 7501"), "{}", failure.message);
    }

    #[test]
    fn the_highest_port_base_leaves_room() {
        let shape = Shape { replicas: 3, port_base: 65_000 };
        assert_eq!(shape.peers(3), "127.0.0.1:65021");
        assert_eq!(Shape { replicas: 3, port_base: 7501 }.clients(2), "127.0.0.1:7511");
    }
}
