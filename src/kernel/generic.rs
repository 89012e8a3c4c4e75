//! The algorithm, once, over any vector type.
//!
//! Everything here is `#[inline(always)]`: it is compiled inside the entry point of each instruction set, and only
//! there may the compiler use that set's instructions.

use half::{bf16, f16};

use super::hints::Hints;
use super::product::{Factors, ProductTile};
use super::tile::{Tile, TileTerm};
use crate::tensor::{BLOCK, BlockFormat, SCALE_BYTES, VectorFormat};

/// A register full of f32, and the instructions of one instruction set on it.
///
/// # Safety of every method
/// The instruction set must be there, and pointers must be valid for as many elements as the vector has lanes. No
/// alignment is needed, except by [`Vector::stream`].
pub(super) trait Vector: Copy + Sized {
    /// The number of f32 that it holds.
    const LANES: usize;

    /// One value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// The next [`Vector::LANES`] f32.
    unsafe fn load_f32(from: *const u8) -> Self;
    /// The next [`Vector::LANES`] f16, converted.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// The next [`Vector::LANES`] bf16, converted.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// What [`Vector::decode`] needs to know of a block with codes of `P + Q` bits whose value is
    /// `scale · (code − offset)`; made by [`affine`] where there is nothing faster.
    unsafe fn decoder<const P: usize, const Q: usize>(scale: f32, offset: f32) -> [Self; 2];
    /// The values `at..at + LANES` of a block: their codes are those of a plane of `P` bits, and above them those of
    /// one of `Q` bits behind it (0: there is none). The layout is that of [`crate::tensor::BlockFormat`]; `codes` is
    /// where the first plane begins, `at` a multiple of `LANES`, and both planes can be read to their ends.
    unsafe fn decode<const P: usize, const Q: usize>(decoder: [Self; 2], codes: *const u8, at: usize) -> Self;
    /// Adds `a` times all values of a block to the sums, of which there are as many as hold one, and says so; does
    /// nothing where an instruction set has nothing faster than [`Vector::decode`]. `block` is a whole block of
    /// `format`, whose planes are `P` and `Q`.
    #[inline(always)]
    unsafe fn add_whole<const P: usize, const Q: usize, const N: usize>(
        _a: Self,
        _format: BlockFormat,
        _block: *const u8,
        _sums: &mut [Self; N],
    ) -> bool {
        false
    }
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
    /// Asks for a cache line that will be read soon, into the second-level cache. Any address will do.
    fn prefetch(line: *const u8);
}

/// The distance at which lines of dense inputs are asked for ahead, in bytes.
///
/// The hardware's own prefetching stops at every 4 KiB of every input, and starts again only after a few misses. On a
/// Zen 4 this took 5 to 15 % of the time away for every M, on pages of 4 KiB and of 2 MiB; half and twice as far were
/// up to 6 % worse, four times as far was worse than nothing. It must be the second-level cache: asking for the first
/// level lost 10 % at M = 4 and 30 to 60 % at M = 10, and so did non-temporal prefetching.
const AHEAD: usize = 1024;

/// The distance at which lines of blocks are asked for ahead, and of a base that is read beside blocks. What is
/// computed between two lines takes longer there, and fewer of them are on their way: 1 KiB for both took 35 to 50 %
/// longer (q8 and q4, M = 4, one thread), and each of the two alone gave only a part of that.
const AHEAD_OF_BLOCKS: usize = 1536;
const AHEAD_BESIDE_BLOCKS: usize = 6 << 10;

/// Bytes that are fetched at a time.
const LINE: usize = 64;

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
    unsafe fn decoder<const P: usize, const Q: usize>(scale: f32, offset: f32) -> [Self; 2] {
        // SAFETY: nothing is needed.
        unsafe { affine(scale, offset) }
    }

    #[inline(always)]
    unsafe fn decode<const P: usize, const Q: usize>([scale, zero]: [Self; 2], codes: *const u8, at: usize) -> Self {
        let plane = |from: *const u8, bits: usize| {
            let (byte, shift) = place(bits, at);
            // SAFETY: the caller's promise: the plane can be read to its end.
            unsafe { from.add(byte).read() >> shift & (0xff >> (8 - bits)) }
        };
        let low = plane(codes, P);
        // SAFETY: the caller's promise: the second plane begins where the first one ends, and can be read to its end.
        let code = if Q == 0 { low } else { low | plane(unsafe { codes.add(8 * P) }, Q) << P };
        f32::mul_add(scale, code.into(), zero)
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
        // SAFETY: the caller's promise: one f32 can be written here; a single one is never worth streaming.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn fence() {}

    #[inline(always)]
    fn prefetch(_: *const u8) {}
}

