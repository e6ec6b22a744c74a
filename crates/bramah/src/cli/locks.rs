//! The command line of locks, elections, watches, transactions, ACLs, quotas and sessions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::settings::value;

/// `bramah lock`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct LockArgs {
    /// Look at locks instead of taking one
    #[command(subcommand)]
    pub command: Option<LockCommand>,
    /// The lock: any node; a file is made if there is none
    #[arg(required = true)]
    pub name: Option<String>,
    /// Share it with others that share it
    #[arg(long, conflicts_with = "count")]
    pub shared: bool,
    /// Let so many hold it at once, each alone in its place (a semaphore)
    #[arg(long)]
    pub count: Option<usize>,
    /// How long to wait for it; 0s: not at all [default: as long as it takes]
    #[arg(long, value_parser = value::duration)]
    pub wait: Option<Duration>,
    /// For how long nobody gets the lock if this process dies without releasing it; at most 60s [default: as --grace]
    #[arg(long, value_parser = parse_lock_delay)]
    pub lock_delay: Option<Duration>,
    /// What to run while it is held, and how to stop it
    #[command(flatten)]
    pub run: RunArgs,
}

/// A command that runs as long as something is held.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// When what it runs under is lost it gets SIGTERM, and SIGKILL so much later
    #[arg(long, default_value = "5s", value_parser = value::duration)]
    pub grace: Duration,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command_line: Vec<String>,
}

fn parse_lock_delay(text: &str) -> Result<Duration, String> {
    let delay = value::duration(text)?;
    if delay <= Duration::from_secs(60) { Ok(delay) } else { Err("it must be at most 60s".into()) }
}

/// `bramah lock …`.
#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// Show who holds which lock, who waits for it, and since when
    Ls {
        /// Only this node and all below
        #[arg(default_value = "/")]
        below: String,
    },
}

/// `bramah elect`.
#[derive(Debug, Args)]
pub struct ElectArgs {
    /// The election: a file that tells who leads
    pub name: String,
    /// What the leader says of itself, such as its address [default: host name and process id]
    #[arg(long)]
    pub value: Option<String>,
    /// Only show who leads, and each change of it
    #[arg(long)]
    pub observe: bool,
    /// With --observe: end after so many lines
    #[arg(long, requires = "observe")]
    pub lines: Option<u64>,
    /// When leadership is lost the command gets SIGTERM, and SIGKILL so much later
    #[arg(long, default_value = "5s", value_parser = value::duration)]
    pub grace: Duration,
    /// What to run while it leads, after --
    #[arg(last = true, required_unless_present = "observe", value_name = "COMMAND")]
    pub command_line: Vec<String>,
}

/// `bramah watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The node
    pub path: String,
    /// All that is below it, too
    #[arg(short, long)]
    pub subtree: bool,
    /// Tell what came after this revision, as far as it is kept, and then what comes
    #[arg(long)]
    pub from: Option<u64>,
    /// Tell what happens to locks, too
    #[arg(long)]
    pub locks: bool,
    /// End after so many events
    #[arg(long)]
    pub count: Option<u64>,
    /// What to run for each event, after --: it finds the event in BRAMAH_PATH, BRAMAH_EVENT and BRAMAH_REVISION
    #[arg(last = true, value_name = "COMMAND")]
    pub command_line: Vec<String>,
}

/// `bramah txn`.
#[derive(Debug, Args)]
#[command(after_help = TXN_HELP)]
pub struct TxnArgs {
    /// What must hold; all of them must
    #[arg(long = "if", value_name = "GUARD")]
    pub guards: Vec<String>,
    /// What to do then
    #[arg(long = "then", value_name = "OPERATION")]
    pub then: Vec<String>,
    /// What to do if a guard does not hold
    #[arg(long = "else", value_name = "OPERATION")]
    pub otherwise: Vec<String>,
}

const TXN_HELP: &str = "\
Guards:
  exists PATH            absent PATH            generation PATH NUMBER
  held SEQUENCER         counter PATH <|<=|=|!=|>=|> NUMBER

Operations:
  set PATH CONTENTS      mkdir PATH             rm PATH
  incr PATH NUMBER       reset PATH NUMBER      rm-tree PATH

CONTENTS is all that is left of the text. All or nothing is done, in one step.
Exit code 0: the guards held; 1: they did not, and what --else says was done.";

/// `bramah acl …`.
#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// Show the names of a node's ACLs
    Get {
        /// The node
        path: String,
    },
    /// Name a node's ACLs: files in /acl with a principal a line; '' lets everybody
    Set {
        /// The node
        path: String,
        /// Who may read and watch it
        #[arg(long, value_name = "ACL")]
        read: Option<String>,
        /// Who may write it, lock it, delete it and make nodes in it
        #[arg(long, value_name = "ACL")]
        write: Option<String>,
        /// Who may change these names
        #[arg(long, value_name = "ACL")]
        change_acl: Option<String>,
    },
}

/// `bramah quota …`.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Show what a directory holds and may hold
    Get {
        /// The directory
        #[arg(default_value = "/")]
        path: String,
    },
    /// Limit what a directory may hold, all below it included; a limit that is left out is none
    Set {
        /// The directory
        path: String,
        /// Nodes at most
        #[arg(long)]
        nodes: Option<u64>,
        /// Bytes of contents at most
        #[arg(long)]
        bytes: Option<u64>,
    },
}

/// `bramah session …`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Show who has a session, since when, and what it holds
    Ls,
}

/// `bramah tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Where to begin
    #[arg(default_value = "/")]
    pub path: String,
    /// So many levels at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub depth: u32,
}

/// `bramah token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a key for a cell's tokens: a file that every replica gets as `token_key_file`
    Key {
        /// The file; it must not be there yet
        file: PathBuf,
    },
    /// Make a token, which says who its bearer is
    Create {
        /// The principal, as ACLs name it
        principal: String,
        /// The cell's key
        #[arg(long)]
        key_file: PathBuf,
        /// For how long it is good [default: for ever]
        #[arg(long, value_parser = value::duration)]
        valid: Option<Duration>,
    },
}
