//! Tests of the cell from outside.

mod comparison;
mod cut;
mod duties;
mod following;
mod founding;
mod fuzz;
mod health;
mod membership;
mod repair;
mod replication;
mod stopping;
mod storage;
mod trio;
