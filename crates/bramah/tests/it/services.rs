//! `bramah service` and `bramah run` against a cell.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{PATIENCE, TestCell, assert_fails, bramah, finish, stderr, stdout, wait};

fn ids(cell: &TestCell, more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--json", "service", "lookup", "web"];
    arguments.extend(more);
    let output = cell.run(&arguments);
    let answer: Value = serde_json::from_str(&stdout(&output)).expect("an object");
    let ids = answer["instances"].as_array().expect("a list").iter();
    let ids: Vec<String> = ids.map(|one| one["id"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(output.status.code(), Some(i32::from(ids.is_empty())));
    ids
}

#[track_caller]
fn until(what: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < limit, "it did not come about within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Spec R-1, R-2: an operator registers and deregisters; all can see it, in words and as JSON.
#[test]
fn instances_are_registered_and_shown() {
    let cell = TestCell::start(1);
    assert_eq!(stdout(&cell.run(&["service", "ls"])), "no services\n");
    assert_fails(&cell.run(&["service", "lookup", "web"]), 1, &["web has no such instance"]);
    let mut arguments = vec!["service", "register", "web", "a", "--address", "10.0.0.7", "--port", "8080"];
    arguments
        .extend(["--weight", "3", "--zone", "eu-1", "--tag", "v2", "--tag", "canary", "--meta", "build=7f"]);
    arguments.extend(["--check-http", "/health", "--interval", "1s", "--fall", "5"]);
    let answer = cell.json(&arguments);
    let expected = json!({
        "address": "10.0.0.7", "port": 8080, "weight": 3, "zone": "eu-1", "tags": ["v2", "canary"],
        "metadata": {"build": "7f"}, "health": "passing",
        "check": {"kind": "http", "path": "/health", "interval_ms": 1000, "timeout_ms": 1000, "rise": 2, "fall": 5},
    });
    assert_eq!((&answer["instance"], &answer["created"]), (&expected, &json!(true)));
    cell.json(&["service", "register", "web", "b", "--address", "b.example", "--port", "1"]);
    cell.json(&["set", "/services/web/c", r#"{"address":"::1","port":2,"health":"critical"}"#]);
    assert_eq!(ids(&cell, &[]), ["a", "b", "c"]);
    assert_eq!(ids(&cell, &["--healthy"]), ["a", "b"]);
    assert_eq!(ids(&cell, &["--tag", "canary"]), ["a"]);
    let table = stdout(&cell.run(&["service", "lookup", "web"]));
    let words = |line: usize| table.lines().nth(line).expect("a line").split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["instance", "address", "health", "weight", "zone", "tags"]);
    assert_eq!(words(1), ["a", "10.0.0.7:8080", "passing", "3", "eu-1", "v2,canary"]);
    assert_eq!(words(3), ["c", "[::1]:2", "critical", "1"]);
    let listed = cell.json(&["service", "ls"]);
    let web = json!({"service": "web", "instances": 3, "passing": 2, "warning": 0, "critical": 1});
    assert_eq!(listed["services"], json!([web]));
    // What somebody wrote that is no instance is said, and hides nothing.
    cell.json(&["set", "/services/web/d", "port 80"]);
    let output = cell.run(&["service", "lookup", "web"]);
    assert!(stderr(&output).contains("/services/web/d is no instance"), "{}", stderr(&output));

    assert_eq!(cell.json(&["service", "deregister", "web", "b"])["deregistered"], true);
    assert_fails(&cell.run(&["service", "deregister", "web", "b"]), 1, &["web has no instance b"]);
    let wrong = |more: &[&str]| {
        let arguments = [&["service", "register", "web", "x", "--address", "a", "--port"][..], more].concat();
        cell.run(&arguments)
    };
    assert_fails(&wrong(&["0"]), 2, &["port"]);
    assert_fails(&wrong(&["1", "--tag", "V2"]), 2, &["V2"]);
    assert_fails(&wrong(&["1", "--interval", "1s"]), 2, &["--check-tcp"]);
    assert_fails(&wrong(&["1", "--check-tcp", "--check-http", "/"]), 2, &["cannot be used with"]);
    assert_fails(&wrong(&["1", "--check-http", "health"]), 2, &["check.path"]);
    assert_eq!(ids(&cell, &[]), ["a", "c"]);
}

/// Spec R-1: the list first, then changes with revisions, and on from one of them.
#[test]
fn a_watch_prints_changes() {
    let cell = TestCell::start(1);
    let register = |port: &str| {
        cell.json(&["service", "register", "web", "a", "--address", "10.0.0.7", "--port", port])["revision"]
            .to_string()
    };
    let first = register("1");
    let addresses = cell.layout.addresses();
    let mut watch = bramah(&["--addresses", &addresses, "service", "watch", "web", "--count", "2"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert!(line().ends_with(" web has 1 instances"));
    assert!(line().ends_with(" is web/a at 10.0.0.7:1, passing"));
    let second = register("2");
    assert_eq!(line(), format!("{second} put web/a at 10.0.0.7:2, passing"));
    cell.json(&["service", "deregister", "web", "a"]);
    assert!(line().ends_with(" removed web/a"));
    assert!(wait(&mut watch, PATIENCE).success());
    let resumed = cell.run(&["--json", "service", "watch", "web", "--from", &first, "--count", "1"]);
    let told: Value =
        serde_json::from_str(stdout(&resumed).lines().next().expect("a line")).expect("an object");
    assert_eq!((&told["event"], &told["id"]), (&json!("removed"), &json!("a")), "as it is now");
}

/// `bramah run … -- COMMAND`, with a pipe to the command's standard input.
fn start(cell: &TestCell, more: &[&str], command: &[&str]) -> Child {
    let addresses = cell.layout.addresses();
    let first = ["--addresses", &addresses, "run", "--service", "web", "--id", "w"];
    let arguments = [&first[..], more, &["--"], command].concat();
    let mut run = bramah(&arguments);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    run.spawn().expect("the binary starts")
}

/// Ends when its standard input does, so that nothing of it outlives the test.
const UNTIL_CLOSED: [&str; 3] = ["sh", "-c", "echo $BRAMAH_SERVICE/$BRAMAH_INSTANCE; read line; exit 7"];

/// Spec R-1, R-2: registered while the command runs, and its exit code is passed on.
#[test]
fn a_command_is_an_instance_while_it_runs() {
    let cell = TestCell::start(1);
    let mut run = start(&cell, &["--port", "8080", "--weight", "2"], &UNTIL_CLOSED);
    until(|| ids(&cell, &[]) == ["w"]);
    let found = cell.json(&["service", "lookup", "web"]);
    let one = &found["instances"][0];
    assert_eq!((&one["instance"]["address"], &one["instance"]["weight"]), (&json!("127.0.0.1"), &json!(2)));
    assert_eq!(one["permanent"], false);
    drop(run.stdin.take());
    let output = finish(run);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "web/w\n"), "{}", stderr(&output));
    assert_eq!(ids(&cell, &[]), [""; 0]);
    let output = cell.run(&["run", "--service", "web", "--port", "1", "--", "/no/such/program"]);
    assert_fails(&output, 2, &["cannot run /no/such/program"]);
}

/// Answers each request with a status, and counts them.
fn web(status: Arc<AtomicU16>) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let port = listener.local_addr().expect("it is bound").port();
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, mut request) = (stream, [0; 1024]);
            let _ = stream.read(&mut request);
            let _ = write!(stream, "HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", status.load(SeqCst));
            count.fetch_add(1, SeqCst);
        }
    });
    (port, asked)
}

