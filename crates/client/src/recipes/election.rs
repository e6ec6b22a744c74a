//! Elections: one leads at a time, and all can see who (Chubby §4.1's primary election).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::client::Client;
use crate::error::Error;
use crate::grip::LostReason;
use crate::lock::{Lock, LockStatus};
use crate::sequencer::Sequencer;
use crate::txn::{Guard, TxnOp};
use crate::watch::{EventKind, Watch};

/// An election on a lock file; made by [`Client::election`].
///
/// * At most one leads in the eyes of the cell, in the order in which they came to campaign; a change wakes nobody
///   but the next one.
/// * Each leadership has a term, the lock's generation, greater than that of all before it.
/// * One who lost the leadership may not know it yet. So show the [`Leadership::sequencer`] to those who act for you,
///   or guard with it what you write.
/// * The file holds the term in its first line, and then the leader's value.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    path: String,
    lock_delay: Duration,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Elected {
    /// Since which term.
    pub term: u64,
    /// What it said of itself.
    pub value: Bytes,
    /// Its session.
    pub session: u64,
}

impl Client {
    /// An election on the lock file at `path`, which is made when somebody first campaigns.
    pub fn election(&self, path: impl Into<String>) -> Election {
        Election { client: self.clone(), path: path.into(), lock_delay: Duration::ZERO }
    }
}

impl Election {
    /// For how long nobody leads after a leader's session died; at most 60 s. Default: none.
    #[must_use]
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// Waits to be the leader, as long as it takes, and says `value` to those who observe. Dropping the future leaves
    /// the queue.
    ///
    /// # Errors
    /// As [`Client::lock`]; [`Error::LockNotHeld`] if the leadership was lost before `value` was written.
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leadership, Error> {
        let lock = self.client.lock(&*self.path).lock_delay(self.lock_delay).parents().await?;
        let leadership = Leadership { client: self.client.clone(), lock };
        leadership.proclaim(value).await?;
        Ok(leadership)
    }

    /// Who leads now; none: nobody, or somebody who has not said a value yet.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn leader(&self) -> Result<Option<Elected>, Error> {
        let file = match self.client.get(&*self.path).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            file => file?,
        };
        let Some((term, value)) = parse(&file.contents) else { return Ok(None) };
        let path = self.client.canonical(&self.path);
        let locks = self.client.list_locks(&*self.path, "", 1).await?.locks;
        let lock = locks.into_iter().find(|lock| lock.path == path && lock.generation == term);
        let holder = lock.and_then(|lock| lock.holders.into_iter().next());
        Ok(holder.map(|holder| Elected { term, value, session: holder.session }))
    }

    /// Tells who leads, now and whenever it changes.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn observe(&self) -> Result<Observer, Error> {
        use EventKind::{ContentsModified, Created, Deleted, LockLost, LockReleased};
        let kinds = [Created, ContentsModified, Deleted, LockReleased, LockLost];
        let watch = self.client.watch(&*self.path).kinds(kinds).await?;
        Ok(Observer { election: self.clone(), watch, told: None, look: true })
    }
}

/// Tells who leads; made by [`Election::observe`].
#[derive(Debug)]
pub struct Observer {
    election: Election,
    watch: Watch,
    told: Option<Option<Elected>>,
    /// Something has happened since it last looked.
    look: bool,
}

impl Observer {
    /// Who leads: at first at once, then when it has changed. One that is asked seldom misses those in between.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`Election::leader`] and [`Watch::next`].
    pub async fn next(&mut self) -> Result<Option<Elected>, Error> {
        loop {
            if !self.look {
                self.watch.next().await?;
                self.look = true;
            }
            let leader = self.election.leader().await?;
            self.look = false;
            if self.told.as_ref() != Some(&leader) {
                self.told = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}

/// The leadership; dropping it resigns in the background.
#[derive(Debug)]
pub struct Leadership {
    client: Client,
    lock: Lock,
}

impl Leadership {
    /// Greater than all terms before it.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.lock.sequencer().generation
    }

    /// What proves it.
    #[must_use]
    pub fn sequencer(&self) -> &Sequencer {
        self.lock.sequencer()
    }

    /// How it stands, as far as this client knows.
    #[must_use]
    pub fn status(&self) -> LockStatus {
        self.lock.status()
    }

    /// Waits until it is lost, and says why.
    pub async fn lost(&self) -> LostReason {
        self.lock.lost().await
    }

    /// Says another value to those who observe; only while it leads.
    ///
    /// # Errors
    /// [`Error::LockNotHeld`] once it leads no more.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        let sequencer = self.lock.sequencer();
        let contents = encode(self.term(), &value.into());
        let set = TxnOp::set(&*sequencer.path, contents);
        let done = self.client.txn().when([Guard::held(sequencer)]).then([set]).commit().await?;
        match done.held {
            true => Ok(()),
            false => {
                Err(Error::LockNotHeld { message: format!("{sequencer} leads no more: campaign again") })
            }
        }
    }

    /// Gives it to the next who campaigns.
    ///
    /// # Errors
    /// As [`Lock::release`]: that it was lost before.
    pub async fn resign(self) -> Result<(), Error> {
        self.lock.release().await
    }
}

fn encode(term: u64, value: &[u8]) -> Bytes {
    let mut contents = BytesMut::from(format!("term {term}\n").as_bytes());
    contents.put_slice(value);
    contents.freeze()
}

fn parse(contents: &Bytes) -> Option<(u64, Bytes)> {
    let end = contents.iter().position(|byte| *byte == b'\n')?;
    let term = std::str::from_utf8(&contents[..end]).ok()?.strip_prefix("term ")?.parse().ok()?;
    Some((term, contents.slice(end + 1..)))
}
