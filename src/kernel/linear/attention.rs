//! Attention between the tokens of a sequence, head by head.
//!
//! # The bit contract
//! With `q` a query, `k` and `v` the keys and values of the `n` tokens that it sees, in `d` dimensions, all in f32:
//!
//! ```text
//! score[j] = +0.0, then fma(q[i] · (1 / √d), k[j][i], score[j]) for i ascending
//! p[j]     = exp(score[j] − the greatest score)
//! sum      = sixteen sums of p, of j modulo 16 each, the upper half added to the lower one until one is left
//! out[i]   = (+0.0, then fma(p[j], v[j][i], …) for j ascending) · (1 / sum)
//! ```
//!
//! Scores of a few queries at a time are all that is there of the matrix of scores.

use std::ops::Range;

use super::entry::{self, Multiply, Product};
use super::lanes::{Lanes, Next};
use super::layout::{GROUP, PANEL, STEP_BYTES};
use super::math::exp;
use super::norm::{STRIPES, fold_stripes};
use super::precision::Precision;
use super::run::Scratch;
use super::share::{MAX_ROWS, Pool, Shared, Tile, pieces};
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// An attention to compute.
#[derive(Debug)]
pub struct AttentionJob<'a> {
    /// Queries, keys and values side by side, `[sequences, tokens, 3·width]`.
    pub qkv: &'a [f32],
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Tokens of each sequence, the first ones, whose queries are answered.
    pub queries: usize,
    /// Heads, which divide the width.
    pub heads: usize,
    /// Values of a token in the output.
    pub width: usize,
    /// Whether a token sees none after it.
    pub is_causal: bool,
    /// `[sequences, queries, width]`.
    pub out: &'a mut [f32],
}

/// Computes an attention by the bit contract of this module, on the threads of `pool`.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where sizes do not fit each other;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine cannot run `kernel`;
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub fn attention(kernel: Kernel, job: AttentionJob<'_>, pool: &dyn Pool, scratch: &mut Scratch) -> Result<()> {
    let functions = entry::of(kernel)?;
    let sequences = job.check()?;
    let AttentionJob { qkv, tokens, queries, heads, width, is_causal, out } = job;
    let sizes = Sizes::new(tokens, width / heads);
    let count = sequences * heads;
    let batches = pieces(pool, count);
    let room = scratch.packing.reserve(batches * sizes.nbytes())?;
    let out = Shared(out.as_mut_ptr());
    pool.run(batches, &|batch| {
        for piece in count * batch / batches..count * (batch + 1) / batches {
            let (sequence, head) = (piece / heads, piece % heads);
            let head = Head {
                qkv: &qkv[sequence * tokens * 3 * width..(sequence + 1) * tokens * 3 * width],
                width,
                first: head * sizes.dim,
                queries,
                rows: functions.rows,
                is_causal,
                out: out.at(sequence * queries * width + head * sizes.dim),
                room: room.at(batch * sizes.nbytes()),
            };
            // SAFETY: the instruction set is there, as `entry::of` found; `check` saw that the output has a place for
            // every head of every query, and each batch has a room of its own.
            unsafe { (functions.attend)(&sizes, head) };
        }
    });
    Ok(())
}

impl AttentionJob<'_> {
    /// Everything about it that could be wrong; the number of sequences.
    fn check(&self) -> Result<usize> {
        let (tokens, width) = (self.tokens, self.width);
        if tokens == 0 || self.heads == 0 || width == 0 || !width.is_multiple_of(self.heads) {
            return Err(Error::mismatch("attention of no tokens, or heads that do not divide the width"));
        }
        if self.queries > tokens {
            return Err(Error::mismatch("more queries than tokens").expected(tokens).got(self.queries));
        }
        let sequences = self.qkv.len() / (tokens * 3 * width);
        let fits = self.qkv.len() == sequences * tokens * 3 * width;
        if !fits || self.out.len() != sequences * self.queries * width {
            return Err(Error::mismatch("an input or output of another size")
                .expected(format_args!("{sequences} sequences of {tokens} tokens"))
                .got(format_args!("{} and {} values", self.qkv.len(), self.out.len())));
        }
        Ok(sequences)
    }
}

/// The sizes of a head, and what is kept of one while it is computed.
pub(super) struct Sizes {
    tokens: usize,
    dim: usize,
    /// Steps of a product over the dimensions.
    steps: usize,
    /// Panels of keys, and of values.
    key_panels: usize,
    value_panels: usize,
}

