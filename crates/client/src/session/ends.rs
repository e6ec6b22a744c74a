//! How the session begins, ends and is replaced.

use std::time::Duration;

use bramah_wire::v1;
use tokio::time::Instant;

use super::{Session, View, new_nonce};
use crate::error::Error;

/// Spec S-1: a session without a call for so long is ended.
const IDLE: Duration = Duration::from_secs(60);
/// What a replica gets to answer the other calls once it refused one because the session is over.
const REFUSAL_GRACE: Duration = Duration::from_millis(500);
/// For a session's end to be confirmed.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// For the calls that were made before the client was closed.
const CLOSING_CALLS: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn watch_opening(&mut self, now: Instant) {
        let Some(opening) = self.opening.take_if(|opening| now >= opening.deadline) else {
            return;
        };
        let message = format!(
            "no session was opened within {} s: {}",
            opening.allowed.as_secs_f64(),
            self.addresses.troubles()
        );
        let error = Error::Unavailable { message, may_have_been_done: false, retry_after: Duration::ZERO };
        let _ = opening.reply.send(Err(error));
        self.finished = true;
    }

    pub(super) fn watch_refusal(&mut self, now: Instant) {
        if self.refused_since.is_some_and(|since| now >= since + REFUSAL_GRACE) {
            self.session_over("a call was refused because the session has expired", now);
        }
    }

    /// Ends the session when it was idle for long, or when the client closes.
    pub(super) fn watch_end(&mut self, now: Instant) {
        if let Some((until, _)) = self.ending
            && now >= until
        {
            self.end_session(now);
        }
        let idle = self.calls.is_empty() && now >= self.last_busy + IDLE;
        if idle && self.id != 0 && self.ending.is_none() {
            self.begin_end(now + END_TIMEOUT, now);
        }
        let Some(since) = self.closing_since else { return };
        if self.ending.is_some() || !(self.calls.is_empty() || now >= since + CLOSING_CALLS) {
            return;
        }
        match (self.id, &self.link) {
            (0, _) | (_, None) => self.finished = true,
            _ => self.begin_end(since + END_TIMEOUT, now),
        }
    }

    fn begin_end(&mut self, until: Instant, now: Instant) {
        self.attempt = None;
        self.ending = Some((until, false));
        if self.link.is_none() {
            self.end_session(now);
        }
    }

    /// The session was ended from here. Calls that were made since get a new one.
    pub(super) fn end_session(&mut self, now: Instant) {
        self.forget_session("the client has ended it", now);
        self.finished |= self.closing_since.is_some();
    }

    pub(super) fn session_over(&mut self, reason: &str, now: Instant) {
        let message = format!("session {} of cell {} is over: {reason}", self.id, self.cell);
        tracing::debug!(session = self.id, %reason, "the session is over");
        self.forget_session(&message, now);
    }

    fn forget_session(&mut self, message: &str, now: Instant) {
        self.drop_link();
        self.calls.session_lost(message);
        self.id = 0;
        self.nonce = new_nonce(&mut self.random);
        self.lease.clear();
        (self.attempt, self.refused_since, self.ending) = (None, None, None);
        self.next_attempt = now;
        *self.view.lock() = View::default();
    }

    /// The cell will not have this client at all: trying again is of no use.
    pub(super) fn refused_for_good(&mut self, failure: &v1::Failure, now: Instant) {
        self.calls.fail_all(|uncertain| Error::from_failure(failure.clone(), uncertain));
        self.forget_session(&failure.message, now);
        if let Some(opening) = self.opening.take() {
            let _ = opening.reply.send(Err(Error::from_failure(failure.clone(), false)));
            self.finished = true;
        }
    }

    /// When one of the things above is due next.
    pub(super) fn end_due(&self) -> Option<Instant> {
        let ending = self.ending.map(|(until, _)| until);
        let may_end = self.ending.is_none();
        let idle = may_end && self.id != 0 && self.calls.is_empty();
        let times = [
            ending,
            idle.then(|| self.last_busy + IDLE),
            self.closing_since.filter(|_| may_end).map(|since| since + CLOSING_CALLS),
            self.opening.as_ref().map(|opening| opening.deadline),
            self.refused_since.map(|since| since + REFUSAL_GRACE),
        ];
        times.into_iter().flatten().min()
    }
}
