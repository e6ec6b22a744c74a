//! Commands against a cell: answers, errors, exit codes.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{TestCell, assert_fails, bramah, finish, run, stderr, stdout};

#[test]
fn files_and_directories() {
    let cell = TestCell::start(1);
    assert_eq!(cell.json(&["mkdir", "/etc"])["created"], true);
    let written = cell.json(&["set", "/etc/motd", "hello"]);
    assert_eq!(written["created"], true);
    assert_eq!(stdout(&cell.run(&["get", "/etc/motd"])), "hello");
    assert_eq!(cell.json(&["get", "/etc/motd"])["contents"], "hello");
    cell.json(&["set", "--parents", "/a/b/c", "deep"]);
    cell.json(&["counter", "incr", "/etc/visits", "3"]);

    let listed = cell.json(&["ls", "/etc"]);
    let names: Vec<&str> =
        listed["entries"].as_array().expect("a list").iter().filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(names, ["motd", "visits"]);
    assert_eq!(stdout(&cell.run(&["ls"])), "a/\netc/\n");
    assert_eq!(stdout(&cell.run(&["ls", "/etc"])), "motd\nvisits#\n");
    assert!(stdout(&cell.run(&["ls", "--long", "/etc"])).contains("counter"));

    let stat = cell.json(&["stat", "/etc/motd"]);
    assert_eq!((&stat["kind"], &stat["length"]), (&Value::from("file"), &Value::from(5)));
    assert!(stdout(&cell.run(&["stat", "/etc/motd"])).contains("content generation"));
    assert_eq!(cell.json(&["rm", "/etc/motd"])["deleted"], true);
    assert_fails(&cell.run(&["get", "/etc/motd"]), 1, &["error:", "/etc/motd"]);
}