/// A decoder of two numbers, d and −d·offset, as in [`BlockFormat::dequantize`]: one multiplies, the other is added.
///
/// # Safety
/// `V`'s instruction set is there.
#[inline(always)]
pub(super) unsafe fn affine<V: Vector>(scale: f32, offset: f32) -> [V; 2] {
    // SAFETY: the caller's promise, passed on.
    unsafe { [V::splat(scale), V::splat(scale * -offset)] }
}

/// The place in a plane of `bits` bits where the codes from `at` on begin: at which byte, and how far up in it.
#[inline(always)]
pub(super) const fn place(bits: usize, at: usize) -> (usize, usize) {
    (at % (8 * bits), at / (8 * bits) * bits)
}

/// Combines one tile with the vectors `V`, `N` of which hold one block.
///
/// # Safety
/// The instruction set of `V` must be there. Everything else is checked here.
#[inline(always)]
pub(super) unsafe fn combine<V: Vector, const N: usize>(tile: Tile<'_>) {
    const { assert!(N * V::LANES == BLOCK) }
    tile.check();
    let Tile { out, base, terms, mut hints } = tile;
    let base = base.map(|(format, bytes)| (format, bytes.as_ptr()));
    let count = out.len();
    let out = out.as_mut_ptr();
    // Streaming stores must be aligned. Ordinary ones profit too: no store then straddles two cache lines.
    let aligned = out.align_offset(size_of::<V>());
    let blocks = terms.iter().any(|term| matches!(term.format, VectorFormat::Blocks(_)));
    // Steps must not straddle blocks.
    let head = if blocks { 0 } else { aligned.min(count) };
    hints.stream &= aligned == head;
    let ahead_of_base = if blocks { AHEAD_BESIDE_BLOCKS } else { AHEAD };
    let plain = Hints { prefetch: false, stream: false };
    let mut at = 0;
    // SAFETY: the caller's promise of the instruction set. Every step stays below `count`, which all inputs have: that
    // was just checked. `stream` is true only from the first aligned element on, and steps by whole vectors. Steps are
    // aligned to their own length where there are blocks, because then they begin at 0 and get shorter only.
    unsafe {
        while at < head {
            step::<f32, 1>(out, base, terms, at, 0, plain);
            at += 1;
        }
        while count - at >= BLOCK {
            step::<V, N>(out, base, terms, at, ahead_of_base, hints);
            at += BLOCK;
        }
        while count - at >= V::LANES {
            step::<V, 1>(out, base, terms, at, ahead_of_base, hints);
            at += V::LANES;
        }
        while at < count {
            step::<f32, 1>(out, base, terms, at, 0, plain);
            at += 1;
        }
        if hints.stream {
            V::fence();
        }
    }
}

