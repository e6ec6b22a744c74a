//! What commands write: answers to standard output, failures to standard error, and the exit code.

use std::io::Write;
use std::process::ExitCode;

use bramah_client::{Code, Error as ClientError};
use serde_json::{Value, json};

/// How a command ended. The numbers are part of the interface and listed in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Not done, as the answer says.
    Refused,
    /// A flag, a setting or an argument is wrong.
    Usage,
    /// Certainly not done: nobody to do it in time.
    Unavailable,
    /// May have been done.
    Unknown,
    /// With this code, and without a word: what was run, or printed, has said what there was to say.
    OfCommand(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
            Exit::Unknown => 4,
            Exit::OfCommand(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command failed, and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// A word for programs.
    pub code: String,
    /// What happened, to what.
    pub message: String,
    /// What to do next, when that is not in the message.
    pub next: Option<String>,
}

impl Failure {
    /// A mistake in how the command was called.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, code: "usage".into(), message: message.into(), next: None }
    }

    /// Something that could not be done here and now.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, code: "failed".into(), message: message.into(), next: None }
    }

    /// What the answer that was just printed says: for the exit code alone.
    pub fn said() -> Self {
        Self { exit: Exit::OfCommand(1), code: String::new(), message: String::new(), next: None }
    }

    /// The same with a hint.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Writes it to standard error.
    pub fn write(&self, as_json: bool) {
        if matches!(self.exit, Exit::OfCommand(_)) {
            return;
        }
        let line = if as_json { self.to_json().to_string() } else { self.to_text() };
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn to_json(&self) -> Value {
        json!({ "error": {
            "code": self.code,
            "message": self.message,
            "next": self.next,
            "may_have_been_done": self.exit == Exit::Unknown,
        }})
    }

    fn to_text(&self) -> String {
        match &self.next {
            Some(next) => format!("error: {}\n  {next}", self.message),
            None => format!("error: {}", self.message),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = serde_json::to_value(error.code()).ok().and_then(|code| code.as_str().map(str::to_owned));
        Self {
            exit: exit_of(&error),
            code: code.unwrap_or_default(),
            message: error.to_string(),
            next: next_step(&error).map(str::to_owned),
        }
    }
}

/// The one table from failures to exit codes.
fn exit_of(error: &ClientError) -> Exit {
    match error.code() {
        _ if error.may_have_been_done() => Exit::Unknown,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Overloaded
        | Code::SessionExpired
        | Code::Closed => Exit::Unavailable,
        _ => Exit::Refused,
    }
}

fn next_step(error: &ClientError) -> Option<&'static str> {
    match error.code() {
        _ if error.may_have_been_done() => Some("it may have been done: look before you try again"),
        Code::Unavailable => Some("nothing was done; `bramah status` shows which replicas are up"),
        Code::DeadlineExceeded | Code::Overloaded => {
            Some("nothing was done; try again, or give more time with --timeout")
        }
        _ => None,
    }
}

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    /// One JSON object on one line instead of text.
    pub json: bool,
}

impl Printer {
    /// Writes the answer: `text` for people, `value` for programs.
    pub fn answer(self, text: impl AsRef<str>, value: Value) -> Result<(), Failure> {
        let line = if self.json { value.to_string() } else { text.as_ref().to_owned() };
        if line.is_empty() {
            return Ok(());
        }
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        match written {
            // As `bramah ls | head -1`: the reader has what it wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => {
                other.map_err(|error| Failure::refused(format!("cannot write to standard output: {error}")))
            }
        }
    }
}
