//! What a handle does with its node's lock (spec L-1 to L-6).

use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation as Op;
use bramah_wire::v1::outcome::Outcome;
use bramah_wire::v1::read_on_handle::Verb as Look;

use super::Handle;
use crate::error::Error;
use crate::grip::{LostReason, Place, Step};
use crate::lock::LockStatus;
use crate::queue::Wish;
use crate::sequencer::Sequencer;

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// By one alone.
    #[default]
    Exclusive,
    /// Together with others who share it.
    Shared,
}

/// Somebody wants the handle's lock. Dropped before it is had: the lock is not wanted, and given back if it comes.
struct Wanting<'a> {
    handle: &'a Handle,
    kept: bool,
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Some(operation) = self.handle.grip.unwant()
        {
            self.handle.wish(operation);
        }
    }
}

/// One who asks the cell for the lock.
struct Asking<'a>(&'a Handle, u64);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.grip.unask(self.1);
    }
}

impl Handle {
    fn wish(&self, operation: Op) {
        // A closed client has closed its handles, and so given back their locks.
        let _ = self.client.shared.queue.wish(Wish::Call((self.grip.clone(), operation)));
    }

    /// Takes the lock; waits for it as long as it takes, first come, first served. Dropping the future leaves the
    /// queue, and gives the lock back if it came meanwhile; the handle stays open (spec H-4, L-2).
    ///
    /// Asked again in the same mode by a handle that holds the lock it gives the same sequencer.
    ///
    /// # Errors
    /// As [`Handle::contents`]; [`Error::LockInUse`] if the handle holds the lock, or waits, in the other mode;
    /// [`Error::TooMany`] waiters.
    pub async fn acquire(&self, mode: LockMode) -> Result<Sequencer, Error> {
        // One who waits as long as it takes gets the lock, or an error.
        self.take(mode, true).await?.ok_or_else(|| Error::unexpected("acquire"))
    }

    /// Takes the lock if it can be had at once; none: it can't, or this handle waits for it already.
    ///
    /// # Errors
    /// As [`Handle::acquire`].
    pub async fn try_acquire(&self, mode: LockMode) -> Result<Option<Sequencer>, Error> {
        self.take(mode, false).await
    }

    /// As [`Handle::acquire`], for so long at most; none: it was not had by then, and is not waited for any more.
    ///
    /// # Errors
    /// As [`Handle::acquire`].
    pub async fn acquire_within(
        &self,
        mode: LockMode,
        patience: Duration,
    ) -> Result<Option<Sequencer>, Error> {
        match tokio::time::timeout(patience, self.acquire(mode)).await {
            Ok(acquired) => acquired.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn take(&self, mode: LockMode, wait: bool) -> Result<Option<Sequencer>, Error> {
        let shared = mode == LockMode::Shared;
        self.grip.check()?;
        self.grip.want(shared)?;
        let mut wanting = Wanting { handle: self, kept: false };
        let mut changes = self.grip.changes();
        loop {
            // First, so that a change after the look wakes.
            changes.mark_unchanged();
            self.grip.check()?;
            match self.grip.step(shared) {
                Step::Held(_) => {
                    if let Some((generation, shared)) = self.grip.keep() {
                        wanting.kept = true;
                        return Ok(Some(self.held(generation, shared)));
                    }
                }
                Step::Ask(question) => match self.ask(question, shared, wait).await {
                    Err(Error::LockHeld { .. }) if !wait => return Ok(None),
                    asked => asked?,
                },
                Step::Wait if wait || self.grip.now().place == Place::Leaving => {
                    // The sender is in the handle.
                    let _ = changes.changed().await;
                }
                Step::Wait => return Ok(None),
            }
        }
    }

    async fn ask(&self, question: u64, shared: bool, wait: bool) -> Result<(), Error> {
        let _asking = Asking(self, question);
        let acquire = v1::Acquire { handle: self.grip.handle, shared, wait };
        // What it gave is in the handle's state by now.
        self.call(Op::Acquire(acquire)).await.map(drop)
    }

    /// Gives the lock back, and so to the next who waits. It is given back even if this future is dropped, or fails for
    /// want of an answer.
    ///
    /// # Errors
    /// [`Error::LockNotHeld`], [`Error::DeadlineExceeded`] without an answer, and as [`Handle::contents`].
    pub async fn release(&self) -> Result<(), Error> {
        self.grip.check()?;
        let Some(operation) = self.grip.give_back() else {
            let message = format!("handle {} doesn't hold the lock of {}", self.number(), self.path());
            return Err(Error::LockNotHeld { message });
        };
        self.wish(operation);
        let mut changes = self.grip.changes();
        let left = changes.wait_for(|state| state.place != Place::Leaving || state.ended.is_some());
        let allowed = self.client.deadline();
        if tokio::time::timeout(allowed, left).await.is_err() {
            let message = format!(
                "no answer to the release of {} within its {} s; it goes on by itself",
                self.path(),
                allowed.as_secs_f64()
            );
            return Err(Error::DeadlineExceeded { message, may_have_been_done: true });
        }
        match self.grip.check() {
            Err(Error::Poisoned { .. }) | Ok(()) => Ok(()),
            ended => ended,
        }
    }

    /// The lock as this handle holds it, by the cell's word.
    ///
    /// # Errors
    /// [`Error::LockNotHeld`], and as [`Handle::contents`].
    pub async fn get_sequencer(&self) -> Result<Sequencer, Error> {
        match self.look(Look::Sequencer(v1::GetSequencer {})).await? {
            Outcome::Sequencer(sequencer) => Ok(sequencer.into()),
            _ => Err(Error::unexpected("get the sequencer")),
        }
    }

    fn held(&self, generation: u64, shared: bool) -> Sequencer {
        let (path, instance) = (self.path().to_owned(), self.instance());
        Sequencer { path, instance, generation, shared }
    }

    /// How the lock stands that this handle has acquired, as far as this client knows. No network.
    #[must_use]
    pub fn lock_status(&self) -> LockStatus {
        let state = self.grip.now();
        if let Some(reason) = state.lost {
            return LockStatus::Lost(reason);
        }
        if !matches!(state.place, Place::Holding { .. }) {
            return LockStatus::Lost(LostReason::NotHeld);
        }
        let shared = &self.client.shared;
        let view = shared.view.lock();
        let until = view.lease_until.filter(|_| view.session == self.session());
        match (until, tokio::time::Instant::now()) {
            (Some(until), now) if now < until => LockStatus::Held,
            (Some(until), now) if now < until + shared.grace => LockStatus::InJeopardy,
            _ => LockStatus::Lost(LostReason::SessionExpired),
        }
    }

    /// Waits until the lock that this handle has acquired is lost. It does not end while the lock is held, also not
    /// when it is released.
    pub async fn lost(&self) -> LostReason {
        let mut changes = self.grip.changes();
        let lost = changes.wait_for(|state| state.lost.is_some()).await;
        lost.ok().and_then(|state| state.lost.clone()).unwrap_or(LostReason::SessionExpired)
    }
}
