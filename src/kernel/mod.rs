//! The combine kernel: `out = base + Σ_m a_m·s_m` in one pass over memory.
//!
//! # The bit contract
//! For every element `i` of a segment, with the terms' coefficients `a_m` as f32 and the values of `base` and of
//! the terms `s_m` converted to f32 first (f32, f16, bf16 and blocks exactly, f64 rounded to nearest, ties to even; for
//! blocks [`BlockFormat::dequantize`](crate::tensor::BlockFormat::dequantize) is the specification):
//!
//! ```text
//! sum    = +0.0
//! sum    = fma(a_m, s_m[i], sum)      for m ascending over the terms whose a_m is not zero; rounded once each
//! out[i] = base[i] + sum              (out[i] = sum where the segment has no base)
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
//! and `neon.rs` are those types. `combine.rs` checks what the caller gives (`input.rs`: dense or blocks) and turns it
//! into strips (`strip.rs`), the contiguous pieces that kernels work on; `threads.rs` shares them out, and `ahead.rs`
//! has the disk read before they are due. `cuda/` is the same on a GPU.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod combine;
pub(crate) mod cuda;
mod dispatch;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod generic;
mod input;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod scatter;
mod strip;
pub(crate) mod threads;

pub use combine::{Segment, combine, combine_cancellable};
pub use cuda::{Cuda, CudaStream};
pub use dispatch::{Kernel, VARIABLE, active, choose};
pub(crate) use input::Input;
pub(crate) use scatter::cast;
pub use scatter::{Destination, Scattered, scatter};
pub(crate) use strip::Format;
pub(crate) use threads::share;
