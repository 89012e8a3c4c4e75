//! Users' graphs: read, bound, run.

mod bind;
mod built;
mod extract;
mod folded;
mod forms;
mod golden;
mod other_encoders;
mod packed;
#[path = "../support/mod.rs"]
mod support;
