//! Checks of real servers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramah_client::discovery::{Check, Health, Instance, Probe, RegistrationState, probe};
use bramah_wire::grpc_health::health_check_response::ServingStatus;
use bramah_wire::grpc_health::health_server::{Health as HealthService, HealthServer};
use bramah_wire::grpc_health::{HealthCheckRequest, HealthCheckResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{closed_port, here, one, put, until};
use crate::recipes::{cell, in_time};

/// Answers every request with a status that can be changed, and counts them.
struct Web {
    port: u16,
    status: Arc<AtomicU16>,
    /// What is answered first, in this order.
    script: Arc<Mutex<VecDeque<u16>>>,
    asked: watch::Receiver<u64>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn web() -> Web {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let status = Arc::new(AtomicU16::new(200));
    let (count, asked) = watch::channel(0);
    let script = Arc::new(Mutex::new(VecDeque::new()));
    let (answer, first) = (status.clone(), script.clone());
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            assert!(request.is_empty() || request.starts_with(b"GET /health HTTP/1.1\r\n"));
            let status = first.lock().unwrap().pop_front().unwrap_or_else(|| answer.load(SeqCst));
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 5\r\n\r\nhello");
            let _ = stream.write_all(head.as_bytes()).await;
            count.send_modify(|count| *count += 1);
        }
    });
    Web { port, status, script, asked, serving }
}

impl Web {
    /// Waits for so many further checks.
    async fn checks(&mut self, count: u64) {
        let before = *self.asked.borrow();
        self.asked.wait_for(|now| *now >= before + count).await.unwrap();
    }
}

fn every_100_ms(probe: Probe) -> Check {
    Check { interval_ms: 100, timeout_ms: 10_000, ..Check::new(probe) }
}

fn http() -> Check {
    every_100_ms(Probe::Http { path: "/health".into() })
}

/// Spec R-3: the instance checks itself; one write a change, and none while it flaps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_checks_itself_and_writes_only_changes() {
    let cell = cell().await;
    in_time(async {
        let mut web = web().await;
        let registration = cell.clients[0].registry().register("web", "a", here(web.port)).await.unwrap();
        let mut follower = cell.clients[1].registry().follow("web").await.unwrap();
        let first = one(&follower.snapshot(), "a").generation;
        registration.run_checks(http());
        web.checks(4).await;
        web.script.lock().unwrap().extend([500, 500, 200].repeat(4));
        web.checks(16).await;
        assert_eq!(one(&follower.snapshot(), "a").generation, first, "it flapped");
        for (times, (status, health)) in
            [(500, Health::Critical), (200, Health::Passing), (429, Health::Warning)].into_iter().enumerate()
        {
            web.status.store(status, SeqCst);
            let known = until(&mut follower, |known| one(known, "a").instance.health == health).await;
            web.checks(4).await;
            let generation = one(&follower.snapshot(), "a").generation;
            assert_eq!(one(&known, "a").generation, generation, "one write for the change");
            assert_eq!(generation, first + times as u64 + 1);
        }
    })
    .await;
}

/// Spec R-3: it is checked where it says it is now, and not at all once it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_follow_the_instance_and_end_with_it() {
    let cell = cell().await;
    in_time(async {
        let (mut before, mut after) = (web().await, web().await);
        let registration = cell.clients[0].registry().register("web", "a", here(before.port)).await.unwrap();
        registration.run_checks(http());
        before.checks(1).await;
        registration.update(|instance| instance.port = after.port).unwrap();
        after.checks(3).await;
        assert!(cell.clients[1].registry().deregister("web", "a").await.unwrap());
        let mut states = registration.states();
        states.wait_for(RegistrationState::is_final).await.unwrap();
        // One check may be under way yet.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = *after.asked.borrow();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert_eq!(*after.asked.borrow(), asked);
    })
    .await;
}

