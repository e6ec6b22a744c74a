//! A bramah cell under load, through the client that applications use.

use std::sync::Arc;
use std::time::Duration;

use bramah_client::{Client, Handle, LockMode, Route, WatchEvent};
use bytes::Bytes;

use super::target::{Contender, Deliveries, KEY_FOLDER, LOCK_FOLDER, Names, Target, WATCHED};
use crate::cli::BenchRoute;

/// One connection.
#[derive(Clone)]
pub(crate) struct Bramah {
    client: Client,
    names: Arc<Names>,
}

impl Bramah {
    /// The `index`th connection: to one replica each in turn, or to the leader.
    pub(crate) async fn connect(
        addresses: &[String],
        index: usize,
        route: BenchRoute,
        deadline: Duration,
        names: Arc<Names>,
    ) -> Result<Self, String> {
        let route = match route {
            BenchRoute::Spread => Route::Fixed(index % addresses.len()),
            BenchRoute::Leader => Route::Leader,
        };
        let builder = Client::builder().addresses(addresses).name("bramah bench");
        let client =
            builder.route(route).deadline(deadline).connect().await.map_err(|error| error.to_string())?;
        Ok(Self { client, names })
    }

    /// Makes the folder of the files.
    pub(crate) async fn make_folder(&self) -> Result<(), String> {
        self.client.mkdir_all(KEY_FOLDER).await.map(drop).map_err(|error| error.to_string())
    }
}

/// One that wants a lock, with a handle of its own.
pub(crate) struct BramahContender(Handle);

impl Contender for BramahContender {
    async fn acquire_and_release(&mut self) -> Result<(), String> {
        self.0.acquire(LockMode::Exclusive).await.map_err(|error| error.to_string())?;
        self.0.release().await.map_err(|error| error.to_string())
    }
}

impl Target for Bramah {
    type Contender = BramahContender;

    async fn contender(&self, lock: usize) -> Result<BramahContender, String> {
        let open = self.client.open(format!("{LOCK_FOLDER}/{lock:05}")).write().create().parents();
        open.await.map(BramahContender).map_err(|error| error.to_string())
    }

    /// Each watcher is a task of its own, as in an application.
    async fn watch(&self, watchers: usize, deliveries: Deliveries) -> Result<(), String> {
        for _ in 0..watchers {
            let mut watch = self.client.watch(WATCHED).await.map_err(|error| error.to_string())?;
            let deliveries = deliveries.clone();
            tokio::spawn(async move {
                while let Ok(event) = watch.next().await {
                    deliveries.add(usize::from(matches!(event, WatchEvent::Happened(_))));
                }
            });
        }
        Ok(())
    }

    async fn write_watched(&self, value: Bytes) -> Result<(), String> {
        self.client.set(WATCHED, value).await.map(drop).map_err(|error| error.to_string())
    }

    async fn write(&self, key: usize, value: Bytes) -> Result<(), String> {
        self.client
            .set(self.names.keys[key].as_str(), value)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    async fn read(&self, key: usize) -> Result<(), String> {
        self.client.get(self.names.keys[key].as_str()).await.map(drop).map_err(|error| error.to_string())
    }

    async fn increment(&self, counter: usize) -> Result<(), String> {
        let counter = self.client.counter(self.names.counters[counter].as_str());
        counter.increment(1).await.map(drop).map_err(|error| error.to_string())
    }

    async fn exists(&self, key: usize) -> Result<bool, String> {
        match self.client.stat(self.names.keys[key].as_str()).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == bramah_client::Code::NotFound => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn close(self) {
        self.client.close().await;
    }
}
