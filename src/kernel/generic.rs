//! The algorithm, once, over any vector type.
//!
//! Everything here is `#[inline(always)]`: it is compiled inside the entry point of each instruction set, and only
//! there may the compiler use that set's instructions.

use half::{bf16, f16};

use super::strip::{Format, Strip, Term};
use crate::tensor::{BLOCK, BlockFormat, SCALE_BYTES};

/// A register full of f32, and the instructions of one instruction set on it.
///
/// # Safety of every method
/// The instruction set must be there, and pointers must be valid for as many elements as the vector has lanes. No
/// alignment is needed, except by [`Vector::stream`].
pub(super) trait Vector: Copy {
    /// How many f32 it holds.
    const LANES: usize;

    /// The same value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// The next [`Vector::LANES`] f32.
    unsafe fn load_f32(from: *const u8) -> Self;
    /// The next [`Vector::LANES`] f16, converted.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// The next [`Vector::LANES`] bf16, converted.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// Codes `at..at + LANES` of a block as numbers: those of a plane of `P` bits, and above them those of one of `Q`
    /// bits behind it (0: there is none). The layout is that of [`crate::tensor::BlockFormat`]; `codes` is where the
    /// first plane begins, `at` a multiple of `LANES`, and both planes can be read to their ends.
    unsafe fn load_codes<const P: usize, const Q: usize>(codes: *const u8, at: usize) -> Self;
    /// `self · x + sum`, rounded once.
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self;
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// Writes every lane.
    unsafe fn store(self, to: *mut f32);
    /// Writes every lane past the caches where the instruction set can; `to` is aligned to the vector's size.
    unsafe fn stream(self, to: *mut f32);
    /// Orders what [`Vector::stream`] wrote before all that follows.
    unsafe fn fence();
}

