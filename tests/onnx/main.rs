//! Users' graphs: read, bound, run.

mod bind;
mod built;
mod forms;
mod golden;
#[path = "../support/mod.rs"]
mod support;
