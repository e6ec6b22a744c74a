//! Tests of the cell from outside.

mod cut;
mod fuzz;
mod membership;
mod repair;
mod replication;
mod storage;
mod trio;
