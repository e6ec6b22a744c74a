//! The fronts: each speaks one protocol and sees only the cell's face.

#[cfg(test)]
mod fuzz;
pub(crate) mod grpc;
mod members;
mod session;
mod translate;
