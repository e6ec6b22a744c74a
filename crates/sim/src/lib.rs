//! The storm: what is done to a cell in tests, the record of what its clients saw, and the judges of that record.

pub mod check;
pub mod history;
