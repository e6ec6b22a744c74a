//! The fronts: each speaks one protocol and sees only the cell's face.

mod caller;
pub(crate) mod directory;
#[cfg(test)]
mod fuzz;
pub(crate) mod grpc;
mod members;
mod pinned;
mod session;
mod translate;
mod walks;
