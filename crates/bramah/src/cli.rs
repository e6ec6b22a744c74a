//! The command line: what can be typed, and its help.

mod locks;
mod proxy;
mod services;

use std::path::PathBuf;
use std::time::Duration;

pub use locks::*;
pub use proxy::*;
pub use services::*;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::source::{Given, Source};
use crate::settings::table::{Default, Kind, SETTINGS};
use crate::settings::value;

/// Where a cell made by `bramah dev` listens.
pub const DEFAULT_ADDRESSES: &str = "127.0.0.1:7501,127.0.0.1:7511,127.0.0.1:7521";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  not done, and the answer says why (not found, generation mismatch, a demo that found a loss, ...)
  2  wrong usage: a flag, a setting, an argument
  3  certainly not done: no cell could be reached or had a leader in time; trying again is safe
  4  may have been done: look before you try again

A command's number in its session lets the client itself retry without doing a thing twice; code 4 is
left for the case that the time ran out while the cell had the command.";

/// A replicated cell of files, directories and counters that survives the loss of machines.
#[derive(Debug, Parser)]
#[command(name = "bramah", version, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// What all commands understand.
    #[command(flatten)]
    pub shared: Shared,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// Replicas of the cell to speak to, HOST:PORT separated by commas; the first that answers is taken
    #[arg(long, global = true, help_heading = "Everywhere", env = "BRAMAH_ADDRESSES", default_value = DEFAULT_ADDRESSES, value_delimiter = ',')]
    pub addresses: Vec<String>,
    /// How answers and errors are written; json is one object on one line
    #[arg(long, global = true, help_heading = "Everywhere", value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Short for --output json
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// File with a token that says who you are; without it you are nobody in particular
    #[arg(long, global = true, help_heading = "Everywhere", env = "BRAMAH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How long to try before giving up
    #[arg(long, global = true, help_heading = "Everywhere", default_value = "10s", value_parser = parse_timeout)]
    pub timeout: Duration,
}

