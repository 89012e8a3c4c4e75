//! Attention of one head, over any vector type.

use std::ops::Range;

use super::generic::{Multiply, Product};
use super::lanes::{Lanes, Next};
use super::layout::{GROUP, PANEL, STEP_BYTES};
use super::math::exp;
use super::norm::{STRIPES, fold_stripes};
use super::precision::Precision;
use super::rotation::Rotation;
use super::share::{MAX_ROWS, Tile};

/// The sizes of a head, and what is kept of one while it is computed.
pub(super) struct Sizes {
    /// Tokens that are keys and values.
    keys: usize,
    pub(super) dim: usize,
    /// Steps of a product over the dimensions.
    steps: usize,
    /// Panels of keys, and of values.
    key_panels: usize,
    value_panels: usize,
}

impl Sizes {
    pub(super) fn new(keys: usize, dim: usize) -> Self {
        let (key_panels, value_panels) = (keys.div_ceil(PANEL), dim.div_ceil(PANEL));
        Self { keys, dim, steps: dim.next_multiple_of(GROUP), key_panels, value_panels }
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
    /// queries, probabilities and a rotated row follow.
    fn places(&self) -> [usize; 8] {
        let [key_bytes, value_bytes] = self.panel_bytes();
        let sizes = [
            self.key_panels * key_bytes,
            self.value_panels * value_bytes,
            self.padded() * self.steps * 4,
            self.key_panels * MAX_ROWS * STEP_BYTES,
            MAX_ROWS * self.steps * 4,
            MAX_ROWS * self.padded() * 4,
            2 * self.steps * 4,
        ];
        let mut places = [0; 8];
        for (i, size) in sizes.into_iter().enumerate() {
            places[i + 1] = places[i] + size;
        }
        places
    }

    /// Bytes of the room.
    pub(super) fn nbytes(&self) -> usize {
        self.places()[7]
    }
}

/// One head of one sequence.
pub(super) struct Head<'a> {
    /// The sequence's.
    pub(super) qkv: &'a [f32],
    pub(super) width: usize,
    /// The head's first value in each of queries, keys and values.
    pub(super) first: usize,
    pub(super) queries: usize,
    /// The first tokens, which are no keys and values.
    pub(super) skipped: usize,
    pub(super) rotation: Option<Rotation<'a>>,
    /// The most rows of a tile.
    pub(super) rows: usize,
    pub(super) is_causal: bool,
    /// The head's place in the sequence's first query.
    pub(super) out: *mut f32,
    /// [`Sizes::nbytes`], aligned to a cache line.
    pub(super) room: *mut u8,
}

impl Head<'_> {
    /// The head's values of a token: of its query (0), key (1) or value (2).
    fn values(&self, sizes: &Sizes, token: usize, which: usize) -> &[f32] {
        &self.qkv[(token * 3 + which) * self.width + self.first..][..sizes.dim]
    }

    /// The same of a query or key, rotated if there is a rotation.
    #[inline(always)]
    unsafe fn rotated<'r, V: Lanes>(
        &'r self,
        sizes: &Sizes,
        token: usize,
        which: usize,
        room: &'r mut [f32],
    ) -> &'r [f32] {
        let values = self.values(sizes, token, which);
        match &self.rotation {
            None => values,
            // SAFETY: the caller's promise: the instruction set is there.
            Some(rotation) => unsafe { rotation.apply::<V>(token, values, room) },
        }
    }
}

/// Computes a head.
///
/// # Safety
/// The instruction set must be there; the head's output and room are the caller's alone.
#[inline(always)]
pub(super) unsafe fn attend<V: Lanes>(sizes: &Sizes, head: Head<'_>, multiply: Multiply) {
    let [keys, values, rows, scores, queries, chances, rotated, _] = sizes.places();
    let [key_bytes, value_bytes] = sizes.panel_bytes();
    // SAFETY: the caller's promise; `places` are those of the room, which lie behind each other, and every index below
    // is within the sizes that they were computed from.
    unsafe {
        let at = |place: usize| head.room.add(place);
        // Any bytes are an f32.
        let rotated = std::slice::from_raw_parts_mut(at(rotated).cast(), 2 * sizes.dim);
        pack_keys::<V>(sizes, &head, rotated, at(rows), at(keys));
        pack_values::<V>(sizes, &head, at(values));
        let tiles = head.queries.div_ceil(head.rows);
        for tile in 0..tiles {
            let (from, to) = (head.queries * tile / tiles, head.queries * (tile + 1) / tiles);
            let height = to - from;
            let seen = |r: usize| if head.is_causal { from + r + 1 } else { sizes.keys };
            let panels = seen(height - 1).div_ceil(PANEL);
            lay_queries::<V>(sizes, &head, rotated, from..to, at(queries));
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
unsafe fn pack_keys<V: Lanes>(sizes: &Sizes, head: &Head<'_>, rotated: &mut [f32], rows: *mut u8, keys: *mut u8) {
    let stride = sizes.steps * 4;
    // SAFETY: as in `attend`.
    unsafe {
        for key in 0..sizes.padded() {
            let row = rows.add(key * stride).cast::<f32>();
            if key < sizes.keys {
                let values = head.rotated::<V>(sizes, head.skipped + key, 1, rotated);
                copy_padded::<V>(values, row, sizes.steps, V::splat(1.0));
            } else {
                row.write_bytes(0, sizes.steps);
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
            for key in 0..sizes.keys {
                let values = &head.values(sizes, head.skipped + key, 2)[panel * PANEL..][..width];
                copy_padded::<V>(values, panel_values.add(key * STEP_BYTES).cast(), PANEL, V::splat(1.0));
            }
            panel_values.add(sizes.keys * STEP_BYTES).write_bytes(0, (sizes.padded() - sizes.keys) * STEP_BYTES);
        }
    }
}

/// Lays the queries of a tile as the product reads them, scaled.
#[inline(always)]
unsafe fn lay_queries<V: Lanes>(
    sizes: &Sizes,
    head: &Head<'_>,
    rotated: &mut [f32],
    tokens: Range<usize>,
    to: *mut u8,
) {
    // SAFETY: as in `attend`.
    unsafe {
        let scale = V::splat(1.0 / (sizes.dim as f32).sqrt());
        let height = tokens.len();
        for (r, token) in tokens.enumerate() {
            let query = head.rotated::<V>(sizes, token, 0, rotated);
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
