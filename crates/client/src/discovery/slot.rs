//! The connection to one instance, made when it is first needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bramah_balance::Time;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::connector::{BoxError, Connector};
use super::snapshot::Registered;

/// The balancer's time: since it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Time {
        Time::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// On tokio's clock.
    pub(super) fn instant(self, time: Time) -> Instant {
        // Later than anything waits.
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        self.0 + Duration::from_nanos(time.nanos()).min(self.0.elapsed() + LONG)
    }
}

/// An instance, and the service that speaks to it once there is one.
pub(super) struct Slot<S> {
    pub(super) registered: Arc<Registered>,
    service: RwLock<Option<S>>,
    /// Held by the one who connects. What the last attempt failed with is there for those who waited for it.
    connecting: Mutex<Option<String>>,
    attempts: AtomicU64,
}

impl<S: Clone> Slot<S> {
    pub(super) fn new(registered: Arc<Registered>) -> Self {
        Self {
            registered,
            service: RwLock::new(None),
            connecting: Mutex::new(None),
            attempts: AtomicU64::new(0),
        }
    }

    /// Whether it is the same place, so that its connection can stay.
    pub(super) fn is_at(&self, registered: &Registered) -> bool {
        self.registered.instance.authority() == registered.instance.authority()
    }

    fn ready<R, C: Connector<R, Service = S>>(&self, connector: &C) -> Option<S> {
        self.service.read().as_ref().filter(|service| connector.is_alive(service)).cloned()
    }

    /// The service, connected if need be. Of many who come at once one connects, and all have what came of it.
    pub(super) async fn service<R, C: Connector<R, Service = S>>(
        &self,
        connector: &C,
        limit: Duration,
    ) -> Result<S, BoxError> {
        if let Some(service) = self.ready(connector) {
            return Ok(service);
        }
        let seen = self.attempts.load(Relaxed);
        let mut failure = self.connecting.lock().await;
        if let Some(service) = self.ready(connector) {
            return Ok(service);
        }
        if self.attempts.load(Relaxed) != seen
            && let Some(failure) = &*failure
        {
            return Err(failure.clone().into());
        }
        let connected = timeout(limit, connector.connect(&self.registered)).await;
        self.attempts.fetch_add(1, Relaxed);
        match connected.unwrap_or_else(|_| Err(format!("no connection within {limit:?}").into())) {
            Ok(service) => {
                *failure = None;
                *self.service.write() = Some(service.clone());
                Ok(service)
            }
            Err(error) => {
                *failure = Some(error.to_string());
                Err(error)
            }
        }
    }
}
