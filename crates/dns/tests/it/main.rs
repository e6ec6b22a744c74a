//! What the server answers: by somebody else's library and tools, and against a slow second opinion. Spec F-3.

mod dig;
mod forwarding;
mod fuzz;
mod limits;
mod properties;
mod reference;
mod registry;
mod resolver;
mod tcp;
