//! Long looks at the state: away from the fronts' threads, and few at once.

use std::sync::Arc;

use bramah_cell::Cell;
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pinned::Pinned;
use super::translate::{self, Caller, Read};

/// Walks at once, of all clients.
const MOST: usize = 8;

/// When one that was refused may come again, in milliseconds.
const AGAIN_MS: u32 = 100;

/// The places for walks. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::front) struct Walks(Arc<Semaphore>);

impl Default for Walks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Walks {
    /// Looks, on a thread where that may take long.
    pub(in crate::front) async fn read(
        &self,
        cell: &Cell,
        pinned: Pinned,
        caller: Caller,
        read: Read,
    ) -> v1::Outcome {
        let place = match self.place() {
            Ok(place) => place,
            Err(failure) => return translate::failed(failure),
        };
        let look = move |state: &_| {
            let outcome = translate::read(state, &pinned, &caller, &read);
            drop(place);
            outcome
        };
        cell.look_long(look).await.unwrap_or_else(|error| translate::failed(translate::undone(&error)))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, v1::Failure> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let why = format!("{MOST} long reads are under way at this replica; try again in {AGAIN_MS} ms");
            v1::Failure { retry_after_ms: AGAIN_MS, ..translate::failure(Code::Overloaded, why) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec G-11: however many ask, few walks are under way; the others are told to come again.
    #[test]
    fn walks_are_few() {
        let walks = Walks::default();
        let mut under_way: Vec<_> = (0..MOST).map(|_| walks.place().expect("there is room")).collect();
        let refused = walks.clone().place().expect_err("no more");
        assert_eq!((refused.code(), refused.retry_after_ms), (Code::Overloaded, AGAIN_MS));
        under_way.pop();
        assert!(walks.place().is_ok(), "one has ended");
    }
}
