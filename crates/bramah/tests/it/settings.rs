//! Mistakes in the settings: exit code 2, and what to write instead.

use crate::support::{assert_fails, bramah, run, stderr, stdout};

fn server_with_file(text: &str) -> std::process::Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("bramah.toml");
    std::fs::write(&file, text).expect("a small file");
    run(&["server", "--config", file.to_str().expect("a plain path")])
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let output = server_with_file("cell = \"a\"\nhartbeat = \"50ms\"\n");
    assert_fails(&output, 2, &["bramah.toml:2: `hartbeat` is not a setting; did you mean `heartbeat`?"]);
}

#[test]
fn a_replica_that_is_not_among_the_members_is_refused() {
    let output = run(&["server", "--cell", "a", "--replica", "4", "--data", "d", "--members", "1=h:2/h:1"]);
    assert_fails(&output, 2, &["`members` has replicas 1 but not this one, 4"]);
}

#[test]
fn a_missing_setting_is_named_with_all_the_ways_to_give_it() {
    assert_fails(
        &run(&["server"]),
        2,
        &["`replica` is missing: give --replica or BRAMAH_REPLICA or `replica`"],
    );
    assert_fails(
        &run(&["server", "--config", "/nowhere/x.toml"]),
        2,
        &["cannot read the settings file /nowhere/x.toml"],
    );
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("bramah.toml");
    std::fs::write(&file, "replica = 1\nheartbeat = \"1\"\n").expect("a small file");
    let path = file.to_str().expect("a plain path");
    assert_fails(&run(&["server", "--config", path]), 2, &["bramah.toml:2", "\"1\" is not a duration"]);

    let mut command = bramah(&["server", "--config", path, "--heartbeat", "3"]);
    let output = command.env("BRAMAH_HEARTBEAT", "2s").output().expect("it runs");
    assert_fails(&output, 2, &["bramah.toml:2"]);
    std::fs::write(&file, "replica = 1\n").expect("a small file");
    let output = command.output().expect("it runs");
    assert_fails(&output, 2, &["`heartbeat` (from the command line): \"3\" is not a duration"]);
    let output =
        bramah(&["server", "--config", path]).env("BRAMAH_HEARTBEAT", "2").output().expect("it runs");
    assert_fails(&output, 2, &["`heartbeat` (from the environment): \"2\" is not a duration"]);
}

#[test]
fn a_bad_log_filter_is_refused() {
    let arguments = [
        "--cell",
        "a",
        "--replica",
        "1",
        "--data",
        "d",
        "--members",
        "1=h:2/h:1",
        "--log-level",
        "no=such=level",
    ];
    let output = bramah(&["server"]).args(arguments).output().expect("it runs");
    assert_fails(&output, 2, &["`log_level`"]);
}

#[test]
fn wrong_usage_is_exit_code_2_and_json_on_request() {
    assert_fails(&run(&["frobnicate"]), 2, &["unrecognized subcommand"]);
    let output = run(&["--output", "json", "frobnicate"]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_str(&stderr(&output)).expect("JSON");
    assert_eq!(error["error"]["code"], "usage");
    assert_fails(&run(&["--timeout", "2h", "status"]), 2, &["from 1ms to 60s"]);
}

#[test]
fn help_names_the_exit_codes_and_every_shell_gets_completions() {
    let help = stdout(&run(&["--help"]));
    assert!(help.contains("4  may have been done"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("counter"), "{shell}");
    }
}
