//! Calls to a service by name.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bramah_client::Client;
use bramah_client::discovery::balance::TrySettings;
use bramah_client::discovery::{
    Balanced, BoxError, CallError, CallSettings, Connector, Health, Instance, Registered, Repeatable,
};
use bramah_wire::grpc_health::HealthCheckRequest;
use bramah_wire::grpc_health::health_client::HealthClient;
use tonic::{Code, Request, Status};
use tower::{Service, ServiceExt};

use super::health::grpc;
use super::{closed_port, here, ids, put, until};
use crate::recipes::{Cell, cell, in_time};

/// A server that counts its calls, and may refuse them.
struct Counted {
    port: u16,
    calls: Arc<AtomicU64>,
    refuses: Arc<AtomicU64>,
}

async fn counted() -> Counted {
    let (calls, refuses) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, left) = (calls.clone(), refuses.clone());
    let judge = move || {
        count.fetch_add(1, SeqCst);
        match left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(Status::unavailable("not now")),
            Err(_) => Ok(()),
        }
    };
    let (address, _) = grpc(judge).await;
    Counted { port: address.port(), calls, refuses }
}

fn question(may_repeat: bool) -> Request<HealthCheckRequest> {
    let mut request = Request::new(HealthCheckRequest::default());
    if may_repeat {
        request.extensions_mut().insert(Repeatable);
    }
    request
}

async fn register(client: &Client, servers: &[Counted]) {
    for (index, server) in servers.iter().enumerate() {
        put(client, &format!("i-{index}"), &here(server.port)).await;
    }
}

/// Waits until a channel knows these instances.
async fn knows<C: Connector<R>, R: Send + 'static>(balanced: &Balanced<C, R>, count: usize) {
    while balanced.balancer().set().len() != count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Spec F-1: a generated client follows a service; calls go to all that are well, to newcomers, and not to those that left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_channel_follows_a_service() {
    let cell: Cell = cell().await;
    in_time(async {
        let client = &cell.clients[0];
        let servers = [counted().await, counted().await, counted().await];
        register(client, &servers[..2]).await;
        let channel = cell.clients[1].registry().grpc("web", CallSettings::default()).await.unwrap();
        let mut health = HealthClient::new(channel.clone());
        let calls = || servers.iter().map(|server| server.calls.swap(0, SeqCst)).collect::<Vec<_>>();
        for _ in 0..20 {
            health.check(question(false)).await.unwrap();
        }
        let told = calls();
        assert!(told[0] >= 5 && told[1] >= 5 && told[2] == 0, "{told:?}");

        put(client, "i-2", &here(servers[2].port)).await;
        knows(channel.balanced(), 3).await;
        let gone = client.registry().deregister("web", "i-0").await.unwrap();
        put(client, "i-1", &Instance { health: Health::Critical, ..here(servers[1].port) }).await;
        assert!(gone);
        // One of two is well, as much as the threshold asks for.
        knows(channel.balanced(), 1).await;
        for _ in 0..20 {
            health.check(question(false)).await.unwrap();
        }
        assert_eq!(calls(), [0, 0, 20]);

        client.registry().deregister("web", "i-2").await.unwrap();
        client.registry().deregister("web", "i-1").await.unwrap();
        knows(channel.balanced(), 0).await;
        let nobody = health.check(question(true)).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unavailable);
        assert!(nobody.message().contains("wait until one registers"), "{nobody}");
    })
    .await;
}

