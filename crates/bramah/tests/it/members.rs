//! Members of a cell of real processes come and go, by the command line.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bramah::demo::load::{Load, Promised};
use bramah_client::{Client, Route};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Layout, PATIENCE, Replica, assert_fails, bramah, finish, json, run, stderr, stdout};

const WORKERS: u64 = 12;
const COUNTERS: u64 = 4;
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Six places for replicas: the cell begins with the first three.
struct Places {
    layout: Layout,
    folder: TempDir,
}

impl Places {
    fn new() -> Self {
        Self { layout: Layout::new(6), folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn data(&self, id: usize) -> PathBuf {
        self.folder.path().join(format!("replica-{id}"))
    }

    fn clients(&self, ids: &[usize]) -> String {
        ids.iter().map(|id| self.layout.replicas[id - 1].0.clone()).collect::<Vec<_>>().join(",")
    }

    fn peers(&self, ids: &[usize]) -> String {
        ids.iter().map(|id| self.layout.replicas[id - 1].1.clone()).collect::<Vec<_>>().join(",")
    }

    /// As `bramah member` takes it.
    fn member(&self, id: usize) -> String {
        let (clients, peers) = &self.layout.replicas[id - 1];
        format!("{id}={peers}/{clients}")
    }

    fn server(&self, id: usize) -> Command {
        let (clients, peers) = &self.layout.replicas[id - 1];
        let mut command = bramah(&["server", "--cell", "test", "--replica", &id.to_string()]);
        command.args(["--clients-listen", clients, "--peers-listen", peers]);
        command.args(["--exit-with-parent", &std::process::id().to_string(), "--data"]).arg(self.data(id));
        command
    }

    fn founder(&self, id: usize) -> Command {
        let founders: Vec<String> = (1..=3).map(|id| self.member(id)).collect();
        let mut command = self.server(id);
        command.args(["--bootstrap", "--members", &founders.join(",")]);
        command
    }

    fn joins(&self, id: usize, members: &[usize]) -> Replica {
        Replica::spawn(self.server(id).args(["--join", &self.peers(members)]))
    }

    /// Runs `bramah …` against these replicas; it must succeed.
    #[track_caller]
    fn json(&self, at: &[usize], arguments: &[&str]) -> Value {
        let addresses = self.clients(at);
        let mut all = vec!["--addresses", &addresses, "--json", "--timeout", "30s"];
        all.extend(arguments);
        json(&run(&all))
    }

    fn start(&self) -> Vec<(usize, Replica)> {
        let replicas = (1..=3).map(|id| (id, Replica::spawn(&mut self.founder(id)))).collect();
        let addresses = self.clients(&[1, 2, 3]);
        let until = Instant::now() + PATIENCE;
        loop {
            let output = run(&["--addresses", &addresses, "--json", "status"]);
            if output.status.success() && json(&output)["leader"].is_u64() {
                return replicas;
            }
            assert!(Instant::now() < until, "no leader within {PATIENCE:?}: {}", stderr(&output));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

async fn client(addresses: &str, route: Route) -> Client {
    let builder = Client::builder().addresses(addresses).route(route).deadline(CALL_LIMIT);
    builder.connect().await.expect("a session")
}

/// Spec G-7, B-4, K-2: all members are replaced one after the other while increments run; each acknowledged one counts
/// exactly once, and the old ones are gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_is_replaced_under_load() {
    let places = Arc::new(Places::new());
    let mut replicas = places.start();
    let mut clients = Vec::new();
    for route in [Route::Leader, Route::Any, Route::Fixed(1)] {
        clients.push(client(&places.clients(&[1, 2, 3]), route).await);
    }
    let load = Load::new(u64::MAX, COUNTERS);
    load.open_gate(u64::MAX);
    let working = Arc::clone(&load).run(&clients, WORKERS);
    let replacing = async {
        for old in 1..=3 {
            let before = load.acknowledged();
            let place = Arc::clone(&places);
            let new =
                tokio::task::spawn_blocking(move || replace(&place, old)).await.expect("it is replaced");
            replicas.push((old + 3, new));
            let (_, gone) = replicas.remove(0);
            let (status, log) = tokio::task::spawn_blocking(|| gone.wait()).await.expect("it ends by itself");
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.contains(&format!("replica {old} was removed from the cell test for good")), "{log}");
            while load.acknowledged() < before + 200 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        load.end();
    };
    let (worked, ()) = tokio::join!(working, replacing);
    worked.expect("every worker got an answer to every call");
    for client in clients {
        client.close().await;
    }
    check(&places, &load.promised()).await;
    let output = finish(spawn_piped(&mut places.founder(2)));
    assert_fails(&output, 1, &["replica 2 of the cell test", "was removed from the cell for good", "--join"]);
}

fn spawn_piped(command: &mut Command) -> std::process::Child {
    use std::process::Stdio;
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// One member goes, the one three places further comes, by one command.
fn replace(places: &Places, old: usize) -> Replica {
    let now: Vec<usize> = (old..old + 3).collect();
    let new = places.joins(old + 3, &now);
    // Not of the one that goes: it does not see the end of it.
    let done = places.json(&now[1..], &["member", "replace", &old.to_string(), &places.member(old + 3)]);
    let voters: Vec<u64> = done["members"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|member| member["voter"] == true)
        .filter_map(|member| member["replica"].as_u64())
        .collect();
    assert_eq!(voters, (old as u64 + 1..=old as u64 + 3).collect::<Vec<_>>(), "{done}");
    new
}

async fn check(places: &Places, promised: &[Promised]) {
    let total: u64 = promised.iter().map(|counter| counter.acknowledged).sum();
    assert!(total > 600, "{total} increments are no load");
    for id in 4..=6 {
        let client = client(&places.clients(&[id]), Route::Fixed(0)).await;
        for counter in promised {
            let value = client.counter(&counter.path).get().await.expect("it exists");
            assert_eq!(counter.unknown, 0, "a session's calls are answered as long as the session lives");
            assert_eq!(value, counter.acknowledged as i64, "{} at replica {id}", counter.path);
        }
        client.close().await;
    }
    let members = places.json(&[4], &["member", "ls"]);
    let ids: Vec<(u64, bool)> = members["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| (member["replica"].as_u64().expect("a number"), member["voter"] == true))
        .collect();
    assert_eq!(ids, [(4, true), (5, true), (6, true)]);
}

/// A replica that knows no leader, as one that is cut off, does not keep a change for itself: the next one is asked.
#[test]
fn a_change_goes_to_a_replica_that_knows_a_leader() {
    let places = Places::new();
    let mut replicas = places.start();
    replicas.push((4, places.joins(4, &[1, 2, 3])));
    let until = Instant::now() + PATIENCE;
    while !run(&["--addresses", &places.clients(&[4]), "status"]).status.success() {
        assert!(Instant::now() < until, "replica 4 answers nobody");
        std::thread::sleep(Duration::from_millis(50));
    }
    let added = places.json(&[4, 1, 2, 3], &["member", "add", &places.member(4)]);
    assert_eq!(added["members"].as_array().map(Vec::len), Some(4), "{added}");
}

/// The commands, their answers and their errors.
#[test]
fn the_commands_say_what_they_did() {
    let places = Places::new();
    let mut replicas = places.start();
    let at = [1, 2, 3];
    let addresses = places.clients(&at);
    let fails = |code: i32, arguments: &[&str], texts: &[&str]| {
        let mut all = vec!["--addresses", &addresses, "--timeout", "2s", "member"];
        all.extend(arguments);
        assert_fails(&run(&all), code, texts);
    };
    let text = |arguments: &[&str]| {
        let mut all = vec!["--addresses", &addresses, "member"];
        all.extend(arguments);
        let output = run(&all);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    fails(2, &["add", "4=nowhere"], &["is not a member"]);
    fails(1, &["promote", "4"], &["replica 4 is no member of the cell", "bramah member ls"]);
    fails(1, &["add", &places.member(4).replace("4=", "2=")], &["replica 2 is a member already"]);
    fails(1, &["remove", "1", "2", "3"], &["no voter would be left"]);

    assert!(text(&["add", &places.member(4)]).contains("replica 4 learns"));
    let listed = text(&["ls"]);
    assert!(listed.contains("learner") && listed.lines().count() == 5, "{listed}");
    fails(3, &["promote", "4"], &["replica 4 has not caught up"]);
    replicas.push((4, places.joins(4, &at)));
    assert_eq!(text(&["promote", "4"]), "replica 4: vote\n");
    assert_eq!(text(&["demote", "4"]), "replica 4: only learn\n");
    assert!(text(&["set-address", &places.member(4)]).contains("replica 4 is reached at"));
    assert!(text(&["remove", "4"]).contains("replica 4: removed"));
    let (_, gone) = replicas.pop().expect("the one that joined");
    let (status, log) = gone.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    fails(1, &["add", &places.member(4)], &["replica 4 was removed", "never used twice"]);
    assert_eq!(
        places.json(&at, &["member", "voters", "1", "2", "3"])["members"].as_array().map(Vec::len),
        Some(3)
    );
}
