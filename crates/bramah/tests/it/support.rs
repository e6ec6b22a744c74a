//! Running the binary, and replicas that never outlive their test.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use bramah::demo::cell::free_ports;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BRAMAH: &str = env!("CARGO_BIN_EXE_bramah");

/// How long anything may take that should take a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The binary with these arguments, and nothing of ours in its environment.
pub(crate) fn bramah(arguments: &[&str]) -> Command {
    let mut command = Command::new(BRAMAH);
    command.args(arguments).stdin(Stdio::null());
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("BRAMAH_")) {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end, which is the test's failure if it does not come.
pub(crate) fn run(arguments: &[&str]) -> Output {
    finish(
        bramah(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts"),
    )
}

/// Waits for the end of a child whose output is piped.
pub(crate) fn finish(mut child: Child) -> Output {
    let stdout = read_in_background(child.stdout.take().expect("it is piped"));
    let stderr = read_in_background(child.stderr.take().expect("it is piped"));
    let status = wait(&mut child, Duration::from_secs(120));
    let collected =
        |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().expect("a reader that only reads");
    Output { status, stdout: collected(stdout), stderr: collected(stderr) }
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the output as well.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for the end of a child, and kills it if it does not come.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if Instant::now() > until {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
            panic!("process {} had not ended after {limit:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What was written to standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was written to standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Checks how a run ended and that its error says these things.
#[track_caller]
pub(crate) fn assert_fails(output: &Output, code: i32, texts: &[&str]) {
    let error = stderr(output);
    assert_eq!(output.status.code(), Some(code), "standard error: {error}");
    for text in texts {
        assert!(error.contains(text), "{text:?} is not in: {error}");
    }
}

/// The single line of JSON that a run has printed.
#[track_caller]
pub(crate) fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let text = stdout(output);
    assert_eq!(text.trim_end().lines().count(), 1, "one object on one line, not: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Addresses for a cell of this many replicas, on free ports.
pub(crate) struct Layout {
    /// Clients' and peers' address of each replica.
    pub(crate) replicas: Vec<(String, String)>,
    /// Where each listens for them.
    pub(crate) listen: Vec<(String, String)>,
    /// The cell's name.
    pub(crate) cell: &'static str,
    /// Whether empty data folders start a new cell.
    pub(crate) bootstrap: bool,
}

impl Layout {
    pub(crate) fn new(replicas: usize) -> Self {
        let ports = free_ports(2 * replicas).expect("free ports");
        let address = |port: u16| format!("127.0.0.1:{port}");
        Self::of(ports.chunks(2).map(|ports| (address(ports[0]), address(ports[1]))).collect())
    }

    /// Replicas that listen at their addresses.
    pub(crate) fn of(replicas: Vec<(String, String)>) -> Self {
        Self { listen: replicas.clone(), replicas, cell: "test", bootstrap: true }
    }

    /// The `--members` of all.
    pub(crate) fn members(&self) -> String {
        let member = |(index, (clients, peers)): (usize, &(String, String))| {
            format!("{}={peers}/{clients}", index + 1)
        };
        self.replicas.iter().enumerate().map(member).collect::<Vec<_>>().join(",")
    }

    /// The clients' addresses of all.
    pub(crate) fn addresses(&self) -> String {
        self.replicas.iter().map(|(clients, _)| clients.as_str()).collect::<Vec<_>>().join(",")
    }

    /// `bramah server …` for a replica, counted from 1.
    pub(crate) fn server(&self, replica: usize, data: &Path) -> Command {
        let (clients, peers) = &self.listen[replica - 1];
        let mut command = bramah(&["server", "--cell", self.cell, "--replica", &replica.to_string()]);
        command.arg(format!("--bootstrap={}", self.bootstrap));
        command.args(["--members", &self.members(), "--clients-listen", clients, "--peers-listen", peers]);
        command.args(["--exit-with-parent", &std::process::id().to_string(), "--data"]).arg(data);
        command
    }
}

/// A replica's process. It ends with its handle.
pub(crate) struct Replica {
    child: Child,
    log: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Replica {
    /// Starts a server.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = read_in_background(child.stderr.take().expect("it is piped"));
        Self { child, log: Some(log) }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not 0");
        kill_process(pid, signal).expect("it is our child and has not been waited for");
    }

    /// Whether SIGSTOP has reached all its threads: it takes a moment.
    pub(crate) fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it is our child");
        let stopped = |thread: std::fs::DirEntry| {
            // A thread that has ended meanwhile does nothing either.
            let state = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            state.lines().all(|line| !line.starts_with("State:") || line.contains('T'))
        };
        threads.flatten().all(stopped)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Ends it with SIGKILL if it still runs, and returns what it had logged.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().expect("it is our child");
        self.wait().1
    }

    /// Waits for its end by itself, and returns how it ended and what it had logged.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child, PATIENCE);
        let log = self.log.take().expect("it is taken only here").join().expect("a reader that only reads");
        (status, String::from_utf8_lossy(&log).into_owned())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cell of real processes, started and with a leader.
pub(crate) struct TestCell {
    pub(crate) layout: Layout,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) folder: TempDir,
}

impl TestCell {
    pub(crate) fn start(replicas: usize) -> Self {
        let cell = Self::start_some(replicas, replicas);
        cell.wait_for_leader();
        cell
    }

    /// A cell of which only the first few replicas are started.
    pub(crate) fn start_some(replicas: usize, started: usize) -> Self {
        let layout = Layout::new(replicas);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = |replica: usize| folder.path().join(format!("replica-{replica}"));
        let running =
            (1..=started).map(|replica| Replica::spawn(&mut layout.server(replica, &data(replica))));
        Self { replicas: running.collect(), layout, folder }
    }

    /// Waits for a leader and tells which replica it is, counted from 1.
    pub(crate) fn wait_for_leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let output = self.run(&["--json", "--timeout", "2s", "status"]);
            if output.status.success()
                && let Some(leader) = json(&output)["leader"].as_u64()
            {
                return leader as usize;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no leader within {PATIENCE:?}");
    }

    /// Runs a command against this cell.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let addresses = self.layout.addresses();
        let mut all = vec!["--addresses", &addresses];
        all.extend(arguments);
        run(&all)
    }

    /// Runs a command that must succeed, and returns its JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        json(&self.run(&all))
    }
}

/// The first line of a pipe.
pub(crate) fn first_line(pipe: impl Read) -> String {
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line).expect("a line of text");
    line
}