impl Sizes {
    fn new(tokens: usize, dim: usize) -> Self {
        let (key_panels, value_panels) = (tokens.div_ceil(PANEL), dim.div_ceil(PANEL));
        Self { tokens, dim, steps: dim.next_multiple_of(GROUP), key_panels, value_panels }
    }

    /// Keys with those that fill up the last panel.
    fn padded(&self) -> usize {
        self.key_panels * PANEL
    }

    /// Bytes of a panel of keys, and of one of values.
    fn panel_bytes(&self) -> [usize; 2] {
        [self.steps * STEP_BYTES, self.padded() * STEP_BYTES]
    }

    /// Where in the room each thing lies: packed keys, packed values, and then keys by rows, which scores, converted
    /// queries and probabilities follow.
    fn places(&self) -> [usize; 7] {
        let [key_bytes, value_bytes] = self.panel_bytes();
        let sizes = [
            self.key_panels * key_bytes,
            self.value_panels * value_bytes,
            self.padded() * self.steps * 4,
            self.key_panels * MAX_ROWS * STEP_BYTES,
            MAX_ROWS * self.steps * 4,
            MAX_ROWS * self.padded() * 4,
        ];
        let mut places = [0; 7];
        for (i, size) in sizes.into_iter().enumerate() {
            places[i + 1] = places[i] + size;
        }
        places
    }

    fn nbytes(&self) -> usize {
        self.places()[6]
    }
}

/// One head of one sequence.
pub(super) struct Head<'a> {
    /// The sequence's.
    qkv: &'a [f32],
    width: usize,
    /// The head's first value in each of queries, keys and values.
    first: usize,
    queries: usize,
    /// The most rows of a tile.
    rows: usize,
    is_causal: bool,
    /// The head's place in the sequence's first query.
    out: *mut f32,
    /// [`Sizes::nbytes`], aligned to a cache line.
    room: *mut u8,
}

impl Head<'_> {
    /// The head's values of a token: of its query (0), key (1) or value (2).
    fn values(&self, sizes: &Sizes, token: usize, which: usize) -> &[f32] {
        &self.qkv[(token * 3 + which) * self.width + self.first..][..sizes.dim]
    }
}

/// Computes a head.
///
/// # Safety
/// The instruction set must be there; the head's output and room are the caller's alone.
#[inline(always)]
pub(super) unsafe fn attend<V: Lanes>(sizes: &Sizes, head: Head<'_>, multiply: Multiply) {
    let [keys, values, rows, scores, queries, chances, _] = sizes.places();
    let [key_bytes, value_bytes] = sizes.panel_bytes();
    // SAFETY: the caller's promise; `places` are those of the room, which lie behind each other, and every index below
    // is within the sizes that they were computed from.
    unsafe {
        let at = |place: usize| head.room.add(place);
        pack_keys::<V>(sizes, &head, at(rows), at(keys));
        pack_values::<V>(sizes, &head, at(values));
        let tiles = head.queries.div_ceil(head.rows);
        for tile in 0..tiles {
            let (from, to) = (head.queries * tile / tiles, head.queries * (tile + 1) / tiles);
            let height = to - from;
            let seen = |r: usize| if head.is_causal { from + r + 1 } else { sizes.tokens };
            let panels = seen(height - 1).div_ceil(PANEL);
            lay_queries::<V>(sizes, &head, from, height, at(queries));
            ask_for_next::<V>(sizes, &head, from..to);
            let product = |a: *const u8, panel: *const u8, steps: usize, sums: *mut u8| Product {
                precision: Precision::F32,
                rows: height,
                a,
                panel,
                steps,
                sums,
                next: Next { from: panel, lines: 0 },
                out: sums.cast(),
                out_stride: PANEL,
            };
            for panel in 0..panels {
                let (panel_keys, sums) = (at(keys + panel * key_bytes), at(scores + panel * height * STEP_BYTES));
                multiply(&product(at(queries), panel_keys, sizes.steps, sums));
            }
            let mut inverses = [0.0; MAX_ROWS];
            for (r, inverse) in inverses[..height].iter_mut().enumerate() {
                let row = Row { r, height, seen: seen(r), panels };
                *inverse = 1.0 / softmax::<V>(&row, at(scores).cast(), at(chances));
            }
            let mut tile = Tile::new();
            for panel in 0..sizes.value_panels {
                let panel_values = at(values + panel * value_bytes);
                multiply(&product(at(chances), panel_values, panels * PANEL, tile.as_mut_ptr()));
                let width = PANEL.min(sizes.dim - panel * PANEL);
                for (r, &inverse) in inverses[..height].iter().enumerate() {
                    let out = head.out.add((from + r) * head.width + panel * PANEL);
                    let sums = tile.as_mut_ptr().cast::<f32>().add(r * PANEL);
                    let to = if width == PANEL { out } else { sums };
                    for i in (0..PANEL).step_by(V::LANES) {
                        V::load(sums.add(i)).mul(V::splat(inverse)).store(to.add(i));
                    }
                    if width < PANEL {
                        out.copy_from_nonoverlapping(sums, width);
                    }
                }
            }
        }
    }
}

