//! Latches: many wait until something was done so many times.

use crate::client::Client;
use crate::counter::{Counter, IncrementOptions};
use crate::error::Error;
use crate::txn::{Guard, TxnOp};
use crate::watch::{Change, EventKind, WatchEvent};

/// A count that goes down to zero once, on a counter; made by [`Client::latch`].
///
/// * Each [`Latch::count_down`] counts exactly once (spec K-2), and never below zero.
/// * Who waits is told the counts by events, and reads only at the beginning or after a gap.
/// * A party that dies before it counts down is not counted down for.
#[derive(Clone, Debug)]
pub struct Latch {
    client: Client,
    counter: Counter,
}

impl Client {
    /// A latch on the counter at `path`.
    pub fn latch(&self, path: impl Into<String>) -> Latch {
        Latch { client: self.clone(), counter: self.counter(path) }
    }
}

impl Latch {
    /// Sets the count if there is none yet: false, if there is.
    ///
    /// # Errors
    /// As [`Txn::commit`](crate::Txn::commit).
    pub async fn create(&self, count: u32) -> Result<bool, Error> {
        let path = self.counter.path();
        let set = TxnOp::reset_counter(path, count.into());
        Ok(self.client.txn().when([Guard::absent(path)]).then([set]).commit().await?.held)
    }

    /// Counts down by one, and gives what is left.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a count.
    pub async fn count_down(&self) -> Result<u64, Error> {
        let options = IncrementOptions { floor: Some(0), ..IncrementOptions::default() };
        match self.counter.add(-1, options).await {
            Err(Error::OutOfRange { .. }) => Ok(0),
            left => Ok(left?.unsigned_abs()),
        }
    }

    /// Waits until the count is zero.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a count; as [`Client::watch`].
    pub async fn wait(&self) -> Result<(), Error> {
        let kinds = [EventKind::CounterChanged, EventKind::Deleted];
        let mut watch = self.client.watch(self.counter.path()).kinds(kinds).await?;
        let mut left = self.counter.get().await?;
        while left > 0 {
            left = match watch.next().await? {
                WatchEvent::Happened(event) => match event.change {
                    Change::CounterChanged { value } => value,
                    _ => self.counter.get().await?,
                },
                WatchEvent::Gap { .. } => self.counter.get().await?,
            };
        }
        Ok(())
    }
}
