//! `bramah demo` and `bramah dev` as a user runs them.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Layout, bramah, first_line, json, run, stderr, stdout, wait};

/// Spec K-2, G-1, S-6: leaders killed with SIGKILL lose nothing and double nothing.
#[test]
fn a_demo_with_two_kills_counts_exactly() {
    let report = json(&run(&["demo", "--increments", "3000", "--kills", "2", "--workers", "16", "--json"]));
    assert_eq!(report["acknowledged"], 3_000, "{report}");
    assert_eq!(report["value"], 3_000, "{report}");
    for nothing in ["lost", "doubled", "unknown"] {
        assert_eq!(report[nothing], 0, "{report}");
    }
    assert_eq!(report["kills"], 2);
    assert_eq!(report["failover_ms"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["replicas_agree"], true);
    assert!(report["increments_per_second"].as_f64() > Some(0.0));
}

#[test]
fn a_demo_speaks_to_people_too() {
    let output = run(&["demo", "--increments", "500", "--kills", "0"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("Counted exactly."), "{}", stdout(&output));
}

/// An interrupted demo leaves nothing behind.
#[test]
fn an_interrupted_demo_cleans_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = bramah(&["demo", "--increments", "100000000"]);
    let mut demo =
        command.env("TMPDIR", folder.path()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    first_line(demo.stderr.as_mut().expect("it is piped"));
    while std::fs::read_dir(folder.path()).expect("our folder").next().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = Pid::from_raw(demo.id() as i32).expect("a process id is not 0");
    kill_process(pid, Signal::INT).expect("it is our child");
    assert_eq!(wait(&mut demo, crate::support::PATIENCE).code(), Some(1));
    assert!(
        std::fs::read_dir(folder.path()).expect("our folder").next().is_none(),
        "its data is still there"
    );
}

#[test]
fn a_kept_demo_runs_on_until_it_is_stopped() {
    let output = run(&["demo", "--increments", "100", "--kills", "0", "--keep"]);
    let text = stderr(&output);
    let after = |mark: &str| {
        text.split(mark)
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_else(|| panic!("no {mark:?}: {text}"))
    };
    let addresses = after("BRAMAH_ADDRESSES=").to_owned();
    let (pids, folder) = after("kill ").split_once(" && rm -r ").expect("how to stop it");
    let kept = json(&run(&["--addresses", &addresses, "--json", "counter", "get", "/demo/counter-1"]));
    for pid in pids.split(' ') {
        let pid = Pid::from_raw(pid.parse().expect("a process id")).expect("not 0");
        kill_process(pid, Signal::KILL).expect("the demo says that it runs");
    }
    std::fs::remove_dir_all(folder).expect("the demo says that it is there");
    assert_eq!(kept["value"], 13, "100 increments over 8 counters");
}

#[test]
fn a_development_cell_keeps_its_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("cell");
    let data = data.to_str().expect("a plain path");
    let port = Layout::new(1).replicas[0].0.rsplit(':').next().expect("a port").to_owned();
    let address = format!("127.0.0.1:{port}");
    for value in 1..=2 {
        let mut command = bramah(&["dev", "--data", data, "--port-base", &port]);
        let mut dev =
            command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the binary starts");
        let greeting = first_line(dev.stdout.as_mut().expect("it is piped"));
        assert!(greeting.contains(&address), "{greeting}");
        let counted = run(&["--addresses", &address, "--json", "counter", "incr", "/visits"]);
        kill_process(Pid::from_raw(dev.id() as i32).expect("not 0"), Signal::INT).expect("it is our child");
        assert_eq!(wait(&mut dev, crate::support::PATIENCE).code(), Some(0));
        assert_eq!(json(&counted)["value"], value);
    }
}

/// Spec F-2: no request fails while servers come, become slow, leave and die, and in the end those that are left answer.
#[test]
fn services_come_and_go_under_requests() {
    let output = run(&["--json", "demo", "--services", "--act-seconds", "0.5", "--workers", "8"]);
    let told: serde_json::Value = serde_json::from_str(stdout(&output).lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    let acts = told["acts"].as_array().expect("a list");
    assert_eq!(acts.len(), 6);
    for act in acts {
        assert_eq!(act["failed"].as_u64(), Some(0), "{act}");
        assert!(act["requests"].as_u64() > Some(0), "{act}");
    }
    let answered = |act: &serde_json::Value| {
        let by = act["answered_by"].as_object().expect("counts").keys().cloned();
        by.collect::<Vec<_>>()
    };
    assert_eq!(answered(&acts[0]), ["shop-1", "shop-2", "shop-3"]);
    assert_eq!(answered(&acts[1]), ["shop-1", "shop-2", "shop-3", "shop-4"]);
    assert_eq!(answered(&acts[5]), ["shop-2", "shop-4"]);
}
