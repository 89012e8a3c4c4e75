//! The combine kernel: `out = base + Σ_m a_m·s_m` in one pass over memory.
//!
//! # The bit contract
//! For every element `i` of a tensor, with the terms' coefficients `a_m` as f32 and the values of `base` and of
//! the terms `s_m` converted to f32 first (f32, f16, bf16 and blocks exactly, f64 rounded to nearest, ties to even; for
//! blocks [`BlockFormat::dequantize`](crate::tensor::BlockFormat::dequantize) is the specification, for matrices of low
//! rank [`LowRank::read_f32`](crate::tensor::LowRank::read_f32)):
//!
//! ```text
//! sum    = +0.0
//! sum    = fma(a_m, s_m[i], sum)      for m ascending over the terms whose a_m is not zero; rounded once each
//! out[i] = base[i] + sum              (out[i] = sum where the job has no base)
//! ```
//!
//! Where no term is left, `out[i]` is `base[i]` bit for bit, or +0.0 without a base. A term whose coefficient is
//! zero is checked but never read, so its infinities and NaNs do not matter.
//!
//! The result has the same bits on every instruction set, number of threads, length, alignment and data layout,
//! in the default floating-point environment (rounding to nearest, subnormals kept). NaNs are outside the contract:
//! where one kernel gives a NaN all do, but its sign and payload may differ.
//!
//! # Where to read
//! `scalar.rs` is the specification. `generic.rs` is the algorithm over any vector type, and `avx2.rs`, `avx512.rs`
//! and `neon.rs` are those types. `job.rs` checks the tensor jobs that the caller gives and cuts them into work items,
//! which are computed tile by tile (`tile.rs`, what kernels work on; for terms of low rank `product.rs`,
//! whose factors `factors.rs` decodes); `output.rs` says where the results go, `hints.rs`
//! what the caches are told. `threads.rs` shares the items out, and `readahead.rs` has the disk read before they are
//! due. `cuda/` is the combine kernel on a GPU.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cuda;
mod dispatch;
mod factors;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod generic;
mod hints;
mod job;
pub mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod output;
mod product;
mod readahead;
mod scalar;
pub(crate) mod threads;
mod tile;

pub use cuda::{Cuda, CudaStream};
pub use dispatch::{Kernel, VARIABLE, active, choose};
pub use hints::{HINTS_VARIABLE, Hints};
pub use job::{TensorJob, combine};
pub use output::Output;
pub(crate) use output::cast;
pub use threads::max_threads;
pub(crate) use threads::share;
