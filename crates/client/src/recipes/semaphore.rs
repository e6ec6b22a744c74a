//! Semaphores: so many at a time.

use std::future::IntoFuture;

use futures_util::future::{join_all, select_all};
use rand::RngExt;

use crate::client::Client;
use crate::error::Error;
use crate::grip::LostReason;
use crate::handle::{Handle, LockMode};
use crate::lock::LockStatus;
use crate::sequencer::Sequencer;

/// Most permits of a semaphore: who waits has so many handles.
const MOST: usize = 64;

/// A number of permits, each a lock file in one directory; made by [`Client::semaphore`].
///
/// * No more than that number are had at once in the eyes of the cell; a permit has a sequencer to show.
/// * A permit whose holder dies is free when its session ends.
/// * Who waits stands in the queues of all permits, so the one that has waited longest for a permit gets it, and a
///   free one wakes nobody else.
#[derive(Clone, Debug)]
pub struct Semaphore {
    client: Client,
    path: String,
    permits: usize,
}

/// A permit; dropping it gives it back in the background.
#[derive(Debug)]
pub struct Permit {
    handle: Handle,
    sequencer: Sequencer,
}

impl Client {
    /// A semaphore in the directory at `path`, with 1 to 64 permits. All who use it must name the same number.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another number.
    pub fn semaphore(&self, path: impl Into<String>, permits: usize) -> Result<Semaphore, Error> {
        if permits == 0 || permits > MOST {
            let message = format!("a semaphore has 1 to {MOST} permits, not {permits}");
            return Err(Error::InvalidArgument { message });
        }
        Ok(Semaphore { client: self.clone(), path: path.into(), permits })
    }
}

impl Semaphore {
    /// Waits for a permit, as long as it takes.
    ///
    /// # Errors
    /// As [`Client::open`] and [`Handle::acquire`].
    pub async fn acquire(&self) -> Result<Permit, Error> {
        let mut handles = self.open().await?;
        if let Some(permit) = try_all(&mut handles).await? {
            return Ok(permit);
        }
        let waits = handles.iter().map(|handle| Box::pin(handle.acquire(LockMode::Exclusive)));
        let (first, index, others) = select_all(waits).await;
        // They leave their queues, and give back what came at the same time.
        drop(others);
        Ok(Permit { sequencer: first?, handle: handles.swap_remove(index) })
    }

    /// A permit, if one is free.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Permit>, Error> {
        try_all(&mut self.open().await?).await
    }

    async fn open(&self) -> Result<Vec<Handle>, Error> {
        // Not all try the same one first.
        let first = rand::rng().random_range(0..self.permits);
        let opening = (0..self.permits).map(|index| {
            let path = format!("{}/{}", self.path, (first + index) % self.permits);
            self.client.open(path).write().create().parents().into_future()
        });
        join_all(opening).await.into_iter().collect()
    }
}

async fn try_all(handles: &mut Vec<Handle>) -> Result<Option<Permit>, Error> {
    for index in 0..handles.len() {
        if let Some(sequencer) = handles[index].try_acquire(LockMode::Exclusive).await? {
            return Ok(Some(Permit { sequencer, handle: handles.swap_remove(index) }));
        }
    }
    Ok(None)
}

impl Permit {
    /// What proves it.
    #[must_use]
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// How it stands, as far as this client knows.
    #[must_use]
    pub fn status(&self) -> LockStatus {
        self.handle.lock_status()
    }

    /// Waits until it is lost, and says why.
    pub async fn lost(&self) -> LostReason {
        self.handle.lost().await
    }

    /// Gives it back.
    ///
    /// # Errors
    /// As [`Handle::release`].
    pub async fn release(self) -> Result<(), Error> {
        self.handle.release().await
    }
}
