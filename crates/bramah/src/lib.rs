//! The one binary of a cell: its server, its tools, its demo. A library only so that tests can reach the parts.

pub mod bench;
pub mod cli;
pub mod command;
pub mod demo;
pub mod output;
pub mod settings;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use output::{Exit, Failure};

/// Runs the command line and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error),
    };
    let as_json = cli.shared.is_json();
    match command::run(cli) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.write(as_json);
            failure.exit.into()
        }
    }
}

/// Help and version are answers; everything else is wrong usage.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = error.print();
        return if printed.is_ok() { Exit::Done.into() } else { Exit::Refused.into() };
    }
    if asks_for_json(std::env::args()) {
        Failure::usage(error.to_string().trim_end()).write(true);
    } else if error.print().is_err() {
        return Exit::Refused.into();
    }
    Exit::Usage.into()
}

/// Whether arguments that could not be parsed ask for JSON all the same.
fn asks_for_json(arguments: impl Iterator<Item = String>) -> bool {
    let arguments: Vec<String> = arguments.collect();
    let pair = |pair: &[String]| pair[0] == "--output" && pair[1] == "json";
    arguments.iter().any(|argument| argument == "--json" || argument == "--output=json")
        || arguments.windows(2).any(pair)
}
