//! Tests of the cell from outside.

mod replication;
mod storage;
mod trio;
