//! Where callers leave their calls and wishes for the session's task: bounded, and it wakes the task only when it was
//! empty.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramah_wire::limits::{MAX_IN_FLIGHT_PER_SESSION, MAX_MESSAGE_BYTES};
use bramah_wire::v1;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use crate::calls::{Answer, Call, Lasting, Reply, describe, has_effect};
use crate::error::Error;
use crate::grip::{FollowUp, Grip};
use crate::watch::Inbox;
use crate::watches::Interest;

/// What a message holds beside its calls, rounded up generously.
const MESSAGE_OVERHEAD: usize = 16 << 10;
/// Most bytes of operations in one message.
pub(crate) const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES - MESSAGE_OVERHEAD;
/// What a call takes beside its operation: tags, lengths, number and deadline.
const CALL_OVERHEAD: usize = 32;

pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// A call takes one before it is queued and gives it back when its number leaves the session's window, or
    /// when it ends without a number. So no window is ever wider than this.
    places: Semaphore,
    last_watch: AtomicU64,
}

/// What is wanted of the task beside calls; each kind is bounded by what the application has: its watches and handles.
pub(crate) enum Wish {
    Watch {
        number: u64,
        interest: Interest,
        inbox: Arc<Inbox>,
    },
    Unwatch {
        number: u64,
    },
    /// Close a handle, and let go of `told` when that is done.
    Close {
        session: u64,
        handle: u64,
        told: Option<oneshot::Sender<()>>,
    },
    /// Make a call that nobody waits for.
    Call(FollowUp),
}

#[derive(Default)]
struct Waiting {
    calls: Vec<Call>,
    wishes: Vec<Wish>,
    /// No further calls are taken; the session is to end.
    closing: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            places: Semaphore::new(MAX_IN_FLIGHT_PER_SESSION),
            last_watch: AtomicU64::new(0),
        }
    }

    /// A number that no watch of this client had.
    pub(crate) fn next_watch(&self) -> u64 {
        self.last_watch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Leaves a wish.
    pub(crate) fn wish(&self, wish: Wish) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        if waiting.closing {
            return Err(Error::closed(false));
        }
        waiting.wishes.push(wish);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Makes a call and waits for its answer. Dropping the future gives up waiting, not the call. `grip`: the handle
    /// that it is made through.
    pub(crate) async fn call(
        &self,
        operation: v1::operation::Operation,
        allowed: Duration,
        grip: Option<Arc<Grip>>,
    ) -> Answer {
        let (has_effect, lasting) = (has_effect(&operation), Lasting::of(&operation));
        let operation = v1::Operation { operation: Some(operation) };
        let size = operation.encoded_len() + CALL_OVERHEAD;
        if size > MAX_BATCH_BYTES {
            return Err(too_large(&operation, size));
        }
        let deadline = Instant::now() + allowed;
        self.take_place(&operation, deadline, allowed).await?;
        let (reply, answer) = oneshot::channel();
        let session = grip.as_ref().map(|grip| grip.session);
        let reply = Reply::Caller(reply);
        self.push(Call { operation, size, has_effect, deadline, allowed, grip, session, lasting, reply })?;
        // The task drops a call unanswered only when its runtime is being shut down.
        answer.await.unwrap_or_else(|_| Err(Error::closed(has_effect)))
    }

    /// Takes a place for a call; the session's task gives it back with [`Queue::release`].
    async fn take_place(
        &self,
        operation: &v1::Operation,
        deadline: Instant,
        allowed: Duration,
    ) -> Result<(), Error> {
        let place = match self.places.try_acquire() {
            Ok(place) => Ok(place),
            // Only a full window costs a timer.
            Err(_) => match tokio::time::timeout_at(deadline, self.places.acquire()).await {
                Ok(place) => place,
                Err(_) => return Err(no_place(operation, allowed)),
            },
        };
        place.map(|place| place.forget()).map_err(|_| Error::closed(false))
    }

    fn push(&self, call: Call) -> Result<(), Error> {
        let mut waiting = self.waiting.lock();
        if waiting.closing {
            return Err(Error::closed(false));
        }
        if let Some(grip) = &call.grip {
            grip.queue(&call.operation);
        }
        waiting.calls.push(call);
        if waiting.calls.len() == 1 && waiting.wishes.is_empty() {
            drop(waiting);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves what waits into `calls`, which must be empty, and `wishes`, and says whether the client is closing.
    pub(crate) fn drain(&self, calls: &mut Vec<Call>, wishes: &mut Vec<Wish>) -> bool {
        let mut waiting = self.waiting.lock();
        std::mem::swap(&mut waiting.calls, calls);
        wishes.append(&mut waiting.wishes);
        waiting.closing
    }

    /// Takes a place for a call of the task's own, if there is one.
    pub(crate) fn try_place(&self) -> bool {
        self.places.try_acquire().map(|place| place.forget()).is_ok()
    }

    /// Waits until there was something to drain.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn release(&self, places: usize) {
        if places > 0 {
            self.places.add_permits(places);
        }
    }

    /// Takes no further calls and wakes the task, which ends the session.
    pub(crate) fn close(&self) {
        self.waiting.lock().closing = true;
        self.places.close();
        self.wake.notify_one();
    }
}

fn too_large(operation: &v1::Operation, size: usize) -> Error {
    let asked = describe(operation);
    Error::TooLarge { message: format!("{asked}: {size} bytes are more than a call's {MAX_BATCH_BYTES}") }
}

fn no_place(operation: &v1::Operation, allowed: Duration) -> Error {
    let message = format!(
        "{} was not sent within its {} s: {MAX_IN_FLIGHT_PER_SESSION} calls of this client wait before it; \
         use more clients, or make fewer calls at once",
        describe(operation),
        allowed.as_secs_f64(),
    );
    Error::DeadlineExceeded { message, may_have_been_done: false }
}
