//! Counters: numbers that many add to at once, each addition counted exactly once.

use std::sync::Arc;

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::client::Client;
use crate::error::Error;

/// How something is to be added to a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncrementOptions {
    /// Make the counter, at zero, if it is missing, and missing ancestors too.
    pub create: bool,
    /// The sum must not be less than this.
    pub floor: Option<i64>,
    /// The sum must not be more than this.
    pub ceiling: Option<i64>,
}

/// A counter of a cell; made by [`Client::counter`]. Increments of it don't disturb each other, so any
/// number may be under way.
#[derive(Clone, Debug)]
pub struct Counter {
    client: Client,
    path: Arc<str>,
}

impl Counter {
    pub(crate) fn new(client: Client, path: String) -> Self {
        Self { client, path: path.into() }
    }

    /// The counter's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Adds `delta`, which may be negative, and gives the new value. A missing counter is made, at zero.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the sum doesn't fit into 64 bits: the counter keeps its value.
    pub async fn increment(&self, delta: i64) -> Result<i64, Error> {
        self.add(delta, IncrementOptions { create: true, ..Default::default() }).await
    }

    /// Adds `delta` as `options` say and gives the new value.
    ///
    /// # Errors
    /// As [`Counter::increment`], also for floor and ceiling; [`Error::NotFound`] when the counter is missing and
    /// isn't to be made.
    pub async fn add(&self, delta: i64, options: IncrementOptions) -> Result<i64, Error> {
        let IncrementOptions { create, floor, ceiling } = options;
        let path = self.path.to_string();
        let operation = Operation::Increment(v1::Increment { path, delta, create, floor, ceiling });
        value(self.client.call(operation).await?)
    }

    /// The value as of some moment during the call.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::WrongKind`] for a node that is no counter.
    pub async fn get(&self) -> Result<i64, Error> {
        let path = self.path.to_string();
        value(self.client.call(Operation::GetCounter(v1::GetCounter { path })).await?)
    }

    /// Sets the value. A missing counter is made.
    ///
    /// # Errors
    /// [`Error::WrongKind`] for a node that is no counter.
    pub async fn reset(&self, value: i64) -> Result<i64, Error> {
        self.set(value, None, true).await
    }

    /// Sets the value if it is `expect` now.
    ///
    /// # Errors
    /// [`Error::ValueMismatch`] with the value that the counter has; [`Error::NotFound`].
    pub async fn compare_and_reset(&self, expect: i64, value: i64) -> Result<i64, Error> {
        self.set(value, Some(expect), false).await
    }

    async fn set(&self, new: i64, expect: Option<i64>, create: bool) -> Result<i64, Error> {
        let path = self.path.to_string();
        let operation = Operation::ResetCounter(v1::ResetCounter { path, value: new, expect, create });
        value(self.client.call(operation).await?)
    }
}

pub(crate) fn value(outcome: Outcome) -> Result<i64, Error> {
    match outcome {
        Outcome::Counter(v1::CounterValue { value, .. }) => Ok(value),
        _ => Err(Error::unexpected("a call to a counter")),
    }
}
