//! Processes that never outlive xtask: ended by handle when their owner goes, on an error, and on a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// All processes that are alive, so that a signal can end them.
static ALIVE: Mutex<Alive> = Mutex::new(Alive { children: BTreeMap::new(), closing: false });

struct Alive {
    children: BTreeMap<u32, Arc<Mutex<Child>>>,
    /// Set by the signal: nothing may be started any more.
    closing: bool,
}

/// From now on SIGINT, SIGTERM and SIGHUP end all processes started here, and then this one.
pub(crate) fn end_all_on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let children = {
                let mut alive = lock(&ALIVE);
                alive.closing = true;
                std::mem::take(&mut alive.children)
            };
            for child in children.values() {
                end(child);
            }
            eprintln!("xtask: stopped by signal {signal}; {} processes were ended", children.len());
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// A running process. Dropping it ends it, and what it started, with SIGKILL and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    pid: u32,
}

impl Process {
    /// Starts `command` with no input, its standard error in `log`. Its standard output goes there too unless it is a pipe.
    pub(crate) fn start(mut command: Command, log: &Path, stdout: Output) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null());
        match stdout {
            Output::Log => command.stdout(file.try_clone()?),
            Output::Pipe => command.stdout(Stdio::piped()),
        };
        command.stderr(file);
        Process::spawn(command)
    }

    /// Starts a command whose input and outputs have been set.
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        // A group of its own, so that what it starts can be ended with it.
        command.process_group(0);
        // Spawned under the lock: the signal's thread sees the process, or the process is not started.
        let mut alive = lock(&ALIVE);
        if alive.closing {
            bail!("stopping: {command:?} was not started");
        }
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        alive.children.insert(pid, Arc::clone(&child));
        Ok(Process { child, pid })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The pipe of its standard output, once.
    pub(crate) fn take_stdout(&self) -> Option<std::process::ChildStdout> {
        lock(&self.child).stdout.take()
    }

    /// True while it has not ended.
    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        Ok(self.succeeded()?.is_none())
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// True once it has ended by itself and succeeded, `None` while it runs.
    pub(crate) fn succeeded(&self) -> io::Result<Option<bool>> {
        Ok(lock(&self.child).try_wait()?.map(|status| status.success()))
    }

    /// Waits until it ends by itself; true if it succeeded.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool> {
        let ends = Instant::now() + limit;
        loop {
            if let Some(succeeded) = self.succeeded()? {
                return Ok(succeeded);
            }
            if Instant::now() > ends {
                bail!("process {} did not end within {} s", self.pid, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs a command to its end and returns what it printed. Its standard error goes to `log`, and is part of the error.
pub(crate) fn output(command: Command, log: &Path, limit: Duration) -> Result<String> {
    let process = Process::start(command, log, Output::Pipe)?;
    let mut stdout = process.take_stdout().context("its output is no pipe")?;
    // Read meanwhile: a full pipe would stop it for ever.
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let succeeded = process.wait(limit)?;
    let text = reader.join().map_err(|_| anyhow!("the reader of its output broke off"))?;
    if !succeeded {
        bail!("{}", std::fs::read_to_string(log).unwrap_or_default().trim());
    }
    Ok(text?)
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
        lock(&ALIVE).children.remove(&self.pid);
    }
}

/// Where a process's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Log,
    Pipe,
}

fn end(child: &Mutex<Child>) {
    let mut child = lock(child);
    end_group(child.id());
    // Fails only for a process that has been waited for already.
    let _ = child.wait();
}

/// Ends all processes of a group. The kernel gives its number to nobody else while one of them is left.
fn end_group(group: u32) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // Fails only when none of them is left.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A panic elsewhere must not keep the processes from being ended.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start(command, Path::new("/dev/null"), Output::Log).unwrap()
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_process_does_not_outlive_its_owner() {
        let process = sleeper();
        let pid = process.pid();
        assert!(process.is_alive().unwrap() && exists(pid));
        drop(process);
        assert!(!exists(pid), "it must be gone and waited for");
        assert!(!lock(&ALIVE).children.contains_key(&pid));
    }

    #[test]
    fn what_it_started_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let process = Process::start(command, Path::new("/dev/null"), Output::Pipe).unwrap();
        let mut line = String::new();
        BufReader::new(process.take_stdout().unwrap()).read_line(&mut line).unwrap();
        let grandchild = line.trim().parse().unwrap();
        assert!(exists(grandchild));
        drop(process);
        let ends = Instant::now() + Duration::from_secs(60);
        while is_running(grandchild) {
            assert!(Instant::now() < ends, "it must be gone");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it exists and is no zombie, which waits for whoever adopted it.
    fn is_running(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn output_is_what_was_printed_and_a_failure_is_an_error() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            output(command, Path::new("/dev/null"), Duration::from_secs(60))
        };
        assert_eq!(shell("echo one; echo two").unwrap(), "one\ntwo\n");
        assert!(shell("echo one; exit 3").is_err());
    }

    #[test]
    fn waiting_has_a_limit() {
        let process = sleeper();
        let error = process.wait(Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