/// Spec F-1: a call that was not sent is tried elsewhere, whatever it is. One that was is only if its caller said that it may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_safe_is_tried_again() {
    let cell = cell().await;
    in_time(async {
        let client = &cell.clients[0];
        let servers = [counted().await];
        register(client, &servers).await;
        let (closed, _socket) = closed_port();
        put(client, "closed", &here(closed)).await;
        let channel = client.registry().grpc("web", CallSettings::default()).await.unwrap();
        let mut health = HealthClient::new(channel.clone());
        for _ in 0..30 {
            health.check(question(false)).await.unwrap();
        }
        assert_eq!(servers[0].calls.swap(0, SeqCst), 30);
        client.registry().deregister("web", "closed").await.unwrap();
        knows(channel.balanced(), 1).await;

        servers[0].refuses.store(1, SeqCst);
        let refused = health.check(question(false)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unavailable, "not now"),
            "as the server said it"
        );
        assert_eq!(servers[0].calls.swap(0, SeqCst), 1, "it may have been done");
        servers[0].refuses.store(2, SeqCst);
        health.check(question(true)).await.unwrap();
        assert_eq!(servers[0].calls.swap(0, SeqCst), 3);
        servers[0].refuses.store(3, SeqCst);
        let spent = health.check(question(true)).await.unwrap_err();
        assert_eq!(spent.message(), "not now");
        assert_eq!(servers[0].calls.swap(0, SeqCst), 3, "three tries are all there are");
    })
    .await;
}

/// What a plain service of tower is given: a number; it says which instance it is.
struct Numbers;

#[derive(Clone)]
struct Instances(Arc<str>);

impl Service<u64> for Instances {
    type Response = (Arc<str>, u64);
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u64) -> Self::Future {
        let id = self.0.clone();
        Box::pin(async move {
            if &*id == "slow" {
                std::future::pending::<()>().await;
            }
            Ok((id, number))
        })
    }
}

impl Connector<u64> for Numbers {
    type Service = Instances;
    type Response = (Arc<str>, u64);
    type Error = Infallible;

    fn connect(
        &self,
        instance: &Registered,
    ) -> impl Future<Output = Result<Instances, BoxError>> + Send + 'static {
        let id = instance.id.clone();
        async move {
            match &*id {
                "closed" => Err("nobody is there".into()),
                _ => Ok(Instances(id)),
            }
        }
    }

    fn copy(&self, number: &u64) -> Option<u64> {
        Some(*number)
    }

    /// Even ones.
    fn may_repeat(&self, number: &u64) -> bool {
        number.is_multiple_of(2)
    }
}

/// Spec F-1: any service of tower may stand behind a name; each try has its deadline, and what failed says whether it may have
/// been done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tower_service_follows_a_service() {
    let cell = cell().await;
    in_time(async {
        let client = &cell.clients[0];
        for id in ["a", "slow"] {
            put(client, id, &here(1)).await;
        }
        let each = Duration::from_millis(50);
        let settings = CallSettings {
            tries: TrySettings { each, ..CallSettings::default().tries },
            deadline: Duration::from_millis(300),
            ..CallSettings::default()
        };
        let mut follower = client.registry().follow("web").await.unwrap();
        let mut balanced = Balanced::new("web", follower.clone(), Numbers, settings);
        for number in (0..40).step_by(2) {
            let (id, answer) = balanced.ready().await.unwrap().call(number).await.unwrap();
            assert_eq!(
                (&*id, answer),
                ("a", number),
                "the slow one has its deadline, and then another is asked"
            );
        }
        client.registry().deregister("web", "a").await.unwrap();
        until(&mut follower, |known| ids(known, "web") == ["slow"]).await;
        knows(&balanced, 1).await;
        let late = balanced.send(1).await.unwrap_err();
        assert!(matches!(late, CallError::TimedOut { .. }) && late.may_have_been_done(), "{late:?}");
        put(client, "closed", &here(1)).await;
        client.registry().deregister("web", "slow").await.unwrap();
        until(&mut follower, |known| ids(known, "web") == ["closed"]).await;
        loop {
            let refused = balanced.send(1).await.unwrap_err();
            if matches!(&refused, CallError::NotSent { instance, .. } if &**instance == "closed") {
                assert!(!refused.may_have_been_done() && refused.to_string().contains("nobody is there"));
                break;
            }
        }
    })
    .await;
}
