//! Barriers: all begin together, and all end together.

use crate::client::Client;
use crate::counter::Counter;
use crate::error::Error;
use crate::files::Kind;
use crate::handle::Handle;
use crate::txn::{Guard, TxnOp};
use crate::watch::{EventKind, Watch};

/// A double barrier for a number of parties; made by [`Client::barrier`].
///
/// * Nobody's [`Barrier::enter`] ends before so many have entered, nobody's [`Entered::leave`] before all have left.
/// * A party whose session ends has left, also before the others came: then another one is waited for.
/// * Afterwards it can be used again. All that it is of is ephemeral, but for one counter: the last round that was
///   complete. It stays, so that one who hears of it late still knows.
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
        let round = self.client.open(format!("{}/round", self.path)).read().write().create();
        let round = round.kind(Kind::Directory).ephemeral().parents().await?;
        let complete = self.client.counter(format!("{}/complete", self.path));
        let kinds = [EventKind::Created, EventKind::CounterChanged];
        let mut told = self.client.watch(complete.path()).kinds(kinds).await?;
        let name = format!("party-{}", round.number());
        let member = round.open(name).write().create_new().ephemeral().await?;
        // Rounds are told apart by the instances of their directory, which grow.
        let number = round.instance().cast_signed();
        if round.stat().await?.children >= self.parties {
            self.complete(&complete, number).await?;
        }
        while last(&complete).await?.is_none_or(|last| last < number) {
            told.next().await?;
        }
        Ok(Entered { round, member })
    }

    /// Says that the round is complete. It never goes back: one who is slow may say it of an old round.
    async fn complete(&self, complete: &Counter, number: i64) -> Result<(), Error> {
        loop {
            match last(complete).await? {
                Some(last) if last >= number => return Ok(()),
                Some(last) => match complete.compare_and_reset(last, number).await {
                    Err(Error::ValueMismatch { .. }) => {}
                    set => return set.map(drop),
                },
                None => {
                    let path = complete.path();
                    let set = TxnOp::reset_counter(path, number);
                    self.client.txn().when([Guard::absent(path)]).then([set]).commit().await?;
                }
            }
        }
    }
}

/// The last complete round.
async fn last(complete: &Counter) -> Result<Option<i64>, Error> {
    match complete.get().await {
        Err(Error::NotFound { .. }) => Ok(None),
        last => last.map(Some),
    }
}

impl Entered {
    /// Leaves, and waits until all have.
    ///
    /// # Errors
    /// As [`Client::watch`]; the party has left all the same.
    pub async fn leave(self) -> Result<(), Error> {
        let Self { round, member } = self;
        let client = round.client().clone();
        let (path, instance) = (round.path().to_owned(), round.instance());
        let gone: Watch = client.watch(&*path).kinds([EventKind::Deleted]).await?;
        member.close().await;
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
