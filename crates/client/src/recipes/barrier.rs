//! Barriers: all begin together, and all end together.

use crate::client::Client;
use crate::error::Error;
use crate::files::Kind;
use crate::handle::Handle;
use crate::watch::{EventKind, Watch};

/// A double barrier for a number of parties; made by [`Client::barrier`].
///
/// * Nobody's [`Barrier::enter`] ends before so many have entered, nobody's [`Entered::leave`] before all have left.
/// * A party whose session ends has left, also before the others came: then another one is waited for.
/// * All that it is of is ephemeral: afterwards it can be used again.
/// * A party is woken once to enter and once to leave.
#[derive(Clone, Debug)]
pub struct Barrier {
    client: Client,
    path: String,
    parties: u64,
}

/// A party between entering and leaving; dropping it leaves without waiting for the others.
#[derive(Debug)]
pub struct Entered {
    round: Handle,
    member: Handle,
    ready: Option<Handle>,
}

impl Client {
    /// A barrier in the directory at `path` for so many parties; all must name the same number.
    pub fn barrier(&self, path: impl Into<String>, parties: u64) -> Barrier {
        Barrier { client: self.clone(), path: path.into(), parties }
    }
}

impl Barrier {
    /// Enters, and waits until all have.
    ///
    /// # Errors
    /// As [`Client::open`] and [`Client::watch`].
    pub async fn enter(&self) -> Result<Entered, Error> {
        let path = format!("{}/round", self.path);
        let round = self.client.open(&*path).read().write().create();
        let round = round.kind(Kind::Directory).ephemeral().parents().await?;
        let mut told = self.client.watch(format!("{path}/ready")).kinds([EventKind::Created]).await?;
        let name = format!("party-{}", round.number());
        let member = round.open(name).write().create_new().ephemeral().await?;
        let full = round.stat().await?.children >= self.parties;
        let ready = round.open("ready").read();
        let ready = match if full { ready.create().ephemeral() } else { ready }.await {
            Err(Error::NotFound { .. }) => {
                told.next().await?;
                // It may be gone again, if the others are fast; it has served its end.
                round.open("ready").read().await.ok()
            }
            ready => Some(ready?),
        };
        Ok(Entered { round, member, ready })
    }
}

impl Entered {
    /// Leaves, and waits until all have.
    ///
    /// # Errors
    /// As [`Client::watch`]; the party has left all the same.
    pub async fn leave(self) -> Result<(), Error> {
        let Self { round, member, ready } = self;
        let client = round.client().clone();
        let (path, instance) = (round.path().to_owned(), round.instance());
        let gone: Watch = client.watch(&*path).kinds([EventKind::Deleted]).await?;
        member.close().await;
        drop(ready);
        round.close().await;
        wait_until_gone(&client, &path, instance, gone).await
    }
}

/// The directory of one round goes with the last who has it open.
async fn wait_until_gone(client: &Client, path: &str, instance: u64, mut gone: Watch) -> Result<(), Error> {
    loop {
        match client.stat(path).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            stat if stat.as_ref().is_ok_and(|stat| stat.instance != instance) => return Ok(()),
            stat => drop((stat?, gone.next().await?)),
        }
    }
}