#[test]
fn contents_are_bytes_from_anywhere() {
    let cell = TestCell::start(1);
    let addresses = cell.layout.addresses();
    let bytes: Vec<u8> = (0..=255).collect();
    let file = cell.folder.path().join("bytes");
    std::fs::write(&file, &bytes).expect("a small file");
    cell.json(&["set", "/from-file", "--file", file.to_str().expect("a plain path")]);
    assert_eq!(cell.run(&["get", "/from-file"]).stdout, bytes);
    assert!(cell.json(&["get", "/from-file"])["contents_base64"].is_string());

    for arguments in [&["set", "/from-input"][..], &["set", "/from-input", "-"][..]] {
        let mut command = bramah(&["--addresses", &addresses]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        child.stdin.take().expect("it is piped").write_all(&bytes).expect("it reads");
        let output = finish(child);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(cell.run(&["get", "/from-input"]).stdout, bytes);
    }
}

/// Spec K-1.
#[test]
fn counters_add_refuse_and_reset() {
    let cell = TestCell::start(1);
    assert_eq!(stdout(&cell.run(&["counter", "incr", "/n"])), "1\n");
    assert_eq!(cell.json(&["counter", "incr", "/n", "-5"])["value"], -4);
    assert_eq!(cell.json(&["counter", "get", "/n"])["value"], -4);
    assert_fails(&cell.run(&["counter", "incr", "/n", "-1", "--floor", "-4"]), 1, &["/n", "-4"]);
    assert_fails(&cell.run(&["counter", "reset", "/n", "9", "--expect", "1"]), 1, &["/n"]);
    assert_eq!(cell.json(&["counter", "reset", "/n", "9", "--expect", "-4"])["value"], 9);

    let largest = i64::MAX.to_string();
    cell.json(&["counter", "reset", "/n", &largest]);
    assert_fails(&cell.run(&["counter", "incr", "/n"]), 1, &["/n"]);
    assert_eq!(
        cell.json(&["counter", "get", "/n"])["value"],
        i64::MAX,
        "a refused increment changes nothing"
    );
    assert_fails(&cell.run(&["counter", "incr", "/missing", "--no-create"]), 1, &["/missing"]);
}

#[test]
fn bad_input_is_refused_with_what_was_wrong() {
    let cell = TestCell::start(1);
    let big = cell.folder.path().join("big");
    std::fs::write(&big, vec![b'x'; 256 * 1024 + 1]).expect("a file");
    assert_fails(
        &cell.run(&["set", "/f", "--file", big.to_str().expect("plain")]),
        2,
        &["longer than 262144 bytes"],
    );
    std::fs::write(&big, vec![b'x'; 256 * 1024]).expect("a file");
    assert_eq!(cell.json(&["set", "/f", "--file", big.to_str().expect("plain")])["created"], true);

    for malformed in ["relative", "/a/../b", "/a//b", "/a/./b", "/tab\there"] {
        assert_fails(&cell.run(&["set", malformed, "x"]), 1, &["error:"]);
    }
    let too_long = format!("/{}", "x".repeat(256));
    assert_fails(&cell.run(&["set", &too_long, "x"]), 1, &["255"]);
    assert_fails(&cell.run(&["set", "/no/such/parent", "x"]), 1, &["/no"]);
    assert_fails(&cell.run(&["get", "/missing"]), 1, &["/missing"]);
    assert_fails(&cell.run(&["counter", "get", "/missing"]), 1, &["/missing"]);
    assert_fails(&cell.run(&["counter", "incr", "/f"]), 1, &["/f"]);
    cell.json(&["mkdir", "/d"]);
    assert_fails(&cell.run(&["mkdir", "/d"]), 1, &["/d"]);
    cell.json(&["mkdir", "/d/e"]);
    assert_fails(&cell.run(&["rm", "/d"]), 1, &["/d"]);
}

/// Spec N-6: a wrong generation changes nothing, and the error carries the one now.
#[test]
fn a_wrong_generation_is_told_with_the_right_one() {
    let cell = TestCell::start(1);
    let generation = cell.json(&["set", "/f", "one"])["generation"].as_u64().expect("a number").to_string();
    let output = cell.run(&["--json", "set", "/f", "two", "--if-generation", "77"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_str(&stderr(&output)).expect("JSON on standard error");
    assert_eq!(error["error"]["code"], "generation_mismatch");
    assert_eq!(error["error"]["may_have_been_done"], false);
    assert!(error["error"]["message"].as_str().expect("text").contains(&generation), "{error}");
    assert_eq!(stdout(&cell.run(&["get", "/f"])), "one");
    assert_eq!(cell.json(&["set", "/f", "two", "--if-generation", &generation])["created"], false);
    assert_fails(&cell.run(&["set", "/f", "x", "--if-generation", "0"]), 1, &["/f"]);
    assert_fails(&cell.run(&["rm", "/f", "--if-generation", "77"]), 1, &["/f"]);
}

#[test]
fn nobody_there_is_exit_code_3() {
    let layout = crate::support::Layout::new(1);
    let began = Instant::now();
    let output = run(&["--addresses", &layout.addresses(), "--timeout", "1s", "counter", "incr", "/n"]);
    assert_fails(&output, 3, &["error:", &layout.replicas[0].0]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let output = run(&["--addresses", &layout.addresses(), "--timeout", "1s", "status"]);
    assert_fails(&output, 3, &["no replica answers at", "bramah dev"]);
}

/// A cell without a majority: the deadline passes, and the answer names the members.
#[test]
fn a_cell_without_majority_is_unavailable_in_time() {
    let cell = TestCell::start_some(3, 1);
    let began = Instant::now();
    while !cell.run(&["--timeout", "1s", "status"]).status.success() {
        assert!(began.elapsed() < crate::support::PATIENCE, "the one replica does not answer");
    }
    let began = Instant::now();
    let output = cell.run(&["--timeout", "2s", "counter", "incr", "/n"]);
    let third = format!("3 at {} (does not answer)", cell.layout.replicas[2].0);
    assert_fails(&output, 3, &["unavailable: no leader, members 1 at ", &third]);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn status_shows_every_replica_and_the_one_that_is_down() {
    let mut cell = TestCell::start(3);
    cell.json(&["counter", "incr", "/n"]);
    let status = cell.json(&["status", "--digest"]);
    assert_eq!(status["cell"], "test");
    let replicas = status["replicas"].as_array().expect("a list").clone();
    assert_eq!(replicas.len(), 3);
    assert_eq!(replicas.iter().filter(|replica| replica["role"] == "leader").count(), 1);
    assert!(replicas.iter().all(|replica| replica["digest"].is_string()));

    // One address is enough: it tells of the others.
    let first = cell.layout.replicas[0].0.clone();
    let table = stdout(&run(&["--addresses", &first, "status"]));
    assert!(table.contains("leader") && table.lines().count() == 5, "{table}");

    let leader = status["leader"].as_u64().expect("a leader") as usize;
    let follower = if leader == 3 { 2 } else { 3 };
    drop(cell.replicas.remove(follower - 1));
    let table = stdout(&cell.run(&["status"]));
    assert!(table.contains("down") && table.contains(&cell.layout.replicas[follower - 1].0), "{table}");
    let status = cell.json(&["status"]);
    assert_eq!(status["replicas"].as_array().expect("a list").iter().filter(|r| r["up"] == false).count(), 1);
}

#[test]
fn every_bench_measures_something() {
    let cell = TestCell::start(3);
    for workload in ["write", "read", "increment"] {
        let report = cell.json(&[
            "bench",
            "--workload",
            workload,
            "--clients",
            "8",
            "--seconds",
            "0.5",
            "--warmup",
            "0.1",
            "--keys",
            "50",
        ]);
        assert!(report["operations"].as_u64().expect("a number") > 0, "{report}");
        assert_eq!(report["errors"], 0, "{report}");
        assert!(
            report["server_cpu_seconds"].is_number() && report["latency_us"]["p99"].is_number(),
            "{report}"
        );
    }
    let output = cell.run(&["bench", "--workload", "probe", "--seconds", "0.3", "--route", "leader"]);
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["ok"] == true), "{}", stdout(&output));
    assert!(lines.windows(2).all(|pair| pair[0]["at_us"].as_u64() <= pair[1]["sent_us"].as_u64()));
}
