//! An instance that registered itself, and stays registered over sessions (spec ).

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::registry::{Check, Health, Instance};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::checker;
use crate::client::Client;
use crate::error::Error;
use crate::files::Written;
use crate::handle::Handle;
use crate::watch::{EventKind, Watch, WatchEvent};

/// After an error it is tried again so soon, then twice as late each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How a registration stands, as far as its client knows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RegistrationState {
    /// It is in the cell as it should be.
    Registered {
        /// The session that it goes with.
        session: u64,
    },
    /// The session expired, or the cell can't be reached: it may not be in the cell, or not as it should be. It is tried
    /// again until it is.
    Away {
        /// What went wrong last.
        error: Error,
    },
    /// Somebody else deregistered it. It does not come back by itself.
    Removed,
    /// The cell does not take it, and will not if it is tried again.
    Refused {
        /// Why.
        error: Error,
    },
    /// It was deregistered here.
    Deregistered,
}

/// An instance's registration; made by [`Registry::register`](super::Registry::register). Dropping it deregisters in the background.
#[derive(Debug)]
pub struct Registration {
    client: Client,
    path: Arc<str>,
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<RegistrationState>,
    keeper: Option<JoinHandle<()>>,
    checks: Mutex<Option<JoinHandle<()>>>,
}

/// What should be in the cell.
#[derive(Clone, Debug)]
struct Wanted {
    instance: Instance,
    contents: Bytes,
    ended: bool,
}

impl Wanted {
    fn new(instance: Instance) -> Result<Self, Error> {
        let contents = instance.encode()?.into();
        Ok(Self { instance, contents, ended: false })
    }
}

impl Registration {
    pub(super) async fn begin(client: Client, path: String, instance: Instance) -> Result<Self, Error> {
        let path: Arc<str> = path.into();
        let first = Wanted::new(instance)?;
        let contents = first.contents.clone();
        let (wanted, asked) = watch::channel(first);
        let first = Present::make(&client, &path, &contents).await?;
        let (teller, state) =
            watch::channel(RegistrationState::Registered { session: first.handle.session() });
        let keeper = Keeper { client: client.clone(), path: path.clone(), asked, teller };
        let keeper = Some(tokio::spawn(keeper.run(first)));
        Ok(Self { client, path, wanted, state, keeper, checks: Mutex::default() })
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        self.state.borrow().clone()
    }

