//! How an application speaks to a Bramah cell: a session that survives its connections.
//!
//! ```no_run
//! use bramah_client::{Client, Error, SetOptions};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Error> {
//!     let client = Client::connect(["127.0.0.1:7501", "127.0.0.1:7511", "127.0.0.1:7521"]).await?;
//!
//!     // A counter that many processes add to; each increment counts exactly once, whatever breaks.
//!     let visits = client.counter("/shop/visits");
//!     println!("visit number {}", visits.increment(1).await?);
//!
//!     // A file, changed only if nobody else changed it in between.
//!     client.mkdir_all("/shop/settings").await?;
//!     let first = client.set("/shop/settings/colour", "green").await?;
//!     let unchanged = SetOptions { if_generation: Some(first.generation), ..Default::default() };
//!     match client.set_with("/shop/settings/colour", "blue", unchanged).await {
//!         Ok(written) => println!("changed at revision {}", written.revision),
//!         Err(Error::GenerationMismatch { current, .. }) => println!("somebody else was faster: {current:?}"),
//!         Err(error) => return Err(error),
//!     }
//!
//!     client.close().await;
//!     Ok(())
//! }
//! ```
//!
//! # What a client does by itself
//!
//! * It finds the leader, or stays where it is: [`Route`].
//! * When a connection breaks, or its replica falls silent, it turns to the next address and asks again for all
//!   that is unanswered. Calls are numbered, and the cell remembers the answers, so none is done twice.
//! * It tries refused calls again (an overloaded cell, one without a leader) until the call's deadline, within a
//!   budget: in the long run one retry for five calls, and ten a second.
//! * It keeps the session's lease. A session that expired all the same is replaced; calls that certainly were not
//!   done go to the new one, and calls of which that can't be said fail with [`Error::SessionExpired`].
//! * A minute without an open handle, a watch or a call ends the session; the next call opens another.
//! * A watch goes on where it stopped, over connections and sessions; what it can't tell any more comes as a gap.
//!
//! What depends on a session is not replaced: a [`Handle`] or [`Lock`] of one that expired fails for ever with
//! [`Error::SessionExpired`], and no call of it goes to another session. [`Client::session_events`] tells of
//! *jeopardy*, when the client's own, careful lease ran out and calls wait, and of how that ends.
//!
//! A wait for a lock or for an event lasts as long as it takes, or until the session is over; bound it with
//! [`LockRequest::within`], [`Handle::acquire_within`] or a timeout of your own: dropping any of these futures leaves
//! nothing behind in the cell.
//!
//! Every call ends by its deadline (10 s unless said otherwise), and every error says whether the call
//! [may have been done](Error::may_have_been_done).

mod addresses;
mod admin;
mod budget;
mod builder;
mod calls;
mod client;
mod counter;
pub mod discovery;
mod error;
mod files;
#[cfg(test)]
mod fuzz;
mod grip;
mod handle;
mod handles;
mod lease;
mod link;
mod lock;
mod members;
mod names;
mod queue;
mod recipes;
mod sequencer;
mod session;
mod session_events;
mod status;
mod timer;
mod token;
mod txn;
mod watch;
mod watches;

pub use admin::{
    AclNames, AclSet, LockInfo, LockPage, LockParty, Quota, QuotaLimits, SessionEntry, SessionPage,
};
pub use builder::{ClientBuilder, IntoAddresses, Route};
pub use client::{Client, SessionInfo};
pub use counter::{Counter, IncrementOptions};
pub use error::{Code, Error};
pub use files::{Deleted, DirectoryEntry, DirectoryPage, File, Kind, SetOptions, Stat, Written};
pub use grip::LostReason;
pub use handle::{Handle, LockMode, OpenRequest};
pub use lock::{Lock, LockRequest, LockStatus, Wanted};
pub use members::{MemberAddresses, MemberChange};
pub use recipes::{
    Barrier, Elected, Election, Entered, EphemeralLock, Item, Latch, Leadership, Observer, Permit, Queue,
    Semaphore,
};
pub use sequencer::{InvalidSequencer, Sequencer, SequencerCheck, StaleSequencer};
pub use session_events::{SessionEvent, SessionEvents, SessionState};
pub use status::{Leader, Member, ReplicaStatus};
pub use txn::{Comparison, Guard, Txn, TxnOp, TxnOutcome, TxnResult};
pub use watch::{Change, Event, EventKind, Watch, WatchEvent, WatchRequest};

/// How connections are made: for simulations, which bring a network of their own.
pub use bramah_wire::transport;
