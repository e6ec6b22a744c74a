//! The storm's record and judges from outside: fed histories that are right, wrong and garbled.

mod digests;
mod engine;
mod events;
mod exactly_once;
mod history;
mod linear;
mod linear_exhaustive;
mod linear_large;
mod locks;
mod sessions;
mod storms;
mod story;
