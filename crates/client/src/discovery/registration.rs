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
use crate::watch::{Change, EventKind, Watch, WatchEvent};

/// After an error it is tried again so soon, then twice as late each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How many predecessors in a row may go at the very moment in which they are to be replaced.
const TAKE_OVERS: usize = 8;
/// A file's content generation when it was just created.
const FIRST_GENERATION: u64 = 1;
/// Contents that are remembered of writes of which nobody knows whether they were done.
const UNSURE: usize = 16;

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
    /// Another process registered by the same id since, and what the cell has is of that one.
    Replaced,
    /// The cell does not take it, and will not if it is tried again.
    Refused {
        /// Why.
        error: Error,
    },
    /// It was deregistered here.
    Deregistered,
}

impl RegistrationState {
    /// Whether it stays like this: nothing is done for the registration any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Registered { .. } | Self::Away { .. })
    }
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
        let (wanted, mut state) = (self.wanted.clone(), self.states());
        let running = tokio::spawn(async move {
            let checked = || wanted.borrow().instance.clone();
            let health = || wanted.borrow().instance.health;
            let write = async |health| set_health(&wanted, health);
            let permits = Semaphore::new(1);
            tokio::select! {
                () = checker::run(checked, &check, &permits, health, write) => {}
                _ = state.wait_for(RegistrationState::is_final) => {}
            }
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
    /// What was written, and may be in the cell or not.
    unsure: Vec<Bytes>,
    /// Tells when it is removed or written.
    changes: Watch,
    /// Something happened to it, and nobody has looked yet what.
    must_look: bool,
}

impl Present {
    async fn make(client: &Client, path: &str, contents: &Bytes) -> Result<Self, Error> {
        let mut take_overs = 0;
        loop {
            let open = client.open(path).read().write().create().ephemeral().parents();
            let handle = open.contents(contents.clone()).await?;
            let created = handle.created();
            match Self::of(client, handle, contents).await {
                // A predecessor has just taken it out, before it was taken over.
                Err(Error::NodeDeleted { .. }) if !created && take_overs < TAKE_OVERS => take_overs += 1,
                made => return made,
            }
        }
    }

    async fn of(client: &Client, handle: Handle, contents: &Bytes) -> Result<Self, Error> {
        let generation = match handle.created() {
            true => FIRST_GENERATION,
            false => take_over(&handle, contents).await?,
        };
        // It is there as soon as can be. What happens to it before the watch begins is found by looking.
        let kinds = [EventKind::Deleted, EventKind::ContentsModified];
        let changes = client.watch(handle.path()).kinds(kinds).buffer(16).await?;
        let contents = contents.clone();
        let mut made = Self { handle, contents, generation, unsure: Vec::new(), changes, must_look: true };
        made.look().await?;
        Ok(made)
    }

    async fn write(&mut self, contents: &Bytes) -> Result<(), Error> {
        while self.contents != *contents || !self.unsure.is_empty() {
            // A successor's stays.
            match self.handle.set_contents_if(contents.clone(), self.generation).await {
                Ok(Written { generation, .. }) => self.is_written(contents.clone(), generation),
                Err(Error::GenerationMismatch { .. }) => self.look().await?,
                Err(error) => {
                    if error.may_have_been_done() && self.unsure.len() < UNSURE {
                        self.unsure.push(contents.clone());
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn is_written(&mut self, contents: Bytes, generation: u64) {
        (self.contents, self.generation) = (contents, generation);
        self.unsure.clear();
    }

    /// Sees whether it is there still, and as this registration wrote it. [`Error::GenerationMismatch`]: somebody else did.
    async fn look(&mut self) -> Result<(), Error> {
        let file = self.handle.contents().await?;
        let generation = file.stat.content_generation;
        if generation != self.generation {
            if !self.unsure.contains(&file.contents) {
                let message = format!(
                    "{} was registered by another process since: it is that one's",
                    self.handle.path()
                );
                return Err(Error::GenerationMismatch { message, current: Some(generation) });
            }
            self.is_written(file.contents, generation);
        }
        self.must_look = false;
        Ok(())
    }

    /// Waits until it is gone, or somebody else's: the error that says so. It may be cancelled, and called again.
    async fn gone(&mut self) -> Error {
        loop {
            if self.must_look {
                match self.look().await {
                    Ok(()) => {}
                    Err(error) if error.is_retryable() && !matches!(error, Error::SessionExpired { .. }) => {
                        tokio::time::sleep(FIRST_PAUSE).await;
                        continue;
                    }
                    Err(error) => return error,
                }
            }
            tokio::select! {
                () = self.handle.ended() => {
                    self.must_look = true;
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                event = self.changes.next() => match event {
                    Ok(WatchEvent::Happened(event)) => self.must_look |= !self.is_own(&event.change),
                    Ok(WatchEvent::Gap { .. }) => self.must_look = true,
                    Err(error) => return error,
                },
            }
        }
    }

    fn is_own(&self, change: &Change) -> bool {
        matches!(*change, Change::ContentsModified { generation } if generation <= self.generation)
    }

    /// What others registered by this id since stays.
    async fn take_out(mut self) {
        if !self.unsure.is_empty() {
            let _ = self.look().await;
        }
        if let Err(error) = self.handle.delete_if(self.generation).await {
            debug!(%error, path = self.handle.path(), "not deleted; it goes when nobody has it open");
        }
        self.handle.close().await;
    }
}

/// Makes a predecessor's file this registration's; the generation that it has then.
async fn take_over(handle: &Handle, contents: &Bytes) -> Result<u64, Error> {
    let there = handle.stat().await?;
    if !there.ephemeral {
        let message = format!(
            "{} is registered for good, without a session: deregister it first, or register by another id",
            handle.path()
        );
        return Err(Error::AlreadyExists { message });
    }
    Ok(handle.set_contents(contents.clone()).await?.generation)
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
            Error::GenerationMismatch { .. } => {
                warn!(%path, %error, "another process took this instance's place");
                return Some(RegistrationState::Replaced);
            }
            Error::Closed { .. } => return Some(RegistrationState::Deregistered),
            Error::InvalidArgument { .. }
            | Error::AlreadyExists { .. }
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