/// Spec R-3: registered when the check passes first, as well as it is from then on; the signal to end is passed on.
#[test]
fn a_command_is_registered_when_its_check_passes() {
    let cell = TestCell::start(1);
    let status = Arc::new(AtomicU16::new(503));
    let (port, asked) = web(status.clone());
    let port = port.to_string();
    let more = ["--port", &port, "--check-http", "/health", "--interval", "100ms"];
    let run = start(&cell, &more, &UNTIL_CLOSED);
    until(|| asked.load(SeqCst) >= 3);
    assert_eq!(ids(&cell, &[]), [""; 0]);
    status.store(200, SeqCst);
    until(|| ids(&cell, &["--healthy"]) == ["w"]);
    status.store(500, SeqCst);
    until(|| ids(&cell, &["--healthy"]).is_empty());
    assert_eq!(ids(&cell, &[]), ["w"]);
    let pid = Pid::from_raw(run.id() as i32).expect("a process id is not 0");
    kill_process(pid, Signal::TERM).expect("it is our child");
    let output = finish(run);
    assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
    assert_eq!(ids(&cell, &[]), [""; 0]);
}

/// Spec R-2: killed without a word, it is gone when its lease is over, and one that was started again takes its place at once.
#[test]
fn a_killed_instance_is_gone_within_its_lease() {
    let cell = TestCell::start(1);
    let mut killed = start(&cell, &["--port", "1", "--lease", "1s"], &UNTIL_CLOSED);
    until(|| ids(&cell, &[]) == ["w"]);
    killed.kill().expect("it is our child");
    until(|| ids(&cell, &[]).is_empty());
    wait(&mut killed, PATIENCE);
    let mut killed = start(&cell, &["--port", "1", "--lease", "60s"], &UNTIL_CLOSED);
    until(|| ids(&cell, &[]) == ["w"]);
    killed.kill().expect("it is our child");
    wait(&mut killed, PATIENCE);
    let mut again = start(&cell, &["--port", "2"], &UNTIL_CLOSED);
    until(|| cell.json(&["service", "lookup", "web"])["instances"][0]["instance"]["port"] == 2);
    drop(again.stdin.take());
    finish(again);
    assert_eq!(ids(&cell, &[]), [""; 0], "though the session of the first is not over");
}
