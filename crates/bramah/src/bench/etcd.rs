//! etcd under load, through its v3 gRPC API, as a careful client of its own would use it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tonic::transport::{Channel, Endpoint};

use super::target::{Contender, Deliveries, LOCK_FOLDER, Names, Target, WATCHED};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("etcdserverpb");
}

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod lock_proto {
    tonic::include_proto!("v3lockpb");
}

use lock_proto::lock_client::LockClient;
use proto::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::kv_client::KvClient;
use proto::lease_client::LeaseClient;
use proto::maintenance_client::MaintenanceClient;
use proto::request_op::Request;
use proto::response_op::Response;
use proto::watch_client::WatchClient;
use proto::watch_request::RequestUnion;

/// Longer than any bench, so that nothing has to keep a lease alive.
const LEASE_SECONDS: i64 = 86_400;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of its own to `address`.
pub(crate) async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = endpoint(address)?;
    endpoint.connect().await.map_err(|error| format!("cannot reach etcd at {address}: {}", chain(&error)))
}

/// A connection that is made at its first call and again whenever it broke.
pub(crate) fn connect_lazily(address: &str) -> Result<Channel, String> {
    Ok(endpoint(address)?.connect_lazy())
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is not an address: {error}"))?;
    Ok(endpoint.tcp_nodelay(true).connect_timeout(CONNECT_TIMEOUT))
}

/// The address of the leader among `addresses`.
pub(crate) async fn leader(addresses: &[String]) -> Result<String, String> {
    for address in addresses {
        let Ok(channel) = connect(address).await else {
            continue;
        };
        let status = MaintenanceClient::new(channel).status(proto::StatusRequest {}).await;
        let Ok(status) = status.map(tonic::Response::into_inner) else {
            continue;
        };
        let own_id = status.header.map_or(0, |header| header.member_id);
        if status.leader != 0 && status.leader == own_id {
            return Ok(address.clone());
        }
    }
    Err(format!("no etcd leader among {}", addresses.join(", ")))
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Etcd {
    channel: Channel,
    kv: KvClient<Channel>,
    names: Arc<Names>,
}

impl Etcd {
    /// Speaks over `channel`.
    pub(crate) fn new(channel: Channel, names: Arc<Names>) -> Self {
        Self { kv: KvClient::new(channel.clone()), channel, names }
    }

    async fn range(&self, key: &Bytes) -> Result<Current, String> {
        let request = proto::RangeRequest { key: key.clone(), ..Default::default() };
        let reply = self.kv.clone().range(request).await.map_err(|status| status.to_string())?;
        Current::of(&reply.into_inner())
    }
}

/// A counter as etcd has it now.
struct Current {
    value: i64,
    mod_revision: i64,
}

impl Current {
    fn of(reply: &proto::RangeResponse) -> Result<Self, String> {
        let Some(pair) = reply.kvs.first() else {
            return Ok(Self { value: 0, mod_revision: 0 });
        };
        let text = std::str::from_utf8(&pair.value).map_err(|error| error.to_string())?;
        let value = text.parse().map_err(|_| format!("{text:?} is not a counter"))?;
        Ok(Self { value, mod_revision: pair.mod_revision })
    }
}

/// Puts `value + 1` if nobody else has changed the key; otherwise reads it in the same round trip.
fn compare_and_increment(key: &Bytes, current: &Current) -> proto::TxnRequest {
    let next = Bytes::from((current.value + 1).to_string());
    let put = proto::PutRequest { key: key.clone(), value: next };
    let read = proto::RangeRequest { key: key.clone(), ..Default::default() };
    proto::TxnRequest {
        compare: vec![proto::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(current.mod_revision)),
        }],
        success: vec![proto::RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![proto::RequestOp { request: Some(Request::RequestRange(read)) }],
    }
}

/// One that wants a lock, under a lease of its own: etcd takes two requests under one lease for one holder's.
pub(crate) struct EtcdContender {
    locks: LockClient<Channel>,
    name: Bytes,
    lease: i64,
}

