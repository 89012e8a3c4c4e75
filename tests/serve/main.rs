//! `taskbasis serve`, as its clients see it: the program on a port of its own, over the family `examples/glyphs`.
#![cfg(feature = "serve")]
#![allow(unreachable_pub)] // A program exports nothing.

mod answers;
mod client;
mod hostile;
mod load;
#[path = "../support/mod.rs"]
mod support;
mod turns;