impl Shared {
    /// Whether people or programs read what is written.
    pub fn is_json(&self) -> bool {
        self.json || self.output == Output::Json
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = value::duration(text)?;
    let good = Duration::from_millis(1)..=Duration::from_secs(60);
    if good.contains(&timeout) { Ok(timeout) } else { Err("it must be from 1ms to 60s".into()) }
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Everything that can be asked for.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it, on the way from argv to its command")]
pub enum Command {
    /// Run one replica of a cell
    Server(ServerArgs),
    /// Run a whole cell in this process, for development; its data stays
    Dev(DevArgs),
    /// Carry requests to the instances of a service: HTTP, gRPC, WebSocket, TCP
    Proxy(ProxyArgs),
    /// Watch three replicas count exactly while their leader is killed
    Demo(DemoArgs),
    /// Load a cell and measure it
    Bench(BenchArgs),
    /// Counters: exact, whatever fails
    #[command(subcommand)]
    Counter(CounterCommand),
    /// Write a file's contents to standard output
    Get(PathArgs),
    /// Write a file
    Set(SetArgs),
    /// Make a directory
    Mkdir(MkdirArgs),
    /// List a directory
    Ls(LsArgs),
    /// Show what kind of node a name is, with its generations and revisions
    Stat(PathArgs),
    /// Delete a file, a counter or an empty directory
    Rm(RmArgs),
    /// Show a directory and all below it
    Tree(TreeArgs),
    /// Run a command while holding a lock, or show locks
    Lock(LockArgs),
    /// Run a command while leading, one of all who are elected by this name; or show who leads
    Elect(ElectArgs),
    /// Print what happens to a node, or run a command each time
    Watch(WatchArgs),
    /// Services: register instances, look them up, watch and check them
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Run a command as an instance of a service: registered while it runs and its check passes
    Run(RunServiceArgs),
    /// Do several things in one step, if all guards hold
    Txn(TxnArgs),
    /// Show and change who may do what with a node
    #[command(subcommand)]
    Acl(AclCommand),
    /// Show and limit how much a directory may hold
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Show sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Make keys and tokens: who the bearer of a token is, the cell takes its word for
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show every replica of the cell: role, log, lag, disk, memory
    Status(StatusArgs),
    /// Show and change who the replicas of the cell are
    #[command(subcommand)]
    Member(MemberCommand),
    /// Print a script that completes this command line in a shell
    Completions(CompletionsArgs),
    /// Print the reference page of all settings
    #[command(hide = true)]
    Settings,
}

/// A node's name.
#[derive(Debug, Args)]
pub struct PathArgs {
    /// The node, as /a/b/c
    pub path: String,
}

/// `bramah counter …`.
#[derive(Debug, Subcommand)]
pub enum CounterCommand {
    /// Add to a counter and print its new value
    Incr {
        /// The counter, as /a/b/c; made at zero if it is missing
        path: String,
        /// What to add; may be negative
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
        /// Refuse a result below this
        #[arg(long, allow_negative_numbers = true)]
        floor: Option<i64>,
        /// Refuse a result above this
        #[arg(long, allow_negative_numbers = true)]
        ceiling: Option<i64>,
        /// Fail if the counter is missing instead of making it
        #[arg(long)]
        no_create: bool,
    },
    /// Print a counter's value
    Get(PathArgs),
    /// Set a counter
    Reset {
        /// The counter, as /a/b/c; made if it is missing and no value is expected
        path: String,
        /// Its new value
        #[arg(default_value_t = 0, allow_negative_numbers = true)]
        value: i64,
        /// Only if it has this value now
        #[arg(long, allow_negative_numbers = true)]
        expect: Option<i64>,
    },
}

/// `bramah member …`. Each change may be asked for again: what is done stays done.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members
    Ls,
    /// Add a replica as a learner: start it with --join, add it here, promote it when it has caught up
    Add {
        /// Its number, new to the cell, and its addresses, as 4=10.0.0.4:7502/10.0.0.4:7501
        #[arg(value_name = "ID=PEERS/CLIENTS", value_parser = value::member)]
        member: value::MemberAddresses,
    },
    /// Let learners vote, as soon as they have caught up
    Promote(MemberIds),
    /// Let voters only learn
    Demote(MemberIds),
    /// Remove members for good: their numbers are never used again
    Remove(MemberIds),
    /// Give a member's vote to another replica, added first if need be, and remove the old one
    Replace {
        /// The member that leaves
        #[arg(value_name = "OLD", value_parser = value::number)]
        old: u64,
        /// The replica that comes: a member's number, or ID=PEERS/CLIENTS to add it first
        #[arg(value_name = "NEW", value_parser = parse_new_member)]
        new: NewMember,
    },
    /// Change where a member is reached
    SetAddress {
        /// Its number and its addresses from now on, as 3=10.0.0.9:7502/10.0.0.9:7501
        #[arg(value_name = "ID=PEERS/CLIENTS", value_parser = value::member)]
        member: value::MemberAddresses,
    },
    /// Let exactly these members vote, in one joint change
    Voters(MemberIds),
}

/// Members.
#[derive(Debug, Args)]
pub struct MemberIds {
    /// Their numbers
    #[arg(value_name = "ID", required = true, value_parser = value::number)]
    pub ids: Vec<u64>,
}

/// A replica that comes in another one's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its number.
    pub id: u64,
    /// Where it is, if it is no member yet.
    pub addresses: Option<value::MemberAddresses>,
}

fn parse_new_member(text: &str) -> Result<NewMember, String> {
    if !text.contains('=') {
        return Ok(NewMember { id: value::number(text)?, addresses: None });
    }
    let member = value::member(text)?;
    Ok(NewMember { id: member.id, addresses: Some(member) })
}

/// `bramah set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The file, as /a/b/c
    pub path: String,
    /// The contents; '-' or nothing reads standard input
    #[arg(allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Read the contents from this file instead
    #[arg(long, conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// Only if the file has this content generation (0: only if there is no such node)
    #[arg(long)]
    pub if_generation: Option<u64>,
    /// Make missing directories too
    #[arg(short, long)]
    pub parents: bool,
}

