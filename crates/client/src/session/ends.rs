//! How the session begins, ends and is replaced.

use std::time::Duration;

use bramah_wire::v1;
use tokio::time::Instant;

use super::{Session, new_nonce};
use crate::error::Error;
use crate::grip::Ended;
use crate::session_events::SessionEvent;

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
        let error = match self.refusal.take() {
            Some(refusal) => Error::from_failure(refusal, false),
            None => Error::Unavailable { message, may_have_been_done: false, retry_after: Duration::ZERO },
        };
        let _ = opening.reply.send(Err(error));
        self.finished = true;
    }

    pub(super) fn watch_refusal(&mut self, now: Instant) {
        if self.refused_since.is_some_and(|since| now >= since + REFUSAL_GRACE) {
            self.session_over("a call was refused because the session has expired", now);
        }
    }

    /// Jeopardy begins and ends, and with the grace period the session (spec S-4; Chubby §2.8).
    pub(super) fn watch_lease(&mut self, now: Instant) {
        let Some(until) = self.lease.until().filter(|_| self.ending.is_none()) else { return };
        let (session, grace) = (self.id, self.settings.grace);
        if now < until {
            if std::mem::take(&mut self.jeopardy) {
                self.tell(SessionEvent::Safe { session });
            }
            return;
        }
        if !std::mem::replace(&mut self.jeopardy, true) {
            let grace = (until + grace).saturating_duration_since(now);
            self.tell(SessionEvent::Jeopardy { session, grace });
        }
        if now >= until + grace {
            let reason = format!("its lease ran out, and nobody extended it for {} s", grace.as_secs_f64());
            self.session_over(&reason, now);
        }
    }

    pub(super) fn tell(&self, event: SessionEvent) {
        tracing::debug!(?event, "session");
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Ends the session when it was idle for long, or when the client closes.
    pub(super) fn watch_end(&mut self, now: Instant) {
        if let Some((until, _)) = self.ending
            && now >= until
        {
            self.end_session(now);
        }
        let idle = self.is_idle() && now >= self.last_busy + IDLE;
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
        let session = self.id;
        self.forget_session(&message, now);
        self.tell_expired(session, reason);
    }

    /// Once its handles are dead: who hears of it finds them so.
    fn tell_expired(&self, session: u64, reason: &str) {
        if session != 0 {
            self.tell(SessionEvent::Expired { session, reason: reason.to_owned() });
        }
    }

    fn forget_session(&mut self, message: &str, now: Instant) {
        self.drop_link();
        let end = match self.closing_since {
            Some(_) => Ended::ClientClosed,
            None => Ended::SessionExpired(message.to_owned()),
        };
        // Before the calls: who hears that the session expired must find its handles dead.
        self.handles.session_over(&end);
        self.view.lock().clear();
        self.calls.session_lost(message);
        self.closes.clear();
        self.background.clear();
        self.again.clear();
        self.addresses.forget_refusals();
        self.refusal = None;
        (self.jeopardy, self.look_at) = (false, None);
        self.id = 0;
        self.nonce = new_nonce(&mut self.random);
        self.lease.clear();
        (self.attempt, self.refused_since, self.ending) = (None, None, None);
        self.next_attempt = now;
    }

    /// The cell will not have this client at all: trying again is of no use.
    pub(super) fn refused_for_good(&mut self, failure: &v1::Failure, now: Instant) {
        let session = self.id;
        self.calls.fail_all(|uncertain| Error::from_failure(failure.clone(), uncertain));
        self.watches.fail_all(&Error::from_failure(failure.clone(), false));
        self.forget_session(&failure.message, now);
        self.tell_expired(session, &failure.message);
        if let Some(opening) = self.opening.take() {
            let _ = opening.reply.send(Err(Error::from_failure(failure.clone(), false)));
            self.finished = true;
        }
    }

    /// When one of the things above is due next.
    pub(super) fn end_due(&self) -> Option<Instant> {
        let ending = self.ending.map(|(until, _)| until);
        let may_end = self.ending.is_none();
        let idle = may_end && self.id != 0 && self.is_idle();
        let grace = if self.jeopardy { self.settings.grace } else { Duration::ZERO };
        let times = [
            self.lease.until().filter(|_| may_end).map(|until| until + grace),
            ending,
            idle.then(|| self.last_busy + IDLE),
            self.closing_since.filter(|_| may_end).map(|since| since + CLOSING_CALLS),
            self.opening.as_ref().map(|opening| opening.deadline),
            self.refused_since.map(|since| since + REFUSAL_GRACE),
        ];
        times.into_iter().flatten().min()
    }
}
