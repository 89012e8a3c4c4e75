//! The combine kernels: bits, contracts, block formats.

mod bits;
mod blocks;
mod contract;
#[path = "../support/mod.rs"]
mod support;
