//! Locks as guards: opened, acquired, watched over, given back (spec L-1 to L-7).

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::client::Client;
use crate::error::Error;
use crate::grip::LostReason;
use crate::handle::{Handle, LockMode, OpenRequest};
use crate::sequencer::Sequencer;
use crate::watch::{EventKind, Watch};

/// How a lock stands, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockStatus {
    /// It is held for certain.
    Held,
    /// The session's lease ran out: the lock may be lost. Don't act on it until it is held again.
    InJeopardy,
    /// It is lost, for good.
    Lost(LostReason),
}

#[derive(Clone, Copy, Debug)]
enum Patience {
    Endless,
    None,
    Within(Duration),
}

/// Which lock to take, and how; made by [`Client::lock`]. Awaiting it takes the lock.
#[derive(Clone, Debug)]
#[must_use = "awaiting it takes the lock"]
pub struct LockRequest {
    client: Client,
    path: String,
    mode: LockMode,
    patience: Patience,
    lock_delay: Duration,
    ephemeral: bool,
    parents: bool,
    read: bool,
    contents: Bytes,
}

impl LockRequest {
    /// Together with others who share it.
    pub fn shared(mut self) -> Self {
        self.mode = LockMode::Shared;
        self
    }

    /// Only if it can be had at once; else [`Error::LockHeld`].
    pub fn try_(mut self) -> Self {
        self.patience = Patience::None;
        self
    }

    /// Only if it can be had within this time; else [`Error::LockHeld`].
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = Patience::Within(patience);
        self
    }

    /// For how long nobody gets the lock when this session dies with it; at most 60 s (spec L-5). Default: none.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// A lock file that is made goes with the last who has it open. Default: it stays.
    pub fn ephemeral(mut self) -> Self {
        self.ephemeral = true;
        self
    }

    /// Make missing directories too.
    pub fn parents(mut self) -> Self {
        self.parents = true;
        self
    }

    /// To read the node through [`Lock::handle`], too, which needs the right to read it. Default: only to write it.
    pub fn read(mut self) -> Self {
        self.read = true;
        self
    }

    /// The first contents of a lock file that is made. Default: none.
    pub fn contents(mut self, contents: impl Into<Bytes>) -> Self {
        self.contents = contents.into();
        self
    }

    async fn acquire(self) -> Result<Lock, Error> {
        let handle = self.open().await?;
        let acquired = match self.patience {
            Patience::Endless => Some(handle.acquire(self.mode).await?),
            Patience::None => handle.try_acquire(self.mode).await?,
            Patience::Within(patience) => handle.acquire_within(self.mode, patience).await?,
        };
        let path = handle.path();
        match acquired {
            Some(sequencer) => Ok(Lock { handle, sequencer }),
            None => Err(Error::LockHeld { message: format!("the lock of {path} could not be had in time") }),
        }
    }

    async fn open(&self) -> Result<Handle, Error> {
        let there = || self.client.open(&*self.path).write().lock_delay(self.lock_delay);
        let there = || if self.read { there().read() } else { there() };
        let create = |open: OpenRequest| {
            let open = open.create().contents(self.contents.clone());
            let open = if self.ephemeral { open.ephemeral() } else { open };
            if self.parents { open.parents() } else { open }
        };
        match create(there()).await {
            // Any node is a lock: it is a directory or a counter.
            Err(Error::WrongKind { .. }) => there().await,
            opened => opened,
        }
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Lock, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

impl Client {
    /// Takes the lock that the node at `path` is; makes a file there if there is no node.
    ///
    /// ```no_run
    /// # async fn example(client: bramah_client::Client) -> Result<(), bramah_client::Error> {
    /// use std::time::Duration;
    ///
    /// let lock = client.lock("/shop/till").lock_delay(Duration::from_secs(5)).await?;
    /// println!("show this to those you work with: {}", lock.sequencer());
    /// lock.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::open`] and [`Handle::acquire`]; [`Error::LockHeld`] if it could not be had in time.
    pub fn lock(&self, path: impl Into<String>) -> LockRequest {
        LockRequest {
            client: self.clone(),
            path: path.into(),
            mode: LockMode::default(),
            patience: Patience::Endless,
            lock_delay: Duration::ZERO,
            ephemeral: false,
            parents: false,
            read: false,
            contents: Bytes::new(),
        }
    }
}

/// A lock that is held. It is advisory: show [`Lock::sequencer`] to those who act on its behalf, or tie their writes to
/// it. Dropping it gives it back in the background.
#[derive(Debug)]
pub struct Lock {
    handle: Handle,
    sequencer: Sequencer,
}

impl Lock {
    /// The lock as it was acquired (spec L-4).
    #[must_use]
    pub fn sequencer(&self) -> &Sequencer {
        &self.sequencer
    }

    /// The handle that holds it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// How it stands, as far as this client knows. No network.
    #[must_use]
    pub fn status(&self) -> LockStatus {
        self.handle.lock_status()
    }

    /// Whether it is held for certain.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.status() == LockStatus::Held
    }

    /// Waits until it is lost, and says why. It never ends for a lock that is not lost.
    pub async fn lost(&self) -> LostReason {
        self.handle.lost().await
    }

    /// Tells when somebody waits for the lock, also if that one came before, so that one who keeps it for later gives it
    /// back (spec L-7).
    ///
    /// # Errors
    /// As [`Client::watch`], which needs the right to read the node, and [`Client::list_locks`].
    pub async fn wanted(&self) -> Result<Wanted, Error> {
        let watch = self.handle.watch().kinds([EventKind::LockWanted]).await?;
        let locks = self.handle.client().list_locks(self.handle.path(), "", 1).await?.locks;
        let already = locks.iter().any(|lock| lock.path == self.handle.path() && lock.waiter_count > 0);
        Ok(Wanted { watch, already })
    }

    /// Gives it back, and so to the next who waits.
    ///
    /// # Errors
    /// As [`Handle::release`]: that it was lost before.
    pub async fn release(self) -> Result<(), Error> {
        self.handle.release().await
    }
}

/// Tells when a lock is wanted; made by [`Lock::wanted`].
#[derive(Debug)]
pub struct Wanted {
    watch: Watch,
    /// Somebody waited when it began.
    already: bool,
}

impl Wanted {
    /// Waits until somebody waits for the lock: at first at once if somebody does already, then for each one that comes;
    /// of those that were not told apart for a gap, once. Cancel-safe.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn next(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.already) {
            self.watch.next().await?;
        }
        Ok(())
    }
}
