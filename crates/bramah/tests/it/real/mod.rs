//! The storm over real processes: the shipped binary as replicas, each in its own network namespace where the machine
//! allows that, under load, with what the clients were told judged in the end.
//!
//! Every scenario does something to a cell, shows that it really happened, puts it right, and has [`RealCell::finish`]
//! see to it that the cell serves again, that all replicas are alike, and that nothing was lost, doubled or stale.
//!
//! [`RealCell::finish`]: cell::RealCell::finish

mod cell;
mod clocks;
mod disks;
mod failing_disk;
mod forwarder;
mod full_disk;
mod helpers;
mod kills;
mod leftovers;
mod load;
mod namespaces;
mod network;
mod partitions;
mod pauses;
mod power;
mod record;
mod rolling;
mod slow;
mod tool;
