//! The algorithm, once, over any vector type.
//!
//! Everything here is `#[inline(always)]`: it is compiled inside the entry point of each instruction set, and only
//! there may the compiler use that set's instructions.

use half::{bf16, f16};

use super::strip::{Format, Strip};

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

/// How the elements of a source become vectors.
trait Source {
    /// Bytes an element.
    const SIZE: usize;
    /// # Safety
    /// As [`Vector`]'s loads.
    unsafe fn load<V: Vector>(from: *const u8) -> V;
}

struct F32;
struct F16;
struct BF16;
/// The base that is not there: −0.0 everywhere, which leaves the bits of whatever it is added to.
struct Absent;

impl Source for F32 {
    const SIZE: usize = Format::F32.size();
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's promise, passed on.
        unsafe { V::load_f32(from) }
    }
}

impl Source for F16 {
    const SIZE: usize = Format::F16.size();
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's promise, passed on.
        unsafe { V::load_f16(from) }
    }
}

impl Source for BF16 {
    const SIZE: usize = Format::BF16.size();
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's promise, passed on.
        unsafe { V::load_bf16(from) }
    }
}

impl Source for Absent {
    const SIZE: usize = 0;
    #[inline(always)]
    unsafe fn load<V: Vector>(_: *const u8) -> V {
        // SAFETY: the caller's promise, passed on: the instruction set is there.
        unsafe { V::splat(-0.0) }
    }
}

/// Combines one strip with the vectors `V`.
///
/// # Safety
/// The instruction set of `V` must be there. Everything else is checked here.
#[inline(always)]
pub(super) unsafe fn combine<V: Vector>(strip: Strip<'_>) {
    strip.check();
    // SAFETY: the caller's promise, and the lengths were just checked.
    unsafe {
        match strip.format {
            Format::F32 => with_terms::<V, F32>(strip),
            Format::F16 => with_terms::<V, F16>(strip),
            Format::BF16 => with_terms::<V, BF16>(strip),
        }
    }
}

#[inline(always)]
unsafe fn with_terms<V: Vector, T: Source>(strip: Strip<'_>) {
    let Strip { out, base, terms, stream, .. } = strip;
    // SAFETY: `combine`'s caller's promise, and each base goes with the source that matches its format.
    unsafe {
        match base {
            Some((Format::F32, base)) => sweep::<V, T, F32>(out, base, terms, stream),
            Some((Format::F16, base)) => sweep::<V, T, F16>(out, base, terms, stream),
            Some((Format::BF16, base)) => sweep::<V, T, BF16>(out, base, terms, stream),
            None => sweep::<V, T, Absent>(out, &[], terms, stream),
        }
    }
}

/// Single elements up to the first aligned vector of `out`, then blocks, vectors and single elements.
///
/// # Safety
/// `V`'s instruction set is there; `base` and every term have `out.len()` elements of their source.
#[inline(always)]
unsafe fn sweep<V: Vector, T: Source, B: Source>(out: &mut [f32], base: &[u8], terms: &[(f32, &[u8])], stream: bool) {
    /// Vectors a block. Against four (AVX-512, f32, M = 10), one took about 13 % longer and two 6 %; eight was a few per
    /// cent faster or slower from run to run. Software prefetching lost: about 10 % at M = 4 and 30 to 60 % at M = 10,
    /// for some 5 to 10 % won at M = 1.
    const BLOCK: usize = 4;

    let count = out.len();
    let (out, base) = (out.as_mut_ptr(), base.as_ptr());
    // Streaming stores must be aligned. Ordinary ones profit too: no store then straddles two cache lines.
    let aligned = out.align_offset(size_of::<V>()).min(count);
    let mut at = 0;
    // SAFETY: every step stays below `count`, which all sources have (the caller's promise). `stream` is true only
    // from the first aligned element on, and steps by whole vectors.
    unsafe {
        while at < aligned {
            step::<f32, T, B, 1>(out, base, terms, at, false);
            at += 1;
        }
        while count - at >= BLOCK * V::LANES {
            step::<V, T, B, BLOCK>(out, base, terms, at, stream);
            at += BLOCK * V::LANES;
        }
        while count - at >= V::LANES {
            step::<V, T, B, 1>(out, base, terms, at, stream);
            at += V::LANES;
        }
        while at < count {
            step::<f32, T, B, 1>(out, base, terms, at, false);
            at += 1;
        }
        if stream {
            V::fence();
        }
    }
}

/// Combines the `N · V::LANES` elements from `at` on, with the `N` sums in registers.
///
/// # Safety
/// `V`'s instruction set is there; the elements lie inside `out`, `base` and every term; with `stream`, `out + at` is
/// aligned to the size of `V`.
#[inline(always)]
unsafe fn step<V: Vector, T: Source, B: Source, const N: usize>(
    out: *mut f32,
    base: *const u8,
    terms: &[(f32, &[u8])],
    at: usize,
    stream: bool,
) {
    // Without a term, a sum of −0.0 leaves the base's bits as they are; +0.0 would turn −0.0 into +0.0. The segment
    // that has neither base nor terms never gets here.
    let start = if terms.is_empty() { -0.0 } else { 0.0 };
    // SAFETY: the caller's promises, passed on; the offsets are those of the elements it promised.
    unsafe {
        let mut sums = [V::splat(start); N];
        for (coefficient, term) in terms {
            let coefficient = V::splat(*coefficient);
            let term = term.as_ptr().add(at * T::SIZE);
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = coefficient.mul_add(T::load(term.add(k * V::LANES * T::SIZE)), *sum);
            }
        }
        let (out, base) = (out.add(at), base.add(at * B::SIZE));
        for (k, sum) in sums.into_iter().enumerate() {
            let value = B::load::<V>(base.add(k * V::LANES * B::SIZE)).add(sum);
            if stream {
                value.stream(out.add(k * V::LANES));
            } else {
                value.store(out.add(k * V::LANES));
            }
        }
    }
}