    /// To be told how it stands.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it should say of itself.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.wanted.borrow().instance.clone()
    }

    /// Says something else of itself from now on, as soon as the cell can be told.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what is out of its limits.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) -> Result<(), Error> {
        update(&self.wanted, change)
    }

    /// Is as well as this from now on. The health it has already is not written again.
    pub fn set_health(&self, health: Health) {
        set_health(&self.wanted, health);
    }

    /// Checks the instance from here for as long as it is registered, and writes each change of its health (spec R-3).
    pub fn run_checks(&self, check: Check) {
        let (wanted, checked) = (self.wanted.clone(), self.instance());
        let running = tokio::spawn(async move {
            let health = || wanted.borrow().instance.health;
            let write = async |health| set_health(&wanted, health);
            checker::run(&checked, &check, &Semaphore::new(1), health, write).await;
        });
        if let Some(before) = self.checks.lock().replace(running) {
            before.abort();
        }
    }

    /// Takes it out of the registry, and waits until it is, for the client's deadline at most. It never fails: at the worst the
    /// cell learns of it in the background, or when the session ends.
    pub async fn deregister(mut self) {
        self.end();
        let deadline = self.client.deadline();
        if let Some(keeper) = self.keeper.take() {
            let _ = tokio::time::timeout(deadline, keeper).await;
        }
    }

    fn end(&self) {
        if let Some(checks) = self.checks.lock().take() {
            checks.abort();
        }
        self.wanted.send_modify(|wanted| wanted.ended = true);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

fn update(wanted: &watch::Sender<Wanted>, change: impl FnOnce(&mut Instance)) -> Result<(), Error> {
    let mut result = Ok(());
    wanted.send_if_modified(|wanted| {
        let mut instance = wanted.instance.clone();
        change(&mut instance);
        match Wanted::new(instance) {
            Ok(new) if new.contents != wanted.contents => {
                *wanted = Wanted { ended: wanted.ended, ..new };
                true
            }
            Ok(_) => false,
            Err(error) => {
                result = Err(error);
                false
            }
        }
    });
    result
}

fn set_health(wanted: &watch::Sender<Wanted>, health: Health) {
    // One that was valid is so with any health.
    let _ = update(wanted, |instance| instance.health = health);
}

/// The file as it is in the cell, open.
struct Present {
    handle: Handle,
    contents: Bytes,
    /// Its content generation, by which this registration knows its own writing.
    generation: u64,
    removals: Watch,
}

impl Present {
    async fn make(client: &Client, path: &str, contents: &Bytes) -> Result<Self, Error> {
        let handle =
            client.open(path).read().write().create().ephemeral().parents().contents(contents.clone());
        let handle = handle.await?;
        let written = match handle.created() {
            true => None,
            false => Some(handle.set_contents(contents.clone()).await?.generation),
        };
        // It is there as soon as can be. One that is removed before the watch begins is found missing by what follows.
        let removals = client.watch(path).kinds([EventKind::Deleted]).buffer(16).await?;
        let now = handle.stat().await?.content_generation;
        let generation = written.unwrap_or(now);
        Ok(Self { handle, contents: contents.clone(), generation, removals })
    }

    async fn write(&mut self, contents: &Bytes) -> Result<(), Error> {
        if self.contents != *contents {
            let Written { generation, .. } = self.handle.set_contents(contents.clone()).await?;
            (self.contents, self.generation) = (contents.clone(), generation);
        }
        Ok(())
    }

    /// Waits until it may be gone: the error that a call through its handle ends with, if it is.
    async fn gone(&mut self) -> Error {
        loop {
            tokio::select! {
                () = self.handle.ended() => {}
                event = self.removals.next() => match event {
                    Ok(WatchEvent::Happened(_) | WatchEvent::Gap { .. }) => {}
                    Err(error) => return error,
                },
            }
            match self.handle.stat().await {
                Ok(_) => {}
                Err(error) if error.is_retryable() && !matches!(error, Error::SessionExpired { .. }) => {
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// Others may have registered by this id since, and have it open too: theirs stays.
    async fn take_out(self) {
        if let Err(error) = self.handle.delete_if(self.generation).await {
            debug!(%error, path = self.handle.path(), "not deleted; it goes when nobody has it open");
        }
        self.handle.close().await;
    }
}

/// Keeps the file in the cell as it is wanted.
struct Keeper {
    client: Client,
    path: Arc<str>,
    asked: watch::Receiver<Wanted>,
    teller: watch::Sender<RegistrationState>,
}

/// What comes next for a registration.
enum Next {
    Asked,
    Gone(Error),
}

impl Keeper {
    async fn run(mut self, first: Present) {
        let (mut present, mut pause) = (Some(first), FIRST_PAUSE);
        loop {
            let wanted = self.asked.borrow_and_update().clone();
            if wanted.ended {
                return self.take_out(present).await;
            }
            let error = match self.bring_about(&mut present, &wanted).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    match self.next(&mut present).await {
                        Next::Asked => continue,
                        Next::Gone(error) => error,
                    }
                }
                Err(error) => error,
            };
            if let Some(end) = self.lost(&mut present, error) {
                self.teller.send_replace(end);
                return;
            }
            self.wait(&mut pause).await;
        }
    }

    async fn bring_about(&self, present: &mut Option<Present>, wanted: &Wanted) -> Result<(), Error> {
        match present {
            Some(present) => present.write(&wanted.contents).await?,
            None => *present = Some(Present::make(&self.client, &self.path, &wanted.contents).await?),
        }
        let session = present.as_ref().map_or(0, |present| present.handle.session());
        let state = RegistrationState::Registered { session };
        self.teller.send_if_modified(|before| {
            let news = *before != state;
            *before = state;
            news
        });
        Ok(())
    }

    async fn next(&mut self, present: &mut Option<Present>) -> Next {
        let gone = async {
            match present {
                Some(present) => present.gone().await,
                None => Error::closed(false),
            }
        };
        tokio::select! {
            // The registration ends by saying so; a sender of its checks may be there yet.
            _ = self.asked.changed() => Next::Asked,
            error = gone => Next::Gone(error),
        }
    }

    /// What is to be made of an error. Some: this is the end.
    fn lost(&self, present: &mut Option<Present>, error: Error) -> Option<RegistrationState> {
        let path = &self.path;
        match error {
            Error::NodeDeleted { .. } => {
                warn!(%path, "somebody deregistered this instance: it does not come back by itself");
                return Some(RegistrationState::Removed);
            }
            Error::Closed { .. } => return Some(RegistrationState::Deregistered),
            Error::InvalidArgument { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::HandleLacksRight { .. }
            | Error::TooLarge { .. }
            | Error::WrongKind { .. } => {
                warn!(%path, %error, "the registration is refused");
                return Some(RegistrationState::Refused { error });
            }
            Error::SessionExpired { .. } | Error::UnknownHandle { .. } => {
                info!(%path, %error, "the instance went with its session or handle: it is registered again");
                *present = None;
            }
            ref error => warn!(%path, %error, "the registration cannot be kept up now; it is tried again"),
        }
        self.teller.send_replace(RegistrationState::Away { error });
        None
    }

    /// Before it is tried again; ends early when it is not wanted any more.
    async fn wait(&mut self, pause: &mut Duration) {
        let ended = self.asked.wait_for(|wanted| wanted.ended);
        let _ = tokio::time::timeout(*pause, ended).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    async fn take_out(self, present: Option<Present>) {
        if let Some(present) = present {
            present.take_out().await;
        }
        self.teller.send_replace(RegistrationState::Deregistered);
    }
}
