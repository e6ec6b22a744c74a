//! How a cell is spoken to: a replica with its fronts, ready to run or to embed.
//!
//! [`Server`] starts one replica on threads of its own: one for consensus, one for the fronts, so that many
//! clients can't delay a heartbeat. Each front sees only the cell's face.

mod front;
mod in_place;
mod principals;
mod process;
mod server;

pub use in_place::InPlace;

pub use principals::{KeyFileError, MIN_TOKEN_KEY_BYTES, TokenError, TokenKey};

pub use bramah_cell::{LogOptions, Member, ReplicaId, StartError, Tuning};
pub use server::{Server, ServerConfig};

pub use front::directory::dns_instance;

/// What DNS over the registry is told.
pub use bramah_dns as dns;
