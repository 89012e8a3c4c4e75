//! The entry points of each instruction set, and which of them a kernel means.

use super::activations;
use super::attention::{self, Head, Sizes};
use super::generic::{self, Bf16Step, F32Step, Finish, Int8Step, Next};
use super::lanes::Lanes;
use super::layout::{PANEL, PackedLayout};
use super::norm::LayerNorm;
use super::pack::{self, PanelOut};
use super::precision::Precision;
use super::row_scale::RowScale;
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// The functions of one instruction set. None may be called where it is not there.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    /// The most rows of a tile.
    pub(super) rows: usize,
    /// [`activations::convert`].
    pub(super) convert: Convert,
    /// A tile of products: [`multiply`].
    pub(super) multiply: Multiply,
    /// [`generic::finish`].
    pub(super) finish: unsafe fn(&Finish<'_>),
    /// [`pack::pack_panel`].
    pub(super) pack: unsafe fn(&PackedLayout, &[f32], &mut [u8], PanelOut<'_>),
    /// [`attention::attend`].
    pub(super) attend: unsafe fn(&Sizes, Head<'_>),
}

pub(super) type Multiply = unsafe fn(&Product);
type Convert = unsafe fn(&PackedLayout, &[f32], Option<(LayerNorm<'_>, &mut [f32])>, *mut u8, &mut [RowScale]);

/// A tile of activations by a panel of weights.
pub(super) struct Product {
    pub(super) precision: Precision,
    /// Rows of the tile: at least 1 and at most [`Lanes::ROWS`].
    pub(super) rows: usize,
    pub(super) a: *const u8,
    pub(super) panel: *const u8,
    pub(super) steps: usize,
    /// The place of the sums, [`PANEL`] to the row.
    pub(super) sums: *mut u8,
    pub(super) next: Next,
    /// The place that results are written to next, [`PANEL`] of each row, so many values apart.
    pub(super) out: *const f32,
    pub(super) out_stride: usize,
}

/// Computes a product, `C` registers of outputs at a time.
///
/// # Safety
/// As [`generic::product`].
#[inline(always)]
unsafe fn multiply<V: Lanes, const C: usize>(product: &Product) {
    let &Product { precision, rows, a, panel, steps, sums, next, out, out_stride } = product;
    for row in 0..rows {
        let line = out.wrapping_add(row * out_stride).cast::<u8>();
        V::prefetch_out(line);
        V::prefetch_out(line.wrapping_add(64));
    }
    macro_rules! heights {
        ($step:ty, $($rows:literal)*) => {
            match rows {
                $($rows if $rows <= V::ROWS => {
                    for at in (0..PANEL).step_by(C * V::LANES) {
                        // SAFETY: the caller's promise; `at` leaves room for `C` registers of outputs.
                        unsafe {
                            let (panel, sums) = (panel.add(at * 4), sums.add(at * 4));
                            generic::product::<V, $step, $rows, C>(a, panel, steps, sums, next);
                        }
                    }
                })*
                _ => unreachable!("a tile has at most the rows that fit into the registers"),
            }
        };
    }
    match precision {
        Precision::F32 => heights!(F32Step, 1 2 3 4 5 6 7 8),
        Precision::Bf16 => heights!(Bf16Step, 1 2 3 4 5 6 7 8),
        Precision::Int8 => heights!(Int8Step, 1 2 3 4 5 6 7 8),
    }
}

/// The functions over a vector type, each compiled for its instruction set.
macro_rules! functions {
    ($name:ident, $vector:ty, $columns:literal, $($features:literal)?) => {
        pub(super) mod $name {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn convert(
                layout: &PackedLayout,
                from: &[f32],
                norm: Option<(LayerNorm<'_>, &mut [f32])>,
                to: *mut u8,
                scales: &mut [RowScale],
            ) {
                // SAFETY: the caller's promise, passed on.
                unsafe { activations::convert::<$vector>(layout, from, norm, to, scales) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise, passed on.
                unsafe { super::multiply::<$vector, $columns>(product) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn finish(finish: &Finish<'_>) {
                // SAFETY: the caller's promise, passed on.
                unsafe { generic::finish::<$vector>(finish) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn pack(layout: &PackedLayout, rows: &[f32], lines: &mut [u8], out: PanelOut<'_>) {
                // SAFETY: the caller's promise, passed on.
                unsafe { pack::pack_panel::<$vector>(layout, rows, lines, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn attend(sizes: &Sizes, head: Head<'_>) {
                // SAFETY: the caller's promise, passed on.
                unsafe { attention::attend::<$vector>(sizes, head, multiply) }
            }

            pub(in super::super) const FUNCTIONS: Functions =
                Functions { rows: <$vector as Lanes>::ROWS, convert, multiply, finish, pack, attend };
        }
    };
}

functions!(scalar, f32, 1,);
#[cfg(target_arch = "aarch64")]
functions!(neon, super::super::neon::Neon<false>, 4, "neon");
#[cfg(target_arch = "aarch64")]
functions!(neon_dot, super::super::neon::Neon<true>, 4, "neon,dotprod");
#[cfg(target_arch = "x86_64")]
functions!(avx2, std::arch::x86_64::__m256, 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
functions!(avx512, std::arch::x86_64::__m512, 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma");

/// The functions that this kernel means on this machine: with AVX-512 alone, without its dot products, AVX2's.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine lacks the instructions.
pub(super) fn of(kernel: Kernel) -> Result<Functions> {
    if !Kernel::available().contains(&kernel) {
        return Err(Error::unsupported("this machine cannot run that kernel").got(kernel));
    }
    Ok(match kernel {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 if super::avx512::is_detected() => avx512::FUNCTIONS,
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 | Kernel::Avx2 if super::avx2::is_detected() => avx2::FUNCTIONS,
        #[cfg(target_arch = "aarch64")]
        Kernel::Neon if super::neon::has_dot() => neon_dot::FUNCTIONS,
        #[cfg(target_arch = "aarch64")]
        Kernel::Neon if super::neon::is_detected() => neon::FUNCTIONS,
        _ => scalar::FUNCTIONS,
    })
}
