//! A replica's process: what keeps it from starting, and how it ends.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Layout, Replica, TestCell, assert_fails, finish};

/// Runs a server that should not start.
fn refused(command: &mut std::process::Command) -> std::process::Output {
    use std::process::Stdio;
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts"))
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layout = Layout::new(1);
    let (clients, peers) = &layout.replicas[0];
    for taken in [clients, peers] {
        let listener = TcpListener::bind(taken).expect("a free port");
        let output = refused(&mut layout.server(1, &folder.path().join("data")));
        assert_fails(&output, 1, &[&format!("can't listen on {taken}"), "in use"]);
        drop(listener);
    }
}

#[test]
fn a_data_folder_belongs_to_one_process() {
    let cell = TestCell::start(1);
    let other = Layout::new(1);
    let data = cell.folder.path().join("replica-1");
    let output = refused(&mut other.server(1, &data));
    assert_fails(&output, 1, &[&data.display().to_string(), "in use by process"]);
    assert_eq!(cell.json(&["counter", "incr", "/still/here"])["value"], 1);
}

#[test]
fn a_data_folder_belongs_to_one_cell() {
    let mut cell = TestCell::start(1);
    stop(cell.replicas.remove(0));
    let data = cell.folder.path().join("replica-1");
    cell.layout.cell = "other";
    let output = refused(&mut cell.layout.server(1, &data));
    assert_fails(&output, 1, &[&data.display().to_string(), "test", "other"]);
}

#[test]
fn an_empty_folder_starts_no_cell_unless_told_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layout = Layout { bootstrap: false, ..Layout::new(1) };
    let output = refused(&mut layout.server(1, &folder.path().join("data")));
    assert_fails(&output, 1, &["--bootstrap"]);
}

/// Ends a replica with SIGTERM, which must succeed.
fn stop(replica: Replica) {
    replica.signal(Signal::TERM);
    let (status, log) = replica.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Spec G-12: a stop finishes, exits 0, and what was acknowledged is there afterwards.
#[test]
fn a_stopped_replica_comes_back_with_everything() {
    let mut cell = TestCell::start(1);
    assert_eq!(cell.json(&["counter", "incr", "/a/b", "5"])["value"], 5);
    for signal in [Signal::TERM, Signal::INT] {
        let replica = cell.replicas.remove(0);
        replica.signal(signal);
        let (status, log) = replica.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        let data = cell.folder.path().join("replica-1");
        cell.replicas.push(Replica::spawn(&mut cell.layout.server(1, &data)));
        cell.wait_for_leader();
        assert_eq!(cell.json(&["counter", "get", "/a/b"])["value"], 5);
    }
}

/// Spec G-12: the leader hands leadership over when it is stopped: another one leads at once, without an election
/// timeout in which nobody does.
#[test]
fn a_stopped_leader_hands_over() {
    let mut cell = TestCell::start(3);
    assert_eq!(cell.json(&["counter", "incr", "/a"])["value"], 1);
    let leader = cell.wait_for_leader();
    stop(cell.replicas.remove(leader - 1));
    let next = cell.wait_for_leader();
    assert_ne!(next, leader);
    assert_eq!(cell.json(&["counter", "incr", "/a"])["value"], 2);
}

/// Spec G-12: a second signal exits at once.
#[test]
fn a_second_signal_does_not_wait() {
    let mut cell = TestCell::start(3);
    let leader = cell.wait_for_leader();
    let mut replica = cell.replicas.remove(leader - 1);
    // With the others held still nobody can take leadership over, so the stop has something to wait for.
    for other in &cell.replicas {
        other.signal(Signal::STOP);
    }
    replica.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    assert!(replica.is_running(), "the stop had nothing to wait for, so this test shows nothing");
    let second = Instant::now();
    replica.signal(Signal::TERM);
    let (status, log) = replica.wait();
    assert!(second.elapsed() < Duration::from_secs(1), "it took {:?}: {log}", second.elapsed());
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("second signal"), "{log}");
}