/// Combines the `N · V::LANES` elements from `at` on, with the `N` sums in registers.
///
/// A format is looked at once per term and step, not once per tile: that costs nothing that could be measured, and
/// terms of different formats need no code of their own.
///
/// # Safety
/// `V`'s instruction set is there; the elements lie inside `out`, `base` and every term, and inside one block where a
/// term is of blocks; with `hints.stream`, `out + at` is aligned to the size of `V`.
#[inline(always)]
unsafe fn step<V: Vector, const N: usize>(
    out: *mut f32,
    base: Option<(VectorFormat, *const u8)>,
    terms: &[TileTerm<'_>],
    at: usize,
    ahead_of_base: usize,
    hints: Hints,
) {
    // Without a term, a sum of −0.0 leaves the base's bits as they are; +0.0 would turn −0.0 into +0.0. A job that
    // has neither base nor terms never gets here.
    let start = if terms.is_empty() { -0.0 } else { 0.0 };
    let ahead = |distance| if hints.prefetch { distance } else { 0 };
    // SAFETY: the caller's promises, passed on; the offsets are those of the elements it promised.
    unsafe {
        let mut sums = [V::splat(start); N];
        for term in terms {
            let a = V::splat(term.coefficient);
            let from = term.bytes.as_ptr();
            match term.format {
                VectorFormat::F32 => add_dense(a, from.add(4 * at), 4, ahead(AHEAD), V::load_f32, &mut sums),
                VectorFormat::F16 => add_dense(a, from.add(2 * at), 2, ahead(AHEAD), V::load_f16, &mut sums),
                VectorFormat::BF16 => add_dense(a, from.add(2 * at), 2, ahead(AHEAD), V::load_bf16, &mut sums),
                VectorFormat::Blocks(format) => {
                    let block = from.add(at / BLOCK * format.block_bytes());
                    let far = ahead(AHEAD_OF_BLOCKS);
                    match format {
                        BlockFormat::Q8 => add_block::<V, 8, 0, N>(a, format, block, at % BLOCK, far, &mut sums),
                        BlockFormat::Q6 => add_block::<V, 4, 2, N>(a, format, block, at % BLOCK, far, &mut sums),
                        BlockFormat::Q4 => add_block::<V, 4, 0, N>(a, format, block, at % BLOCK, far, &mut sums),
                        BlockFormat::Q3 => add_block::<V, 2, 1, N>(a, format, block, at % BLOCK, far, &mut sums),
                        BlockFormat::Q2 => add_block::<V, 2, 0, N>(a, format, block, at % BLOCK, far, &mut sums),
                    }
                }
            }
        }
        match base {
            Some((VectorFormat::F32, from)) => {
                add_base(from.add(4 * at), 4, ahead(ahead_of_base), V::load_f32, &mut sums)
            }
            Some((VectorFormat::F16, from)) => {
                add_base(from.add(2 * at), 2, ahead(ahead_of_base), V::load_f16, &mut sums)
            }
            Some((VectorFormat::BF16, from)) => {
                add_base(from.add(2 * at), 2, ahead(ahead_of_base), V::load_bf16, &mut sums)
            }
            Some((VectorFormat::Blocks(_), _)) | None => {}
        }
        let out = out.add(at);
        for (k, sum) in sums.into_iter().enumerate() {
            if hints.stream {
                sum.stream(out.add(k * V::LANES));
            } else {
                sum.store(out.add(k * V::LANES));
            }
        }
    }
}

/// Asks for the lines `distance` ahead of the `bytes` at `from` that make `N` vectors; for none at a distance of 0. One
/// vector alone is of the last few.
#[inline(always)]
fn prefetch<V: Vector, const N: usize>(from: *const u8, bytes: usize, distance: usize) {
    if N > 1 && distance > 0 {
        (0..bytes.div_ceil(LINE)).for_each(|line| V::prefetch(from.wrapping_add(distance + line * LINE)));
    }
}

/// Adds `a` times the elements at `from`, of `size` bytes each.
///
/// # Safety
/// The instruction set must be there, and the elements of every sum can be read at `from`.
#[inline(always)]
unsafe fn add_dense<V: Vector, const N: usize>(
    a: V,
    from: *const u8,
    size: usize,
    ahead: usize,
    load: unsafe fn(*const u8) -> V,
    sums: &mut [V; N],
) {
    prefetch::<V, N>(from, N * V::LANES * size, ahead);
    for (k, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise, passed on.
        unsafe { *sum = a.mul_add(load(from.add(k * V::LANES * size)), *sum) };
    }
}

/// Adds the base's elements at `from` to the sums.
///
/// # Safety
/// The instruction set must be there, and the elements of every sum can be read at `from`.
#[inline(always)]
unsafe fn add_base<V: Vector, const N: usize>(
    from: *const u8,
    size: usize,
    ahead: usize,
    load: unsafe fn(*const u8) -> V,
    sums: &mut [V; N],
) {
    prefetch::<V, N>(from, N * V::LANES * size, ahead);
    for (k, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise, passed on.
        unsafe { *sum = load(from.add(k * V::LANES * size)).add(*sum) };
    }
}

/// Adds `a` times the values from `at` on in a block: see [`BlockFormat::dequantize`], whose bits these are.
///
/// # Safety
/// The instruction set must be there, `block` is a whole block of `format`, whose planes are `P` and `Q`, and `at` is a
/// multiple of the lanes.
#[inline(always)]
unsafe fn add_block<V: Vector, const P: usize, const Q: usize, const N: usize>(
    a: V,
    format: BlockFormat,
    block: *const u8,
    at: usize,
    ahead: usize,
    sums: &mut [V; N],
) {
    prefetch::<V, N>(block, format.block_bytes(), ahead);
    // SAFETY: the caller's promise, passed on; a block begins with its scale.
    unsafe {
        if N > 1 && V::add_whole::<P, Q, N>(a, format, block, sums) {
            return;
        }
        let scale = <f32 as Vector>::load_bf16(block);
        let decoder = V::decoder::<P, Q>(scale, format.offset());
        for (k, sum) in sums.iter_mut().enumerate() {
            let at = if N == 1 { at } else { k * V::LANES };
            *sum = a.mul_add(V::decode::<P, Q>(decoder, block.add(SCALE_BYTES), at), *sum);
        }
    }
}

/// Rows of a matrix of low rank that are computed together: what is loaded of the right factor serves all of them.
const PRODUCT_ROWS: usize = 4;

/// Computes some elements of a matrix of low rank with the vectors `V`, `N` of them of each row together: as many as
/// registers hold the sums of [`PRODUCT_ROWS`] rows.
///
/// # Safety
/// The instruction set of `V` must be there. Everything else is checked here.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const N: usize>(tile: ProductTile<'_>) {
    let ProductTile { out, factors, start } = tile;
    let Factors { rank, rows, columns, ref left, ref right } = *factors;
    assert!(left.len() == rank * rows && right.len() == rank * columns, "factors of another size");
    assert!(start.checked_add(out.len()).is_some_and(|end| end <= rows * columns), "elements outside the matrix");
    let (mut row, mut column, mut rest) = (start / columns.max(1), start % columns.max(1), out);
    while !rest.is_empty() {
        let is_whole = column == 0 && rest.len() >= PRODUCT_ROWS * columns;
        let count = if is_whole { PRODUCT_ROWS * columns } else { (columns - column).min(rest.len()) };
        let (now, later) = rest.split_at_mut(count);
        // SAFETY: the caller's promise of the instruction set. Where whole rows are left, `now` has as many of them;
        // else the columns from `column` on are in the row, as many as `now` has. Every row of both factors is there.
        unsafe {
            let (left, right) = (left.as_ptr().add(row), right.as_ptr().add(column));
            match is_whole {
                true => product_rows::<V, PRODUCT_ROWS, N>(now.as_mut_ptr(), left, right, columns, factors),
                false => product_rows::<V, 1, N>(now.as_mut_ptr(), left, right, count, factors),
            }
        }
        row += if is_whole { PRODUCT_ROWS } else { 1 };
        (rest, column) = (later, 0);
    }
}