/// `bramah mkdir`.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// The directory, as /a/b/c
    pub path: String,
    /// Make missing directories too, and take one that is there already
    #[arg(short, long)]
    pub parents: bool,
}

/// `bramah ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The directory
    #[arg(default_value = "/")]
    pub path: String,
    /// Kind, length, generation and revision of each entry too
    #[arg(short, long)]
    pub long: bool,
}

/// `bramah rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The node, as /a/b/c
    pub path: String,
    /// Only if it has this content generation
    #[arg(long, conflicts_with = "recursive")]
    pub if_generation: Option<u64>,
    /// Delete a directory and all below it, in one step
    #[arg(short, long)]
    pub recursive: bool,
}

/// `bramah status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Also compare digests of all state; reads all of it, in the background
    #[arg(long)]
    pub digest: bool,
}

/// `bramah completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `bramah dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// How many replicas: 1 or 3
    #[arg(long, default_value_t = 1, value_parser = parse_replicas)]
    pub replicas: u64,
    /// Folder of the data; made when it is missing
    #[arg(long, default_value = "./bramah-dev")]
    pub data: PathBuf,
    /// Clients' port of replica 1; peers use the next one, and each further replica 10 more
    #[arg(long, default_value_t = 7501, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port_base: u16,
}

fn parse_replicas(text: &str) -> Result<u64, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 is simplest, 3 survive the loss of one; there is no other choice here".into()),
    }
}

/// `bramah demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Increments in all
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub increments: u64,
    /// Callers at once, each waiting for its answer before its next call
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub workers: u64,
    /// Counters to spread the increments over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub counters: u64,
    /// How often to kill the leader, spread over the run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub kills: u64,
    /// Show services instead: requests go through the proxy while servers come, become slow, die and leave
    #[arg(long, conflicts_with_all = ["increments", "counters", "kills", "keep"])]
    pub services: bool,
    /// With --services: how long each act is watched, in seconds
    #[arg(long, default_value_t = 3.0, requires = "services", value_parser = parse_act_seconds)]
    pub act_seconds: f64,
    /// Leave the cell running at the end, and say how to talk to it and how to stop it
    #[arg(long)]
    pub keep: bool,
}

fn parse_act_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it must be a number from 0.2 to 600".into()),
    }
}

/// What a bench does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Overwrite a random file
    Write,
    /// Read a random file, linearizably
    Read,
    /// Increment a counter
    Increment,
    /// Acquire and release a lock that each client has for itself
    LockOwn,
    /// Acquire and release one lock that all clients want
    LockOne,
    /// One caller writes a file, and the clients watch it: an operation is an event delivered to one of them, the
    /// latency is that of the writes
    Watch,
    /// Hold a session for each client, with a connection and a watch of its own, and do nothing: what replicas spend on that
    Idle,
    /// One caller that writes all the time and prints a line for each acknowledged write
    Probe,
}

/// Which replicas a bench's connections go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchRoute {
    /// Spread evenly over all addresses
    Spread,
    /// All to the leader
    Leader,
}

/// What a bench speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Ours
    Bramah,
    /// etcd's v3 gRPC API, to compare
    Etcd,
}

