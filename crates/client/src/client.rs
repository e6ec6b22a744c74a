//! The handle an application holds.

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use crate::builder::{ClientBuilder, IntoAddresses, check_deadline};
use crate::counter::Counter;
use crate::error::Error;
use crate::grip::Grip;
use crate::handles::Handles;
use crate::names::canonical;
use crate::queue::Queue;
use crate::session::{Common, Opening, Session, Settings, View};
use crate::session_events::{self, SessionEvent, SessionState};
use crate::token::Token;

/// How long [`Client::close`] waits: what the session's task takes at most, and a little.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(2500);

/// A session with a cell. Clones are cheap and share the session; all calls may be made at once.
///
/// Dropping the future of a call gives up waiting for its answer; the call may still be done. When the last clone
/// is dropped the session is ended in the background; [`Client::close`] waits for that.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    deadline: Duration,
}

pub(crate) struct Shared {
    pub(crate) queue: Arc<Queue>,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) events: broadcast::WeakSender<SessionEvent>,
    pub(crate) grace: Duration,
    pub(crate) token: Token,
    done: watch::Receiver<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Where a client's session stands; see [`Client::session`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's number in its cell.
    pub session: u64,
    /// The cell's name.
    pub cell: String,
    /// The replica that the session is at, or was last.
    pub replica: u64,
    /// Its address.
    pub address: String,
    /// Whether there is a connection now.
    pub connected: bool,
    /// How much longer the session lives for certain, counted carefully; zero: it may be over (*jeopardy*).
    pub lease_left: Duration,
    /// Whether it lives for certain.
    pub state: SessionState,
}

impl Client {
    /// Opens a session with the cell that has replicas at `addresses`, with default settings.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(addresses: impl IntoAddresses) -> Result<Self, Error> {
        Self::builder().addresses(addresses).connect().await
    }

    /// Settings for a client that differ from the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) async fn start(settings: Settings, deadline: Duration) -> Result<Self, Error> {
        let queue = Arc::new(Queue::new());
        let view = Arc::new(Mutex::new(View::default()));
        let (reply, opened) = oneshot::channel();
        let (sender, done) = watch::channel(());
        let (teller, _) = broadcast::channel(session_events::BUFFER);
        let events = teller.downgrade();
        let handles = Arc::<Handles>::default();
        let (grace, token) = (settings.grace, settings.token.clone());
        let opening = Opening { deadline: Instant::now() + deadline, allowed: deadline, reply };
        let common = Common { queue: queue.clone(), view: view.clone(), handles: handles.clone() };
        let session = Session::new(settings, common, teller, opening, sender);
        let shared = Shared { queue, view, handles, events, grace, token, done };
        let client = Self { shared: Arc::new(shared), deadline };
        tokio::spawn(session.run());
        opened.await.unwrap_or_else(|_| Err(Error::closed(false)))?;
        Ok(client)
    }

    /// The same session with another deadline for the calls made here: more than 0, at most 60 s.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a deadline out of these bounds.
    pub fn with_deadline(&self, deadline: Duration) -> Result<Self, Error> {
        check_deadline(deadline)?;
        Ok(Self { shared: self.shared.clone(), deadline })
    }

    /// How long a call may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The counter at `path`, which need not exist.
    #[must_use]
    pub fn counter(&self, path: impl Into<String>) -> Counter {
        Counter::new(self.clone(), path.into())
    }

    /// Where the session stands; none when it is over or was ended for idleness. The next call opens another.
    #[must_use]
    pub fn session(&self) -> Option<SessionInfo> {
        let view = self.shared.view.lock();
        let now = Instant::now();
        let lease_left =
            view.lease_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let state = if lease_left.is_zero() { SessionState::Jeopardy } else { SessionState::Healthy };
        (view.session != 0).then(|| SessionInfo {
            session: view.session,
            cell: view.cell.clone(),
            replica: view.replica,
            address: view.address.clone(),
            connected: view.channel.is_some(),
            lease_left,
            state,
        })
    }

    /// Ends the session, for all clones, and waits for it, 2.5 s at most. Calls made before get a second
    /// to finish; calls made after fail with [`Error::Closed`].
    pub async fn close(self) {
        self.shared.queue.close();
        let mut done = self.shared.done.clone();
        // The sender never sends: it is dropped with the task.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, done.changed()).await;
    }

    /// The one name of the node at `path`.
    pub(crate) fn canonical(&self, path: &str) -> String {
        canonical(path, &self.shared.view.lock().cell)
    }

    pub(crate) async fn call(&self, operation: Operation) -> Result<Outcome, Error> {
        Ok(self.shared.queue.call(operation, self.deadline, None).await?.outcome)
    }

    /// As [`Client::call`], through a handle: it fails if the handle's session is over.
    pub(crate) async fn call_through(
        &self,
        grip: &Arc<Grip>,
        operation: Operation,
    ) -> Result<Outcome, Error> {
        Ok(self.shared.queue.call(operation, self.deadline, Some(grip.clone())).await?.outcome)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("session", &self.session()).finish_non_exhaustive()
    }
}
