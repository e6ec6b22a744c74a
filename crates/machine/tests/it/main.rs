//! The state of a cell from outside: against a simple model, under retries, through snapshots, fed garbage.

mod dedup;
mod formats;
mod fuzz;
mod garbled;
mod generate;
mod lease_model;
mod lock_model;
mod locks;
mod model;
mod planted;
mod scenarios;
mod snapshot;
