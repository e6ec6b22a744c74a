//! The client against a scripted cell, on a network and a clock of the test's own.

mod calls;
mod ends;
mod fake;
mod garbage;
mod network;
mod places;
