//! What happens to a client's session as a whole (spec E-1, S-4).

use std::time::Duration;

use tokio::sync::broadcast;

use crate::client::Client;
use crate::status::Leader;

/// Events that wait for one reader; the oldest are left out.
pub(crate) const BUFFER: usize = 64;

/// How sure a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionState {
    /// Its lease runs: it lives for certain.
    Healthy,
    /// The client's own, careful lease ran out: nobody here knows whether it lives. Calls wait.
    Jeopardy,
}

/// Something that happened to a client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The lease ran out, as far as the client knows: handles and locks may be lost, calls wait. [`SessionEvent::Safe`]
    /// or [`SessionEvent::Expired`] follows within the grace period.
    Jeopardy {
        /// The session.
        session: u64,
        /// How long until it is given up.
        grace: Duration,
    },
    /// After jeopardy: the session lives, and nothing was lost.
    Safe {
        /// The session.
        session: u64,
    },
    /// The session is over, with all its handles and locks.
    Expired {
        /// The session.
        session: u64,
        /// Why.
        reason: String,
    },
    /// Another replica leads the cell now, or the same one again in a new term.
    LeaderChanged {
        /// The leader now.
        leader: Leader,
    },
}

/// What happens to a session, from when it was asked for; made by [`Client::session_events`].
#[derive(Debug)]
pub struct SessionEvents(broadcast::Receiver<SessionEvent>);

impl SessionEvents {
    /// What happens next; none once the client is closed. Of more than 64 that wait the oldest are left out.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Client {
    /// What happens to the session from now on.
    #[must_use]
    pub fn session_events(&self) -> SessionEvents {
        let closed = || broadcast::channel(1).1;
        SessionEvents(self.shared.events.upgrade().map_or_else(closed, |events| events.subscribe()))
    }
}