/// Spec: instances that were registered for good are checked by whoever does it; of two one writes, and when that
/// goes the other goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permanent_instances_are_checked_by_one_of_many() {
    let cell = cell().await;
    in_time(async {
        let mut web = web().await;
        put(&cell.clients[0], "a", &Instance { check: Some(http()), ..here(web.port) }).await;
        put(&cell.clients[0], "unchecked", &here(web.port)).await;
        let mut follower = cell.clients[2].registry().follow("web").await.unwrap();
        let first = one(&follower.snapshot(), "a").generation;
        let mut checkers: Vec<_> = (0..2)
            .map(|index| {
                let registry = cell.clients[index].registry();
                tokio::spawn(async move { registry.check_all("web").await })
            })
            .collect();
        web.status.store(503, SeqCst);
        until(&mut follower, |known| one(known, "a").instance.health == Health::Critical).await;
        web.checks(4).await;
        assert_eq!(one(&follower.snapshot(), "a").generation, first + 1);
        assert_eq!(one(&follower.snapshot(), "unchecked").generation, 1);
        // What an operator writes is checked as it is now, and stays but for the health.
        let moved = Instance { weight: 5, check: Some(http()), ..here(web.port) };
        put(&cell.clients[0], "a", &moved).await;
        let known = until(&mut follower, |known| {
            one(known, "a").instance.health == Health::Critical && one(known, "a").instance.weight == 5
        })
        .await;
        assert!(one(&known, "a").permanent);
        let checker = checkers.swap_remove(0);
        checker.abort();
        assert!(checker.await.unwrap_err().is_cancelled());
        web.status.store(200, SeqCst);
        until(&mut follower, |known| one(known, "a").instance.health == Health::Passing).await;
        checkers[0].abort();
    })
    .await;
}

/// Spec R-3: what each kind of check makes of what it finds.
#[tokio::test]
async fn probes_see_what_is_there() {
    in_time(async {
        let web = web().await;
        let seen = async |probed: &Instance, kind: Probe| probe(probed, &every_100_ms(kind)).await;
        let path = || Probe::Http { path: "/health".into() };
        for (status, health) in [(204, Health::Passing), (302, Health::Critical), (429, Health::Warning)] {
            web.status.store(status, SeqCst);
            assert_eq!(seen(&here(web.port), path()).await.health, health, "{status}");
        }
        assert_eq!(seen(&here(web.port), Probe::Tcp).await.health, Health::Passing);
        let local = Instance::new("localhost", web.port);
        assert_eq!(seen(&local, Probe::Tcp).await.health, Health::Passing);

        let (closed, _socket) = closed_port();
        for kind in [Probe::Tcp, path(), Probe::Grpc { service: String::new() }] {
            let observed = seen(&here(closed), kind).await;
            assert_eq!(observed.health, Health::Critical, "{observed:?}");
        }
        // Somebody who listens and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = Check { timeout_ms: 50, ..http() };
        let observed = probe(&here(silent.local_addr().unwrap().port()), &check).await;
        assert_eq!(observed.health, Health::Critical);
        assert!(observed.note.contains("no answer within 50 ms"), "{observed:?}");

        let (address, status) = grpc(|| Ok(())).await;
        let kind = |service: &str| Probe::Grpc { service: service.into() };
        assert_eq!(seen(&here(address.port()), kind("")).await.health, Health::Passing);
        assert_eq!(seen(&here(address.port()), kind("unknown")).await.health, Health::Critical);
        status.store(ServingStatus::NotServing as u64, SeqCst);
        assert_eq!(seen(&here(address.port()), kind("")).await.health, Health::Critical);
    })
    .await;
}

/// A server of the gRPC health protocol, whose answer can be changed.
pub(super) async fn grpc(
    judge: impl Fn() -> Result<(), Status> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU64::new(ServingStatus::Serving as u64));
    let service = HealthServer::new(Answers { status: status.clone(), judge });
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, status)
}

struct Answers<J> {
    status: Arc<AtomicU64>,
    judge: J,
}

#[tonic::async_trait]
impl<J: Fn() -> Result<(), Status> + Send + Sync + 'static> HealthService for Answers<J> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        (self.judge)()?;
        if request.get_ref().service == "unknown" {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(HealthCheckResponse { status: self.status.load(SeqCst) as i32 }))
    }

    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}