/// Computes `count` elements of each of `R` rows, which lie a whole row apart in `to`. `left` is the first row's number
/// in the first direction, `right` its first column there.
///
/// # Safety
/// The instruction set must be there, rows and columns inside the factors, and the elements inside `to`.
#[inline(always)]
unsafe fn product_rows<V: Vector, const R: usize, const N: usize>(
    to: *mut f32,
    left: *const f32,
    right: *const f32,
    count: usize,
    factors: &Factors,
) {
    let mut at = 0;
    // SAFETY: the caller's promises, passed on: every step stays below `count`.
    unsafe {
        while count - at >= N * V::LANES {
            product_block::<V, R, N>(to.add(at), left, right.add(at), factors);
            at += N * V::LANES;
        }
        while count - at >= V::LANES {
            product_block::<V, R, 1>(to.add(at), left, right.add(at), factors);
            at += V::LANES;
        }
        while at < count {
            product_block::<f32, R, 1>(to.add(at), left, right.add(at), factors);
            at += 1;
        }
    }
}

/// Computes `N · V::LANES` elements of each of `R` rows, with the sums in registers.
///
/// # Safety
/// As [`product_rows`].
#[inline(always)]
unsafe fn product_block<V: Vector, const R: usize, const N: usize>(
    to: *mut f32,
    left: *const f32,
    right: *const f32,
    factors: &Factors,
) {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for k in 0..factors.rank {
            let (left, right) = (left.add(k * factors.rows), right.add(k * factors.columns));
            let mut values = [V::splat(0.0); N];
            for (n, value) in values.iter_mut().enumerate() {
                *value = V::load_f32(right.add(n * V::LANES).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*left.add(r));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = a.mul_add(value, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                sum.store(to.add(r * factors.columns + n * V::LANES));
            }
        }
    }
}
