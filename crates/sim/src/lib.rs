//! The storm: a whole cell on simulated machines, under faults, from one seed; and the checkers that judge what
//! its clients were told, in a simulation as among real processes.

pub mod check;
pub mod engine;
pub mod faults;
pub mod history;
pub mod storm;
