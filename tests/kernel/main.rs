//! The combine kernels: bits, contracts, block formats, matrices of low rank.

mod bits;
mod blocks;
mod contract;
mod low_rank;
#[path = "../support/mod.rs"]
mod support;
