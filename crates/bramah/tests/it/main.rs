//! The real binary, from outside: its settings, its commands, its exit codes, and cells of real processes.

mod commands;
mod demo;
mod docs;
mod members;
mod proxy;
mod real;
mod server;
mod services;
mod settings;
mod support;
