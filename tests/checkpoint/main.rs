//! Files that others wrote, read to the value: checkpoints, adapters, published bases.

mod adapters;
mod basis_folders;
mod digits;
mod forms;
mod hostile;
mod names;
mod parity;
mod seeds;
#[path = "../support/mod.rs"]
mod support;
mod writer;
