//! `bramah proxy` in front of a service of a cell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{PATIENCE, TestCell, assert_fails, bramah, first_line, run, wait};

/// A server that answers every request with its name, on a thread that ends with the test's process.
fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let port = listener.local_addr().expect("it has an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 2_048];
                while matches!(stream.read(&mut head), Ok(count) if count > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// The status and the body.
fn get(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer that ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").to_owned(), body.to_owned())
}

#[track_caller]
fn until<T: PartialEq + std::fmt::Debug>(expected: T, look: impl Fn() -> T) {
    let limit = Instant::now() + PATIENCE;
    let mut seen = look();
    while seen != expected {
        assert!(Instant::now() < limit, "{seen:?} and not {expected:?} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
        seen = look();
    }
}

struct Proxy {
    child: Child,
    ready: Value,
}

impl Proxy {
    fn start(cell: &TestCell, more: &[&str]) -> Self {
        let addresses = cell.layout.addresses();
        let first = ["--json", "--addresses", &addresses, "proxy", "--listen", "127.0.0.1:0"];
        let mut command = bramah(&[&first[..], more].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let line = first_line(child.stdout.take().expect("it is piped"));
        Self { child, ready: serde_json::from_str(&line).expect("an object") }
    }

    fn address(&self, what: &str) -> SocketAddr {
        self.ready[what].as_str().expect("an address").parse().expect("an address")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The code of the answer and how many records it has (RFC 1035 §4.1.1).
fn dns(server: SocketAddr, name: &str) -> (u8, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send_to(&query, server).expect("it is sent");
    let mut answer = [0; 1_232];
    let length = socket.recv(&mut answer).expect("an answer");
    assert!(length > 12 && answer[..2] == query[..2]);
    (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]))
}

/// Spec F-2, F-3: the proxy follows a service of the registry, answers DNS for all of them, and goes on with what it knew
/// when the cell is away.
#[test]
fn a_proxy_follows_a_service_and_outlives_the_cell() {
    let mut cell = TestCell::start(1);
    let proxy = Proxy::start(&cell, &["--service", "web", "--dns-listen", "127.0.0.1:0"]);
    let (http, names) = (proxy.address("listen"), proxy.address("dns"));
    let name = format!("web.service.{}.internal", cell.layout.cell);
    assert_eq!(get(http).0, "503", "there is nobody yet");
    assert_eq!(dns(names, &name), (3, 0));
    let put = |id: &str, port: u16, more: &[&str]| {
        let port = port.to_string();
        let first = ["service", "register", "web", id, "--address", "127.0.0.1", "--port", &port];
        cell.json(&[&first[..], more].concat());
    };
    put("a", server("a"), &[]);
    until(("200".into(), "a".into()), || get(http));
    until((0, 1), || dns(names, &name));
    put("b", server("b"), &["--tag", "new"]);
    cell.json(&["service", "deregister", "web", "a"]);
    until(("200".into(), "b".into()), || get(http));
    put("c", server("c"), &[]);
    let tagged = Proxy::start(&cell, &["--service", "web", "--tag", "new", "--policy", "round-robin"]);
    for _ in 0..4 {
        assert_eq!(get(tagged.address("listen")).1, "b");
    }
    cell.replicas.drain(..).for_each(|replica| drop(replica.kill()));
    for _ in 0..4 {
        assert_eq!(get(tagged.address("listen")).1, "b", "as it was known last");
    }
    assert_eq!(dns(names, &name).0, 0);
}

/// Spec F-2: told to end, it ends in order; what can't be is refused with the way out.
#[test]
fn a_proxy_ends_when_told_to() {
    let cell = TestCell::start(1);
    let mut proxy = Proxy::start(&cell, &["--to", &format!("127.0.0.1:{}", server("a"))]);
    assert_eq!(get(proxy.address("listen")), ("200".into(), "a".into()));
    let pid = Pid::from_child(&proxy.child);
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(wait(&mut proxy.child, PATIENCE).success());
    assert_fails(&run(&["proxy"]), 2, &["--service"]);
    assert_fails(&run(&["proxy", "--to", "a:1", "--service", "web"]), 2, &["cannot be used with"]);
    assert_fails(&run(&["proxy", "--to", "127.0.0.1:1", "--dns-listen", "127.0.0.1:1"]), 2, &["--service"]);
}
