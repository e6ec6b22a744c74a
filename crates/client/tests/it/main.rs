//! The client against a scripted cell, on a network and a clock of the test's own.

mod calls;
mod ends;
mod fake;
mod garbage;
mod handles;
mod jeopardy;
mod locks;
mod network;
mod places;
mod watches;
mod world;
