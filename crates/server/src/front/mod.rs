//! The fronts: each speaks one protocol and sees only the cell's face.

pub(crate) mod grpc;
mod session;
mod translate;
