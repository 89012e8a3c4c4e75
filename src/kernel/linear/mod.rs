//! The linear kernel: `out = gain · activation(A·Wᵀ + bias) + residual`, with W packed in f32, bf16 or int8.
//!
//! # The bit contract
//! With `a` a row of A and `w` a row of W, and every operation on f32 rounded once (ties to even):
//!
//! ```text
//! f32    sum = +0.0;  sum = fma(a[k], w[k], sum) for k ascending;  y = sum + bias
//! bf16   a and w are rounded to bf16 first;  sum = +0.0;
//!        sum = fma(a[2j], w[2j], fma(a[2j+1], w[2j+1], sum)) for j ascending;  y = sum + bias
//! int8   w: s = max|w| / 127, code = round(w · (127 / max|w|))
//!        a: range = max(a, 0) − min(a, 0), t = range / 255, zero = round(−min(a, 0) · (255 / range)),
//!           code = round(a · (255 / range)) + zero, held to 0 … 255
//!        y = fma(f32(Σ code_a·code_w − zero·Σ code_w), s·t, bias), the sums exact
//! then   out = activation(y) + residual, or with a gain fma(activation(y), gain, residual); without a residual, their
//!        product
//! ```
//!
//! A layer norm in front of it makes of every row `fma((a[k] − mean) · (1 / √(variance + ε)), weight[k], bias[k])`. Its
//! sums, Σa and Σ(a − mean)² by `fma`, are sixteen, that of index k modulo 16 each, the upper half added to the lower
//! one until one is left.
//!
//! The activations are those of `math.rs`. Every instruction set gives these bits, whatever the number of threads and
//! rows, so a row's result does not depend on the others. For bf16, subnormal numbers may count as zero wherever they
//! occur. What is not finite in A or W makes results that are not; which, is outside the contract.
//!
//! # Where to read
//! `generic.rs` is the algorithm over any vector type (`lanes.rs`), `scalar.rs` that type which makes it the
//! specification; `avx512.rs`, `avx2.rs` (with `x86.rs`, which they share) and `neon.rs` are the others. `entry.rs`
//! lists which processors have what. `layout.rs` says how packed weights lie in memory, `pack.rs` and `packer.rs` write
//! them, `activations.rs` converts A, and `run.rs` shares the work out. `attention.rs` and `swiglu.rs` compute what is
//! between the layers.
//!
//! # Instruction sets
//! | kernel | processors with | bytes by | bf16 by |
//! | --- | --- | --- | --- |
//! | `avx512` | AVX-512 F, BW, DQ, VL, VNNI, BF16 | `vpdpbusd` | `vdpbf16ps` |
//! | | without BF16 | `vpdpbusd` | two FMAs, widened |
//! | | without VNNI either | `vpmaddwd`, widened | two FMAs, widened |
//! | `avx2` | AVX2, FMA, AVX-VNNI | `vpdpbusd` | two FMAs, widened |
//! | | without AVX-VNNI | `vpmaddwd`, widened | two FMAs, widened |
//! | `neon` | dotprod, i8mm, bf16 | `smmla` | `bfmlalt`, `bfmlalb` |
//! | | dotprod | `sdot` | two FMAs, widened |
//! | | neither | products of words | two FMAs, widened |
//!
//! `bfdot` and `bfmmla`, which take more bf16 at once, round otherwise than the contract, and otherwise from processor
//! to processor; `bfmlalt` and `bfmlalb` are FMAs.

mod activation;
mod activations;
mod attend;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod entry;
mod generic;
mod lanes;
mod layout;
mod math;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod pack;
mod packer;
mod panel;
mod precision;
mod rotation;
mod row_scale;
mod rows;
mod run;
mod scalar;
mod share;
mod swiglu;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activation::Activation;
pub use attention::{AttentionJob, attention};
pub use layout::{ALIGNMENT, PackedLayout};
pub use matrix::Matrix;
pub use norm::LayerNorm;
pub(crate) use packer::PanelPacker;
pub use packer::pack;
pub use precision::Precision;
pub use rotation::{Pairing, Rotation};
pub use rows::Patches;
pub use run::{LinearJob, Scratch, linear, linear_of_patches};
pub use share::Pool;
pub use swiglu::{SwiGluJob, swiglu};
