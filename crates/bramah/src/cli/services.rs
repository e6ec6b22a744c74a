//! The command line of services.

use std::time::Duration;

use bramah_client::discovery::{Check, Health, Instance, Probe, is_name};
use clap::{ArgGroup, Args, Subcommand};

use super::RunArgs;
use crate::settings::value;

/// `bramah service …`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Register an instance for good: it stays until it is deregistered
    Register {
        /// Which service
        #[arg(value_parser = parse_name)]
        service: String,
        /// The instance's name in it
        #[arg(value_parser = parse_name)]
        id: String,
        /// Where it is reached: an IP address or a host name
        #[arg(long)]
        address: String,
        /// What is known of it
        #[command(flatten)]
        instance: InstanceArgs,
    },
    /// Remove an instance
    Deregister {
        /// Which service
        #[arg(value_parser = parse_name)]
        service: String,
        /// The instance's name in it
        #[arg(value_parser = parse_name)]
        id: String,
    },
    /// List services, and how many instances of each are well
    Ls,
    /// Show the instances of a service
    Lookup {
        /// Which service
        #[arg(value_parser = parse_name)]
        service: String,
        /// Only those that get calls: all but the critical
        #[arg(long)]
        healthy: bool,
        /// Only those with this tag
        #[arg(long, value_parser = parse_name)]
        tag: Option<String>,
    },
    /// Print the instances of a service, and then each change
    Watch {
        /// Which service
        #[arg(value_parser = parse_name)]
        service: String,
        /// Without the list: only what changed at this revision and since, as far as that is kept
        #[arg(long)]
        from: Option<u64>,
        /// End after so many changes, the list not counted
        #[arg(long)]
        count: Option<u64>,
    },
    /// Check the instances that were registered for good with a check, and write their health; of many who do, one checks
    Check {
        /// Which service
        #[arg(value_parser = parse_name)]
        service: String,
    },
}

/// `bramah run`.
#[derive(Debug, Args)]
pub struct RunServiceArgs {
    /// The service that the command is an instance of
    #[arg(long, value_parser = parse_name)]
    pub service: String,
    /// The instance's name in it [default: host name and port]
    #[arg(long, value_parser = parse_name)]
    pub id: Option<String>,
    /// Where it is reached: an IP address or a host name [default: this host's address, as seen from the cell]
    #[arg(long)]
    pub address: Option<String>,
    /// What is known of it
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// If this process dies without a word the instance is gone so much later
    #[arg(long, default_value = "12s", value_parser = value::duration)]
    pub lease: Duration,
    /// What to run
    #[command(flatten)]
    pub run: RunArgs,
}

/// What is known of an instance.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("check").args(["check_tcp", "check_http", "check_grpc"]))]
pub struct InstanceArgs {
    /// The port that it serves at
    #[arg(long)]
    pub port: u16,
    /// Its share of the calls, in proportion to the others'; 0: no new ones
    #[arg(long, default_value_t = 1)]
    pub weight: u32,
    /// Where it stands
    #[arg(long, value_parser = parse_name)]
    pub zone: Option<String>,
    /// To choose instances by; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_name)]
    pub tags: Vec<String>,
    /// What else is to be known; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = parse_meta)]
    pub metadata: Vec<(String, String)>,
    /// Check that it takes connections
    #[arg(long)]
    pub check_tcp: bool,
    /// Check that it answers GET PATH with a status 2xx
    #[arg(long, value_name = "PATH")]
    pub check_http: Option<String>,
    /// Check that it says SERVING by the gRPC health protocol, for one of its services or as a whole
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "")]
    pub check_grpc: Option<String>,
    /// How often it is checked
    #[arg(long, default_value = "5s", value_parser = value::duration, requires = "check")]
    pub interval: Duration,
    /// How long a check may take
    #[arg(long, default_value = "1s", value_parser = value::duration, requires = "check")]
    pub check_timeout: Duration,
    /// So many better checks in a row make it better
    #[arg(long, default_value_t = 2, requires = "check")]
    pub rise: u32,
    /// So many worse checks in a row make it worse
    #[arg(long, default_value_t = 3, requires = "check")]
    pub fall: u32,
}

impl InstanceArgs {
    /// The instance, at this address.
    pub fn at(&self, address: String) -> Instance {
        let probe = match (&self.check_http, &self.check_grpc) {
            (Some(path), _) => Some(Probe::Http { path: path.clone() }),
            (None, Some(service)) => Some(Probe::Grpc { service: service.clone() }),
            (None, None) => self.check_tcp.then_some(Probe::Tcp),
        };
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let check = probe.map(|probe| Check {
            interval_ms: milliseconds(self.interval),
            timeout_ms: milliseconds(self.check_timeout),
            rise: self.rise,
            fall: self.fall,
            ..Check::new(probe)
        });
        Instance {
            weight: self.weight,
            zone: self.zone.clone(),
            tags: self.tags.clone(),
            metadata: self.metadata.iter().cloned().collect(),
            health: Health::Passing,
            check,
            ..Instance::new(address, self.port)
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let problem = || "use 1 to 63 of a to z, 0 to 9 and '-', with no '-' at either end".to_owned();
    is_name(text).then(|| text.to_owned()).ok_or_else(problem)
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
