//! Calls that the task makes of its own accord: what handles are closed, and what nobody wants any more.

use std::time::Duration;

use bramah_wire::v1;
use bramah_wire::v1::operation::Operation as Op;
use prost::Message;

use super::{DEFAULT_DEADLINE, Instant, Session};
use crate::calls::{Call, FAR, Lasting, Reply, has_effect};

/// Most handles closed by one call.
const MOST_CLOSED: usize = 1000;
/// How long the cell gets to say, on a new connection, what the handles are to their locks.
pub(super) const LOOK_AFTER: Duration = Duration::from_millis(500);

impl Session {
    /// Makes them as there is place for calls; they go before what callers wait to leave.
    pub(super) fn make_own_calls(&mut self, now: Instant) {
        if self.link.is_some() && self.look_at.take_if(|at| now >= *at).is_some() {
            self.background.extend(self.handles.look());
        }
        self.background.extend(self.calls.take_follow_ups());
        self.closes.extend(self.calls.take_orphans().into_iter().map(|handle| (handle, None)));
        self.again.extend(self.calls.take_rested(now));
        let mut places = self.calls.take_released();
        while !self.closes.is_empty() || !self.background.is_empty() || !self.again.is_empty() {
            if places > 0 {
                places -= 1;
            } else if !self.queue.try_place() {
                break;
            }
            if let Some(call) = self.own_call(now) {
                self.calls.submit(call);
            }
        }
        self.queue.release(places);
    }

    fn own_call(&mut self, now: Instant) -> Option<Call> {
        if let Some(call) = self.again.pop_front() {
            return Some(call);
        }
        let most = self.closes.len().min(MOST_CLOSED);
        let (handles, told): (Vec<_>, Vec<_>) = self.closes.drain(..most).unzip();
        let (operation, grip, reply) = if handles.is_empty() {
            let (grip, operation) = self.background.pop_front()?;
            (operation, Some(grip), Reply::Nobody)
        } else {
            let told = told.into_iter().flatten().collect();
            (Op::CloseHandles(v1::CloseHandles { handles }), None, Reply::Waiters(told))
        };
        let session = Some(grip.as_ref().map_or(self.id, |grip| grip.session));
        let has_effect = has_effect(&operation);
        let operation = v1::Operation { operation: Some(operation) };
        Some(Call {
            size: operation.encoded_len(),
            operation,
            has_effect,
            deadline: now + FAR,
            allowed: DEFAULT_DEADLINE,
            grip,
            session,
            lasting: Lasting::Always,
            reply,
        })
    }
}
