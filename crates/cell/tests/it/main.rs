//! Tests of the cell from outside.

mod repair;
mod replication;
mod storage;
mod trio;
