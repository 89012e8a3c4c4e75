//! Users' graphs: read, bound, run.

mod bind;
mod built;
mod extract;
mod forms;
mod golden;
mod packed;
#[path = "../support/mod.rs"]
mod support;
