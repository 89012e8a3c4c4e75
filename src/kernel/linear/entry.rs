//! The entry points of each instruction set, and which of them a kernel means.

use super::activations;
use super::attend::{self, Head, Sizes};
#[cfg(all(target_arch = "x86_64", test))]
use super::avx2::VNNI_512;
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, VNNI, WIDENED};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::generic::{self, Bf16Step, F32Step, Finish, Int8Step, Multiply, Product, Step};
use super::lanes::Lanes;
use super::layout::{PANEL, PackedLayout};
use super::math;
#[cfg(target_arch = "aarch64")]
use super::neon::{DOT, MATRICES, Neon, PLAIN};
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
    /// [`activations::parts`].
    pub(super) parts: fn(Precision) -> usize,
    /// [`activations::convert`].
    pub(super) convert: Convert,
    /// A tile of products: [`multiply`].
    pub(super) multiply: Multiply,
    /// [`generic::finish`].
    pub(super) finish: unsafe fn(&Finish<'_>),
    /// [`pack::pack_panel`].
    pub(super) pack: unsafe fn(&PackedLayout, &[f32], &mut [u8], PanelOut<'_>),
    /// [`attend::attend`].
    pub(super) attend: unsafe fn(&Sizes, Head<'_>),
    /// [`math::gate_row`].
    pub(super) gate: unsafe fn(&[f32], &[f32], &mut [f32]),
}

type Convert = unsafe fn(&PackedLayout, &[f32], Option<(LayerNorm<'_>, &mut [f32])>, *mut u8, &mut [RowScale]);

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
                            <$step as Step<V>>::product::<$rows, C>(a, panel, steps, sums, next);
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
                unsafe { attend::attend::<$vector>(sizes, head, multiply) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gate(gate: &[f32], value: &[f32], out: &mut [f32]) {
                // SAFETY: the caller's promise, passed on.
                unsafe { math::gate_row::<$vector>(gate, value, out) }
            }

            pub(in super::super) const FUNCTIONS: Functions =
                Functions {
                    rows: <$vector as Lanes>::ROWS,
                    parts: activations::parts::<$vector>,
                    convert,
                    multiply,
                    finish,
                    pack,
                    attend,
                    gate,
                };
        }
    };
}

functions!(scalar, f32, 1,);
// The same, where the processor adds to a product: by the system's library that takes ten times as long.
#[cfg(target_arch = "x86_64")]
functions!(scalar_fma, f32, 1, "fma");
#[cfg(target_arch = "aarch64")]
functions!(neon, Neon<{ PLAIN }>, 4, "neon");
#[cfg(target_arch = "aarch64")]
functions!(neon_dot, Neon<{ DOT }>, 4, "neon,dotprod");
#[cfg(target_arch = "aarch64")]
functions!(neon_matrices, Neon<{ MATRICES }>, 4, "neon,dotprod,i8mm,bf16");
#[cfg(target_arch = "x86_64")]
functions!(avx2, Avx2<{ WIDENED }>, 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
functions!(avx_vnni, Avx2<{ VNNI }>, 2, "avx2,fma,avxvnni");
#[cfg(all(target_arch = "x86_64", test))]
functions!(avx_vnni_512, Avx2<{ VNNI_512 }>, 2, "avx2,fma,avx512vl,avx512vnni");
#[cfg(target_arch = "x86_64")]
functions!(avx512, Avx512<false, false>, 2, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma");
#[cfg(target_arch = "x86_64")]
functions!(avx512_vnni, Avx512<true, false>, 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma");
#[cfg(target_arch = "x86_64")]
functions!(avx512_bf16, Avx512<true, true>, 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma");

/// The functions of an instruction set, and which machines have it.
pub(super) struct Variant {
    /// The kernel that it may stand for.
    pub(super) kernel: Kernel,
    #[cfg(test)]
    pub(super) name: &'static str,
    pub(super) is_detected: fn() -> bool,
    pub(super) functions: Functions,
}

/// All of them, of each kernel the fastest first.
pub(super) const VARIANTS: &[Variant] = {
    macro_rules! variants {
        ($($(#[$attribute:meta])* $kernel:ident $name:ident $is_detected:expr),* $(,)?) => {
            &[$($(#[$attribute])* Variant {
                kernel: Kernel::$kernel,
                #[cfg(test)]
                name: stringify!($name),
                is_detected: $is_detected,
                functions: $name::FUNCTIONS,
            }),*]
        };
    }
    variants! {
        #[cfg(target_arch = "x86_64")] Avx512 avx512_bf16 super::avx512::has_bf16,
        #[cfg(target_arch = "x86_64")] Avx512 avx512_vnni super::avx512::has_vnni,
        #[cfg(target_arch = "x86_64")] Avx512 avx512 super::avx512::is_detected,
        // The combine kernel's AVX-512 asks for less.
        #[cfg(target_arch = "x86_64")] Avx512 avx2 super::avx2::is_detected,
        #[cfg(target_arch = "x86_64")] Avx2 avx_vnni super::avx2::has_vnni,
        #[cfg(target_arch = "x86_64")] Avx2 avx2 super::avx2::is_detected,
        #[cfg(all(target_arch = "x86_64", test))] Avx2 avx_vnni_512 super::avx512::has_vnni,
        #[cfg(target_arch = "aarch64")] Neon neon_matrices super::neon::has_matrices,
        #[cfg(target_arch = "aarch64")] Neon neon_dot super::neon::has_dot,
        #[cfg(target_arch = "aarch64")] Neon neon super::neon::is_detected,
        #[cfg(target_arch = "x86_64")] Scalar scalar_fma || is_x86_feature_detected!("fma"),
        Scalar scalar || true,
    }
};

#[cfg(test)]
thread_local! {
    /// The variant that a test tries on its thread, whatever the kernel.
    pub(super) static TRIED: std::cell::Cell<Option<&'static Variant>> = const { std::cell::Cell::new(None) };
}

/// The functions that this kernel means on this machine.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine lacks the instructions.
pub(super) fn of(kernel: Kernel) -> Result<Functions> {
    #[cfg(test)]
    if let Some(variant) = TRIED.get() {
        return Ok(variant.functions);
    }
    let mut variants = VARIANTS.iter().filter(|variant| variant.kernel == kernel);
    let found = variants.find(|variant| Kernel::available().contains(&kernel) && (variant.is_detected)());
    let found = found.ok_or_else(|| Error::unsupported("this machine cannot run that kernel").got(kernel))?;
    Ok(found.functions)
}