impl Contender for EtcdContender {
    async fn acquire_and_release(&mut self) -> Result<(), String> {
        let request = lock_proto::LockRequest { name: self.name.clone(), lease: self.lease };
        let held = self.locks.lock(request).await.map_err(|status| status.to_string())?;
        let request = lock_proto::UnlockRequest { key: held.into_inner().key };
        self.locks.unlock(request).await.map(drop).map_err(|status| status.to_string())
    }
}

impl Target for Etcd {
    type Contender = EtcdContender;

    async fn contender(&self, lock: usize) -> Result<EtcdContender, String> {
        let request = proto::LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 };
        let granted = LeaseClient::new(self.channel.clone()).lease_grant(request).await;
        let lease = granted.map_err(|status| status.to_string())?.into_inner().id;
        let name = format!("{LOCK_FOLDER}/{lock:05}").into();
        Ok(EtcdContender { locks: LockClient::new(self.channel.clone()), name, lease })
    }

    /// All watchers of a connection on one stream, as etcd's own client does it.
    async fn watch(&self, watchers: usize, deliveries: Deliveries) -> Result<(), String> {
        let create = proto::WatchCreateRequest { key: WATCHED.into(), ..Default::default() };
        let request = proto::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream must stay open on our side.
        let requests = stream::iter(vec![request; watchers]).chain(stream::pending());
        let told = WatchClient::new(self.channel.clone()).watch(requests).await;
        let mut told = told.map_err(|status| status.to_string())?.into_inner();
        for _ in 0..watchers {
            let response = told.message().await.map_err(|status| status.to_string())?;
            if !response.is_some_and(|response| response.created) {
                return Err("etcd did not begin a watch".into());
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(response)) = told.message().await {
                deliveries.add(response.events.len());
            }
        });
        Ok(())
    }

    async fn write_watched(&self, value: Bytes) -> Result<(), String> {
        let request = proto::PutRequest { key: WATCHED.into(), value };
        self.kv.clone().put(request).await.map(drop).map_err(|status| status.to_string())
    }

    async fn write(&self, key: usize, value: Bytes) -> Result<(), String> {
        let request =
            proto::PutRequest { key: Bytes::copy_from_slice(self.names.keys[key].as_bytes()), value };
        self.kv.clone().put(request).await.map(drop).map_err(|status| status.to_string())
    }

    async fn read(&self, key: usize) -> Result<(), String> {
        let key = Bytes::copy_from_slice(self.names.keys[key].as_bytes());
        let request = proto::RangeRequest { key, ..Default::default() };
        let reply = self.kv.clone().range(request).await.map_err(|status| status.to_string())?;
        if reply.into_inner().kvs.is_empty() { Err("the key is missing".into()) } else { Ok(()) }
    }

    /// A compare-and-swap loop, as etcd has no counters: read, then a transaction on the modification revision
    /// whose other branch reads again, until it succeeds. Only the success counts.
    async fn increment(&self, counter: usize) -> Result<(), String> {
        let key = Bytes::copy_from_slice(self.names.counters[counter].as_bytes());
        let mut current = self.range(&key).await?;
        loop {
            let request = compare_and_increment(&key, &current);
            let reply = self.kv.clone().txn(request).await.map_err(|status| status.to_string())?.into_inner();
            if reply.succeeded {
                return Ok(());
            }
            let other_branch = reply.responses.into_iter().next().and_then(|response| response.response);
            let Some(Response::ResponseRange(range)) = other_branch else {
                return Err("etcd answered a transaction without the branch that was asked for".into());
            };
            current = Current::of(&range)?;
        }
    }

    async fn exists(&self, key: usize) -> Result<bool, String> {
        let key = Bytes::copy_from_slice(self.names.keys[key].as_bytes());
        let request = proto::RangeRequest { key, ..Default::default() };
        let reply = self.kv.clone().range(request).await.map_err(|status| status.to_string())?;
        Ok(!reply.into_inner().kvs.is_empty())
    }

    async fn close(self) {}
}

/// An error with all its causes: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