/// One f32 at a time, for the elements before the first aligned vector and after the last whole one.
impl Vector for f32 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller's promise: one f32 can be read here, at any alignment.
        unsafe { from.cast::<f32>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: one f16 can be read here, at any alignment.
        f16::from_bits(unsafe { from.cast::<u16>().read_unaligned() }).to_f32()
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise: one bf16 can be read here, at any alignment.
        bf16::from_bits(unsafe { from.cast::<u16>().read_unaligned() }).to_f32()
    }

    #[inline(always)]
    unsafe fn load_codes<const P: usize, const Q: usize>(codes: *const u8, at: usize) -> Self {
        let plane = |from: *const u8, bits: usize| {
            let (byte, shift) = place(bits, at);
            // SAFETY: the caller's promise: the plane can be read to its end.
            unsafe { from.add(byte).read() >> shift & (0xff >> (8 - bits)) }
        };
        let low = plane(codes, P);
        // SAFETY: as above; the second plane begins where the first one ends.
        f32::from(if Q == 0 { low } else { low | plane(unsafe { codes.add(8 * P) }, Q) << P })
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        f32::mul_add(self, x, sum)
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise: one f32 can be written here.
        unsafe { to.write(self) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: as in `store`, and a single f32 is never worth streaming.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn fence() {}
}

/// Where in a plane of `bits` bits the codes from `at` on begin: at which byte, and how far up in it.
#[inline(always)]
pub(super) const fn place(bits: usize, at: usize) -> (usize, usize) {
    (at % (8 * bits), at / (8 * bits) * bits)
}

/// Combines one strip with the vectors `V`, `N` of which hold one block.
///
/// # Safety
/// The instruction set of `V` must be there. Everything else is checked here.
#[inline(always)]
pub(super) unsafe fn combine<V: Vector, const N: usize>(strip: Strip<'_>) {
    const { assert!(N * V::LANES == BLOCK) }
    strip.check();
    let Strip { out, base, terms, stream } = strip;
    let base = base.map(|(format, bytes)| (format, bytes.as_ptr()));
    let count = out.len();
    let out = out.as_mut_ptr();
    // Streaming stores must be aligned. Ordinary ones profit too: no store then straddles two cache lines.
    let aligned = out.align_offset(size_of::<V>());
    let blocks = terms.iter().any(|term| matches!(term.format, Format::Blocks(_)));
    // Steps must not straddle blocks.
    let (head, stream) = if blocks { (0, stream && aligned == 0) } else { (aligned.min(count), stream) };
    let mut at = 0;
    // SAFETY: the caller's promise of the instruction set. Every step stays below `count`, which all inputs have: that
    // was just checked. `stream` is true only from the first aligned element on, and steps by whole vectors. Steps are
    // aligned to their own length where there are blocks, because then they begin at 0 and get shorter only.
    unsafe {
        while at < head {
            step::<f32, 1>(out, base, terms, at, false);
            at += 1;
        }
        while count - at >= BLOCK {
            step::<V, N>(out, base, terms, at, stream);
            at += BLOCK;
        }
        while count - at >= V::LANES {
            step::<V, 1>(out, base, terms, at, stream);
            at += V::LANES;
        }
        while at < count {
            step::<f32, 1>(out, base, terms, at, false);
            at += 1;
        }
        if stream {
            V::fence();
        }
    }
}

/// Combines the `N · V::LANES` elements from `at` on, with the `N` sums in registers.
///
/// A format is looked at once a term and step, not once a strip: that costs nothing that could be measured, and terms
/// of different formats need no code of their own.
///
/// # Safety
/// `V`'s instruction set is there; the elements lie inside `out`, `base` and every term, and inside one block where a
/// term is of blocks; with `stream`, `out + at` is aligned to the size of `V`.
#[inline(always)]
unsafe fn step<V: Vector, const N: usize>(
    out: *mut f32,
    base: Option<(Format, *const u8)>,
    terms: &[Term<'_>],
    at: usize,
    stream: bool,
) {
    // Without a term, a sum of −0.0 leaves the base's bits as they are; +0.0 would turn −0.0 into +0.0. The segment
    // that has neither base nor terms never gets here.
    let start = if terms.is_empty() { -0.0 } else { 0.0 };
    // SAFETY: the caller's promises, passed on; the offsets are those of the elements it promised.
    unsafe {
        let mut sums = [V::splat(start); N];
        for term in terms {
            let a = V::splat(term.coefficient);
            let from = term.bytes.as_ptr();
            match term.format {
                Format::F32 => add_dense(a, from.add(4 * at), 4, V::load_f32, &mut sums),
                Format::F16 => add_dense(a, from.add(2 * at), 2, V::load_f16, &mut sums),
                Format::BF16 => add_dense(a, from.add(2 * at), 2, V::load_bf16, &mut sums),
                Format::Blocks(format) => {
                    let block = from.add(at / BLOCK * format.block_bytes());
                    match format {
                        BlockFormat::Q8 => add_block::<V, 8, 0, N>(a, format, block, at % BLOCK, &mut sums),
                        BlockFormat::Q6 => add_block::<V, 4, 2, N>(a, format, block, at % BLOCK, &mut sums),
                        BlockFormat::Q4 => add_block::<V, 4, 0, N>(a, format, block, at % BLOCK, &mut sums),
                        BlockFormat::Q3 => add_block::<V, 2, 1, N>(a, format, block, at % BLOCK, &mut sums),
                        BlockFormat::Q2 => add_block::<V, 2, 0, N>(a, format, block, at % BLOCK, &mut sums),
                    }
                }
            }
        }
        match base {
            Some((Format::F32, from)) => add_base(from.add(4 * at), 4, V::load_f32, &mut sums),
            Some((Format::F16, from)) => add_base(from.add(2 * at), 2, V::load_f16, &mut sums),
            Some((Format::BF16, from)) => add_base(from.add(2 * at), 2, V::load_bf16, &mut sums),
            Some((Format::Blocks(_), _)) | None => {}
        }
        let out = out.add(at);
        for (k, sum) in sums.into_iter().enumerate() {
            if stream {
                sum.stream(out.add(k * V::LANES));
            } else {
                sum.store(out.add(k * V::LANES));
            }
        }
    }
}

/// Adds `a` times the elements at `from`, of `size` bytes each.
///
/// # Safety
/// As [`Vector`]'s loads, for every sum.
#[inline(always)]
unsafe fn add_dense<V: Vector, const N: usize>(
    a: V,
    from: *const u8,
    size: usize,
    load: unsafe fn(*const u8) -> V,
    sums: &mut [V; N],
) {
    for (k, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise, passed on.
        unsafe { *sum = a.mul_add(load(from.add(k * V::LANES * size)), *sum) };
    }
}

/// Adds the base's elements at `from` to the sums.
///
/// # Safety
/// As [`add_dense`].
#[inline(always)]
unsafe fn add_base<V: Vector, const N: usize>(
    from: *const u8,
    size: usize,
    load: unsafe fn(*const u8) -> V,
    sums: &mut [V; N],
) {
    for (k, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise, passed on.
        unsafe { *sum = load(from.add(k * V::LANES * size)).add(*sum) };
    }
}

/// Adds `a` times the values from `at` on in a block: see [`BlockFormat::dequantize`], whose bits these are.
///
/// # Safety
/// As [`Vector::load_codes`], for every sum, with `block` a whole block of `format`, whose planes are `P` and `Q`.
#[inline(always)]
unsafe fn add_block<V: Vector, const P: usize, const Q: usize, const N: usize>(
    a: V,
    format: BlockFormat,
    block: *const u8,
    at: usize,
    sums: &mut [V; N],
) {
    // SAFETY: the caller's promise, passed on; a block begins with its scale.
    unsafe {
        let scale = <f32 as Vector>::load_bf16(block);
        let (zero, scale) = (V::splat(scale * -format.offset()), V::splat(scale));
        for (k, sum) in sums.iter_mut().enumerate() {
            let at = if N == 1 { at } else { k * V::LANES };
            let codes = V::load_codes::<P, Q>(block.add(SCALE_BYTES), at);
            *sum = a.mul_add(scale.mul_add(codes, zero), *sum);
        }
    }
}
