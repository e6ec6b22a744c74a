//! Whole storms, from outside, with every assertion of openraft's on: short, because those are slow.

use std::process::Command;

fn storm(seed: u64, more: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bramah-storm"))
        .args(["--json", "--seed", &seed.to_string()])
        .args(more)
        .output()
        .expect("the simulator starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let report = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    report.unwrap_or_else(|| panic!("seed {seed}: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

fn anomalies(report: &serde_json::Value) -> Vec<&str> {
    report["anomalies"].as_array().into_iter().flatten().filter_map(|text| text.as_str()).collect()
}

/// One seed is one storm: the same packets in the same order at the same instants, in two processes.
#[test]
fn one_seed_twice_is_one_storm() {
    for seed in [1, 2] {
        let mut twice = [storm(seed, &["--seconds", "6"]), storm(seed, &["--seconds", "6"])];
        for report in &mut twice {
            report["took_ms"] = serde_json::Value::Null;
        }
        assert_eq!(twice[0], twice[1], "seed {seed}");
    }
}

/// Spec G-1, G-2, G-9: nothing that clients are told contradicts itself, and all replicas are equal at the end.
#[test]
fn short_storms_of_all_faults_find_nothing() {
    for seed in 101..=106 {
        let report = storm(seed, &["--seconds", "8", "--faults", "all"]);
        assert!(anomalies(&report).is_empty(), "cargo xtask storm --seed {seed}: {:?}", anomalies(&report));
        assert!(report["operations"].as_u64() > Some(100), "{report}");
    }
}

/// A cell without faults serves everybody, and nobody is told anything but answers.
#[test]
fn a_calm_cell_answers_everything() {
    let report = storm(7, &["--seconds", "5", "--faults", "none"]);
    assert!(anomalies(&report).is_empty(), "{:?}", anomalies(&report));
    assert_eq!(report["outcomes"]["unknown"], 0);
    assert_eq!(report["outcomes"]["not_done"], 0);
}

/// The whole chain, from a wrong line of code to an anomaly, on one bug that always shows.
#[test]
fn a_planted_bug_is_found() {
    let found = (1..=20).any(|seed| {
        let report = storm(seed, &["--seconds", "6", "--bug", "skipped-entry"]);
        !anomalies(&report).is_empty()
    });
    assert!(found, "twenty seeds of a cell that skips entries found nothing");
}