/// Asks for what the next head has of some tokens: too many lines, far apart, for the processor to foresee.
#[inline(always)]
fn ask_for_next<V: Lanes>(sizes: &Sizes, head: &Head<'_>, tokens: Range<usize>) {
    for row in tokens.start * 3..tokens.end * 3 {
        let values = head.qkv.as_ptr().wrapping_add(row * head.width + head.first + sizes.dim);
        for i in (0..sizes.dim).step_by(64 / size_of::<f32>()) {
            V::prefetch_far(values.wrapping_add(i).cast());
        }
    }
}

/// Packs keys as the outputs of a product over the dimensions, by way of `rows`.
#[inline(always)]
unsafe fn pack_keys<V: Lanes>(sizes: &Sizes, head: &Head<'_>, rows: *mut u8, keys: *mut u8) {
    let stride = sizes.steps * 4;
    // SAFETY: as in `attend`.
    unsafe {
        for token in 0..sizes.padded() {
            let row = rows.add(token * stride).cast::<f32>();
            match token < sizes.tokens {
                true => copy_padded::<V>(head.values(sizes, token, 1), row, sizes.steps, V::splat(1.0)),
                false => row.write_bytes(0, sizes.steps),
            }
        }
        for panel in 0..sizes.key_panels {
            for group in 0..sizes.steps / GROUP {
                let from = rows.add(panel * PANEL * stride + group * GROUP * 4);
                let to = keys.add((panel * sizes.steps + group * GROUP) * STEP_BYTES);
                V::transpose(from, stride, to, false);
            }
        }
    }
}

/// Packs values as the outputs of a product over the tokens.
#[inline(always)]
unsafe fn pack_values<V: Lanes>(sizes: &Sizes, head: &Head<'_>, to: *mut u8) {
    // SAFETY: as in `attend`.
    unsafe {
        for panel in 0..sizes.value_panels {
            let panel_values = to.add(panel * sizes.padded() * STEP_BYTES);
            let width = PANEL.min(sizes.dim - panel * PANEL);
            for token in 0..sizes.tokens {
                let values = &head.values(sizes, token, 2)[panel * PANEL..][..width];
                copy_padded::<V>(values, panel_values.add(token * STEP_BYTES).cast(), PANEL, V::splat(1.0));
            }
            panel_values.add(sizes.tokens * STEP_BYTES).write_bytes(0, (sizes.padded() - sizes.tokens) * STEP_BYTES);
        }
    }
}

/// Lays the queries of a tile as the product reads them, scaled.
#[inline(always)]
unsafe fn lay_queries<V: Lanes>(sizes: &Sizes, head: &Head<'_>, from: usize, height: usize, to: *mut u8) {
    // SAFETY: as in `attend`.
    unsafe {
        let scale = V::splat(1.0 / (sizes.dim as f32).sqrt());
        for r in 0..height {
            let query = head.values(sizes, from + r, 0);
            for (group, values) in query.chunks(GROUP).enumerate() {
                let line = to.add((group * height + r) * GROUP * 4);
                copy_padded::<V>(values, line.cast(), GROUP, scale);
            }
        }
    }
}

/// Writes values times `scale`, and zeros behind them up to `padded`, a multiple of [`GROUP`].
#[inline(always)]
unsafe fn copy_padded<V: Lanes>(values: &[f32], to: *mut f32, padded: usize, scale: V) {
    let whole = values.len() / GROUP * GROUP;
    // SAFETY: the caller's promise: the instruction set is there, and `to` has room for `padded`. No register is longer
    // than a group.
    unsafe {
        for i in (0..whole).step_by(V::LANES) {
            V::load(values.as_ptr().add(i)).mul(scale).store(to.add(i));
        }
        if whole < padded {
            let mut last = [0.0; GROUP];
            last[..values.len() - whole].copy_from_slice(&values[whole..]);
            for i in (0..GROUP).step_by(V::LANES) {
                V::load(last.as_ptr().add(i)).mul(scale).store(to.add(whole + i));
            }
            to.add(whole + GROUP).write_bytes(0, padded - whole - GROUP);
        }
    }
}

