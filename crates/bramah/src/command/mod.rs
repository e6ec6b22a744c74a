//! The commands, one file each.

pub mod acl;
mod child;
pub mod connect;
pub mod counter;
pub mod dev;
pub mod elect;
pub mod lock;
pub mod member;
pub mod proxy;
pub mod run_service;
pub mod server;
pub mod service;
pub mod session;
pub mod show_tree;
pub mod status;
pub mod table;
pub mod token;
pub mod tree;
pub mod txn;
pub mod watch;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::output::{Failure, Printer};
use crate::{bench, demo, settings};

/// Does what was asked for.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let shared = cli.shared;
    let printer = Printer { json: shared.is_json() };
    match cli.command {
        Command::Bench(args) => bench::run(&shared, &args),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "bramah", &mut script);
            printer.bytes(&script)
        }
        Command::Settings => printer.bytes(settings::page::page().as_bytes()),
        Command::Server(args) => block_on(server::run(args)),
        Command::Dev(args) => block_on(dev::run(&shared, args)),
        Command::Proxy(args) => block_on(proxy::run(&shared, args)),
        Command::Demo(args) => block_on(demo::run(&shared, args)),
        Command::Counter(command) => block_on(counter::run(&shared, command)),
        Command::Get(args) => block_on(tree::get(&shared, args)),
        Command::Set(args) => block_on(tree::set(&shared, args)),
        Command::Mkdir(args) => block_on(tree::mkdir(&shared, args)),
        Command::Ls(args) => block_on(tree::ls(&shared, args)),
        Command::Stat(args) => block_on(tree::stat(&shared, args)),
        Command::Rm(args) => block_on(tree::rm(&shared, args)),
        Command::Tree(args) => block_on(show_tree::run(&shared, args)),
        Command::Lock(args) => block_on(lock::run(&shared, args)),
        Command::Elect(args) => block_on(elect::run(&shared, args)),
        Command::Watch(args) => block_on(watch::run(&shared, args)),
        Command::Txn(args) => block_on(txn::run(&shared, args)),
        Command::Acl(command) => block_on(acl::acl(&shared, command)),
        Command::Quota(command) => block_on(acl::quota(&shared, command)),
        Command::Service(command) => block_on(service::run(&shared, command)),
        Command::Run(args) => block_on(run_service::run(&shared, args)),
        Command::Session(command) => block_on(session::run(&shared, command)),
        Command::Token(command) => token::run(&shared, command),
        Command::Member(command) => block_on(member::run(&shared, command)),
        Command::Status(args) => block_on(status::run(&shared, args)),
    }
}

/// Runs a command on the main thread. A demo's replicas die with the *thread* that started them (prctl(2),
/// PR_SET_PDEATHSIG), so it must be the one that lives as long as the process.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::refused(format!("cannot start: {error}")))?.block_on(command)
}