/// `bramah bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to do over and over
    #[arg(long, value_enum, default_value_t = Workload::Write)]
    pub workload: Workload,
    /// Callers, each waiting for its answer before its next call
    #[arg(long, default_value_t = 64, value_parser = parse_count)]
    pub clients: usize,
    /// Connections the callers share [default: 16, or one a caller if there are fewer]
    #[arg(long, value_parser = parse_count)]
    pub connections: Option<usize>,
    /// Where the connections go
    #[arg(long, value_enum, default_value_t = BenchRoute::Spread)]
    pub route: BenchRoute,
    /// How long to measure
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// How long to run before measuring
    #[arg(long, default_value_t = 2.0)]
    pub warmup: f64,
    /// Files to write or read
    #[arg(long, default_value_t = 10_000, value_parser = parse_count)]
    pub keys: usize,
    /// Size of a file's contents
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=262_144))]
    pub value_bytes: u64,
    /// Counters to increment
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    pub counters: usize,
    /// What to speak
    #[arg(long, value_enum, default_value_t = Protocol::Bramah)]
    pub protocol: Protocol,
    /// Process ids of the servers on this machine, for their CPU time [default for bramah: the replicas say it themselves]
    #[arg(long, value_delimiter = ',')]
    pub server_pids: Vec<u32>,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    pub threads: usize,
    /// With `--workload probe` and etcd: how long one try may take before the next address is tried
    #[arg(long, default_value = "200ms", value_parser = value::duration)]
    pub try_timeout: Duration,
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=10_000_000) => Ok(count),
        _ => Err("it must be a whole number from 1 to 10,000,000".into()),
    }
}

/// `bramah server`: one flag for each row of the table of settings.
#[derive(Clone, Debug)]
pub struct ServerArgs {
    /// The settings file.
    pub config: Option<PathBuf>,
    /// Process whose death ends this one.
    pub exit_with_parent: Option<u32>,
    /// The settings given as flags.
    pub flags: Vec<Given>,
}

impl Args for ServerArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = command
            .arg(
                clap::Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("TOML file of settings; flags and BRAMAH_… variables win over it"),
            )
            .arg(
                clap::Arg::new("exit-with-parent")
                    .long("exit-with-parent")
                    .value_name("PID")
                    .value_parser(clap::value_parser!(u32))
                    .hide(true),
            );
        command.args(SETTINGS.iter().map(flag_of_setting))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn flag_of_setting(setting: &'static crate::settings::table::Setting) -> clap::Arg {
    let default = match setting.default {
        Default::Value(text) => format!("default: {text}"),
        Default::Required => "required".into(),
        Default::Derived(words) => format!("default: {words}"),
    };
    let help = format!("{} [{default}; env: {}]", setting.help, setting.variable());
    let arg = clap::Arg::new(setting.key).long(setting.flag()).help(help);
    match setting.kind {
        Kind::Switch => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("true|false")
        }
        kind => arg.value_name(value_name(kind)),
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Number => "NUMBER",
        Kind::Path => "PATH",
        Kind::Address => "HOST:PORT",
        Kind::Duration => "DURATION",
        Kind::Bytes => "BYTES",
        Kind::Switch => "true|false",
        Kind::Choice(_) => "WORD",
        Kind::Addresses => "HOST:PORT,…",
        Kind::SocketAddresses => "IP:PORT,…",
        Kind::Members => "ID=PEERS/CLIENTS,…",
    }
}

impl clap::FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter_map(|setting| {
            let value = matches.get_one::<String>(setting.key)?.clone();
            Some(Given { setting, value, source: Source::Flag })
        });
        Ok(ServerArgs {
            config: matches.get_one::<PathBuf>("config").cloned(),
            exit_with_parent: matches.get_one::<u32>("exit-with-parent").copied(),
            flags: flags.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag() {
        for setting in SETTINGS {
            let value = if setting.kind == Kind::Switch { "=true" } else { "=x" };
            let flag = format!("--{}{value}", setting.flag());
            let cli = Cli::try_parse_from(["bramah", "server", &flag])
                .unwrap_or_else(|error| panic!("{flag}: {error}"));
            let Command::Server(args) = cli.command else { panic!("{flag} is not for the server") };
            assert_eq!(args.flags.len(), 1);
            assert_eq!(args.flags[0].setting.key, setting.key);
        }
    }

    #[test]
    fn counters_take_negative_numbers() {
        let cli = Cli::try_parse_from(["bramah", "counter", "incr", "/a", "-5", "--floor", "-9"])
            .expect("it is meant to");
        assert!(matches!(
            cli.command,
            Command::Counter(CounterCommand::Incr { delta: -5, floor: Some(-9), .. })
        ));
    }
}
