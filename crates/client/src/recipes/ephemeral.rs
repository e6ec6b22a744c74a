//! The simplest lock: a file that is there as long as its maker lives.

use bytes::Bytes;

use crate::client::Client;
use crate::error::Error;
use crate::handle::Handle;

/// An ephemeral file that its maker has open; made by [`Client::ephemeral_lock`]. Dropping it closes it, and the file
/// goes.
///
/// * One has it at a time in the eyes of the cell: who comes while it is there doesn't get it.
/// * It has no queue, no sequencer and no lock-delay: [`Client::lock`] has.
/// * Others may open the file to read; then it stays until they close it, too.
#[derive(Debug)]
pub struct EphemeralLock {
    handle: Handle,
}

impl Client {
    /// Makes the ephemeral file at `path` with `contents` that say who has it; none: somebody else has it.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn ephemeral_lock(
        &self,
        path: impl Into<String>,
        contents: impl Into<Bytes>,
    ) -> Result<Option<EphemeralLock>, Error> {
        match self.open(path).write().create_new().ephemeral().contents(contents).await {
            Err(Error::AlreadyExists { .. }) => Ok(None),
            handle => Ok(Some(EphemeralLock { handle: handle? })),
        }
    }

    /// What the one who has the ephemeral file at `path` says of itself; none: nobody has it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn ephemeral_lock_holder(&self, path: impl Into<String>) -> Result<Option<Bytes>, Error> {
        match self.get(path).await {
            Err(Error::NotFound { .. }) => Ok(None),
            file => Ok(Some(file?.contents)),
        }
    }
}

impl EphemeralLock {
    /// The handle that has it open.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Gives it back.
    pub async fn release(self) {
        self.handle.close().await;
    }
}