/// A row of a tile of scores.
struct Row {
    r: usize,
    height: usize,
    /// The keys that it sees.
    seen: usize,
    /// Panels of scores, of [`PANEL`] keys each.
    panels: usize,
}

/// Makes of a row of scores, [`PANEL`] of each row of the tile after one another, `exp(score − greatest)` as the
/// product reads it, and zero for what is not seen. The sum of them.
#[inline(always)]
unsafe fn softmax<V: Lanes>(row: &Row, scores: *mut f32, chances: *mut u8) -> f32 {
    let &Row { r, height, seen, panels } = row;
    let groups = seen.div_ceil(GROUP);
    let rest = groups * GROUP - seen;
    // SAFETY: as in `attend`. A group is half of a panel.
    unsafe {
        let score = |group: usize| scores.add((group / 2 * height + r) * PANEL + group % 2 * GROUP);
        let chance = |group: usize| chances.cast::<f32>().add((group * height + r) * GROUP);
        // What is not seen in the last group is less than any score, and later no weight.
        (GROUP - rest..GROUP).for_each(|i| score(groups - 1).add(i).write(f32::MIN));
        let mut greatest = [V::splat(f32::MIN); STRIPES];
        for group in 0..groups {
            for (i, greatest) in greatest[..STRIPES / V::LANES].iter_mut().enumerate() {
                *greatest = V::load(score(group).add(i * V::LANES)).max(*greatest);
            }
        }
        let greatest = V::splat(fold_stripes(&greatest, |a, b| if a > b { a } else { b }));
        for group in 0..groups {
            for i in (0..GROUP).step_by(V::LANES) {
                let score = V::load(score(group).add(i));
                // Zero times what is not finite is a NaN, which `exp` does not keep.
                score.mul_add(V::splat(0.0), exp(score.sub(greatest))).store(chance(group).add(i));
            }
        }
        (GROUP - rest..GROUP).for_each(|i| chance(groups - 1).add(i).write(0.0));
        let mut sums = [V::splat(0.0); STRIPES];
        for group in 0..groups {
            for (i, sum) in sums[..STRIPES / V::LANES].iter_mut().enumerate() {
                *sum = sum.add(V::load(chance(group).add(i * V::LANES)));
            }
        }
        for group in groups..panels * 2 {
            chance(group).write_bytes(0, GROUP);
        }
        fold_stripes(&sums, |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TestPool, bits, of_every_variant, values};
    use super::*;

    struct Case {
        sequences: usize,
        tokens: usize,
        queries: usize,
        heads: usize,
        dim: usize,
        is_causal: bool,
    }

    impl Case {
        fn qkv(&self) -> Vec<f32> {
            values(self.tokens as u64, self.sequences * self.tokens * 3 * self.heads * self.dim, 1.5)
        }

        fn run(&self, kernel: Kernel, threads: usize, qkv: &[f32]) -> Vec<f32> {
            let Self { tokens, queries, heads, is_causal, .. } = *self;
            let width = heads * self.dim;
            let mut out = vec![f32::NAN; self.sequences * queries * width];
            let job = AttentionJob { qkv, tokens, queries, heads, width, is_causal, out: &mut out };
            attention(kernel, job, &TestPool(threads), &mut Scratch::default()).unwrap();
            out
        }

        /// The same in f64.
        fn exact(&self, qkv: &[f32]) -> Vec<f64> {
            let width = self.heads * self.dim;
            let at = |s: usize, t: usize, which: usize, i: usize| {
                f64::from(qkv[((s * self.tokens + t) * 3 + which) * width + i])
            };
            let mut out = Vec::new();
            for (s, t, i) in (0..self.sequences)
                .flat_map(|s| (0..self.queries).flat_map(move |t| (0..width).map(move |i| (s, t, i))))
            {
                let head = i / self.dim * self.dim;
                let seen = if self.is_causal { t + 1 } else { self.tokens };
                let score = |j: usize| {
                    let products = (head..head + self.dim).map(|d| at(s, t, 0, d) * at(s, j, 1, d));
                    (products.sum::<f64>() / (self.dim as f64).sqrt()).exp()
                };
                let sum: f64 = (0..seen).map(score).sum();
                out.push((0..seen).map(|j| score(j) * at(s, j, 2, i)).sum::<f64>() / sum);
            }
            out
        }
    }

    const CASES: [Case; 5] = [
        Case { sequences: 2, tokens: 50, queries: 50, heads: 3, dim: 64, is_causal: false },
        Case { sequences: 3, tokens: 50, queries: 1, heads: 2, dim: 64, is_causal: false },
        Case { sequences: 2, tokens: 77, queries: 77, heads: 2, dim: 20, is_causal: true },
        Case { sequences: 1, tokens: 1, queries: 1, heads: 1, dim: 5, is_causal: false },
        Case { sequences: 1, tokens: 65, queries: 65, heads: 2, dim: 80, is_causal: false },
    ];

    #[test]
    fn every_kernel_gives_the_bits_of_the_specification() {
        for case in CASES {
            let qkv = case.qkv();
            let expected = case.run(Kernel::Scalar, 1, &qkv);
            for (variant, got) in of_every_variant(|| case.run(Kernel::best(), 3, &qkv)) {
                assert!(bits(&got) == bits(&expected), "{variant}, {} tokens", case.tokens);
            }
            let (mut wrong, mut all) = (0.0, 0.0);
            for (got, exact) in expected.iter().zip(case.exact(&qkv)) {
                wrong += (f64::from(*got) - exact).powi(2);
                all += exact * exact;
            }
            assert!((wrong / all).sqrt() < 1e-6, "{} tokens: {}", case.tokens, (wrong / all).sqrt());
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_the_others() {
        let [case, ..] = CASES;
        let qkv = case.qkv();
        let both = case.run(Kernel::best(), 2, &qkv);
        let second = Case { sequences: 1, ..case }.run(Kernel::best(), 1, &qkv[qkv.len() / 2..]);
        assert!(bits(&both[both.len() / 2..]) == bits(&second));
        // The first query alone is the first of all.
        let first = Case { sequences: 1, queries: 1, ..case }.run(Kernel::best(), 1, &qkv[..qkv.len() / 2]);
        assert!(bits(&both[..first.len()]) == bits(&first));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let case = Case { sequences: 2, tokens: 5, queries: 5, heads: 2, dim: 8, is_causal: false };
        let width = case.heads * case.dim;
        for (which, bad) in [0, 1, 2].into_iter().flat_map(|which| [f32::NAN, f32::INFINITY].map(|bad| (which, bad))) {
            let mut qkv = case.qkv();
            qkv[(3 * 3 + which) * width + 2] = bad;
            for (variant, out) in of_every_variant(|| case.run(Kernel::best(), 1, &qkv)) {
                let is_bad = |i: usize| {
                    let (token, value) = (i / width, i % width);
                    match which {
                        0 => token == 3 && value < case.dim,
                        1 => token < 5 && value < case.dim,
                        _ => token < 5 && value == 2,
                    }
                };
                let wrong: Vec<_> = (0..out.len()).filter(|&i| out[i].is_finite() == is_bad(i)).collect();
                // A score of −∞ is a weight of zero.
                let is_fine = wrong.is_empty() || (which == 1 && bad.is_infinite());
                assert!(is_fine, "{variant} {which} {bad}: {wrong:?}");
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let run = |len: usize, tokens, queries, heads, out: usize| {
            let qkv = vec![0.0; len];
            let (out, is_causal) = (&mut [0.0; 64][..out], false);
            let job = AttentionJob { qkv: &qkv, tokens, queries, heads, width: 8, is_causal, out };
            attention(Kernel::best(), job, &TestPool(1), &mut Scratch::default())
        };
        assert!(run(2 * 2 * 24, 2, 2, 4, 32).is_ok());
        assert!(run(2 * 2 * 24 - 1, 2, 2, 4, 32).is_err());
        assert!(run(2 * 2 * 24, 2, 3, 4, 48).is_err());
        assert!(run(2 * 2 * 24, 2, 2, 3, 32).is_err());
        assert!(run(2 * 2 * 24, 2, 2, 4, 31).is_err());
        assert!(run(2 * 2 * 24, 0, 0, 4, 32).is_err());
    }
}
