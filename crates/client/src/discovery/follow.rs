//! Knowing what instances there are, without asking.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::snapshot::Snapshot;
use super::watching::{Reads, ServiceWatch};
use crate::error::Error;

/// After an error it is tried again so soon, then twice as late each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Has the newest snapshot at any time; made by [`Registry::follow`](super::Registry::follow). Clones share the work; it
/// ends with the last of them.
///
/// While the cell is away the last snapshot stays; when it is back the newest follows.
#[derive(Clone)]
pub struct Follower {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    trouble: watch::Receiver<Option<Error>>,
    task: Arc<Task>,
}

struct Task {
    handle: JoinHandle<()>,
    reads: Box<dyn Fn() -> Reads + Send + Sync>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Follower {
    pub(super) async fn begin(mut watch: ServiceWatch) -> Result<Self, Error> {
        let first = watch.next_snapshot().await?;
        let (sender, snapshots) = watch::channel(first);
        let (teller, trouble) = watch::channel(None);
        let reads = Box::new(watch.counts());
        let handle = tokio::spawn(keep_up(watch, sender, teller));
        Ok(Self { snapshots, trouble, task: Arc::new(Task { handle, reads }) })
    }

    /// What is known now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// To wait for the next snapshots. It tells nothing more once the follower and its clones are dropped.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Waits for the next snapshot that was not seen here yet, and gives it; none: the client was closed. Cancel-safe.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.snapshots.changed().await.ok()?;
        Some(self.snapshots.borrow_and_update().clone())
    }

    /// Why the snapshot may be old; none: nothing is known to be wrong.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.trouble.borrow().clone()
    }

    /// What has been asked of the cell so far.
    #[must_use]
    pub fn reads(&self) -> Reads {
        (self.task.reads)()
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Follower")
            .field("revision", &self.snapshot().revision)
            .finish_non_exhaustive()
    }
}

async fn keep_up(
    mut watch: ServiceWatch,
    snapshots: watch::Sender<Arc<Snapshot>>,
    trouble: watch::Sender<Option<Error>>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match watch.next_snapshot().await {
            Ok(snapshot) => {
                snapshots.send_replace(snapshot);
                pause = FIRST_PAUSE;
                trouble.send_if_modified(|trouble| trouble.take().is_some());
            }
            Err(Error::Closed { .. }) => {
                debug!("the client was closed, so services are not followed any more");
                return;
            }
            Err(error) => {
                warn!(%error, "services cannot be followed now; what is known of them stays, and it is tried again");
                trouble.send_replace(Some(error));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
