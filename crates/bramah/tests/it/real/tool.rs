//! Running the machine's own programs, and saying what a test ran on or had to leave out.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a program to its end. What it printed, or why it failed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let what = || format!("`{program} {}`", arguments.join(" "));
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{} can't be run: {error}", what()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", what(), error.trim()))
}

/// As [`tool`], for what must work here because it worked before.
#[track_caller]
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    tool(program, arguments).unwrap_or_else(|why| panic!("{why}"))
}

/// Tells people, past the test harness, which keeps to itself what a test prints that passes.
pub(crate) fn say(text: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Nothing can be done about a terminal that went away.
    let _ = writeln!(std::io::stderr(), "{test}: {text}");
}

/// Notes a part of a test that can't be done here. `cargo xtask test` counts these lines as skipped.
pub(crate) fn left_out(why: &str) {
    // One line: the rest is what mount adds of itself.
    let why = why.lines().next().unwrap_or_default();
    println!("LEFT OUT: {why}");
    say(&format!("left out, {why}"));
}
