//! Queues: things to do, each taken once.

use bytes::Bytes;

use crate::client::Client;
use crate::error::Error;
use crate::files::SetOptions;
use crate::lock::Lock;
use crate::txn::{Guard, TxnOp};
use crate::watch::{EventKind, Watch};

/// A queue of items, each a file, in one directory; made by [`Client::queue`].
///
/// * Items are taken in the order of their numbers, which are given when they are put. One that is put slowly may come
///   after one that has a greater number.
/// * An item is taken by one taker at most, whatever breaks: it goes in one step, which is done only while the taker
///   holds the queue's lock.
/// * A taker that dies before it has taken leaves the item; one that dies afterwards has it taken along.
/// * Takers stand in the lock's queue, and only the first is told of new items.
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    path: String,
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Its number.
    pub number: u64,
    /// What was put.
    pub contents: Bytes,
}

impl Client {
    /// A queue in the directory at `path`.
    pub fn queue(&self, path: impl Into<String>) -> Queue {
        Queue { client: self.clone(), path: path.into() }
    }
}

impl Queue {
    /// Puts an item at the end, and gives its number.
    ///
    /// # Errors
    /// As [`Client::set`]. One that [may have been done](Error::may_have_been_done) may have put the item.
    pub async fn put(&self, contents: impl Into<Bytes>) -> Result<u64, Error> {
        let number = self.client.counter(format!("{}/last", self.path)).increment(1).await?;
        let options = SetOptions { if_generation: Some(0), parents: true };
        self.client.set_with(format!("{}/{number:019}", self.items()), contents, options).await?;
        Ok(number.unsigned_abs())
    }

    fn items(&self) -> String {
        format!("{}/items", self.path)
    }

    /// Takes the first item; waits for it as long as it takes, first come, first served.
    ///
    /// # Errors
    /// As [`Client::lock`] and [`Client::watch`]. One that [may have been done](Error::may_have_been_done) may have
    /// taken an item.
    pub async fn take(&self) -> Result<Item, Error> {
        let lock = self.client.lock(format!("{}/lock", self.path)).parents().await?;
        if let Some(item) = self.take_first(&lock).await? {
            return Ok(item);
        }
        let created = [EventKind::Created];
        let mut watch: Watch = self.client.watch(self.items()).subtree().kinds(created).await?;
        loop {
            if let Some(item) = self.take_first(&lock).await? {
                return Ok(item);
            }
            watch.next().await?;
        }
    }

    /// Takes the first item, if there is one and nobody else is taking.
    ///
    /// # Errors
    /// As [`Queue::take`].
    pub async fn try_take(&self) -> Result<Option<Item>, Error> {
        match self.client.lock(format!("{}/lock", self.path)).parents().try_().await {
            Err(Error::LockHeld { .. }) => Ok(None),
            lock => self.take_first(&lock?).await,
        }
    }

    async fn take_first(&self, lock: &Lock) -> Result<Option<Item>, Error> {
        let first = match self.client.list_page(self.items(), "", 1).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            page => page?.entries.into_iter().next(),
        };
        let Some(entry) = first else { return Ok(None) };
        let path = format!("{}/{}", self.items(), entry.name);
        let number = entry.name.parse().map_err(|_| {
            let message = format!("{path} is no item of a queue: delete it");
            Error::InvalidArgument { message }
        })?;
        let contents = self.client.get(&*path).await?.contents;
        let delete = TxnOp::delete(&*path);
        let done = self.client.txn().when([Guard::held(lock.sequencer())]).then([delete]).commit().await?;
        match done.held {
            true => Ok(Some(Item { number, contents })),
            false => {
                let message = format!("{} was lost before {path} was taken: take again", lock.sequencer());
                Err(Error::LockNotHeld { message })
            }
        }
    }
}
