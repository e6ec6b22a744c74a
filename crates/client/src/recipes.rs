//! What is often built of locks, files and watches: short, and each with what it guarantees.

mod barrier;
mod election;
mod ephemeral;
mod latch;
mod queue;
mod semaphore;

pub use barrier::{Barrier, Entered};
pub use election::{Elected, Election, Leadership, Observer};
pub use ephemeral::EphemeralLock;
pub use latch::Latch;
pub use queue::{Item, Queue};
pub use semaphore::{Permit, Semaphore};
