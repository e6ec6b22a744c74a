//! How the replicas of a cell agree: openraft behind a small face.
//!
//! [`Cell`] is that face: hand requests over, pass a barrier, read the state, follow events and leadership,
//! stop. Behind it: the [`log`] on disk, the batcher and the forwarding to the leader, read indexes shared
//! by all reads that wait, leases of sessions, snapshots and the log's upkeep.
//!
//! This room never decodes what clients send and never lets the wall clock decide anything.

mod admission;
mod barrier;
mod bootstrap;
mod cell;
mod changes;
mod clock;
mod comparison;
mod config;
pub mod consensus;
pub mod data_folder;
pub mod disk;
mod duties;
mod error;
mod health;
mod hub;
mod identity;
mod keeper;
mod leadership;
mod leases;
pub mod log;
mod machine_store;
mod membership;
mod peers;
mod roster;
mod router;
pub mod snapshot_store;
mod status;
mod submission;
mod upkeep;

pub use barrier::Barrier;
pub use cell::{Cell, Members, World};
pub use clock::WallClock;
pub use config::{CellConfig, Tuning};
pub use consensus::{Member, ReplicaId};
pub use data_folder::FolderError;
pub use error::{ProposeError, StartError};
pub use hub::{
    Begun, Delivery, EventStream, Follower, Interest, Kinds, MAX_WATCHES, MAX_WATCHES_OF_ONE, Told,
    TooManyWatches,
};
pub use leadership::Leadership;
pub use log::LogOptions;
pub use membership::{Change, ChangeError, MAX_MEMBERS, MAX_VOTERS};
pub use status::{Digest, Status};
pub use submission::{Done, Outcomes, Requests, Submission};
