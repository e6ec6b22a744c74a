//! A command that runs as long as something is held, and no longer.

use std::io::IsTerminal;
use std::process::ExitStatus;
use std::time::Duration;

use bramah_client::{Client, SessionEvent};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Exit, Failure};

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, or because this process was told to end and passed it on.
    Done(ExitStatus),
    /// It was stopped because what it ran under was lost, and why that was.
    Stopped(String),
}

/// Runs a command until it ends. When `lost` comes first, or this process is told to end, the command gets SIGTERM, and
/// `grace` later SIGKILL: when this returns, it does not run any more.
///
/// # Errors
/// When it can't be started.
pub(crate) async fn run(
    command_line: &[String],
    environment: &[(&str, String)],
    grace: Duration,
    lost: impl Future<Output = String>,
) -> Result<Ended, Failure> {
    run_with(command_line, environment, grace, lost, std::future::ready(())).await
}

/// The same; when this process is told to end, `first` is done before the command is told so.
///
/// # Errors
/// When it can't be started.
pub(crate) async fn run_with(
    command_line: &[String],
    environment: &[(&str, String)],
    grace: Duration,
    lost: impl Future<Output = String>,
    first: impl Future<Output = ()>,
) -> Result<Ended, Failure> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut child = Running::start(command_line, environment)?;
    tokio::select! {
        status = child.wait() => Ok(Ended::Done(status?)),
        why = lost => {
            child.stop(grace).await?;
            Ok(Ended::Stopped(why))
        }
        _ = terminate.recv() => {
            first.await;
            Ok(Ended::Done(child.stop(grace).await?))
        }
        _ = interrupt.recv() => {
            first.await;
            Ok(Ended::Done(child.interrupted(grace).await?))
        }
    }
}

/// Waits for something, unless this process is told to end before it has come: then none. What is dropped is given up
/// in order, so that it does not have to expire.
///
/// # Errors
/// When signals can't be heard.
pub(crate) async fn unless_told<T>(work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        done = work => Ok(Some(done)),
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    }
}

/// Waits until something is lost, or until nobody here knows whether it is: the session's lease is over.
pub(crate) async fn lost_or_in_jeopardy(client: &Client, lost: impl Future<Output = String>) -> String {
    let mut events = client.session_events();
    let jeopardy = async {
        while let Some(event) = events.next().await {
            if let SessionEvent::Jeopardy { .. } = event {
                return "the cell is out of reach, and the lease is over".to_owned();
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        why = lost => why,
        why = jeopardy => why,
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::refused(format!("cannot listen for signals: {error}")))
}

/// A command that was started. Without a terminal it is a process group of its own, so that nothing it started
/// outlives it; with one it must share the terminal's.
struct Running {
    child: Child,
    is_group: bool,
}

impl Running {
    fn start(command_line: &[String], environment: &[(&str, String)]) -> Result<Self, Failure> {
        let is_group = !std::io::stdin().is_terminal();
        let child = start(command_line, environment, is_group)?;
        Ok(Self { child, is_group })
    }

    async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        self.child
            .wait()
            .await
            .map_err(|error| Failure::refused(format!("cannot wait for the command: {error}")))
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) else { return };
        // It may end at this very moment.
        let _ = if self.is_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }

    /// Has it end, and waits for it.
    async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, Failure> {
        self.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// A terminal has sent SIGINT to the command, too: a second one would be taken for impatience.
    async fn interrupted(&mut self, grace: Duration) -> Result<ExitStatus, Failure> {
        if self.is_group {
            self.signal(Signal::INT);
        }
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.stop(Duration::ZERO).await,
        }
    }
}

fn start(command_line: &[String], environment: &[(&str, String)], is_group: bool) -> Result<Child, Failure> {
    let [program, arguments @ ..] = command_line else {
        return Err(Failure::usage("there is no command; give one after --"));
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (*name, value)));
    // Should this process break off, nothing is left that believes it holds something.
    command.kill_on_drop(true);
    if is_group {
        command.process_group(0);
    }
    command.spawn().map_err(|error| Failure::usage(format!("cannot run {program}: {error}")))
}

/// What a command's end makes of this process's: its own exit code, or 128 and the signal, as shells do.
pub(crate) fn exit_like(status: ExitStatus) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255);
    match u8::try_from(code).unwrap_or(255) {
        0 => Ok(()),
        code => Err(Failure { exit: Exit::OfCommand(code), ..Failure::refused("") }),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn exit_of(ended: Result<Ended, Failure>) -> Exit {
        match ended.expect("it starts") {
            Ended::Done(status) => exit_like(status).err().map_or(Exit::Done, |failure| failure.exit),
            Ended::Stopped(why) => panic!("it was stopped: {why}"),
        }
    }

    #[tokio::test]
    async fn a_command_finds_its_environment_and_its_exit_code_is_passed_on() {
        let environment = [("BRAMAH_TEST", "yes".to_owned())];
        let told = sh("test \"$BRAMAH_TEST\" = yes && exit 7");
        let ended = run(&told, &environment, Duration::from_secs(5), pending()).await;
        assert_eq!(exit_of(ended), Exit::OfCommand(7));
        let ended = run(&sh("kill -9 $$"), &[], Duration::from_secs(5), pending()).await;
        assert_eq!(exit_of(ended), Exit::OfCommand(137));
        let failure = run(&["/no/such/program".into()], &[], Duration::ZERO, pending()).await;
        assert!(failure.is_err_and(|failure| failure.exit == Exit::Usage));
    }

    #[tokio::test]
    async fn a_command_does_not_outlive_what_it_runs_under() {
        for script in ["sleep 100", "trap '' TERM; while true; do sleep 0.01; done"] {
            let lost = || ready("lost".to_owned());
            let ended = run(&sh(script), &[], Duration::from_millis(100), lost()).await;
            assert_eq!(ended.expect("it starts"), Ended::Stopped("lost".into()));
        }
    }
}
