//! The storm's record and judges from outside: fed histories that are right, wrong and garbled.

mod history;
mod linear;
mod linear_exhaustive;
mod linear_large;
mod story;
