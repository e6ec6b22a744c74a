//! The real binary, from outside: its settings, its commands, its exit codes, and cells of real processes.

mod commands;
mod demo;
mod full_disk;
mod real;
mod server;
mod settings;
mod storm;
mod support;
